//! Vercel Sandbox over its REST API.
//!
//! What a name stands for outlives its machine: a sandbox that stopped comes back with its files, without its processes, and with another
//! session. So the sandbox's id is its name, its [`Sandbox::session`] tells one life from the next, and nothing here wakes it but
//! [`Provider::find`] with [`Wake::Yes`].
//!
//! | module | is |
//! | --- | --- |
//! | `account` | who asks: token or OIDC, team, project |
//! | `wire` | the shapes that the API speaks |
//! | `retry`, `refusal`, `lines`, `deadline`, `archive` | decisions and forms, pure |
//! | `api` | one request and its retries |
//! | `boxes` | sandboxes: create, find, list, stop, ports, deadline |
//! | `commands` | commands: started detached and once, heard to their end however often the stream is cut |
//!
//! A POST that starts a command is never repeated blindly: each command carries a mark of its own, and after an answer that says nothing
//! the session's list of commands tells whether it runs.

mod account;
mod api;
mod archive;
mod boxes;
mod commands;
mod deadline;
mod lines;
mod refusal;
mod retry;
mod wire;

use super::{Answer, Command, Exit, Fault, Output, Provider, Reach, Sandbox, Upload, Wake, Wanted};
use account::Account;
use api::Api;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which team and project; what a record keeps. No secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `team_…`; `None` to take it from `VERCEL_TEAM_ID` or the OIDC token.
    pub team: Option<String>,
    /// `prj_…`; `None` to take it from `VERCEL_PROJECT_ID` or the OIDC token.
    pub project: Option<String>,
    /// Base URL of the API; `None` for `SANDKEEP_VERCEL_API`, else Vercel's own.
    pub api: Option<String>,
    /// A runtime of the second generation (`node24`); `None` for the default image of the third.
    pub runtime: Option<String>,
}

/// Opens it with the credentials that `variable` finds: the file that `VERCEL_OIDC_TOKEN_FILE` names, else `VERCEL_TOKEN`, else
/// `VERCEL_OIDC_TOKEN`.
///
/// # Errors
/// [`Code::Unauthorized`](super::Code) when there are none, or they name no team or project, or have expired.
pub(super) fn open(settings: &Settings, variable: &dyn Fn(&str) -> Option<String>) -> Result<Arc<dyn Provider>, Fault> {
    let account = Account::find(settings, variable, jiff::Timestamp::now())?;
    let settings = Settings {
        team: Some(account.team.clone()),
        project: Some(account.project.clone()),
        api: account.base_given.clone(),
        runtime: settings.runtime.clone(),
    };
    let api = Api::new(account)?;
    Ok(Arc::new(Vercel { settings, api }))
}

/// The provider.
#[derive(Debug)]
struct Vercel {
    settings: Settings,
    api: Api,
}

impl Provider for Vercel {
    fn settings(&self) -> super::Settings {
        super::Settings::Vercel(self.settings.clone())
    }

    fn reach(&self) -> Reach {
        Reach::Exposed
    }

    fn create<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Sandbox> {
        Box::pin(boxes::create(&self.api, self.settings.runtime.as_deref(), wanted))
    }

    fn find<'a>(&'a self, name: &'a str, wake: Wake) -> Answer<'a, Option<Sandbox>> {
        Box::pin(boxes::find(&self.api, name, wake))
    }

    fn list(&self) -> Answer<'_, Vec<Sandbox>> {
        Box::pin(boxes::list(&self.api))
    }

    fn run<'a>(&'a self, sandbox: &'a Sandbox, command: &'a Command, output: Output<'a>) -> Answer<'a, Exit> {
        Box::pin(commands::run(&self.api, sandbox, command, output))
    }

    fn launch<'a>(&'a self, sandbox: &'a Sandbox, command: &'a Command, log: &'a str) -> Answer<'a, String> {
        Box::pin(commands::launch(&self.api, sandbox, command, log))
    }

    fn upload<'a>(&'a self, sandbox: &'a Sandbox, file: &'a Upload) -> Answer<'a, u64> {
        Box::pin(commands::upload(&self.api, sandbox, file))
    }

    fn expose<'a>(&'a self, sandbox: &'a Sandbox, port: u16) -> Answer<'a, Option<String>> {
        Box::pin(boxes::expose(&self.api, sandbox, port))
    }

    fn extend<'a>(&'a self, sandbox: &'a Sandbox, until: jiff::Timestamp) -> Answer<'a, Option<jiff::Timestamp>> {
        Box::pin(boxes::extend(&self.api, sandbox, until))
    }

    fn stop<'a>(&'a self, sandbox: &'a Sandbox) -> Answer<'a, ()> {
        Box::pin(boxes::stop(&self.api, sandbox))
    }

    fn remove<'a>(&'a self, sandbox: &'a Sandbox) -> Answer<'a, ()> {
        Box::pin(boxes::remove(&self.api, sandbox))
    }
}
