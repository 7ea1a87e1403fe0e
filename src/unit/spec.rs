//! A unit as the supervisor and the host see it: valid by type, nothing left to check.

use crate::ordered::TryIntoMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A unit's name: 1 to 64 characters of `a-z A-Z 0-9 _ . -`, the first a letter or a digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name that is taken, in bytes. It becomes part of file names.
    pub const MAX_LEN: usize = 64;

    /// Takes a name that has the right form; `None` for any other.
    pub fn new(name: &str) -> Option<Self> {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        (first && rest && name.len() <= Self::MAX_LEN).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is not a unit's name")))
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What is executed. systemd.service(5), `ExecStart=`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Given to `/bin/sh -c`.
    Shell(String),
    /// Executed as it is; never empty. The first is looked up on the unit's `PATH` when it has no slash.
    Argv(Vec<String>),
}

/// One of sandkeep's own programs, run as a unit like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worker {
    /// Brings the project's files back from the store; a oneshot.
    Restore,
    /// Keeps the project's files in the store; notifies.
    Sync,
    /// Runs Claude Code for prompts; notifies.
    Agent,
}

impl Worker {
    /// The arguments after the path of this very binary.
    pub fn arguments(self) -> [&'static str; 2] {
        match self {
            Self::Restore => ["sync", "restore"],
            Self::Sync => ["sync", "run"],
            Self::Agent => ["agent", "run"],
        }
    }
}

/// The unit's main process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Main {
    /// A command of the user's.
    Exec(Command),
    /// This binary in another role.
    Worker(Worker),
}

/// When a unit counts as started. systemd.service(5), `Type=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// As soon as it is executed (and its readiness probe passed, where there is one).
    Simple,
    /// When it says `READY=1` (and its readiness probe passed).
    Notify,
    /// When its main process has ended with success.
    Oneshot {
        /// Whether it counts as active afterwards.
        remain_after_exit: bool,
    },
}

/// Which ends of the main process are followed by another start. systemd.service(5), `Restart=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    No,
    /// After success alone.
    OnSuccess,
    /// After an unclean exit code, a signal, a time-out, the watchdog.
    OnFailure,
    /// After a signal, a time-out, the watchdog.
    OnAbnormal,
    /// After the watchdog alone.
    OnWatchdog,
    /// After every end that was not asked for.
    Always,
}

/// What the start limit does when it is hit. systemd.unit(5), `StartLimitAction=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartLimitAction {
    /// The unit fails, nothing more.
    None,
    /// The supervisor shuts down and exits with 1.
    Shutdown,
}

/// Who gets the stop signal first. systemd.kill(5), `KillMode=`. Whatever the mode, in the end nothing of the unit is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillMode {
    /// Every process of the unit.
    ControlGroup,
    /// The main process alone; the rest gets SIGKILL when it is gone or the stop timeout is over.
    Mixed,
}

/// Exit codes and signals, as in systemd's `SuccessExitStatus=`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatuses {
    /// Exit codes, 0 to 255.
    pub codes: Vec<u8>,
    /// Signal numbers.
    pub signals: Vec<i32>,
}

/// Which of the three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// Holds the other two back until it passed once.
    Startup,
    /// Decides whether the unit is ready.
    Readiness,
    /// Restarts the unit when it fails.
    Liveness,
}

/// What a probe looks at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeCheck {
    /// A GET; 200 to 399 passes, redirects are not followed.
    Http {
        /// `http://host:port/path`.
        url: String,
        /// Whether it goes on with a whole GET after readiness; otherwise it falls back to a connect.
        always: bool,
    },
    /// A connection to `host:port` that is accepted.
    Tcp(String),
    /// A command in the unit's surroundings that exits with 0.
    Exec(Command),
    /// A line of the unit's output since this start that matches.
    Log(#[serde(with = "regex_text")] regex::Regex),
    /// The unit's own processes listen on this TCP port; on any where there is none.
    Listen(Option<u16>),
}

impl PartialEq for ProbeCheck {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http { url: a, always: x }, Self::Http { url: b, always: y }) => a == b && x == y,
            (Self::Tcp(a), Self::Tcp(b)) => a == b,
            (Self::Exec(a), Self::Exec(b)) => a == b,
            (Self::Log(a), Self::Log(b)) => a.as_str() == b.as_str(),
            (Self::Listen(a), Self::Listen(b)) => a == b,
            (Self::Http { .. } | Self::Tcp(_) | Self::Exec(_) | Self::Log(_) | Self::Listen(_), _) => false,
        }
    }
}

