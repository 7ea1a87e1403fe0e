//! How a sandbox does, and what its units write.

use super::fault::{Code, Fault};
use super::provider::{Exit, Output, Provider};
use super::record::Record;
use crate::control::document::StatusDocument;
use serde::{Deserialize, Serialize};

/// How a sandbox is, from nothing to ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// No sandbox of this name was ever started from here.
    NoSuchSandbox,
    /// There was one, and its provider has it no longer.
    Gone,
    /// It is there (perhaps standing still), but no supervisor runs in it.
    NoSupervisor,
    /// The supervisor runs, and not every required unit is ready.
    NotReady,
    /// Ready.
    Ready,
}

impl Condition {
    /// The exit code of `sandbox status`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::NotReady => 1,
            Self::NoSupervisor => 3,
            Self::NoSuchSandbox => 4,
            Self::Gone => 5,
        }
    }
}

/// Work in a sandbox that would be lost with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Unsaved {
    /// Commits that no remote has.
    pub unpushed_commits: u64,
    /// Files that differ from the last commit.
    pub changed_files: u64,
    /// Files that no store has; `None` where sync is off, and so nothing is kept.
    pub unsynced_files: Option<u64>,
}

/// How a sandbox does.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Report {
    /// Its name.
    pub name: String,
    /// In one word.
    pub condition: Condition,
    /// In one line, when it is not ready.
    pub reason: Option<String>,
    /// `local`, `exec` or `vercel`.
    pub provider: String,
    /// `SANDBOX_ID`.
    pub sandbox_id: String,
    /// The preview.
    pub url: Option<String>,
    /// The health endpoint.
    pub health_url: Option<String>,
    /// When the provider ends it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<jiff::Timestamp>,
    /// What would be lost with it; `None` where it cannot be asked.
    pub unsaved: Option<Unsaved>,
    /// The supervisor's own status document.
    pub status: Option<StatusDocument>,
}

/// Looks how a sandbox does, without waking it.
///
/// # Errors
/// When the provider cannot be asked. That there is no sandbox, or no supervisor, is an answer and no error.
pub async fn status(_record: &Record, _provider: &dyn Provider) -> Result<Report, Fault> {
    Err(Fault::new(Code::Unsupported, "not built yet"))
}

/// Which lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogsWanted {
    /// Of these units; of all if empty.
    pub units: Vec<String>,
    /// The last so many.
    pub lines: Option<usize>,
    /// RFC 3339, or how long ago.
    pub since: Option<String>,
    /// A regular expression.
    pub grep: Option<String>,
    /// Whether to go on with new ones.
    pub follow: bool,
    /// One JSON document a line.
    pub json: bool,
}

/// Hands over lines that units wrote, as `sandkeep logs` prints them in there. Without a supervisor they are the supervisor's own output.
///
/// # Errors
/// When the sandbox or its supervisor is not there.
pub async fn logs(_record: &Record, _provider: &dyn Provider, _wanted: &LogsWanted, _output: Output<'_>) -> Result<Exit, Fault> {
    Err(Fault::new(Code::Unsupported, "not built yet"))
}
