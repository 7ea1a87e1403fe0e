//! An upgrade, seen from the image that comes: takes over what the one before it handed over, or goes back to it.
//!
//! Everything that can fail happens before [`stay`] and touches nothing: descriptors are duplicates, no process is reaped, no pipe is
//! read, no file is written. A failure, a panic, a crash or no progress at all ends in the image before this one, which finds everything
//! as it left it. What follows cannot fail.

use super::clock::Clock;
use super::handover::{Document, HandedPipe, HandoverError};
use super::recorder::Recorder;
use super::start::{self, Beginning, DaemonError, Life};
use super::upgrade::Handover;
use super::{Daemon, EventLog};
use crate::control::DaemonHandle;
use crate::control::document::Upgrade;
use crate::host::image::{self, Call, Descriptor, TAKEN_BACK, WayBack};
use crate::host::journal::Handed;
use crate::host::runtime_dir::Lock;
use crate::host::{Environment, Host, HostSettings};
use crate::supervisor::{Event, Outcome, Request, Verb};
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::Duration;

/// How long it may take.
const COMES_UP_WITHIN: Duration = Duration::from_secs(20);

/// Whether a state could be taken over: reads it all, makes the supervisor out of it, has it look round once, and writes it down again.
pub fn rehearse(state: Descriptor) -> Result<(), HandoverError> {
    let mut document = Document::parse(&image::unseal(state.duplicate()?)?)?;
    let now = document.moment();
    let (mut supervisor, _) = document.supervisor(now)?;
    document.hands.running()?;
    let _ = supervisor.step(now, Event::Deadline);
    let _ = supervisor.status();
    let _ = supervisor.save(now);
    Ok(())
}

/// Takes over. `arguments` are the words for the image after this one. Returns when the supervisor has halted.
pub fn resume(handover: Handover, arguments: Vec<OsString>, attach: impl FnOnce(DaemonHandle)) -> Result<u8, DaemonError> {
    let came_back = std::env::var(TAKEN_BACK).ok();
    if came_back.is_some() {
        // Whatever it failed for, it is not to be for what the other image lacked.
        image::raise_open_files();
    }
    let way_back = match (handover.back, &came_back) {
        (Some(back), None) => Some(way_back(back).map_err(start::starting("opening the way back"))?),
        (Some(_) | None, _) => None,
    };
    let prepared = std::panic::catch_unwind(AssertUnwindSafe(|| prepare(handover, arguments, came_back)));
    let prepared = prepared.unwrap_or_else(|panic| Err(start::starting("taking over")(said(&*panic))));
    match (prepared, way_back) {
        (Ok(prepared), way_back) => {
            if let Some(way_back) = way_back {
                way_back.close();
            }
            Ok(prepared.stay(attach))
        }
        (Err(error), Some(way_back)) => {
            let again = way_back.take(&error.to_string());
            Err(start::starting("going back to the image before this one")(format!(
                "{again} (because of: {error})"
            )))
        }
        (Err(error), None) => Err(error),
    }
}

fn way_back(back: Descriptor) -> std::io::Result<WayBack> {
    let call = Call {
        arguments: std::env::args_os().collect(),
        environment: std::env::vars_os().collect(),
    };
    WayBack::open(back, call, COMES_UP_WITHIN)
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_default())
}

/// Everything is there and nothing is touched.
struct Prepared {
    life: Life,
    pipes: Vec<Handed>,
    next_source: u32,
    /// What came open over the exec.
    kept: image::Kept,
    upgrade: Upgrade,
    request: u64,
}

fn prepare(handover: Handover, arguments: Vec<OsString>, came_back: Option<String>) -> Result<Prepared, DaemonError> {
    let runtime = start::runtime()?;
    let life = {
        let _within = runtime.enter();
        inherit(handover, arguments, came_back)?
    };
    Ok(life.with(runtime))
}

struct Inherited {
    daemon: Daemon,
    sources: super::Sources,
    handle: DaemonHandle,
    pipes: Vec<Handed>,
    next_source: u32,
    kept: image::Kept,
    upgrade: Upgrade,
    request: u64,
}

impl Inherited {
    fn with(self, runtime: tokio::runtime::Runtime) -> Prepared {
        Prepared {
            life: Life {
                runtime,
                daemon: self.daemon,
                sources: self.sources,
                handle: self.handle,
            },
            pipes: self.pipes,
            next_source: self.next_source,
            kept: self.kept,
            upgrade: self.upgrade,
            request: self.request,
        }
    }
}