/// A probe and how often it is asked. Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// What it looks at.
    pub check: ProbeCheck,
    /// From one end to the next start, until the first pass; afterwards at least 10 s. Default 250 ms.
    pub interval: Duration,
    /// After which an answer counts as failed. Default 2 s.
    pub timeout: Duration,
    /// Before the first. Default 0.
    pub initial_delay: Duration,
    /// Passes in a row that count as passing. Default 1.
    pub success_threshold: u32,
    /// Failures in a row, once passed, that count as failing. Default 3.
    pub failure_threshold: u32,
}

/// Resource limits; `None` leaves what the supervisor has. setrlimit(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// (resource name as in `limit_*`, soft = hard value; `None` = infinity).
    #[serde(deserialize_with = "rlimits")]
    pub rlimits: BTreeMap<&'static str, Option<u64>>,
    /// cgroup v2 `memory.max`, bytes.
    pub memory_max: Option<u64>,
    /// cgroup v2 `pids.max`.
    pub tasks_max: Option<u64>,
    /// cgroup v2 `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u32>,
}

/// Resource names that `limit_*` keys may name, as setrlimit(2) has them.
pub const RLIMITS: [&str; 13] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nofile",
    "nproc",
    "rss",
    "sigpending",
    "stack",
];

fn rlimits<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<&'static str, Option<u64>>, D::Error> {
    let written = BTreeMap::<String, Option<u64>>::deserialize(deserializer)?;
    written
        .into_iter()
        .map(|(name, limit)| {
            let known = RLIMITS.into_iter().find(|known| *known == name);
            let known = known.ok_or_else(|| serde::de::Error::custom(format!("`{name}` is not a resource limit")))?;
            Ok((known, limit))
        })
        .try_into_map()
}

mod regex_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(regex: &regex::Regex, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(regex.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<regex::Regex, D::Error> {
        let text = String::deserialize(deserializer)?;
        regex::Regex::new(&text).map_err(serde::de::Error::custom)
    }
}

/// A unit: everything that its section says, defaults filled in, paths absolute, variables expanded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name, unique in the config.
    pub name: Name,
    /// For people.
    pub description: String,
    /// When it counts as started.
    pub service: Service,
    /// Its main process.
    pub main: Main,
    /// Run one after the other before the main process; a failure fails the start.
    pub exec_start_pre: Vec<Command>,
    /// Run once it is started.
    pub exec_start_post: Vec<Command>,
    /// Run for `reload`.
    pub exec_reload: Vec<Command>,
    /// Run first at a stop.
    pub exec_stop: Vec<Command>,
    /// Run when everything of the unit has ended.
    pub exec_stop_post: Vec<Command>,
    /// Whether the sandbox is ready without it.
    pub optional: bool,
    /// Why it is skipped whatever its conditions say: a worker that has no store. `None` for nearly every unit.
    pub skip: Option<String>,

    /// Start after these are ready; fail with them; stop with them.
    pub requires: Vec<Name>,
    /// Start after these, but do without them.
    pub wants: Vec<Name>,
    /// As `requires`, and stop when one of them stops by itself.
    pub binds_to: Vec<Name>,
    /// Start after these when they are to start too.
    pub after: Vec<Name>,
    /// Stopped and restarted with these.
    pub part_of: Vec<Name>,

    /// Variables that must be set (`NAME`) or have a value (`NAME=value`); a leading `!` turns it round. Else the unit is skipped.
    pub condition_environment: Vec<String>,
    /// Paths that must exist; a leading `!` turns it round. Else the unit is skipped.
    pub condition_path_exists: Vec<(bool, PathBuf)>,
    /// Products of a oneshot: while they exist and its watched content is the same, it is not run again.
    pub creates: Vec<PathBuf>,

    /// Which ends are followed by another start.
    pub restart: Restart,
    /// Before the first restart. Default 100 ms.
    pub restart_delay: Duration,
    /// The longest wait. Default 30 s.
    pub restart_max_delay: Duration,
    /// Steps from the one to the other. Default 6.
    pub restart_steps: u32,
    /// Starts within the interval that are let through; 0 = no limit. Default 5.
    pub start_limit_burst: u32,
    /// The window of the start limit. Default 10 s.
    pub start_limit_interval: Duration,
    /// What the start limit does.
    pub start_limit_action: StartLimitAction,
    /// Ends that count as clean beside 0.
    pub success_exit_status: ExitStatuses,
    /// Ends after which there is no restart. 78 (EX_CONFIG) is always one.
    pub restart_prevent_exit_status: ExitStatuses,

    /// From the first process to ready; `None` = for ever.
    pub start_timeout: Option<Duration>,
    /// From the stop signal to SIGKILL. Default 10 s.
    pub stop_timeout: Duration,
    /// The longest run; `None` = for ever.
    pub runtime_max: Option<Duration>,
    /// The longest silence between two `WATCHDOG=1`; `None` = no watchdog.
    pub watchdog: Option<Duration>,

    /// Who gets the stop signal.
    pub kill_mode: KillMode,
    /// The stop signal. Default SIGTERM.
    pub kill_signal: i32,
    /// Sent to the main process as soon as the whole sandbox begins to shut down.
    pub drain_signal: Option<i32>,
    /// Sent to the main process for `reload`, and when only `watch` asks for it.
    pub reload_signal: Option<i32>,

    /// The three probes.
    pub probes: BTreeMap<ProbeKind, Probe>,

    /// Where it runs; absolute.
    pub working_directory: PathBuf,
    /// Set for its processes, after the files.
    pub environment: BTreeMap<String, String>,
    /// Files of `NAME=value` lines; those with `true` may be missing.
    pub environment_file: Vec<(bool, PathBuf)>,
    /// Patterns of the secrets that it gets.
    pub secrets: Vec<String>,
    /// User name or number.
    pub user: Option<String>,
    /// Group name or number.
    pub group: Option<String>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000.
    pub oom_score_adjust: Option<i32>,
    /// Resource limits.
    pub limits: Limits,
    /// prctl(2) PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// Whether what cannot be had is an error instead of a warning.
    pub strict: bool,

    /// Globs, relative to the project's root, whose changed content runs or restarts the unit.
    pub watch: Vec<String>,
    /// Globs whose changed content starts it at once from backoff or failed.
    pub retry_on_change: Vec<String>,
}

