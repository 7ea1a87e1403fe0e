//! What happens to the supervisor: its alphabet in. A run is a list of `(time, Event)`.

use crate::unit::{Config, Name, ProbeKind};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A process id. Only ever used together with the invocation that it belongs to; the host holds the pidfd.
pub type Pid = i32;

/// Counts a unit's runs from 1, so that late news of an earlier run is told from news of this one.
pub type Invocation = u64;

/// Names a waiting client.
pub type RequestId = u64;

/// Which command of a unit a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The n-th of `exec_start_pre`.
    StartPre(usize),
    /// The main process.
    Main,
    /// The n-th of `exec_start_post`.
    StartPost(usize),
    /// The n-th of `exec_reload`.
    Reload(usize),
    /// The n-th of `exec_stop`.
    Stop(usize),
    /// The n-th of `exec_stop_post`.
    StopPost(usize),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// exit(3) with this code.
    Code(u8),
    /// Killed by this signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it dumped core.
        core: bool,
    },
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartError {
    /// What was being done, to what, and why it failed: `setting user app: no such user`.
    pub message: String,
    /// What to do about it, where something is known.
    pub hint: Option<String>,
    /// Whether trying again may help (EAGAIN, ENOMEM, ETXTBSY); a missing command or user never does.
    pub temporary: bool,
}

/// A probe's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Whether it passed.
    pub passed: bool,
    /// What was seen, for people: `GET / → 503`, `connection refused`, `listens on 127.0.0.1:5174`.
    pub message: String,
}

/// What a process of a unit said over the notify socket, one variable each. sd_notify(3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// `READY=1`
    Ready,
    /// `RELOADING=1` with `MONOTONIC_USEC`.
    Reloading,
    /// `STOPPING=1`
    Stopping,
    /// `STATUS=…`, made printable, at most 1 KiB.
    Status(String),
    /// `ERRNO=…`
    Errno(i32),
    /// `MAINPID=…`; the host has checked that the process is one of the unit's.
    MainPid(Pid),
    /// `WATCHDOG=1`
    Watchdog,
    /// `WATCHDOG=trigger`
    WatchdogTrigger,
    /// `WATCHDOG_USEC=…`; zero turns it off.
    WatchdogInterval(Duration),
    /// `EXTEND_TIMEOUT_USEC=…`
    ExtendTimeout(Duration),
    /// `X_SANDKEEP={json}`: a worker's part of the status document. Never changes a decision.
    Part(String),
}

/// A client's request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Answered with `Action::Reply` under this number; 0 = nobody waits.
    pub id: RequestId,
    /// What is asked for.
    pub verb: Verb,
}

/// What may be asked for, in systemctl's words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Goal up, at once even in backoff; answered when it is ready or failed.
    Start(Vec<String>),
    /// Goal down, what requires it first; answered when nothing is left of it.
    Stop(Vec<String>),
    /// Stop, then start.
    Restart(Vec<String>),
    /// `reload_signal` or `exec_reload`.
    Reload(Vec<String>),
    /// A signal to all processes of the unit.
    Kill {
        /// The unit.
        unit: String,
        /// The signal's number.
        signal: i32,
    },
    /// Answered when these (all required ones, if empty) are ready, or one has failed.
    Wait(Vec<String>),
}

/// Something that happened. Whatever can come late carries the invocation it belongs to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A client asks.
    Request(Request),
    /// The configuration to run from now on; the first one starts everything.
    Configure {
        /// The checked configuration.
        config: Arc<Config>,
        /// Who waits, 0 = nobody.
        request: RequestId,
    },
    /// Stop everything, then halt. A second one hurries: SIGKILL at once.
    Shutdown {
        /// Who waits, 0 = nobody.
        request: RequestId,
        /// The drain deadline for everything, from now.
        budget: Duration,
    },
    /// The process of this stage runs.
    Spawned {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Which command.
        stage: Stage,
        /// Its pid.
        pid: Pid,
        /// What could not be had and was done without, for people.
        warnings: Vec<String>,
    },
    /// It could not be started.
    SpawnFailed {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Which command.
        stage: Stage,
        /// Why.
        error: StartError,
    },
    /// A condition was not met; nothing was started.
    Skipped {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Which condition.
        reason: String,
    },
    /// The products of a oneshot exist and its watched content is unchanged; nothing was started, and it counts as a success.
    Satisfied {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
    },
    /// The process of this stage ended. Orphans and children of children are the host's business and never come here.
    Exited {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Which command.
        stage: Stage,
        /// Its pid.
        pid: Pid,
        /// How.
        status: ExitStatus,
        /// Whether the kernel's OOM killer did it.
        oom: bool,
    },
    /// No process of the unit is left, whatever they had done. Asked for with `Action::Empty`.
    Emptied {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Processes that could not be ended (in D state, of another user), for people.
        left: Vec<String>,
    },
    /// A process of the unit said something.
    Notified {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// What.
        notice: Notice,
    },
    /// A probe answered.
    Probed {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Which probe.
        kind: ProbeKind,
        /// What it saw.
        result: ProbeResult,
    },
    /// The content of a `watch` glob differs from what the last successful run saw.
    WatchChanged {
        /// Whose.
        unit: Name,
        /// What, for people.
        path: String,
    },
    /// The content of a `retry_on_change` glob changed.
    RetryChanged {
        /// Whose.
        unit: Name,
        /// What, for people.
        path: String,
    },
    /// The machine was paused for this long: monotonic time stood still or jumped.
    Resumed {
        /// How long it was away.
        away: Duration,
    },
    /// Nothing happened but time.
    Deadline,
}
