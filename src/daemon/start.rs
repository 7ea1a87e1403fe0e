//! From nothing to a turning loop, and from there to nothing.

use super::clock::Clock;
use super::doors::Doors;
use super::hands::{Hands, default_budget};
use super::last_message::LastMessage;
use super::probes::Answer;
use super::publish::{self, Identity, Publisher};
use super::recorder::Recorder;
use super::requests::{Origin, Requests};
use super::signals::Signals;
use super::{Daemon, JournalLogs, PACE, Sources};
use crate::control::doors;
use crate::control::token::Token;
use crate::control::{DaemonHandle, EventLog, Mask, deadline, postmortem, report};
use crate::host::journal::{Journal, Limits};
use crate::host::mask::Masker;
use crate::host::runtime_dir::{Lock, Places};
use crate::host::{Environment, Host, HostSettings};
use crate::sd_notify;
use crate::supervisor::{Event, Supervisor};
use crate::tasks;
use crate::unit::Config;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// How long survivors of an earlier supervisor get between SIGTERM and SIGKILL.
const SURVIVORS_GRACE: Duration = Duration::from_secs(2);
/// When nothing has happened for so long, twice in a row, what only a start runs has run.
const AT_REST: Duration = Duration::from_millis(500);

/// A start that never comes to rest is not waited for longer than so many times [`AT_REST`].
const RESTLESS: usize = 60;

/// How long open connections get to be answered when everything is down.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// Of these, how long ones may take that are only to be closed.
const LAST_CONNECTIONS: Duration = Duration::from_millis(20);

/// What a supervisor is started with.
#[derive(Debug)]
pub struct Settings {
    /// Its directories, made.
    pub places: Places,
    /// That it is the only one.
    pub lock: Lock,
    /// What it was given.
    pub environment: Environment,
    /// What to run.
    pub config: Config,
    /// Where that came from.
    pub origin: Origin,
    /// This program.
    pub binary: PathBuf,
    /// The words with which another image of it takes over, without the handover itself.
    pub arguments: Vec<OsString>,
    /// Where to write down what the core is given and answers.
    pub record: Option<PathBuf>,
}

/// Why a supervisor did not start. Nothing has been started then.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The health endpoint's address cannot be had.
    #[error("listening on {address} for the health endpoint: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else.
    #[error("{act}: {why}")]
    Start {
        /// What was being done.
        act: String,
        /// Why it failed.
        why: String,
    },
}

impl DaemonError {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { address, source } if source.kind() == std::io::ErrorKind::AddrInUse => Some(format!(
                "something else listens on port {}: give another address in `[health] listen`, with --listen, or \"off\"",
                address.port()
            )),
            Self::Listen { .. } => Some("give another address in `[health] listen`, with --listen, or \"off\"".to_owned()),
            Self::Start { .. } => None,
        }
    }
}

pub(super) fn starting<E: std::fmt::Display>(act: &str) -> impl FnOnce(E) -> DaemonError {
    move |why| DaemonError::Start {
        act: act.to_owned(),
        why: why.to_string(),
    }
}

/// Runs a supervisor on this thread until it has halted; its exit code. `attach` is called once everything can be read and asked.
pub fn run(settings: Settings, attach: impl FnOnce(DaemonHandle)) -> Result<u8, DaemonError> {
    let runtime = runtime()?;
    let (daemon, sources, handle) = {
        let _within = runtime.enter();
        begin(settings)?
    };
    let life = Life {
        runtime,
        daemon,
        sources,
        handle,
    };
    Ok(life.live(attach))
}

/// One thread: parent-death signals, the order of events and the exec of an upgrade hang on it.
pub(super) fn runtime() -> Result<Runtime, DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build();
    runtime.map_err(starting("starting the runtime"))
}

/// A supervisor that only has to be let run.
pub(super) struct Life {
    pub(super) runtime: Runtime,
    pub(super) daemon: Daemon,
    pub(super) sources: Sources,
    pub(super) handle: DaemonHandle,
}

impl Life {
    pub(super) fn live(self, attach: impl FnOnce(DaemonHandle)) -> u8 {
        let Self {
            runtime,
            daemon,
            sources,
            handle,
        } = self;
        let code = tasks::block_on(&runtime, live(daemon, sources, handle, attach));
        runtime.shutdown_timeout(LAST_ANSWERS);
        crate::host::power_off_as_init();
        code
    }
}

