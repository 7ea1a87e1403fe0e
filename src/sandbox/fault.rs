//! What can go wrong with a sandbox: one line, what to do about it, and a code that stays as it is.

use super::plan::Step;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What went wrong, for programs. The words in JSON are a contract: more may come, none is renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request makes no sense as it is.
    BadRequest,
    /// Another start or stop of this name is on its way.
    Busy,
    /// No sandbox has this name.
    NoSuchSandbox,
    /// There was one of this name, and its provider has it no longer.
    SandboxGone,
    /// The sandbox is there, but no supervisor runs in it.
    NoSupervisor,
    /// The provider, or the machine behind it, does not answer.
    Unreachable,
    /// The connection broke while a command ran, and nobody knows how it ended.
    Lost,
    /// The provider does not accept the credentials, or they are missing.
    Unauthorized,
    /// The plan does not include it (402).
    PlanLimit,
    /// Too many requests or sandboxes (429).
    Quota,
    /// The provider failed by itself (5xx), also after it was asked again.
    ProviderFailed,
    /// The provider cannot do this.
    Unsupported,
    /// The repository does not exist, or is private and no token was given.
    RepoNotFound,
    /// The repository wants a token, or another one.
    RepoUnauthorized,
    /// The repository has no such branch.
    BranchNotFound,
    /// The repository could not be cloned for another reason.
    CloneFailed,
    /// Something else is where the project should be.
    DirectoryTaken,
    /// The binary is for another kind of machine.
    WrongArchitecture,
    /// A program that is needed is missing in the sandbox.
    MissingProgram,
    /// Claude Code could not be installed.
    ClaudeFailed,
    /// A file could not be brought into the sandbox.
    UploadFailed,
    /// The configuration is wrong; the output has the diagnostics.
    InvalidConfig,
    /// The supervisor ended at once, or never answered.
    SupervisorFailed,
    /// The install command failed.
    InstallFailed,
    /// The dev command ended.
    DevExited,
    /// The dev command runs, and its port never opened.
    PortNeverOpened,
    /// Another required unit is not ready in time.
    NotReady,
    /// A command in the sandbox failed.
    CommandFailed,
    /// The record of the sandbox cannot be read or written.
    Record,
}

impl Code {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Busy => "busy",
            Self::NoSuchSandbox => "no-such-sandbox",
            Self::SandboxGone => "sandbox-gone",
            Self::NoSupervisor => "no-supervisor",
            Self::Unreachable => "unreachable",
            Self::Lost => "lost",
            Self::Unauthorized => "unauthorized",
            Self::PlanLimit => "plan-limit",
            Self::Quota => "quota",
            Self::ProviderFailed => "provider-failed",
            Self::Unsupported => "unsupported",
            Self::RepoNotFound => "repo-not-found",
            Self::RepoUnauthorized => "repo-unauthorized",
            Self::BranchNotFound => "branch-not-found",
            Self::CloneFailed => "clone-failed",
            Self::DirectoryTaken => "directory-taken",
            Self::WrongArchitecture => "wrong-architecture",
            Self::MissingProgram => "missing-program",
            Self::ClaudeFailed => "claude-failed",
            Self::UploadFailed => "upload-failed",
            Self::InvalidConfig => "invalid-config",
            Self::SupervisorFailed => "supervisor-failed",
            Self::InstallFailed => "install-failed",
            Self::DevExited => "dev-exited",
            Self::PortNeverOpened => "port-never-opened",
            Self::NotReady => "not-ready",
            Self::CommandFailed => "command-failed",
            Self::Record => "record",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong: in one line, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, utoipa::ToSchema)]
#[error("{message}")]
pub struct Fault {
    /// For programs.
    pub code: Code,
    /// What was done, to what, why it failed: one line.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The step of a start that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// The last lines of what the command wrote, where one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// When the provider says how long to wait before one asks again.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            step: None,
            output: None,
            retry_after: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what the command wrote; nothing if it wrote nothing.
    #[must_use]
    pub fn output(mut self, output: impl Into<String>) -> Self {
        let output = output.into();
        self.output = (!output.trim().is_empty()).then_some(output);
        self
    }

    /// Says in which step it happened, unless that is known already.
    #[must_use]
    pub fn in_step(mut self, step: Step) -> Self {
        self.step.get_or_insert(step);
        self
    }
}
