//! The host: what it is made of, what may be asked of it, and what it hears of its processes.

mod ending;
mod news;

use super::auto_user::{self, AutoUsers};
use super::environment::Environment;
use super::handover::HandedHost;
use super::ladder::{self, Capabilities};
use super::notify_socket::NotifySocket;
use super::runs::{Key, Role, Runs, Tracked};
use super::runtime_dir::Places;
use super::sessions::Sessions;
use super::set::{Freshness, ProcessSet};
use super::spawn::{self, NotifyAddress, Spawn, Start, Surroundings};
use super::watch::Watcher;
use super::{cgroup, conditions, hashes, oom, proc, stale, sys};
use crate::supervisor::event::{Event, ExitStatus, Invocation, Pid, Stage, StartError};
use crate::unit::{Command, Config, Main, Name, Unit, Worker};
use ending::{send, signal_other};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a host is made from.
#[derive(Debug)]
pub struct HostSettings {
    /// The instance's directories, made and locked.
    pub places: Places,
    /// What the supervisor was given, secrets in their own heap.
    pub environment: Environment,
    /// This program, which workers execute in another role.
    pub binary: PathBuf,
    /// Whether units get cgroups of their own, where that can be had.
    pub cgroups: bool,
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
#[error("{act}: {why}")]
pub struct HostError {
    act: String,
    why: io::Error,
}

impl HostError {
    pub(super) fn new(act: String, why: io::Error) -> Self {
        Self { act, why }
    }
}

fn failed(act: impl Into<String>) -> impl FnOnce(io::Error) -> HostError {
    let act = act.into();
    move |why| HostError { act, why }
}

/// A probe's command that runs.
#[derive(Debug)]
pub struct ProbeChild {
    /// Its pid, for [`Host::kill_probe`].
    pub pid: Pid,
    /// How it ended. Comes from within [`Host::events`].
    pub exit: oneshot::Receiver<ExitStatus>,
}

/// Starts, watches and ends processes. See the module's contract.
#[derive(Debug)]
pub struct Host {
    places: Places,
    root: PathBuf,
    pub(super) users: AutoUsers,
    capabilities: Capabilities,
    pub(super) around: Surroundings,
    launcher: sys::Launcher,
    pub(super) notify: NotifySocket,
    pub(super) runs: Runs,
    pub(super) set: ProcessSet,
    pub(super) oom: oom::OomKills,
    pub(super) watcher: Watcher,
    record: stale::Record,
    epoll: Epoll,
    child_died: UnixStream,
    registration: signal_hook::SigId,
    outbox: Vec<Event>,
    /// Not everything was read the last time.
    more: bool,
    /// Commands of the supervisor's own so far.
    helpers: Invocation,
    /// Whether everything that descends from us ends with this value: not before it is certain that this image of the process stays.
    owns: bool,
}

/// Finds what an earlier supervisor of this instance left when it was killed, and ends it: SIGTERM, and SIGKILL after the grace. Blocks
/// until it is gone, at most two seconds longer than the grace. To be called under the instance's lock, before [`Host::new`]. Returns what
/// was found, for people.
pub fn end_survivors(places: &Places, grace: Duration) -> Vec<String> {
    let stale = cgroup::Stale::find(&places.runtime);
    let found = stale::end_survivors(&places.runs(), &places.control_socket(), &stale, grace);
    stale.remove();
    found
}

impl Host {
    /// Looks at the machine, becomes subreaper, binds the notify socket. Must be called on the main thread.
    pub fn new(settings: HostSettings) -> Result<Self, HostError> {
        let mut host = Self::make(settings, None)?;
        host.stay();
        Ok(host)
    }

