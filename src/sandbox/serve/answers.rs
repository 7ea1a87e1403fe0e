//! What the routes answer.

use super::events::OperationState;
use crate::control::document::{StatusDocument, Time};
use crate::sandbox::fleet::FleetRow;
use crate::sandbox::look::{Condition, Unsaved};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A start was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// `GET /v1/operations/{id}` says how far it is.
    pub operation_id: String,
    /// The sandbox, and its SANDBOX_ID.
    pub sandbox_id: String,
}

/// The sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxList {
    /// By id.
    pub sandboxes: Vec<SandboxRow>,
}

/// A sandbox in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxRow {
    /// Its SANDBOX_ID.
    pub sandbox_id: String,
    /// `local`, `exec` or `vercel`; `None` for one that was not started from here and only reports.
    pub provider: Option<String>,
    /// The repository.
    pub repo: Option<String>,
    /// Its branch.
    pub branch: Option<String>,
    /// Where the preview is.
    pub preview_url: Option<String>,
    /// When it was asked for first.
    pub created_at: Option<Time>,
    /// When the provider ends it.
    pub expires_at: Option<Time>,
    /// Its last operation.
    pub operation_id: Option<String>,
    /// How far that is.
    pub operation_state: Option<OperationState>,
    /// How it is, seen from here.
    pub fleet: Option<FleetRow>,
}

/// The worker of a sandbox, which is its supervisor with all that it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// The sandbox, and its SANDBOX_ID.
    pub sandbox_id: String,
    /// Whether the supervisor runs.
    pub is_running: bool,
    /// The supervisor's pid in the sandbox.
    pub pid: Option<i32>,
    /// The last 100 lines of all units as one text.
    pub logs: String,
    /// In one word.
    pub condition: Condition,
    /// In one line, when it is not ready.
    pub reason: Option<String>,
    /// Where the preview is.
    pub preview_url: Option<String>,
    /// When the provider ends the sandbox.
    pub expires_at: Option<Time>,
    /// The start that is under way.
    pub operation_id: Option<String>,
    /// What would be lost with the sandbox; `None` where it cannot be asked.
    pub unsaved: Option<UnsavedWork>,
    /// The same in words, and whatever else the caller should know.
    pub warnings: Vec<String>,
    /// The supervisor's own status document.
    pub status: Option<StatusDocument>,
}

/// The worker was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStopped {
    /// The sandbox.
    pub sandbox_id: String,
    /// Always false.
    pub is_running: bool,
    /// Everything was stopped in order and in time, and sync was flushed.
    pub drained: bool,
    /// It was stopped before.
    pub already: bool,
    /// What was in it and is nowhere else; `None` where it could not be asked.
    pub unsaved: Option<UnsavedWork>,
    /// The same in words, and whatever else the caller should know.
    pub warnings: Vec<String>,
}

/// Work in a sandbox that would be lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnsavedWork {
    /// Commits that no remote has.
    pub unpushed_commits: u64,
    /// Files that differ from the last commit.
    pub changed_files: u64,
    /// Files that no store has; `None` where sync is off, and so nothing is kept.
    pub unsynced_files: Option<u64>,
}

impl From<Unsaved> for UnsavedWork {
    fn from(unsaved: Unsaved) -> Self {
        Self {
            unpushed_commits: unsaved.unpushed_commits,
            changed_files: unsaved.changed_files,
            unsynced_files: unsaved.unsynced_files,
        }
    }
}

/// `GET /livez`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alive {
    /// Always true.
    pub alive: bool,
}
