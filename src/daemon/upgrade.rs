//! `upgrade`, seen from the image that is left: is the new binary what it should be, does it come up, and then the exec.
//!
//! 1. Its content is hashed, and it is executed as `BINARY check --handover` with the state at this moment on its standard input: it says
//!    whether it reads that.
//! 2. It is executed once more with the very words with which it will take over, as a rehearsal: what does not get that far in a process
//!    of its own would not in this one.
//! 3. The doors stop taking connections (they wait in the kernel from here on), requests under way are redirected to the next image,
//!    streams end, and what is open is given a moment to end.
//! 4. The state is written into sealed memory, signals are held, and the process executes the binary.
//!
//! Until then any failure changes nothing. Afterwards the new image goes back by itself where it fails; see `resume`.

use super::handover::{Document, HandedPipe, monotonic};
use super::probes::{Answer, Helper};
use super::recorder::Recorder;
use super::{Daemon, Sources};
use crate::control::document::Upgrade;
use crate::control::{Reply, Time};
use crate::host::image::{self, Call, Descriptor, Kept, Program, TAKEN_BACK};
use crate::supervisor::{ExitStatus, Outcome};
use crate::tasks;
use crate::unit::{Main, Name, Worker};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a binary may take to say that it can take over.
const CHECKED_WITHIN: Duration = Duration::from_secs(20);
/// How long connections get to end.
const CLOSED_WITHIN: Duration = Duration::from_millis(500);
/// So many rounds of events are stepped for before the exec, where they do not end by themselves.
const SETTLED: usize = 16;
/// What a binary says that can take over, in its last line.
pub const READY: &str = "ready";

/// What a binary was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    sha256: String,
    file: (u64, u64, u64, i64, i64),
}

/// A step that is over.
#[derive(Debug)]
pub(super) enum Step {
    Hashed(Result<Seen, String>),
    Checked(Result<String, String>),
    Rehearsed(Result<String, String>),
    Drained,
}

/// An upgrade that is going on.
#[derive(Debug)]
pub(super) struct Upgrading {
    binary: PathBuf,
    workers: bool,
    reply: Option<Reply<Outcome>>,
    seen: Option<Seen>,
    version: String,
    /// Everything is ready for the exec.
    pub(super) go: bool,
}

impl Daemon {
    /// Begins an upgrade.
    pub(super) fn upgrade(&mut self, binary: Option<PathBuf>, workers: bool, reply: Reply<Outcome>) {
        if self.upgrading.is_some() {
            return reply.send(Outcome::Refused("another upgrade is going on".to_owned()));
        }
        if self.supervisor.shutting_down() {
            return reply.send(Outcome::Cancelled("the supervisor shuts down".to_owned()));
        }
        let binary = binary.unwrap_or_else(|| self.hands.binary().to_owned());
        let answers = self.hands.answers();
        let path = binary.clone();
        tasks::spawn(async move {
            let seen = tasks::spawn_blocking(move || look_at(&path)).await;
            let seen = seen.unwrap_or_else(|error| Err(error.to_string()));
            let _ = answers.send(Answer::Upgrade(Step::Hashed(seen)));
        });
        self.upgrading = Some(Upgrading {
            binary,
            workers,
            reply: Some(reply),
            seen: None,
            version: String::new(),
            go: false,
        });
    }

    /// Goes on with it.
    pub(super) fn upgrade_step(&mut self, step: Step) {
        let Some(upgrading) = &mut self.upgrading else { return };
        let done = match step {
            Step::Hashed(Ok(seen)) => {
                upgrading.seen = Some(seen);
                self.try_binary(&["check".into(), "--handover".into()], Step::Checked)
            }
            Step::Checked(Ok(version)) => {
                upgrading.version = version;
                let mut words = self.arguments.clone();
                words.extend(["--handover".into(), "0".into()]);
                self.try_binary(&words, Step::Rehearsed)
            }
            Step::Rehearsed(Ok(_)) => {
                self.drain();
                Ok(())
            }
            Step::Drained => {
                upgrading.go = true;
                Ok(())
            }
            Step::Hashed(Err(why)) | Step::Checked(Err(why)) | Step::Rehearsed(Err(why)) => Err(why),
        };
        if let Err(why) = done {
            self.upgrade_failed(&why);
        }
    }