async fn live(mut daemon: Daemon, mut sources: Sources, handle: DaemonHandle, attach: impl FnOnce(DaemonHandle)) -> u8 {
    let places = daemon.hands.places().clone();
    // What an earlier image wrote down needs no second postmortem.
    let position = if daemon.publisher.upgrade.is_some() {
        handle.events.newest()
    } else {
        handle.events.oldest()
    };
    // Nobody reads a snapshot that knows no unit yet.
    daemon.work();
    daemon.publish();
    if let Err(error) = daemon.doors.open(&handle) {
        daemon.hands.complain(&format!("serving the doors: {error}"));
    }
    tasks::spawn(report::run(handle.clone()));
    tasks::spawn(deadline::keep(handle.clone()));
    let answers = daemon.hands.answers();
    let drained = move || {
        let _ = answers.send(Answer::Drained);
    };
    let postmortems = places.state.join("postmortem");
    tasks::spawn(postmortem::keep_from(position, postmortems, handle.clone(), drained));
    let connections = handle.clone();
    tasks::spawn(settle(handle.clone()));
    attach(handle);
    sd_notify::ready();
    watchdog();
    let code = daemon.turn(&mut sources).await;
    sd_notify::stopping();
    drop(sources);
    daemon.hands.close().await;
    // Whoever waits for the last answer gets it before the socket goes; who only stays connected is not waited for.
    tokio::task::yield_now().await;
    let _ = tokio::time::timeout(LAST_CONNECTIONS, connections.connections_closed()).await;
    for file in [places.control_socket(), places.notify_socket()] {
        let _ = std::fs::remove_file(file);
    }
    code
}

/// Gives back what the start has mapped, once the units have been started.
async fn settle(handle: DaemonHandle) {
    let mut quiet = 0;
    for _ in 0..RESTLESS {
        let before = handle.events.newest();
        tokio::time::sleep(AT_REST).await;
        quiet = if handle.events.newest() == before { quiet + 1 } else { 0 };
        // Once may be the loop itself, which is busy starting many units and tells of them afterwards.
        if quiet == 2 {
            break;
        }
    }
    crate::host::forget_the_start();
}

fn begin(settings: Settings) -> Result<(Daemon, Sources, DaemonHandle), DaemonError> {
    let Settings {
        places,
        lock,
        environment,
        config,
        origin,
        binary,
        arguments,
        record,
    } = settings;
    let signals = Signals::take().map_err(starting("catching signals"))?;
    let tcp = listen(config.listen)?;
    let token = token(&config, &places)?;
    let survivors = crate::host::end_survivors(&places, SURVIVORS_GRACE);
    let host = Host::new(HostSettings {
        places: places.clone(),
        cgroups: cgroups(&environment),
        environment: environment.clone(),
        binary,
    });
    let act = format!("binding the control socket {}", places.control_socket().display());
    let seed = u64::from(std::process::id()) ^ Clock::new().now().0.as_microsecond().cast_unsigned();
    let config = Arc::new(config);
    let beginning = Beginning {
        signals,
        unix: doors::bind_unix(&places.control_socket()).map_err(starting(&act))?,
        tcp,
        token,
        host: host.map_err(starting("preparing to start processes"))?,
        supervisor: Supervisor::new(Instant::now(), seed).with_budget(default_budget()),
        environment,
        config: Arc::clone(&config),
        origin,
        lock,
        events: None,
        requests: Requests::default(),
        arguments,
    };
    let (mut daemon, sources, handle) = beginning.assemble()?;
    if let Some(path) = record {
        let act = format!("recording into {}", path.display());
        daemon.recorder = Some(Recorder::begin(path, &daemon.supervisor, handle.mask.clone()).map_err(starting(&act))?);
    }
    daemon.notice(format!("version {} started, pid {}", env!("CARGO_PKG_VERSION"), std::process::id()));
    for survivor in survivors {
        daemon.notice(format!("ended what an earlier supervisor had left: {survivor}"));
    }
    daemon.inbox.push_back(Event::Configure { config, request: 0 });
    Ok((daemon, sources, handle))
}

/// Whether units get cgroups, where they can be had.
pub(super) fn cgroups(environment: &Environment) -> bool {
    environment.value("SANDKEEP_CGROUPS").is_none_or(|value| value != "off")
}

