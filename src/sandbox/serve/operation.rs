//! An operation: a start that was asked for, how far it is, and what came of it. Values, and how what is told changes them.

use super::events::{OperationState, StepState};
use super::order::Order;
use crate::control::document::Time;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::plan::{Action, Step};
use crate::sandbox::start::Started;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A start that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// Its id.
    pub operation_id: String,
    /// The sandbox, and its SANDBOX_ID.
    pub sandbox_id: String,
    /// How far it is.
    pub state: OperationState,
    /// What was asked for.
    pub request: Order,
    /// When it was asked for.
    pub created_at: Time,
    /// When it was over.
    pub finished_at: Option<Time>,
    /// How often it was taken up: more than once if the server was restarted meanwhile.
    pub attempts: u32,
    /// The steps so far, each as it last was.
    pub steps: Vec<OperationStep>,
    /// What came of it, when it succeeded.
    pub result: Option<StartResult>,
    /// Why it failed.
    pub failure: Option<Fault>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationStep {
    /// Which.
    pub step: Step,
    /// How far.
    pub state: StepState,
    /// In a line.
    pub detail: String,
    /// How long it took, when it is done.
    pub duration_ms: Option<u64>,
}

/// What a start came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartResult {
    /// What it turned out to be: `created`, `resumed`, `reloaded` or `running`.
    pub action: Action,
    /// `local`, `exec` or `vercel`.
    pub provider: String,
    /// What the provider calls the sandbox.
    pub provider_id: String,
    /// Where the preview is.
    pub preview_url: Option<String>,
    /// Where the health endpoint is.
    pub health_url: Option<String>,
    /// The supervisor's pid in there.
    pub pid: Option<i32>,
    /// The user in there.
    pub user: String,
    /// The project's directory.
    pub directory: String,
    /// The commit that is checked out.
    pub commit: Option<String>,
    /// When the provider ends it.
    pub expires_at: Option<Time>,
    /// How many bytes were sent into the sandbox as files.
    pub bytes_uploaded: u64,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

impl From<&Started> for StartResult {
    fn from(started: &Started) -> Self {
        Self {
            action: started.action,
            provider: started.provider.clone(),
            provider_id: started.sandbox_id.clone(),
            preview_url: started.url.clone(),
            health_url: started.health_url.clone(),
            pid: started.pid,
            user: started.user.clone(),
            directory: started.directory.clone(),
            commit: started.commit.clone(),
            expires_at: started.expires_at.map(Time),
            bytes_uploaded: started.bytes_uploaded,
            warnings: started.warnings.clone(),
        }
    }
}

impl Operation {
    /// One that has just been asked for.
    pub fn new(operation_id: String, sandbox_id: String, request: Order, now: Time) -> Self {
        Self {
            operation_id,
            sandbox_id,
            state: OperationState::Pending,
            request,
            created_at: now,
            finished_at: None,
            attempts: 0,
            steps: Vec::new(),
            result: None,
            failure: None,
        }
    }

    /// A step got so far. A step that begins again (the start was taken up anew) is told anew.
    pub(super) fn step(&mut self, step: Step, state: StepState, detail: &str, duration_ms: Option<u64>) {
        let entry = OperationStep {
            step,
            state,
            detail: detail.to_owned(),
            duration_ms,
        };
        match self.steps.iter_mut().find(|known| known.step == step) {
            Some(known) => *known = entry,
            None => self.steps.push(entry),
        }
    }

    /// It is over.
    pub(super) fn finish(&mut self, now: Time, outcome: &Outcome) {
        self.finished_at = Some(now);
        match outcome {
            Outcome::Started(result) => {
                self.state = OperationState::Succeeded;
                self.result = Some(result.as_ref().clone());
            }
            Outcome::Failed(fault) => {
                self.state = OperationState::Failed;
                if let Some(step) = fault.step {
                    self.step(step, StepState::Failed, &fault.message, None);
                }
                self.failure = Some(fault.clone());
            }
            Outcome::Cancelled => {
                self.state = OperationState::Cancelled;
                let why = "the sandbox was stopped while it was being started";
                self.failure = Some(Fault::new(Code::Busy, why));
            }
        }
    }
}

/// How a start ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The sandbox is ready.
    Started(Box<StartResult>),
    /// It is not.
    Failed(Fault),
    /// A stop overtook it.
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_as_they_last_were() {
        let order: Order = serde_json::from_str(r#"{"githubRepoUrl":"https://github.com/a/b"}"#).unwrap();
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let mut operation = Operation::new("op-1".into(), "sb-1".into(), order, now);
        operation.step(Step::Create, StepState::Began, "making it", None);
        operation.step(Step::Create, StepState::Done, "made", Some(7));
        operation.step(Step::Project, StepState::Began, "npm install", None);
        let fault = Fault::new(Code::InstallFailed, "`npm install` failed").in_step(Step::Project);
        operation.finish(now, &Outcome::Failed(fault));
        let states: Vec<_> = operation.steps.iter().map(|step| (step.step, step.state)).collect();
        assert_eq!(states, [(Step::Create, StepState::Done), (Step::Project, StepState::Failed)]);
        assert!(operation.state.is_over());
        let text = serde_json::to_string(&operation).unwrap();
        assert_eq!(serde_json::from_str::<Operation>(&text).unwrap(), operation);
    }
}
