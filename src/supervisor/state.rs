//! What a unit can be: states that carry their data, and how a run can end.

use super::event::{ExitStatus, Pid, Stage, StartError};
use super::probes::Probes;
use super::saved::{instant, some_instant, word};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What is wanted of a unit; what it does about it is its [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// It is to run.
    Up,
    /// It is not to run: stopped by hand.
    Down,
}

/// What a unit is. Deadlines are fields of it: leaving a state forgets them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum State {
    /// Nothing runs. With goal up it waits for what it is ordered after.
    Inactive,
    /// A condition was not met.
    Skipped,
    /// On its way to ready.
    Starting(Start),
    /// Started; ready unless a probe says otherwise.
    Running(Run),
    /// On its way to nothing left.
    Stopping(Stop),
    /// Waits to be started again.
    Backoff {
        #[serde(with = "instant")]
        until: Instant,
    },
    /// A oneshot that succeeded; `active` with `remain_after_exit`.
    Done { active: bool },
    /// Ended cleanly, and its policy does not start it again.
    Ended,
    /// Ended badly, and nothing starts it again by itself.
    Failed,
}

/// A unit on its way to ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) step: Step,
    /// Known as soon as it was spawned.
    pub(super) main: Option<Pid>,
    /// `READY=1` overtook the news that the process runs.
    pub(super) said_ready: bool,
    /// From when the start timeout counts.
    #[serde(with = "instant")]
    pub(super) began: Instant,
    /// When the start timeout is over.
    #[serde(with = "some_instant")]
    pub(super) by: Option<Instant>,
    pub(super) probes: Probes,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// The n-th of `exec_start_pre`; no pid yet while it is being spawned.
    Pre { n: usize, pid: Option<Pid> },
    /// The main process is being spawned.
    Spawn,
    /// The main process has yet to say `READY=1`, or (oneshot) yet to end.
    Main,
    /// Startup and readiness probes.
    Probes,
    /// The n-th of `exec_start_post`.
    Post { n: usize, pid: Option<Pid> },
}

/// A unit that has started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) main: Pid,
    pub(super) probes: Probes,
    pub(super) reload: Option<Reload>,
    pub(super) watchdog: Option<Watchdog>,
    /// Since when it has been started.
    #[serde(with = "instant")]
    pub(super) began: Instant,
    /// When `runtime_max` is over.
    #[serde(with = "some_instant")]
    pub(super) until: Option<Instant>,
    /// When a liveness probe that has never passed counts as failed.
    #[serde(with = "some_instant")]
    pub(super) alive_by: Option<Instant>,
    /// Since when it is ready, while it is.
    #[serde(with = "some_instant")]
    pub(super) ready_since: Option<Instant>,
    /// How long it was ready before that, in this run.
    pub(super) ready_before: Duration,
}

/// How a reload is going on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Reload {
    /// It said `RELOADING=1` and has yet to say `READY=1`.
    Said {
        #[serde(with = "some_instant")]
        by: Option<Instant>,
    },
    /// The n-th of `exec_reload`.
    Command {
        n: usize,
        pid: Option<Pid>,
        #[serde(with = "some_instant")]
        by: Option<Instant>,
    },
}

/// The longest silence that is taken, and when it is over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Watchdog {
    pub(super) every: Duration,
    #[serde(with = "instant")]
    pub(super) at: Instant,
}

/// A unit on its way to nothing left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Stop {
    pub(super) phase: Phase,
    pub(super) main: Option<Pid>,
    /// The command that ran instead of the main process when the stop began.
    pub(super) control: Option<Stage>,
    /// Why it ends; `None` while it stops of its own accord and has not ended yet.
    pub(super) end: Option<End>,
    /// How long it was ready in this run.
    pub(super) ready_for: Duration,
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// A process was asked for and is not known yet: no signal could reach it.
    Spawning(Stage),
    /// The n-th of `exec_stop`.
    Command {
        n: usize,
        pid: Option<Pid>,
        #[serde(with = "instant")]
        by: Instant,
    },
    /// The stop signal is sent; whatever is left at this moment is killed.
    Term {
        #[serde(with = "instant")]
        kill_at: Instant,
    },
    /// SIGKILL is sent until nothing is left.
    Kill,
    /// The n-th of `exec_stop_post`.
    Post {
        n: usize,
        pid: Option<Pid>,
        #[serde(with = "instant")]
        by: Instant,
    },
    /// SIGKILL to what `exec_stop_post` left.
    PostKill,
}

