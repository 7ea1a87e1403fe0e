//! What the supervisor wants done: its alphabet out.

use super::event::{Invocation, RequestId, Stage};
use crate::unit::{Config, Name, ProbeKind};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who gets a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The main process.
    Main,
    /// Every process of the unit.
    All,
    /// The process of this stage.
    Control(Stage),
}

/// One thing to do. The host does them in order and reports with events.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// This configuration was accepted: what is spawned from here on is spawned from it. A run that is going on keeps the commands and
    /// the surroundings that it began with until it is over (`exec_stop` of a removed unit, too); its probes and resource limits are
    /// the new ones at once. A configuration that is refused never comes here.
    Configured(Arc<Config>),
    /// Start the command of this stage; before the first stage of a run the conditions and `creates` are looked at.
    /// Answered by `Spawned`, `SpawnFailed`, `Skipped` or `Satisfied`, later by `Exited`.
    Spawn {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Which command.
        stage: Stage,
    },
    /// Send a signal. Not answered.
    Signal {
        /// To whose processes.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// To which of them.
        target: Target,
        /// The signal's number.
        signal: i32,
    },
    /// Report `Emptied` as soon as no process of the unit is left; at once if none is. Asked at the beginning of every stop and after
    /// every end of a main process.
    Empty {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Whether everything that is left gets SIGKILL, again and again until it is gone.
        kill: bool,
    },
    /// Ask a probe once; answered by `Probed` within its timeout. Never asked while one is in flight.
    Probe {
        /// Whose.
        unit: Name,
        /// Of which run.
        invocation: Invocation,
        /// Which probe.
        kind: ProbeKind,
        /// Whether an `http` probe falls back to a connect.
        connect_only: bool,
    },
    /// Remember the content of what the unit watches: a run succeeded.
    TakeHashes {
        /// Whose.
        unit: Name,
    },
    /// A transition, once, in order. The only source of log lines, metrics and the event stream.
    Announce(Transition),
    /// Answer a waiting client.
    Reply {
        /// Which.
        request: RequestId,
        /// What came of it.
        outcome: Outcome,
    },
    /// Everything is down: flush and exit with this code. Always the last.
    Halt {
        /// 0, or 1 when a `start_limit_action` ended it.
        code: u8,
        /// The unit whose `start_limit_action` it was, and its last exit code.
        culprit: Option<(Name, Option<u8>)>,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All of it.
    Done,
    /// Some unit did not get there: unit → why.
    Failed(Vec<(Name, String)>),
    /// No unit of that name.
    NoSuchUnit(String),
    /// It was overtaken by another request or a shutdown.
    Cancelled(String),
    /// It cannot be done.
    Refused(String),
}

/// A unit went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// Which unit.
    pub unit: Name,
    /// Of which run.
    pub invocation: Invocation,
    /// `sub_state` before.
    pub from: &'static str,
    /// `state` after: systemd's ActiveState, or `skipped`.
    pub state: &'static str,
    /// `sub_state` after.
    pub to: &'static str,
    /// Whether it counts as ready after.
    pub ready: bool,
    /// Why, for people: `exit code 1`, `requires install, which failed`.
    pub reason: String,
}
