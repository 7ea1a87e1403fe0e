//! How others talk to the supervisor: one API, two doors (a Unix socket and TCP), the client that the command line uses.
//!
//! Reads come from the daemon's snapshots, its event log and the units' logs; whatever changes something is a command to the daemon.
//! Nothing here decides anything about units, and nothing here can hold up the daemon's loop.

pub mod daemon_handle;
pub mod document;
pub mod event_log;
pub mod logs;
pub mod paths;
pub mod snapshot;
pub mod why;

pub use daemon_handle::{AskError, Command, DaemonHandle, Mask, ReloadReply, ReloadRequest, Reply, UnitOf};
pub use document::{StatusDocument, Time, UnitStatus};
pub use event_log::{Event, EventLog, EventReader};
pub use logs::{LogLine, LogPage, LogQuery, Logs, ReadLogsError};
pub use snapshot::{Goal, Phase, Snapshot, UnitSnapshot};
pub use why::Why;
