//! The shapes that the API speaks, as far as we look at them. Fields that we do not know are passed over.

use crate::ordered::IntoMap;
use crate::sandbox::provider::{self, State};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The state of a session, and of a sandbox by its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Pending,
    Running,
    Stopping,
    Stopped,
    Failed,
    Aborted,
    Snapshotting,
    #[serde(other)]
    Unknown,
}

impl Status {
    /// Whether it will be in another state soon by itself.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Self::Pending | Self::Stopping | Self::Snapshotting)
    }

    fn state(self, persistent: bool) -> State {
        match self {
            Self::Pending | Self::Running | Self::Unknown => State::Running,
            // What it comes back from is the files of the last session.
            Self::Stopping | Self::Stopped | Self::Failed | Self::Aborted | Self::Snapshotting if persistent => State::Stopped,
            Self::Stopping | Self::Stopped | Self::Failed | Self::Aborted | Self::Snapshotting => State::Ended,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sandbox {
    pub(super) name: String,
    #[serde(default)]
    pub(super) persistent: bool,
    pub(super) status: Status,
    pub(super) current_session_id: String,
    pub(super) expires_at: Option<i64>,
    pub(super) cwd: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) status: Status,
    /// From its start on, in milliseconds.
    pub(super) timeout: i64,
    pub(super) created_at: i64,
    pub(super) started_at: Option<i64>,
    pub(super) cwd: String,
}

impl Session {
    /// When it ends, if it runs.
    pub(super) fn deadline(&self) -> Option<jiff::Timestamp> {
        let at = self.started_at.unwrap_or(self.created_at).checked_add(self.timeout)?;
        jiff::Timestamp::from_millisecond(at).ok()
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Route {
    pub(super) url: String,
    pub(super) port: u16,
}

/// Answer to create, get and resume.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Whole {
    pub(super) sandbox: Sandbox,
    pub(super) session: Session,
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

/// Answer to what changes a session.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct OfSession {
    pub(super) session: Session,
}

/// Answer to what changes a sandbox.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct OfSandbox {
    #[serde(default)]
    pub(super) routes: Vec<Route>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Page {
    pub(super) sandboxes: Vec<Sandbox>,
    pub(super) pagination: Pagination,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pagination {
    pub(super) next: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Command {
    pub(super) id: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    pub(super) exit_code: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct OfCommand {
    pub(super) command: Command,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Commands {
    pub(super) commands: Vec<Command>,
}

/// What sends nothing that we look at.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Anything {}

impl Whole {
    pub(super) fn sandbox(self) -> provider::Sandbox {
        let expires_at = if self.session.status == Status::Running {
            self.session.deadline()
        } else {
            None
        };
        provider::Sandbox {
            id: self.sandbox.name.clone(),
            name: self.sandbox.name,
            session: self.session.id,
            state: self.session.status.state(self.sandbox.persistent),
            directory: Some(self.session.cwd).filter(|cwd| cwd.starts_with('/')),
            expires_at,
            urls: urls(self.routes),
        }
    }
}

impl Sandbox {
    /// As a list has it: without its ports.
    pub(super) fn listed(self) -> provider::Sandbox {
        provider::Sandbox {
            id: self.name.clone(),
            name: self.name,
            session: self.current_session_id,
            state: self.status.state(self.persistent),
            directory: self.cwd.filter(|cwd| cwd.starts_with('/')),
            expires_at: self.expires_at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok()),
            urls: BTreeMap::new(),
        }
    }
}

pub(super) fn urls(routes: Vec<Route>) -> BTreeMap<u16, String> {
    routes.into_iter().map(|route| (route.port, route.url)).into_map()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_known_by_status_and_persistence() {
        use State::{Ended, Running, Stopped};
        let states = |status: Status| (status.state(true), status.state(false));
        assert_eq!(states(Status::Running), (Running, Running));
        assert_eq!(states(Status::Pending), (Running, Running));
        for status in [
            Status::Stopping,
            Status::Stopped,
            Status::Failed,
            Status::Aborted,
            Status::Snapshotting,
        ] {
            assert_eq!(states(status), (Stopped, Ended), "{status:?}");
        }
        assert_eq!(serde_json::from_str::<Status>("\"hibernating\"").unwrap(), Status::Unknown);
    }

    #[test]
    fn the_deadline_counts_from_the_start() {
        let text = r#"{"sandbox":{"name":"n","persistent":true,"status":"running","currentSessionId":"sbx_1","createdAt":1,"more":{}},
            "session":{"id":"sbx_1","status":"running","timeout":5000,"createdAt":1000,"startedAt":2000,"cwd":"/vercel"},
            "routes":[{"url":"https://a-3000.vercel.run","subdomain":"a-3000","port":3000}]}"#;
        let sandbox = serde_json::from_str::<Whole>(text).unwrap().sandbox();
        assert_eq!(sandbox.expires_at, jiff::Timestamp::from_millisecond(7000).ok());
        assert_eq!((sandbox.id.as_str(), sandbox.session.as_str()), ("n", "sbx_1"));
        assert_eq!(sandbox.urls[&3000], "https://a-3000.vercel.run");
        assert_eq!(sandbox.directory.as_deref(), Some("/vercel"));
    }
}