    /// Nothing has changed.
    fn upgrade_failed(&mut self, why: &str) {
        let Some(mut upgrading) = self.upgrading.take() else { return };
        let binary = upgrading.binary.display();
        let why = format!("upgrading to {binary}: {why}");
        self.notice(format!("{why}; nothing has changed"));
        self.publisher.upgrade = Some(upgrading.record(self.clock.now(), self.publisher.upgrades(), Some(why.clone())));
        self.stale = true;
        self.publish();
        if let Some(reply) = upgrading.reply.take() {
            reply.send(Outcome::Refused(why));
        }
    }

    /// Executes the binary in a process of its own with the state at this moment.
    fn try_binary(&mut self, words: &[OsString], step: fn(Result<String, String>) -> Step) -> Result<(), String> {
        let Some(upgrading) = &self.upgrading else { return Ok(()) };
        let mut command = vec![upgrading.binary.clone().into_os_string()];
        command.extend(words.iter().cloned());
        let document = self.document(&mut Kept::default(), Vec::new(), None);
        let document = sealed(&document).map_err(|error| format!("writing down the state: {error}"))?;
        let helper = self.hands.help(&command, document.as_fd())?;
        let answers = self.hands.answers();
        tasks::spawn(async move {
            let _ = answers.send(Answer::Upgrade(step(said_ready(helper).await)));
        });
        Ok(())
    }

    fn drain(&mut self) {
        self.doors.shut();
        self.requests.move_all();
        let request = self.requests.register_moved();
        if let Some(upgrading) = &mut self.upgrading
            && let Some(reply) = upgrading.reply.take()
        {
            reply.moved(request);
        }
        self.requests.upgrade = request;
        self.handle.close_connections();
        let (handle, answers) = (self.handle.clone(), self.hands.answers());
        tasks::spawn(async move {
            let _ = tokio::time::timeout(CLOSED_WITHIN, handle.connections_closed()).await;
            let _ = answers.send(Answer::Upgrade(Step::Drained));
        });
    }

    /// Executes the new binary. Returns when everything has come to its end before, or nothing could be executed any more.
    pub(super) async fn change_image(&mut self, sources: &mut Sources) {
        self.settle(sources);
        if self.code.is_some() {
            return;
        }
        let Some(upgrading) = self.upgrading.take() else { return };
        self.notice(format!("upgrading to {} ({})", upgrading.binary.display(), upgrading.version));
        self.hands.give_up_commands();
        image::hold_signals();
        sources.signals.give_back();
        let pipes = self.hands.stop_reading().await;
        let why = match self.execute(&upgrading, pipes) {
            Ok(never) => match never {},
            Err(why) => why,
        };
        // Not even the way back was open: what runs here cannot be kept.
        self.hands
            .complain(&format!("upgrading: {why}; and this image could not be executed again"));
        self.code = Some(1);
    }

    /// Until nothing is left to step for. What is said faster than it is read waits in its socket for the next image.
    fn settle(&mut self, sources: &mut Sources) {
        for round in 0_usize.. {
            while let Ok(command) = sources.commands.try_recv() {
                self.command(command);
            }
            while let Ok(answer) = sources.answers.try_recv() {
                self.answered(answer);
            }
            self.inbox.extend(self.hands.events());
            if self.inbox.is_empty() || self.code.is_some() {
                break;
            }
            self.work();
            if round >= SETTLED && self.hands.is_told() {
                break;
            }
        }
        self.requests.move_all();
    }