/// What a daemon is made of, whether it starts or takes over.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) signals: Signals,
    pub(super) unix: std::os::unix::net::UnixListener,
    pub(super) tcp: Option<(SocketAddr, std::net::TcpListener)>,
    pub(super) token: Token,
    pub(super) host: Host,
    pub(super) supervisor: Supervisor,
    pub(super) environment: Environment,
    pub(super) config: Arc<Config>,
    pub(super) origin: Origin,
    pub(super) lock: Lock,
    /// `None`: nothing has happened yet.
    pub(super) events: Option<EventLog>,
    pub(super) requests: Requests,
    pub(super) arguments: Vec<OsString>,
}

impl Beginning {
    /// Puts it together. Must be called within the runtime.
    pub(super) fn assemble(self) -> Result<(Daemon, Sources, DaemonHandle), DaemonError> {
        let Self {
            signals,
            unix,
            tcp,
            token,
            host,
            supervisor,
            environment,
            config,
            origin,
            lock,
            events,
            requests,
            arguments,
        } = self;
        let places = host.places().clone();
        let masker = Masker::new(environment.secret_values().into_iter().chain(config.token.clone()));
        let clock = Clock::new();
        let journal = Journal::open(places.state.join("logs"), limits(&config)).map_err(starting("opening the journal"))?;
        let (publisher, snapshot) = Publisher::new(identity(&host, &clock));
        let events = events.unwrap_or_else(|| EventLog::new(clock.now()));
        let reader = journal.reader(masker.clone());
        let logs = JournalLogs::new(reader.clone(), journal.changes());
        let mask: Mask = Arc::new(move |text| masker.mask(text).into_owned());
        let (handle, commands) = DaemonHandle::new(snapshot, events.reader(), Arc::new(logs), mask, places.runtime.clone());
        let (answers_sender, answers) = mpsc::unbounded_channel();
        let sources = Sources {
            signals,
            host: host.wakeups().map_err(starting("watching for events"))?,
            commands,
            answers,
        };
        let daemon = Daemon {
            supervisor,
            hands: Hands::new(host, (journal, reader), config, origin, answers_sender),
            publisher,
            requests,
            events,
            clock,
            inbox: VecDeque::new(),
            stale: true,
            published: Instant::now().checked_sub(PACE).unwrap_or_else(Instant::now),
            code: None,
            doors: Doors::new(unix, tcp, token),
            lock,
            handle: handle.clone(),
            arguments,
            upgrading: None,
            handed: Vec::new(),
            restarting: VecDeque::new(),
            recorder: None,
            last_message: LastMessage::default(),
        };
        Ok((daemon, sources, handle))
    }
}

pub(super) fn listen(address: Option<SocketAddr>) -> Result<Option<(SocketAddr, std::net::TcpListener)>, DaemonError> {
    let Some(address) = address else { return Ok(None) };
    // As tokio binds: a port that was left a moment ago may be taken again.
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        crate::host::accept_when_there_is_something_to_read(&listener);
        Ok(listener)
    });
    match bound {
        Ok(listener) => Ok(Some((address, listener))),
        Err(source) => Err(DaemonError::Listen { address, source }),
    }
}

pub(super) fn token(config: &Config, places: &Places) -> Result<Token, DaemonError> {
    match &config.token {
        Some(text) => Ok(Token::new(text)),
        None => Token::in_file(&places.token()).map_err(starting("making the token")),
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_size: config.journal_max_size,
        keep: config.journal_keep,
        most: Limits::MOST,
    }
}

fn identity(host: &Host, clock: &Clock) -> Identity {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    Identity {
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        hostname: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
        pid: std::process::id().cast_signed(),
        started_at: clock.now(),
        capabilities: publish::capabilities(host.capabilities()),
    }
}

/// Under systemd's watchdog: it hears from us as long as the runtime turns.
fn watchdog() {
    if let Some(interval) = sd_notify::watchdog_interval() {
        tasks::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            loop {
                ticks.tick().await;
                sd_notify::watchdog();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write};

    #[test]
    fn who_has_said_nothing_wakes_nobody() {
        let (_, listener) = listen(Some(([127, 0, 0, 1], 0).into())).unwrap().unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        client.write_all(b"GET").unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while listener.accept().is_err() {
            assert!(Instant::now() < end, "not accepted though it spoke");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