fn inherit(handover: Handover, arguments: Vec<OsString>, came_back: Option<String>) -> Result<Inherited, DaemonError> {
    let act = "taking over";
    let text = handover.state.duplicate().and_then(image::unseal).map_err(start::starting(act))?;
    let mut document = Document::parse(&text).map_err(start::starting(act))?;
    let moment = document.moment();
    let (supervisor, config) = document.supervisor(moment).map_err(start::starting(act))?;
    let places = document.places();
    let environment = Environment::new(std::mem::take(&mut document.environment), &config.secret_names);
    let mut upgrade = document.upgrade.clone();
    let binary = if came_back.is_some() {
        document.old_binary.clone()
    } else {
        PathBuf::from(&upgrade.binary)
    };
    match came_back {
        Some(why) => upgrade.error = Some(why),
        None => {
            upgrade.count += 1;
            env!("CARGO_PKG_VERSION").clone_into(&mut upgrade.to);
        }
    }
    let settings = HostSettings {
        places: places.clone(),
        cgroups: start::cgroups(&environment),
        environment: environment.clone(),
        binary,
    };
    let host = Host::inherit(settings, document.host).map_err(start::starting(act))?;
    let unix = document.unix.duplicate().map_err(start::starting(act))?;
    let tcp = match document.tcp {
        Some((address, listener)) => Some((address, listener.duplicate().map_err(start::starting(act))?.into())),
        None => None,
    };
    let pipes = document.pipes.into_iter().map(HandedPipe::open).collect::<Result<_, _>>();
    let beginning = Beginning {
        signals: super::Signals::take().map_err(start::starting("catching signals"))?,
        unix: unix.into(),
        tcp,
        token: document.token.clone(),
        host,
        supervisor,
        environment,
        config,
        origin: document.hands.origin.clone(),
        lock: Lock::from_file(document.lock.duplicate().map_err(start::starting(act))?.into()),
        events: Some(EventLog::inherit(document.events)),
        requests: super::Requests::inherit(document.requests),
        arguments,
    };
    let (mut daemon, sources, handle) = beginning.assemble()?;
    daemon.hands.inherit(&mut document.hands).map_err(start::starting(act))?;
    daemon.clock = Clock::inherit(document.clock, moment);
    daemon.publisher.inherit(document.publisher);
    daemon.publisher.upgrade = Some(upgrade.clone());
    if upgrade.error.is_none() {
        daemon.restarting = document.restart.into();
    }
    let recorder = document.recorder.map(|handed| Recorder::go_on(handed, moment, handle.mask.clone()));
    daemon.recorder = recorder.and_then(Result::ok);
    let mut kept = document.kept;
    kept.add(handover.state);
    Ok(Inherited {
        daemon,
        sources,
        handle,
        pipes: pipes.map_err(start::starting(act))?,
        next_source: document.next_source,
        kept,
        upgrade,
        request: document.request,
    })
}

impl Prepared {
    /// From here on there is no way back.
    fn stay(self, attach: impl FnOnce(DaemonHandle)) -> u8 {
        let Self {
            mut life,
            pipes,
            next_source,
            kept,
            upgrade,
            request,
        } = self;
        kept.close();
        let daemon = &mut life.daemon;
        daemon.hands.stay(pipes, next_source);
        let short = upgrade.sha256.get(..12).unwrap_or_default();
        let outcome = match &upgrade.error {
            None => {
                daemon.notice(format!(
                    "upgraded from {} to {} ({}, sha256 {short}), pid {}",
                    upgrade.from,
                    upgrade.to,
                    upgrade.binary,
                    std::process::id()
                ));
                Outcome::Done
            }
            Some(why) => {
                let why = format!("upgrading to {}: {why}", upgrade.binary);
                daemon.notice(format!("{why}; the old image has taken over again"));
                Outcome::Refused(why)
            }
        };
        daemon.requests.upgrade = request;
        if daemon.restarting.is_empty() || outcome != Outcome::Done {
            daemon.requests.upgrade_over(outcome);
        } else {
            daemon.restart_next_worker();
        }
        image::let_signals_in();
        life.live(attach)
    }
}

impl Daemon {
    /// Restarts the next of the workers that are to run from the new binary. After the last, whoever waits for the upgrade is told.
    pub(super) fn restart_next_worker(&mut self) {
        match self.restarting.pop_front() {
            Some(worker) => {
                let id = self.requests.register_worker();
                let verb = Verb::Restart(vec![worker.as_str().to_owned()]);
                self.inbox.push_back(Event::Request(Request { id, verb }));
            }
            None => self.requests.upgrade_over(Outcome::Done),
        }
    }
}
