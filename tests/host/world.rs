//! A host in directories of its own, the puppet, and waiting for what should happen.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandkeep::host::runtime_dir::Places;
use sandkeep::host::{Environment, Host, HostSettings, Spawn};
use sandkeep::supervisor::event::{Event, ExitStatus, Invocation, Notice, Pid, Stage, StartError};
use sandkeep::unit::{Command, Main, Name, Unit};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The one deadline of everything that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) host: Host,
    path: PathBuf,
    #[expect(dead_code, reason = "removes the directory at the end")]
    dir: Option<tempfile::TempDir>,
    pub(crate) events: Vec<Event>,
}

/// A directory that everyone may enter, with the puppet in it.
pub(crate) fn directory() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("sandkeep")
        .tempdir()
        .expect("a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    std::fs::copy(built_puppet(), dir.path().join("puppet")).expect("the puppet can be copied");
    dir
}

/// What the supervisor of a test was given.
pub(crate) fn given(pairs: &[(&str, &str)]) -> Environment {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let pairs = pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Environment::new(pairs.chain([("PATH".into(), path)]), &["R2_*".to_owned(), "*_TOKEN".to_owned()])
}

pub(crate) fn places(dir: &Path) -> Places {
    Places {
        runtime: dir.join("run/default"),
        state: dir.join("state/default"),
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::given(&[("HOME", "/nowhere")])
    }

    pub(crate) fn given(variables: &[(&str, &str)]) -> Self {
        let dir = directory();
        let host = host_in(dir.path(), given(variables));
        Self {
            host,
            path: dir.path().to_path_buf(),
            dir: Some(dir),
            events: Vec::new(),
        }
    }

    /// In a directory that somebody else made, and removes.
    pub(crate) fn in_directory(dir: &Path) -> Self {
        Self {
            host: host_in(dir, given(&[])),
            path: dir.to_path_buf(),
            dir: None,
            events: Vec::new(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A unit that runs the puppet with this script.
    pub(crate) fn unit(&self, name: &str, script: &str) -> Unit {
        let mut unit = Unit::new(Name::new(name).expect("a name"), Main::Exec(self.puppet(script)));
        unit.working_directory = self.path.clone();
        unit
    }

    /// The puppet's command line. `DIR/` in the script is the test's directory.
    pub(crate) fn puppet(&self, script: &str) -> Command {
        let dir = format!("{}/", self.path.display());
        let words = script
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| word.replace("DIR/", &dir));
        Command::Argv([self.path("puppet").display().to_string()].into_iter().chain(words).collect())
    }

    /// Starts a stage with its output in `<unit>.out`.
    pub(crate) fn spawn_stage(&mut self, unit: &Unit, invocation: Invocation, stage: Stage) -> Event {
        let out = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{}.out", unit.name)))
            .expect("ours");
        self.host.spawn(&Spawn {
            unit,
            invocation,
            stage,
            stdout: out.as_fd(),
            stderr: out.as_fd(),
            environment: &[],
        })
    }

    /// Starts the main process, which must work.
    pub(crate) fn start(&mut self, unit: &Unit) -> Pid {
        match self.spawn_stage(unit, 1, Stage::Main) {
            Event::Spawned { pid, .. } => pid,
            other => panic!("not started: {other:?}"),
        }
    }

    /// Starts the main process, which must fail.
    pub(crate) fn start_fails(&mut self, unit: &Unit) -> StartError {
        match self.spawn_stage(unit, 1, Stage::Main) {
            Event::SpawnFailed { error, .. } => error,
            other => panic!("it did not fail: {other:?}"),
        }
    }

    pub(crate) fn output(&self, unit: &str) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.path(&format!("{unit}.out"))) {
            let _ = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Takes what the host has to tell, waiting for it as the daemon does.
    pub(crate) fn turn(&mut self, longest: Duration) -> Vec<Event> {
        let until = self
            .host
            .next_poll()
            .map_or(longest, |at| at.saturating_duration_since(Instant::now()).min(longest));
        let milliseconds = u16::try_from(until.as_millis()).unwrap_or(u16::MAX).saturating_add(1);
        let mut fds = [PollFd::new(self.host.descriptor(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(milliseconds));
        let new = self.host.events();
        self.events.extend(new.iter().cloned());
        new
    }

    /// Turns until an event is of interest, and gives what was made of it. Events before it stay in `events`.
    pub(crate) fn wait<T>(&mut self, what: &str, mut of: impl FnMut(&Event) -> Option<T>) -> T {
        let begun = Instant::now();
        if let Some(found) = self.events.iter().find_map(&mut of) {
            return found;
        }
        let ready = self.host.events();
        self.events.extend(ready.iter().cloned());
        let mut new = ready;
        loop {
            if let Some(found) = new.iter().find_map(&mut of) {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "waited for {what} in vain; seen {:?}", self.events);
            new = self.turn(Duration::from_secs(1));
        }
    }

    pub(crate) fn wait_exit(&mut self, pid: Pid) -> ExitStatus {
        self.wait(&format!("the end of {pid}"), |event| match event {
            Event::Exited { pid: of, status, .. } if *of == pid => Some(*status),
            _ => None,
        })
    }

    pub(crate) fn wait_emptied(&mut self, unit: &Unit) -> Vec<String> {
        self.wait(&format!("nothing to be left of {}", unit.name), |event| match event {
            Event::Emptied { unit: of, left, .. } if *of == unit.name => Some(left.clone()),
            _ => None,
        })
    }

    pub(crate) fn wait_notice(&mut self, wanted: &Notice) {
        self.wait(&format!("{wanted:?}"), |event| {
            matches!(event, Event::Notified { notice, .. } if notice == wanted).then_some(())
        });
    }

    /// Waits for something outside the host, taking its events meanwhile.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "waited for {what} in vain; seen {:?}", self.events);
            self.turn(Duration::from_millis(5));
        }
    }

    /// Waits until a script has written its pid there.
    pub(crate) fn pid_in(&mut self, name: &str) -> Pid {
        let path = self.path(name);
        self.until(&format!("{name} to be written"), |_| path.exists());
        std::fs::read_to_string(path).expect("it is there").parse().expect("a pid")
    }
}

pub(crate) fn host_in(dir: &Path, environment: Environment) -> Host {
    let places = places(dir);
    places.create().expect("the directories are ours");
    let binary = dir.join("puppet");
    Host::new(HostSettings {
        places,
        environment,
        binary,
        cgroups: std::env::var_os("SANDKEEP_TEST_NO_CGROUPS").is_none(),
    })
    .expect("a host")
}

/// Whether a process is there and has not ended.
pub(crate) fn lives(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Cargo puts examples beside the tests, and builds them with all tests, but not for one alone.
fn built_puppet() -> PathBuf {
    let tests = std::env::current_exe().expect("we run from a file");
    let target = tests.parent().and_then(Path::parent).expect("…/target/debug/deps/host-…");
    let puppet = target.join("examples/puppet");
    if !puppet.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = std::process::Command::new(cargo).args(["build", "--example", "puppet"]).status();
        assert!(status.is_ok_and(|status| status.success()), "the puppet could not be built");
    }
    puppet
}
