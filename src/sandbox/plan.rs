//! What a start has to do, decided without doing anything: from what is wanted and what is known follows the next task.
//!
//! Nothing is remembered from task to task but [`Known`], which is made by looking at the sandbox. A start that was cut off anywhere looks
//! again and goes on with the first task that is missing; a task whose result is there is not done a second time.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::wildcard_enum_match_arm)]

use serde::{Deserialize, Serialize};
use std::fmt;

/// The steps of a start, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The sandbox is made or woken, its user, home and directory found out, the repository cloned.
    Create,
    /// Claude Code is found or installed.
    Claude,
    /// The binary and the configuration are brought in.
    Upload,
    /// The configuration is checked together with the environment.
    Environment,
    /// The supervisor is started, or reads its configuration anew.
    Start,
    /// The supervisor answers.
    Check,
    /// The project is installed.
    Project,
    /// Every required unit is ready.
    Ready,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Create,
        Self::Claude,
        Self::Upload,
        Self::Environment,
        Self::Start,
        Self::Check,
        Self::Project,
        Self::Ready,
    ];

    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Claude => "claude",
            Self::Upload => "upload",
            Self::Environment => "environment",
            Self::Start => "start",
            Self::Check => "check",
            Self::Project => "project",
            Self::Ready => "ready",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a start turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The sandbox, or the project in it, was not there, or not whole, before.
    Created,
    /// All was there but a running supervisor.
    Resumed,
    /// The supervisor ran, with another configuration.
    Reloaded,
    /// All was as it should be.
    Running,
}

impl Action {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Resumed => "resumed",
            Self::Reloaded => "reloaded",
            Self::Running => "running",
        }
    }
}
