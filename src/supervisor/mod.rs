//! The brain. Pure: `step(now, event) → actions`, `next_deadline()` with its reason, `status()`.
//!
//! Never asks what time it is, does no I/O, starts no task; the same inputs give the same outputs. Uses `unit` and `backoff` alone.
//!
//! [`Supervisor::step`] applies what happened (`machine`, `start`, `stop`, `notice`, `requests`, `watch`, `reload`), expires what is due
//! (`deadline`) and settles until nothing moves (`settle`). A unit is a `node`: what is wanted of it (its goal) and what it is (its
//! `state`) are two things. Units look at each other's faces alone. What follows the end of a run is in `restart`.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]
#![deny(clippy::wildcard_enum_match_arm)]

pub mod action;
pub mod event;

mod deadline;
mod graph;
mod machine;
mod node;
mod notice;
mod probes;
mod record;
mod reload;
mod requests;
mod restart;
mod saved;
mod settle;
mod start;
mod state;
mod status;
mod stop;
mod turn;
mod watch;

pub use action::{Action, Outcome, Target, Transition};
pub use deadline::Timer;
pub use event::{Event, ExitStatus, Invocation, Notice, Pid, ProbeResult, Request, RequestId, Stage, StartError, Verb};
pub use machine::{HOLD, LATE, Supervisor};
pub use node::LastExit;
pub use probes::{QUIET_INTERVAL, Verdict};
pub use record::{Entry, Replay, ReplayError, Replayed};
pub use restart::{EX_CONFIG, STABLE_AFTER};
pub use saved::{RestoreError, relative_to, saved_unit};
pub use state::Goal;
pub use status::{Cause, ProbeStatus, Status, UnitStatus, WaitsFor};