    fn execute(&mut self, upgrading: &Upgrading, pipes: Vec<crate::host::journal::Handed>) -> Result<std::convert::Infallible, String> {
        let mut kept = Kept::default();
        let ours = File::open("/proc/self/exe").map_err(|error| format!("opening the way back: {error}"));
        let mut document = self.document(&mut kept, pipes, Some(upgrading));
        let ours = ours?;
        let back = kept.keep(&ours);
        document.kept = kept.clone();
        let memory = sealed(&document).map_err(|error| format!("writing down the state: {error}"))?;
        let state = kept.keep(&memory);
        let handover = format!("{}:{}", state.number(), back.number());
        let call = |program: &Path, more: Option<&str>| {
            let mut arguments = vec![program.as_os_str().to_owned()];
            arguments.extend(self.arguments.iter().cloned());
            arguments.extend(["--handover".into(), OsString::from(&handover)]);
            let mut environment = self.hands.environment_for_ourselves();
            environment.extend(more.map(|why| (OsString::from(TAKEN_BACK), OsString::from(why))));
            Call { arguments, environment }
        };
        kept.survive(true).map_err(|error| format!("keeping descriptors open: {error}"))?;
        let why = match still_the_same(upgrading) {
            Ok(()) => image::execute(&Program::Path(&upgrading.binary), &call(&upgrading.binary, None)).to_string(),
            Err(why) => why,
        };
        let why = format!("executing it: {why}");
        let again = image::execute(&Program::Open(back), &call(self.hands.binary(), Some(&why)));
        Err(format!("{why}; going back: {again}"))
    }

    /// Everything that the next image needs to know. For a rehearsal it has no descriptors.
    fn document(&mut self, kept: &mut Kept, pipes: Vec<crate::host::journal::Handed>, upgrading: Option<&Upgrading>) -> Document {
        let now = Instant::now();
        let monotonic = monotonic();
        let unix = kept.keep(&self.doors.unix);
        let tcp = self.doors.tcp.as_ref().map(|(address, listener)| (*address, kept.keep(listener)));
        let lock = kept.keep(self.lock.file());
        let handed_pipes = pipes.iter().map(|pipe| HandedPipe::new(pipe, kept)).collect();
        // They stay open: the next image finds them by their numbers.
        self.handed.extend(pipes.into_iter().map(|pipe| pipe.pipe));
        let workers = self.workers();
        let upgrading = upgrading.or(self.upgrading.as_ref());
        let count = self.publisher.upgrades();
        let restart = match upgrading {
            Some(upgrading) if upgrading.workers => workers,
            Some(_) | None => Vec::new(),
        };
        let upgrade = upgrading.map(|upgrading| upgrading.record(self.clock.now(), count, None));
        let places = self.hands.places();
        Document {
            format: Document::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            monotonic,
            unix,
            tcp,
            lock,
            token: self.doors.token.clone(),
            runtime: places.runtime.clone(),
            state: places.state.clone(),
            environment: self.hands.environment(),
            old_binary: self.hands.binary().to_owned(),
            upgrade: upgrade.unwrap_or_else(|| Upgrade::begun(self.clock.now())),
            request: self.requests.upgrade,
            restart,
            supervisor: self.supervisor.save(now),
            host: self.hands.hand_over_host(kept),
            pipes: handed_pipes,
            next_source: self.hands.next_source(),
            clock: self.clock.hand_over(now),
            hands: self.hands.hand_over(),
            publisher: self.publisher.hand_over(),
            events: self.events.hand_over(),
            requests: self.requests.hand_over(),
            recorder: self.recorder.as_ref().map(Recorder::hand_over),
            kept: kept.clone(),
        }
    }

