//! One call that puts sandkeep into a sandbox: it creates, resumes, reloads or just answers, and says which.

mod config;
mod run;
mod survey;
mod tasks;
mod undo;

use super::fault::{Code, Fault};
use super::plan::Action;
use super::progress::{Progress, StepDone, Told};
use super::provider::{Provider, Secret};
use super::record::{Records, check_name};
use run::Run;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use undo::{down, remove};

/// Which repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// Its address.
    pub url: String,
    /// A branch or tag; `None` for the repository's own.
    pub branch: Option<String>,
    /// A token for a private one. It is used for the clone and left in no file.
    pub token: Option<Secret>,
    /// How many commits of history; `None` for all.
    pub depth: Option<u32>,
}

/// Whether Claude Code has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claude {
    /// Found, or installed with npm.
    Install,
    /// No matter.
    LeaveOut,
}

/// What becomes of what was made when a start fails for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// What this start made is stopped and removed.
    CleanUp,
    /// It is left as it is, to be looked at.
    Keep,
}

/// What to put into a sandbox.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// The sandbox's name. The same name is the same sandbox.
    pub name: String,
    /// The project; `None` when it is in the sandbox's directory already.
    pub repo: Option<Repo>,
    /// Where the project is or goes in the sandbox; `None` for the sandbox's own directory, or one in it called after the repository.
    pub directory: Option<String>,
    /// The install command; empty for none, `None` for what the project says.
    pub install: Option<String>,
    /// The dev command; empty for none, `None` for what the project says.
    pub dev: Option<String>,
    /// The dev server's port; `None` for what the project says.
    pub port: Option<u16>,
    /// Whose files these are; `None` for what the environment says.
    pub project_id: Option<String>,
    /// The environment of the supervisor. `SANDKEEP_TOKEN`, `SANDBOX_ID` and `SANDBOX_EXPIRES_AT` are added where they are missing.
    pub environment: Vec<(String, Secret)>,
    /// How long the sandbox should live, from now on; `None` for what the provider gives.
    pub timeout: Option<Duration>,
    /// How long to wait for the project to be ready, from the supervisor's start on.
    pub wait: Duration,
    /// The binary to bring in; `None` for the one that runs here.
    pub binary: Option<PathBuf>,
    /// Whether Claude Code has to be there.
    pub claude: Claude,
    /// What becomes of a start that fails.
    pub on_failure: OnFailure,
    /// The health endpoint's port; `None` for one that suits the provider.
    pub health_port: Option<u16>,
}

impl StartRequest {
    /// With everything that can be left out left out.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            repo: None,
            directory: None,
            install: None,
            dev: None,
            port: None,
            project_id: None,
            environment: Vec::new(),
            timeout: None,
            wait: Duration::from_secs(15 * 60),
            binary: None,
            claude: Claude::Install,
            on_failure: OnFailure::CleanUp,
            health_port: None,
        }
    }
}

/// What a start came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Started {
    /// What it turned out to be.
    pub action: Action,
    /// The sandbox's name.
    pub name: String,
    /// `local`, `exec` or `vercel`.
    pub provider: String,
    /// `SANDBOX_ID`.
    pub sandbox_id: String,
    /// The user in there.
    pub user: String,
    /// The user's home.
    pub home: String,
    /// The project's directory.
    pub directory: String,
    /// The commit that is checked out.
    pub commit: Option<String>,
    /// The supervisor's pid in there.
    pub pid: Option<i32>,
    /// The preview; `None` where there is none or no way to it.
    pub url: Option<String>,
    /// The health endpoint; `None` where there is no way to it.
    pub health_url: Option<String>,
    /// When the provider ends it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<jiff::Timestamp>,
    /// Every required unit is ready.
    pub ready: bool,
    /// What each step did.
    pub steps: Vec<StepDone>,
    /// How many bytes were sent into the sandbox as files.
    pub bytes_uploaded: u64,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// The bearer token of the health endpoint, when this start made or handed over one: a supervisor that ran already has its own.
    #[serde(skip)]
    pub token: Option<Secret>,
}

/// Puts sandkeep into a sandbox, or finds that it is there already.
///
/// May be called at any time and as often as one likes: a start that was cut off goes on where it was, two of one name wait for each
/// other, and nothing is created or started twice.
///
/// # Errors
/// What failed, in which step, with the command's output. What this start made is then gone again, unless it was to be kept; a fault that
/// may pass by itself ([`Code::Unreachable`], [`Code::Lost`], [`Code::Busy`]) leaves everything for the next call to go on with.
pub async fn start(request: &StartRequest, provider: &dyn Provider, records: &Records, progress: &dyn Progress) -> Result<Started, Fault> {
    let begun = async {
        check_name(&request.name)?;
        let held = records.hold(&request.name, request.wait).await?;
        let run = Run::new(request, provider, records, progress).await?;
        Ok((held, run))
    };
    let (_held, mut run) = match begun.await {
        Ok(begun) => begun,
        Err(fault) => {
            progress.tell(Told::Failed {
                fault: Fault::clone(&fault),
            });
            return Err(fault);
        }
    };
    match run.finish().await {
        Ok(started) => Ok(started),
        Err(fault) => {
            let fault = undo::after(&mut run, fault).await;
            progress.tell(Told::Failed { fault: fault.clone() });
            Err(fault)
        }
    }
}

/// Whether it may pass by itself, so that the next call goes on where this one was.
fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unreachable | Code::Lost | Code::Busy | Code::Record)
}
