//! From nothing to a turning loop, and from there to nothing.

use super::clock::Clock;
use super::hands::{Hands, default_budget};
use super::publish::{self, Identity, Publisher};
use super::requests::{Origin, Requests};
use super::signals::Signals;
use super::{Daemon, JournalLogs, PACE, Sources};
use crate::control::doors::{self, Limits as DoorLimits};
use crate::control::token::Token;
use crate::control::{DaemonHandle, EventLog, Mask, deadline, postmortem, report};
use crate::host::journal::{Journal, Limits};
use crate::host::mask::Masker;
use crate::host::runtime_dir::{Lock, Places};
use crate::host::{Environment, Host, HostSettings};
use crate::sd_notify;
use crate::supervisor::{Event, Supervisor};
use crate::unit::Config;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How long survivors of an earlier supervisor get between SIGTERM and SIGKILL.
const SURVIVORS_GRACE: Duration = Duration::from_secs(2);
/// How long open connections get to be answered when everything is down.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

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

fn starting<E: std::fmt::Display>(act: &str) -> impl FnOnce(E) -> DaemonError {
    move |why| DaemonError::Start {
        act: act.to_owned(),
        why: why.to_string(),
    }
}

/// Runs a supervisor on this thread until it has halted; its exit code. `attach` is called once everything can be read and asked.
pub fn run(settings: Settings, attach: impl FnOnce(DaemonHandle)) -> Result<u8, DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build();
    let runtime = runtime.map_err(starting("starting the runtime"))?;
    let code = runtime.block_on(supervise(settings, attach));
    runtime.shutdown_timeout(LAST_ANSWERS);
    crate::host::power_off_as_init();
    code
}

async fn supervise(settings: Settings, attach: impl FnOnce(DaemonHandle)) -> Result<u8, DaemonError> {
    let Settings {
        places,
        lock: _lock,
        environment,
        config,
        origin,
        binary,
    } = settings;
    let signals = Signals::take().map_err(starting("catching signals"))?;
    let tcp = listen(config.listen).await?;
    let token = token(&config, &places)?;
    let survivors = crate::host::end_survivors(&places, SURVIVORS_GRACE);
    let masker = Masker::new(environment.secret_values().into_iter().chain(config.token.clone()));
    let clock = Clock::new();
    let cgroups = environment.value("SANDKEEP_CGROUPS").is_none_or(|value| value != "off");
    let host = Host::new(HostSettings {
        places: places.clone(),
        environment,
        binary,
        cgroups,
    });
    let host = host.map_err(starting("preparing to start processes"))?;
    let journal = Journal::open(places.state.join("logs"), limits(&config)).map_err(starting("opening the journal"))?;
    let (publisher, snapshot) = Publisher::new(identity(&host, &clock));
    let events = EventLog::new(clock.now());
    let logs = JournalLogs::new(journal.reader(masker.clone()), changes(&journal));
    let mask: Mask = Arc::new(move |text| masker.mask(text).into_owned());
    let (handle, commands) = DaemonHandle::new(snapshot, events.reader(), Arc::new(logs), mask, places.runtime.clone());
    let (answers_sender, answers) = mpsc::unbounded_channel();
    let mut sources = Sources {
        signals,
        host: host.wakeups().map_err(starting("watching for events"))?,
        commands,
        answers,
    };
    open_doors(&places, tcp, token, &handle)?;
    tokio::spawn(report::run(handle.clone()));
    tokio::spawn(deadline::keep(handle.clone()));
    tokio::spawn(postmortem::keep(places.state.join("postmortem"), handle.clone()));
    let seed = u64::from(std::process::id()) ^ clock.now().0.as_microsecond().cast_unsigned();
    let config = Arc::new(config);
    let mut daemon = Daemon {
        supervisor: Supervisor::new(Instant::now(), seed).with_budget(default_budget()),
        hands: Hands::new(host, journal, Arc::clone(&config), origin, answers_sender),
        publisher,
        requests: Requests::default(),
        events,
        clock,
        inbox: VecDeque::from([Event::Configure { config, request: 0 }]),
        stale: true,
        published: Instant::now().checked_sub(PACE).unwrap_or_else(Instant::now),
        code: None,
    };
    daemon.notice(format!(
        "sandkeep {} started, pid {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    ));
    for survivor in survivors {
        daemon.notice(format!("ended what an earlier supervisor had left: {survivor}"));
    }
    // Nobody reads a snapshot that knows no unit yet.
    daemon.work();
    attach(handle);
    sd_notify::ready();
    watchdog();
    let code = daemon.turn(&mut sources).await;
    sd_notify::stopping();
    drop(sources);
    daemon.hands.close().await;
    // Whoever waits for the last answer gets it before the socket goes.
    tokio::time::sleep(Duration::from_millis(20)).await;
    for file in [places.control_socket(), places.notify_socket()] {
        let _ = std::fs::remove_file(file);
    }
    Ok(code)
}

async fn listen(address: Option<SocketAddr>) -> Result<Option<tokio::net::TcpListener>, DaemonError> {
    match address {
        None => Ok(None),
        Some(address) => match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => Ok(Some(listener)),
            Err(source) => Err(DaemonError::Listen { address, source }),
        },
    }
}

fn token(config: &Config, places: &Places) -> Result<Token, DaemonError> {
    match &config.token {
        Some(text) => Ok(Token::new(text)),
        None => Token::in_file(&places.token()).map_err(starting("making the token")),
    }
}

fn open_doors(places: &Places, tcp: Option<tokio::net::TcpListener>, token: Token, handle: &DaemonHandle) -> Result<(), DaemonError> {
    let act = format!("binding the control socket {}", places.control_socket().display());
    let unix = doors::bind_unix(&places.control_socket()).and_then(tokio::net::UnixListener::from_std);
    let unix = unix.map_err(starting(&act))?;
    tokio::spawn(doors::serve_unix(unix, handle.clone(), handle.unit_of(), DoorLimits::default()));
    if let Some(tcp) = tcp {
        tokio::spawn(doors::serve_tcp(tcp, handle.clone(), token, DoorLimits::default()));
    }
    Ok(())
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_size: config.journal_max_size,
        keep: config.journal_keep,
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

/// Counts the journal's writes for those who follow.
fn changes(journal: &Journal) -> watch::Receiver<u64> {
    let mut source = journal.changes();
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        while source.changed().await.is_ok() {
            sender.send_modify(|count| *count += 1);
        }
    });
    receiver
}

/// Under systemd's watchdog: it hears from us as long as the runtime turns.
fn watchdog() {
    if let Some(interval) = sd_notify::watchdog_interval() {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            loop {
                ticks.tick().await;
                sd_notify::watchdog();
            }
        });
    }
}