impl Unit {
    /// A unit of this name with every default in place: `simple`, no dependencies, no probes, not restarted, in `/`.
    pub fn new(name: Name, main: Main) -> Self {
        let service = match main {
            Main::Exec(_) => Service::Simple,
            Main::Worker(Worker::Restore) => Service::Oneshot { remain_after_exit: true },
            Main::Worker(Worker::Sync | Worker::Agent) => Service::Notify,
        };
        Self {
            name,
            description: String::new(),
            start_timeout: Self::default_start_timeout(service),
            service,
            main,
            exec_start_pre: Vec::new(),
            exec_start_post: Vec::new(),
            exec_reload: Vec::new(),
            exec_stop: Vec::new(),
            exec_stop_post: Vec::new(),
            optional: false,
            skip: None,
            requires: Vec::new(),
            wants: Vec::new(),
            binds_to: Vec::new(),
            after: Vec::new(),
            part_of: Vec::new(),
            condition_environment: Vec::new(),
            condition_path_exists: Vec::new(),
            creates: Vec::new(),
            restart: Restart::No,
            restart_delay: Duration::from_millis(100),
            restart_max_delay: Duration::from_secs(30),
            restart_steps: 6,
            start_limit_burst: 5,
            start_limit_interval: Duration::from_secs(10),
            start_limit_action: StartLimitAction::None,
            success_exit_status: ExitStatuses::default(),
            restart_prevent_exit_status: ExitStatuses::default(),
            stop_timeout: Duration::from_secs(10),
            runtime_max: None,
            watchdog: None,
            kill_mode: KillMode::ControlGroup,
            kill_signal: 15,
            drain_signal: None,
            reload_signal: None,
            probes: BTreeMap::new(),
            working_directory: PathBuf::from("/"),
            environment: BTreeMap::new(),
            environment_file: Vec::new(),
            secrets: Vec::new(),
            user: None,
            group: None,
            umask: None,
            nice: None,
            oom_score_adjust: None,
            limits: Limits::default(),
            no_new_privileges: false,
            strict: false,
            watch: Vec::new(),
            retry_on_change: Vec::new(),
        }
    }

    /// 90 s, and no limit for a oneshot, as in systemd.
    pub fn default_start_timeout(service: Service) -> Option<Duration> {
        match service {
            Service::Simple | Service::Notify => Some(Duration::from_secs(90)),
            Service::Oneshot { .. } => None,
        }
    }
}

impl Probe {
    /// This check with every default in place.
    pub fn new(check: ProbeCheck) -> Self {
        Self {
            check,
            interval: Duration::from_millis(250),
            timeout: Duration::from_secs(2),
            initial_delay: Duration::ZERO,
            success_threshold: 1,
            failure_threshold: 3,
        }
    }
}