/// Why a run came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// It was told to, for this reason.
    Asked(String),
    /// Its main process ended; `early`: a notify unit that never said it was ready.
    Exited { status: ExitStatus, oom: bool, early: bool },
    /// It could not be started.
    SpawnFailed { stage: Stage, error: StartError },
    /// One of its commands failed.
    CommandFailed { stage: Stage, status: ExitStatus },
    /// Not ready within the start timeout.
    StartTimeout(Duration),
    /// It ran for longer than it may.
    RuntimeMax(Duration),
    /// It said it was stopping and did not.
    StopTimeout,
    /// No sign of life within the watchdog's interval, or it pulled the trigger itself.
    Watchdog,
    /// The liveness probe failed.
    Liveness(String),
}

/// One of our words. Under a name of its own, since serde takes a reference for one into the document.
pub(super) type Word = &'static str;

/// What others read of a unit, kept up to date after every change of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Face {
    #[serde(with = "word")]
    pub(super) state: Word,
    #[serde(with = "word")]
    pub(super) sub_state: Word,
    pub(super) ready: bool,
    /// Running or exited, which `binds_to` needs.
    pub(super) active: bool,
    pub(super) skipped: bool,
    /// Nothing of it is left that would have to be stopped.
    pub(super) down: bool,
    /// It has to stop, or to stop before it may start again.
    pub(super) leaving: bool,
    /// Those ordered after it wait for what becomes of its start.
    pub(super) pending: bool,
    pub(super) hope: Hope,
}

/// Whether those that require a unit can expect it to become ready by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hope {
    Some,
    /// It failed, or what it requires did.
    Failed,
    /// It is not wanted, or has ended, or what it requires is or has.
    Absent,
}

impl State {
    /// Whether processes of it may exist.
    pub(super) fn alive(&self) -> bool {
        match self {
            Self::Starting(_) | Self::Running(_) | Self::Stopping(_) => true,
            Self::Inactive | Self::Skipped | Self::Backoff { .. } | Self::Done { .. } | Self::Ended | Self::Failed => false,
        }
    }

    /// The main process, where it is known to run.
    pub(super) fn main(&self) -> Option<Pid> {
        match self {
            Self::Starting(start) => start.main,
            Self::Running(run) => Some(run.main),
            Self::Stopping(stop) => stop.main,
            Self::Inactive | Self::Skipped | Self::Backoff { .. } | Self::Done { .. } | Self::Ended | Self::Failed => None,
        }
    }

    /// The stage whose process was asked for and is not known yet.
    pub(super) fn spawning(&self) -> Option<Stage> {
        match self {
            Self::Starting(start) => match start.step {
                Step::Pre { n, pid: None } => Some(Stage::StartPre(n)),
                Step::Spawn => Some(Stage::Main),
                Step::Post { n, pid: None } => Some(Stage::StartPost(n)),
                Step::Pre { .. } | Step::Main | Step::Probes | Step::Post { .. } => None,
            },
            Self::Running(run) => match run.reload {
                Some(Reload::Command { n, pid: None, .. }) => Some(Stage::Reload(n)),
                Some(Reload::Command { .. } | Reload::Said { .. }) | None => None,
            },
            Self::Stopping(stop) => match stop.phase {
                Phase::Spawning(stage) => Some(stage),
                Phase::Command { n, pid: None, .. } => Some(Stage::Stop(n)),
                Phase::Post { n, pid: None, .. } => Some(Stage::StopPost(n)),
                Phase::Command { .. } | Phase::Term { .. } | Phase::Kill | Phase::Post { .. } | Phase::PostKill => None,
            },
            Self::Inactive | Self::Skipped | Self::Backoff { .. } | Self::Done { .. } | Self::Ended | Self::Failed => None,
        }
    }
}

