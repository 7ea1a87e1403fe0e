//! What a sandbox says about itself.

use crate::control::document::{Healthz, Status, StatusDocument, Time};
use std::sync::Arc;

/// What was heard of a sandbox.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// Everything: it was pushed, or asked for with the sandbox's own token.
    Document(Arc<StatusDocument>),
    /// What a sandbox tells anybody.
    Healthz(Healthz),
}

impl Heard {
    /// How the sandbox does as a whole.
    pub fn status(&self) -> Status {
        match self {
            Self::Document(document) => document.status,
            Self::Healthz(healthz) => healthz.status,
        }
    }

    /// Whether every required unit is ready.
    pub fn ready(&self) -> bool {
        match self {
            Self::Document(document) => document.ready,
            Self::Healthz(healthz) => healthz.units.iter().all(|unit| unit.ready || !unit.required),
        }
    }

    /// The document, if it was one.
    pub fn document(&self) -> Option<&Arc<StatusDocument>> {
        match self {
            Self::Document(document) => Some(document),
            Self::Healthz(_) => None,
        }
    }

    /// When the supervisor that said it started.
    pub(super) fn started_at(&self) -> Option<Time> {
        self.document().map(|document| document.started_at)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A document such as a sandbox pushes.
    pub(crate) fn document(status: Status, ready: bool, started: i64) -> Arc<StatusDocument> {
        let text = format!(
            r#"{{"project":"p_1","sandbox":"sb","boot_id":"b","version":"0.1.0","config_hash":"c","pid":7,
            "started_at":"{}","expires_at":null,"status":"{}","ready":{ready},
            "capabilities":{{"pid1":false,"subreaper":true,"root":true,"cgroup2":false}},"secret_isolation":"none",
            "box":{{"memory_bytes":1048576,"memory_total":2097152,"disk_free":4096,"oom_kills":1}},"units":[],
            "preview":{{"state":"ready","port":3000,"reason":null}},
            "sync":{{"state":"idle","pending":2,"generation":41}},"agent":{{"state":"idle","queued":3}}}}"#,
            Time(jiff::Timestamp::from_second(started).unwrap()),
            status.as_str()
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn a_sandbox_is_ready_when_its_required_units_are() {
        let healthz = |text: &str| Heard::Healthz(serde_json::from_str(text).unwrap());
        let dev = r#"{"name":"dev","state":"ready","ready":true,"required":true}"#;
        let agent = r#"{"name":"agent","state":"failed","ready":false,"required":false}"#;
        assert!(healthz(&format!(r#"{{"status":"degraded","units":[{dev},{agent}]}}"#)).ready());
        let dev = dev.replace("true,\"req", "false,\"req");
        assert!(!healthz(&format!(r#"{{"status":"starting","units":[{dev}]}}"#)).ready());
    }
}