    /// Makes one that touches nothing yet; with what an earlier image of this process handed over.
    pub(super) fn make(settings: HostSettings, handed: Option<&HandedHost>) -> Result<Self, HostError> {
        let HostSettings {
            places,
            environment,
            binary,
            cgroups,
        } = settings;
        let mut capabilities = Capabilities::find();
        let (oom_scores, lowered) = ladder::OomScores::lower_ours(handed.map(|handed| handed.oom_score));
        capabilities.oom_score = lowered;
        let notify = match handed {
            None => NotifySocket::bind(&places.notify_socket()),
            Some(handed) => NotifySocket::inherit(&handed.notify),
        };
        let notify = notify.map_err(failed(format!("binding notify socket `{}`", places.notify_socket().display())))?;
        let (child_died, theirs) = UnixStream::pair().map_err(failed("making a pipe for SIGCHLD"))?;
        child_died.set_nonblocking(true).map_err(failed("making a pipe for SIGCHLD"))?;
        let registration = signal_hook::low_level::pipe::register(libc::SIGCHLD, theirs).map_err(failed("catching SIGCHLD"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|why| failed("making an epoll instance")(why.into()))?;
        let readable = |fd: BorrowedFd<'_>| {
            epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))
                .map_err(|why| failed("watching a descriptor")(why.into()))
        };
        readable(child_died.as_fd())?;
        notify.descriptors().try_for_each(readable)?;
        let around = Surroundings {
            environment,
            control_socket: places.control_socket(),
            root_directory: PathBuf::from("/"),
            binary,
            oom_scores,
            root: capabilities.root,
            null: File::open("/dev/null").map_err(failed("opening `/dev/null`"))?,
            open_files: handed.map_or_else(spawn::raise_open_files, |handed| handed.open_files),
        };
        // The last, since it can be undone by nobody who only fails.
        let (tree, rung) = cgroup::open(&places.runtime, cgroups);
        capabilities.cgroup2 = rung.groups;
        capabilities.cgroup = rung;
        Ok(Self {
            launcher: sys::Launcher::new(capabilities.pidfd),
            set: ProcessSet::new(tree, Sessions::new(capabilities.subreaper && capabilities.proc)),
            oom: oom::OomKills::watch(),
            watcher: Watcher::new(places.state.clone()),
            record: stale::Record::new(&places.runs()),
            root: PathBuf::from("/"),
            users: AutoUsers::new(places.clone()),
            places,
            capabilities,
            around,
            notify,
            runs: Runs::default(),
            epoll,
            child_died,
            registration,
            outbox: Vec::new(),
            // An earlier image of this process may have left something.
            more: true,
            helpers: 0,
            owns: false,
        })
    }

    /// It is certain that this image of the process stays: from here on what runs is this host's own, and ends with it.
    pub fn stay(&mut self) {
        self.owns = true;
        sys::ask_for_short_slices();
        for (key, run) in &self.runs.all {
            for pid in run.pids() {
                self.record.started(pid, &run.id, run.mark, key.0.as_str());
            }
        }
        self.record.begin();
    }

    /// What was found on this machine.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What the supervisor was given, secrets too: for reading the configuration again.
    pub fn variables(&self) -> std::collections::BTreeMap<String, String> {
        self.around.environment.text()
    }

    /// Sets a variable for what is read and started from now on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.around.environment.set(name, value);
    }

    /// What the supervisor was given.
    pub fn environment(&self) -> &Environment {
        &self.around.environment
    }

    /// This program, which workers execute in another role.
    pub fn binary(&self) -> &std::path::Path {
        &self.around.binary
    }

    /// The instance's directories.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Readable when [`Host::events`] has something to return. An epoll descriptor: it may be watched by another.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// The same for a loop of tokio's. Must be called within a runtime.
    pub fn wakeups(&self) -> io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
        sys::watch(self.descriptor().try_clone_to_owned()?)
    }

    /// When [`Host::events`] wants to be called although nothing is readable.
    pub fn next_poll(&self) -> Option<Instant> {
        self.runs
            .all
            .values()
            .filter_map(|run| run.pending.as_ref()?.next)
            .chain(self.watcher.next_poll())
            .min()
    }

    /// Takes a configuration over: what is secret, and what is watched. Running processes keep what they were given.
    pub fn configure(&mut self, config: &Config) {
        self.around.environment.set_secret_names(&config.secret_names);
        self.root.clone_from(&config.root);
        self.around.root_directory.clone_from(&config.root);
        self.users.configure(config);
        self.set.configure(config);
        self.watcher.configure(config);
        self.watch_files();
    }

    /// Looks after `retry_on_change` of these units, those that are failed or in backoff, and of no others. Cheap when nothing changed.
    pub fn retry_on_change(&mut self, units: &BTreeSet<Name>) {
        self.watcher.retry(units);
        self.watch_files();
    }

    /// Units of whose files not all are watched, and why.
    pub fn unwatched(&self) -> Option<(Vec<Name>, &'static str)> {
        self.watcher.unwatched()
    }

    /// Puts the watcher's descriptor, which may be a new one, behind ours. A closed one leaves by itself.
    fn watch_files(&mut self) {
        if let Some(descriptor) = self.watcher.descriptor() {
            // Already there: as it should be.
            let _ = self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0));
        }
    }

    /// Performs `Action::Spawn`. The answer is `Spawned`, `SpawnFailed`, `Skipped` or `Satisfied`; the last two only before the first
    /// stage of a run. The caller's copies of the pipes are its own to close.
    pub fn spawn(&mut self, spawn: &Spawn<'_>) -> Event {
        let (unit, invocation, stage) = (spawn.unit.name.clone(), spawn.invocation, spawn.stage);
        if !self.runs.all.contains_key(&(unit.clone(), invocation)) {
            match conditions::look(spawn.unit, &self.around.environment, &self.root, &self.places.state) {
                conditions::Verdict::Go => {}
                conditions::Verdict::Skip(reason) => return Event::Skipped { unit, invocation, reason },
                conditions::Verdict::Satisfied => return Event::Satisfied { unit, invocation },
            }
        }
        let words = spawn::words(spawn.unit, stage, &self.around.binary);
        let Some(words) = words.map(|words| words.into_iter().map(std::ffi::OsStr::to_owned).collect::<Vec<_>>()) else {
            let error = StartError {
                message: "executing: the unit has no such command".to_owned(),
                hint: None,
                temporary: false,
            };
            return Event::SpawnFailed {
                unit,
                invocation,
                stage,
                error,
            };
        };
        let words: Vec<_> = words.iter().map(std::ffi::OsString::as_os_str).collect();
        match self.start(spawn, &words, None, Role::Stage(stage)) {
            Ok((pid, warnings)) => Event::Spawned {
                unit,
                invocation,
                stage,
                pid,
                warnings,
            },
            Err(error) => Event::SpawnFailed {
                unit,
                invocation,
                stage,
                error,
            },
        }
    }

    /// Starts a probe's command in the surroundings of a unit.
    pub fn spawn_probe(
        &mut self,
        unit: &Unit,
        invocation: Invocation,
        command: &Command,
        output: BorrowedFd<'_>,
    ) -> Result<ProbeChild, StartError> {
        let (sender, exit) = oneshot::channel();
        let spawn = Spawn {
            unit,
            invocation,
            stage: Stage::Main,
            stdout: output,
            stderr: output,
            environment: &[],
        };
        let (pid, _) = self.start(&spawn, &spawn::words_of(command), None, Role::Probe(sender))?;
        Ok(ProbeChild { pid, exit })
    }

    /// Starts a command of the supervisor's own, with this as its standard input. It is ended as a probe's command is.
    pub fn spawn_helper(&mut self, command: &[OsString], input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> Result<ProbeChild, StartError> {
        let (sender, exit) = oneshot::channel();
        let name = Name::new("sandkeep").expect("it has the form of a name");
        let unit = Unit::new(name, Main::Exec(Command::Argv(Vec::new())));
        self.helpers += 1;
        let spawn = Spawn {
            unit: &unit,
            invocation: self.helpers,
            stage: Stage::Main,
            stdout: output,
            stderr: output,
            environment: &[],
        };
        let words: Vec<_> = command.iter().map(OsString::as_os_str).collect();
        let (pid, _) = self.start(&spawn, &words, Some(input), Role::Probe(sender))?;
        Ok(ProbeChild { pid, exit })
    }

    /// Ends a probe's command and everything in its session; to be called for each that was started, ended or not. Whatever it left
    /// elsewhere ends with the unit.
    pub fn kill_probe(&mut self, pid: Pid) {
        if let Some(key) = self.runs.of_pid(pid) {
            let tracked = self.runs.all.get(key).and_then(|run| run.tracked(pid));
            let Some(Tracked {
                role: Role::Probe(_),
                handle,
                ..
            }) = tracked
            else {
                return;
            };
            send(handle, libc::SIGKILL);
        }
        for process in self.set.in_session(&mut self.runs, pid) {
            signal_other(&process, libc::SIGKILL);
        }
    }

    fn start(
        &mut self,
        spawn: &Spawn<'_>,
        command: &[spawn::Word<'_>],
        stdin: Option<BorrowedFd<'_>>,
        role: Role,
    ) -> Result<(Pid, Vec<String>), StartError> {
        let key = (spawn.unit.name.clone(), spawn.invocation);
        let mut warnings = self.begin(&key, spawn.unit)?;
        let account = match auto_user::wants_one(spawn.unit) && self.capabilities.root {
            true => Some(self.users.prepare(spawn.unit, &self.root)?),
            false => None,
        };
        let set = &mut self.set;
        let run = self.runs.begin(&key, |runs| set.mark(runs));
        let start = Start {
            spawn,
            command,
            stdin,
            id: &run.id,
            notify: NotifyAddress {
                ours: self.notify.address(),
                others: self.notify.address_for_others(),
            },
            mark: run.mark,
            cgroup: self.set.cgroup(&key),
            main: run.process(Stage::Main).map(|main| main.handle.pid),
            main_exit: run.main_exit,
            account,
        };
        let started = spawn::start(&mut self.launcher, &self.around, &start)?;
        let spawn::Started {
            handle,
            warnings: refused,
            outside,
        } = started;
        warnings.extend(refused);
        if outside {
            self.set.do_without_cgroup(&key);
        }
        let pid = handle.pid;
        self.set.started(&key, pid);
        if let Some(run) = self.runs.all.get(&key) {
            self.record.started(pid, &run.id, run.mark, key.0.as_str());
        }
        self.runs.track(
            &key,
            Tracked {
                handle,
                role,
                foreign: false,
            },
        );
        Ok((pid, warnings))
    }

    /// Makes the surroundings of a run that begins. The warnings name what they lack; with `strict` that is an error.
    fn begin(&mut self, key: &Key, unit: &Unit) -> Result<Vec<String>, StartError> {
        if self.runs.all.contains_key(key) {
            return Ok(Vec::new());
        }
        let mut warnings = self.capabilities.cgroup.missing(&unit.limits);
        warnings.extend(self.set.begin(key, &unit.limits));
        if unit.strict
            && let Some(message) = warnings.first()
        {
            return Err(StartError {
                message: message.clone(),
                hint: Some("without `strict` the unit does without".to_owned()),
                temporary: false,
            });
        }
        let (oom_kills, set) = (self.set.oom_kills(key), &mut self.set);
        self.runs.begin(key, |runs| set.mark(runs)).oom_kills = oom_kills;
        Ok(warnings)
    }

    /// Ends what probes and we ourselves started.
    pub fn give_up_commands(&mut self) {
        let commands = self.runs.all.values().flat_map(|run| run.tracked.iter());
        let commands = commands.filter(|tracked| matches!(tracked.role, Role::Probe(_)));
        let pids: Vec<Pid> = commands.map(|tracked| tracked.handle.pid).collect();
        pids.into_iter().for_each(|pid| self.kill_probe(pid));
    }

    /// The run that a process belongs to, by pid: for the control socket and the owner of a port.
    pub fn unit_of(&mut self, pid: Pid) -> Option<(Name, Invocation)> {
        self.set.owner(&mut self.runs, pid)
    }

    /// The directory of a run's cgroup, where it has one: for [`Usage::of`](super::Usage::of), and for a handover.
    pub fn cgroup(&self, unit: &Name, invocation: Invocation) -> Option<PathBuf> {
        self.set.cgroup_path(&(unit.clone(), invocation)).map(std::path::Path::to_path_buf)
    }

    /// The living processes of a run.
    pub fn processes(&mut self, unit: &Name, invocation: Invocation) -> Vec<Pid> {
        let key = (unit.clone(), invocation);
        let others = self.set.others(&mut self.runs, &key, Freshness::Recent);
        let held = self.runs.all.get(&key).into_iter().flat_map(|run| run.pids());
        // What was seen a moment ago may be gone.
        let others = others
            .iter()
            .map(|process| process.pid)
            .filter(|pid| proc::process(*pid).is_some_and(|process| !process.is_dead()));
        held.chain(others).collect()
    }

    /// Performs `Action::TakeHashes`.
    pub fn take_hashes(&mut self, unit: &Unit) {
        if unit.main == Main::Worker(Worker::Restore) {
            self.users.files_came();
        }
        if let Err(why) = hashes::take(unit, &self.root, &self.places.state) {
            tracing::warn!(unit = %unit.name, %why, "what the unit watches could not be remembered");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.owns {
            self.end_everything();
        } else {
            self.set.leave_as_it_is();
        }
        signal_hook::low_level::unregister(self.registration);
    }
}