impl State {
    pub(super) fn run(&self) -> Option<&Run> {
        if let Self::Running(run) = self { Some(run) } else { None }
    }

    /// The main process, where it is known to run: another may take its place.
    pub(super) fn main_mut(&mut self) -> Option<&mut Pid> {
        if let Self::Starting(start) = self {
            start.main.as_mut()
        } else if let Self::Running(run) = self {
            Some(&mut run.main)
        } else if let Self::Stopping(stop) = self {
            stop.main.as_mut()
        } else {
            None
        }
    }

    /// The probes of this run.
    pub(super) fn probes(&self) -> Option<&Probes> {
        if let Self::Starting(start) = self {
            Some(&start.probes)
        } else {
            self.run().map(|run| &run.probes)
        }
    }

    pub(super) fn probes_mut(&mut self) -> Option<&mut Probes> {
        if let Self::Starting(start) = self {
            Some(&mut start.probes)
        } else if let Self::Running(run) = self {
            Some(&mut run.probes)
        } else {
            None
        }
    }

    /// The command that runs beside the main process, or before it.
    pub(super) fn control(&self) -> Option<Stage> {
        match self {
            Self::Starting(start) => match start.step {
                Step::Pre { n, pid: Some(_) } => Some(Stage::StartPre(n)),
                Step::Post { n, pid: Some(_) } => Some(Stage::StartPost(n)),
                Step::Pre { .. } | Step::Spawn | Step::Main | Step::Probes | Step::Post { .. } => None,
            },
            Self::Running(_)
            | Self::Stopping(_)
            | Self::Inactive
            | Self::Skipped
            | Self::Backoff { .. }
            | Self::Done { .. }
            | Self::Ended
            | Self::Failed => None,
        }
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core } => {
                write!(f, "killed by {}{}", signal_name(*signal), if *core { ", core dumped" } else { "" })
            }
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::StartPre(n) => write!(f, "exec_start_pre[{n}]"),
            Self::Main => f.write_str("exec"),
            Self::StartPost(n) => write!(f, "exec_start_post[{n}]"),
            Self::Reload(n) => write!(f, "exec_reload[{n}]"),
            Self::Stop(n) => write!(f, "exec_stop[{n}]"),
            Self::StopPost(n) => write!(f, "exec_stop_post[{n}]"),
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked(why) => f.write_str(why),
            Self::Exited { oom: true, .. } => f.write_str("out of memory: killed by the kernel"),
            Self::Exited { status, early: true, .. } => write!(f, "{status} before it said READY=1"),
            Self::Exited { status, .. } => write!(f, "{status}"),
            Self::SpawnFailed { stage: Stage::Main, error } => f.write_str(&error.message),
            Self::SpawnFailed { stage, error } => write!(f, "{stage}: {}", error.message),
            Self::CommandFailed { stage, status } => write!(f, "{stage}: {status}"),
            Self::StartTimeout(limit) => write!(f, "not ready within {} (start_timeout)", human(*limit)),
            Self::RuntimeMax(limit) => write!(f, "ran for {} (runtime_max)", human(*limit)),
            Self::StopTimeout => f.write_str("said STOPPING=1 and did not end within stop_timeout"),
            Self::Watchdog => f.write_str("watchdog: no sign of life"),
            Self::Liveness(message) => write!(f, "liveness probe failed: {message}"),
        }
    }
}

/// A duration as the config writes it: `250ms`, `5s`, `2min`.
pub(super) fn human(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0..1000 => format!("{ms}ms"),
        _ if ms.is_multiple_of(60_000) => format!("{}min", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{:.1}s", duration.as_secs_f64()),
    }
}

/// `SIGTERM` and the like; signal(7), x86 and ARM.
fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM", "STKFLT",
        "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let name = usize::try_from(signal).ok().and_then(|n| NAMES.get(n.checked_sub(1)?));
    name.map_or_else(|| format!("signal {signal}"), |name| format!("SIG{name}"))
}
