//! The orchestrator's side: puts sandkeep into a sandbox and looks after it.
//!
//! [`start`] is one idempotent call: it looks at what is there, has [`plan`] (pure) say what is missing, and does that through a
//! [`provider`], a trait of a few calls whose primitive is "upload one file, run one command, environment on standard input". What was
//! made for whom is written down in [`record`], so that a start that was cut off goes on where it was, and `status`, `logs`, `stop` find
//! a sandbox by its name alone. A record holds names of variables, never values.
//!
//! Nothing in here prints: progress goes to a [`progress::Progress`], which is a terminal's, a server's or nobody's.

pub mod fault;
pub mod fleet;
pub mod look;
pub mod plan;
pub mod progress;
pub mod provider;
pub mod record;
pub mod serve;
pub mod start;
pub mod stop;

pub use fault::{Code, Fault};
pub use look::{Condition, LogsWanted, Report, logs, status};
pub use plan::Step;
pub use record::Records;
pub use start::{StartRequest, Started, start};
pub use stop::{StopRequest, Stopped, stop};
