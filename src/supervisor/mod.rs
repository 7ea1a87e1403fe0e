//! The brain. Pure: `step(now, event) → actions`, `next_deadline()` with its reason, `status()`.
//!
//! Never asks what time it is, does no I/O, starts no task; the same inputs give the same outputs. Uses `unit` and `backoff` alone.

pub mod action;
pub mod event;

pub use action::{Action, Outcome, Target, Transition};
pub use event::{Event, ExitStatus, Invocation, Pid, ProbeResult, Request, RequestId, Stage, StartError, Verb};
