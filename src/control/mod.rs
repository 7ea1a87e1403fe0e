//! How others talk to the supervisor: one API, two doors (a Unix socket and TCP), the client that the command line uses.
//!
//! Reads come from the daemon's snapshots, its event log and the units' logs; whatever changes something is a command to the daemon.
//! Nothing here decides anything about units, and nothing here can hold up the daemon's loop.

pub mod access;
mod answer;
pub mod api;
pub mod client;
pub mod daemon_handle;
pub mod deadline;
pub mod document;
pub mod doors;
pub mod event_log;
pub mod logs;
pub mod metrics;
pub mod openapi;
mod page;
pub mod params;
pub mod postmortem;
pub mod problem;
pub mod report;
mod routes;
pub mod snapshot;
pub mod token;
pub mod unix_http;
pub mod why;

pub use access::Who;
pub use daemon_handle::{AskError, Command, DaemonHandle, Mask, ReloadReply, ReloadRequest, Reply, UnitOf, Waiting};
pub use document::{StatusDocument, Time, UnitStatus};
pub use event_log::{Event, EventLog, EventReader};
pub use logs::{LogLine, LogPage, LogQuery, Logs, ReadLogsError};
pub use problem::Problem;
pub use routes::supervisor::{Down, Reloaded, Upgraded};
pub use routes::units::Done;
pub use snapshot::{Goal, Phase, Snapshot, UnitSnapshot};
pub use why::Why;
