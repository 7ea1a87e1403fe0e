//! What a unit is. Values only: the TOML as written, every diagnostic about it, and the units that are valid by type.
//!
//! Owns `sandkeep.toml`. Uses nothing else of this crate, does no I/O but reading the file it is told to read and, where there is none,
//! looking at the files that tell what kind of project a directory holds.

mod agent_keys;
mod check;
pub mod config;
pub mod detect;
pub mod diagnostic;
pub mod duration;
pub mod expand;
mod expanded;
mod faults;
mod file;
mod graph;
mod keys;
pub mod load;
mod packages;
mod project;
mod reader;
mod schema;
pub mod signal;
pub mod size;
pub mod spec;
mod spelling;
mod sync_keys;
mod values;
pub mod worker;

pub use config::Config;
pub use diagnostic::{Diagnostic, Diagnostics, Paint, Severity};
pub use load::{Flags, Loaded, Source, load, load_text};
pub use schema::schema;
pub use spec::{
    Command, ExitStatuses, KillMode, Limits, Main, Name, Probe, ProbeCheck, ProbeKind, Restart, Service, StartLimitAction, Unit, Worker,
};
pub use worker::WorkerConfig;
