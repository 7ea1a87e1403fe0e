//! The end of a sandbox: drained first.

use super::fault::{Code, Fault};
use super::look::Unsaved;
use super::provider::Provider;
use super::record::Records;
use serde::Serialize;
use std::time::Duration;

/// What stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// The sandbox stands still; where the provider keeps files, `start` with the same name goes on with them.
    Keep,
    /// The sandbox, its files and its record are removed, as far as we made them.
    Remove,
}

/// How to stop.
#[derive(Clone, Copy, Debug)]
pub struct StopRequest {
    /// For how long it may drain.
    pub drain: Duration,
    /// What stays.
    pub files: Files,
}

/// What a stop came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Stopped {
    /// The sandbox's name.
    pub name: String,
    /// A supervisor ran, and everything in it was stopped in order and in time.
    pub drained: bool,
    /// The sandbox stood still or was gone already.
    pub already: bool,
    /// What was in it and is nowhere else; `None` where it could not be asked.
    pub unsaved: Option<Unsaved>,
    /// The same in words, and what else the caller should know.
    pub warnings: Vec<String>,
}

/// Drains the supervisor (sync is flushed), then ends the sandbox. Stopped already is fine.
///
/// # Errors
/// When the provider cannot be asked, or nothing has this name.
pub async fn stop(_name: &str, _request: StopRequest, _provider: &dyn Provider, _records: &Records) -> Result<Stopped, Fault> {
    Err(Fault::new(Code::Unsupported, "not built yet"))
}
