//! What a unit is. Values only: the TOML as written, every diagnostic about it, and the units that are valid by type.
//!
//! Owns `sandkeep.toml`. Uses nothing else of this crate, does no I/O but reading the file it is told to read.

pub mod config;
pub mod spec;

pub use config::Config;
pub use spec::{
    Command, ExitStatuses, KillMode, Limits, Main, Name, Probe, ProbeCheck, ProbeKind, Restart, Service, StartLimitAction, Unit, Worker,
};