    /// The workers that run, `sync` last: what another one still writes is carried out by it.
    fn workers(&mut self) -> Vec<Name> {
        let units = self.supervisor.status().units;
        let of = |wanted: Worker| {
            let running = units
                .iter()
                .filter(move |unit| unit.spec.main == Main::Worker(wanted) && unit.pid.is_some());
            running.map(|unit| unit.spec.name.clone()).collect::<Vec<_>>()
        };
        [of(Worker::Agent), of(Worker::Sync)].concat()
    }
}

impl Upgrading {
    fn record(&self, at: Time, count: u64, error: Option<String>) -> Upgrade {
        Upgrade {
            from: env!("CARGO_PKG_VERSION").to_owned(),
            to: self.version.clone(),
            binary: self.binary.display().to_string(),
            sha256: self.seen.as_ref().map(|seen| seen.sha256.clone()).unwrap_or_default(),
            count,
            error,
            ..Upgrade::begun(at)
        }
    }
}

fn sealed(document: &Document) -> io::Result<OwnedFd> {
    let text = serde_json::to_vec(document)?;
    image::seal("sandkeep-handover", &text)
}

/// Waits for a binary's word that it can take over; its version.
async fn said_ready(helper: Helper) -> Result<String, String> {
    let (status, output) = match tokio::time::timeout(CHECKED_WITHIN, helper).await {
        Err(_) => return Err(format!("it did not say within {CHECKED_WITHIN:?} that it can take over")),
        Ok(Err(why)) => return Err(why),
        Ok(Ok(answer)) => answer,
    };
    let output = String::from_utf8_lossy(&output);
    let last = output
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default();
    let how = match status {
        ExitStatus::Code(0) => {
            let word: Option<serde_json::Value> = serde_json::from_str(last).ok();
            let ready = word.as_ref().filter(|word| word["handover"] == READY);
            return match ready.and_then(|word| word["version"].as_str()) {
                Some(version) => Ok(version.to_owned()),
                None => Err("it does not say that it can take over: is it sandkeep, and no older than this one?".to_owned()),
            };
        }
        ExitStatus::Code(code) => format!("exit code {code}"),
        ExitStatus::Signal { signal, .. } => format!("signal {signal}"),
    };
    let said = last.strip_prefix("error: ").unwrap_or(last);
    if said.is_empty() {
        Err(format!("it cannot take over ({how})"))
    } else {
        Err(format!("it cannot take over ({how}): {said}"))
    }
}

fn facts(path: &Path) -> io::Result<(u64, u64, u64, i64, i64)> {
    let seen = std::fs::metadata(path)?;
    Ok((seen.dev(), seen.ino(), seen.size(), seen.mtime(), seen.mtime_nsec()))
}

fn look_at(path: &Path) -> Result<Seen, String> {
    let look = || {
        let file = facts(path)?;
        let mut content = File::open(path)?;
        let (mut digest, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match content.read(&mut buffer)? {
                0 => break,
                length => digest.update(&buffer[..length]),
            }
        }
        let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Seen { sha256, file })
    };
    look().map_err(|error: io::Error| format!("reading it: {error}"))
}

/// What was tried is what is executed.
fn still_the_same(upgrading: &Upgrading) -> Result<(), String> {
    let then = upgrading.seen.as_ref().map(|seen| seen.file);
    match facts(&upgrading.binary) {
        Ok(now) if then == Some(now) => Ok(()),
        Ok(_) => Err("it has changed since it was tried".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A handover that is named in the arguments: the state, and for an image that is to stay the way back.
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// Where the state is.
    pub state: Descriptor,
    /// The image before; `None`: this is a rehearsal.
    pub back: Option<Descriptor>,
}

impl std::str::FromStr for Handover {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (state, back) = text.split_once(':').map_or((text, None), |(state, back)| (state, Some(back)));
        let parse = |text: &str| Descriptor::parse(text).ok_or_else(|| format!("`{text}` is not a descriptor"));
        Ok(Self {
            state: parse(state)?,
            back: back.map(parse).transpose()?,
        })
    }
}
