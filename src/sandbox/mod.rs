//! The orchestrator's side: puts sandkeep into a sandbox and looks after it.
//!
//! [`start`] is one idempotent call: it looks at what is there, has [`plan`] (pure) say what is missing, and does that through a
//! [`provider`], a trait of a few calls whose primitive is "upload one file, run one command, environment on standard input". What was
//! made for whom is written down in [`record`], so that a start that was cut off goes on where it was, and `status`, `logs`, `stop` find
//! a sandbox by its name alone. A record holds names of variables, never values.
//!
//! Nothing in here prints: progress goes to a [`progress::Progress`], which is a terminal's, a server's or nobody's.

mod binary;
pub mod environment;
pub mod fault;
pub mod fleet;
mod http;
pub mod inside;
pub mod look;
pub mod plan;
pub mod progress;
pub mod provider;
pub mod record;
mod repo;
pub mod serve;
pub mod start;
pub mod stop;
pub mod upgrade;
pub mod verdict;

pub use fault::{Code, Fault};
pub use look::{Condition, LogsWanted, Report, exec, extend, logs, status};
pub use plan::Step;
pub use record::Records;
pub use start::{StartRequest, Started, start};
pub use stop::{StopRequest, Stopped, stop};
pub use upgrade::upgrade;

/// The name of a sandbox that is given none: its repository's.
///
/// # Errors
/// [`Code::BadRequest`] when the address is none.
pub fn name_of(repo: &str) -> Result<String, Fault> {
    let mut name = repo::Address::parse(repo)?.directory();
    name.truncate(64);
    record::check_name(&name).map(|()| name)
}
