//! What the daemon publishes after each turn of its loop, and how the documents are made from it.
//!
//! Reads come from here alone, so that a client can neither block the loop nor be blocked by it.

use super::document::{
    AgentPart, BoxFacts, Capabilities, Healthz, HealthzUnit, Preview, Readiness, Readyz, SecretIsolation, Status, StatusDocument, SyncPart,
    Time, UnitState, UnitStatus, Upgrade,
};
use super::why::ProbeAnswer;
use crate::ordered::IntoMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether the supervisor as a whole comes up or goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It runs.
    #[default]
    Running,
    /// It shuts down.
    Stopping,
}

/// What is wanted of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// That it runs.
    #[default]
    Up,
    /// That it does not.
    Down,
}

/// A unit as the supervisor sees it, instants turned into times of the wall clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnitSnapshot {
    /// Its part of the document.
    pub status: UnitStatus,
    /// What is wanted of it.
    pub goal: Goal,
    /// The unit that it waits for, or failed or stopped because of.
    pub cause: Option<String>,
    /// The probes' last answers.
    pub answers: Vec<ProbeAnswer>,
    /// When its backoff ends.
    pub next_start_at: Option<Time>,
    /// Its `retry_on_change` globs.
    pub retry_on_change: Vec<String>,
    /// The ports that it is expected to listen on: of its `listen`, `tcp` and `http` probes, and `[project] port`.
    pub expected_ports: Vec<u16>,
    /// What it does without (capabilities, cgroup limits), for people.
    pub warnings: Vec<String>,
}

/// Everything that can be read about the sandbox at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// `[project] id`.
    pub project: String,
    /// `[sandbox] id`, or the hostname.
    pub sandbox: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The config's hash.
    pub config_hash: String,
    /// The supervisor's pid.
    pub pid: i32,
    /// When it started.
    pub started_at: Time,
    /// How the last upgrade in place went.
    pub upgrade: Option<Upgrade>,
    /// When the sandbox ends.
    pub expires_at: Option<Time>,
    /// Whether it comes up or goes down.
    pub phase: Phase,
    /// What the machine lets it do.
    pub capabilities: Capabilities,
    /// What keeps secrets apart.
    pub secret_isolation: SecretIsolation,
    /// Why not better.
    pub secret_isolation_reason: String,
    /// The machine.
    pub machine: BoxFacts,
    /// The units, in start order.
    pub units: Vec<Arc<UnitSnapshot>>,
    /// The preview.
    pub preview: Preview,
    /// The sync worker's part.
    pub sync: SyncPart,
    /// The agent worker's part.
    pub agent: AgentPart,
    /// `[report] url`.
    pub report_url: Option<String>,
    /// `[control] allow`: unit → what its processes may ask for.
    pub allow: Arc<BTreeMap<String, Vec<String>>>,
}

impl Snapshot {
    /// Nothing is known yet but who we are.
    pub fn empty(pid: i32, started_at: Time) -> Self {
        Self {
            project: String::new(),
            sandbox: String::new(),
            boot_id: String::new(),
            config_hash: String::new(),
            pid,
            started_at,
            upgrade: None,
            expires_at: None,
            phase: Phase::Running,
            capabilities: Capabilities::default(),
            secret_isolation: SecretIsolation::None,
            secret_isolation_reason: String::new(),
            machine: BoxFacts::default(),
            units: Vec::new(),
            preview: Preview::default(),
            sync: SyncPart::default(),
            agent: AgentPart::default(),
            report_url: None,
            allow: Arc::default(),
        }
    }

    /// The unit of that name.
    pub fn unit(&self, name: &str) -> Option<&UnitSnapshot> {
        self.units.iter().map(|unit| &**unit).find(|unit| unit.status.name == name)
    }

    /// Whether every required unit is ready.
    pub fn ready(&self) -> bool {
        self.phase == Phase::Running && self.required().all(|unit| unit.status.ready)
    }

    /// How the sandbox does as a whole.
    pub fn status(&self) -> Status {
        let any_required = |word| self.required().any(|unit| unit.readiness() == word);
        if self.phase == Phase::Stopping {
            Status::Stopping
        } else if any_required(Readiness::Failed) {
            Status::Failed
        } else if any_required(Readiness::Starting) || any_required(Readiness::Waiting) {
            Status::Starting
        } else if self.is_degraded() {
            Status::Degraded
        } else {
            Status::Ok
        }
    }

    fn is_degraded(&self) -> bool {
        let unit_wrong = self.units.iter().any(|unit| match unit.readiness() {
            Readiness::Failed => true,
            Readiness::Unready | Readiness::Stopped => unit.status.required,
            Readiness::Waiting | Readiness::Starting | Readiness::Ready | Readiness::Skipped => false,
        });
        unit_wrong || self.sync.is_degraded()
    }

    fn required(&self) -> impl Iterator<Item = &UnitSnapshot> {
        let units = self.units.iter().map(|unit| &**unit);
        units.filter(|unit| unit.status.required && unit.status.state != UnitState::Skipped)
    }

    /// The whole document.
    pub fn document(&self) -> StatusDocument {
        let Self {
            project,
            sandbox,
            boot_id,
            config_hash,
            pid,
            started_at,
            upgrade,
            expires_at,
            phase: _,
            capabilities,
            secret_isolation,
            secret_isolation_reason,
            machine,
            units,
            preview,
            sync,
            agent,
            report_url: _,
            allow: _,
        } = self;
        StatusDocument {
            project: project.clone(),
            sandbox: sandbox.clone(),
            boot_id: boot_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_hash: config_hash.clone(),
            pid: *pid,
            started_at: *started_at,
            upgrade: upgrade.clone(),
            expires_at: *expires_at,
            status: self.status(),
            ready: self.ready(),
            capabilities: capabilities.clone(),
            secret_isolation: *secret_isolation,
            secret_isolation_reason: secret_isolation_reason.clone(),
            machine: machine.clone(),
            units: units.iter().map(|unit| unit.status.clone()).collect(),
            preview: preview.clone(),
            sync: sync.clone(),
            agent: agent.clone(),
        }
    }

    /// The answer of `/readyz`.
    pub fn readyz(&self) -> Readyz {
        Readyz {
            ready: self.ready(),
            units: self
                .units
                .iter()
                .map(|unit| (unit.status.name.clone(), unit.readiness()))
                .into_map(),
        }
    }

    /// The answer of `/healthz`.
    pub fn healthz(&self) -> Healthz {
        let units = self.units.iter().map(|unit| HealthzUnit {
            name: unit.status.name.clone(),
            state: unit.readiness(),
            ready: unit.status.ready,
            required: unit.status.required,
        });
        Healthz {
            status: self.status(),
            units: units.collect(),
        }
    }
}

impl UnitSnapshot {
    /// The unit in one word.
    pub fn readiness(&self) -> Readiness {
        match self.status.state {
            UnitState::Skipped => Readiness::Skipped,
            UnitState::Failed => Readiness::Failed,
            _ if self.goal == Goal::Down => Readiness::Stopped,
            _ if self.status.ready => Readiness::Ready,
            _ if self.status.sub_state == "waiting" => Readiness::Waiting,
            UnitState::Active | UnitState::Reloading => Readiness::Unready,
            UnitState::Inactive | UnitState::Activating | UnitState::Deactivating => Readiness::Starting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, state: UnitState, sub_state: &str) -> UnitSnapshot {
        let ready = state == UnitState::Active && sub_state != "unready";
        UnitSnapshot {
            status: UnitStatus {
                name: name.into(),
                state,
                sub_state: sub_state.into(),
                ready,
                required: true,
                ..UnitStatus::default()
            },
            ..UnitSnapshot::default()
        }
    }

    fn snapshot(units: Vec<UnitSnapshot>) -> Snapshot {
        let mut snapshot = Snapshot::empty(7, Time(jiff::Timestamp::UNIX_EPOCH));
        snapshot.units = units.into_iter().map(Arc::new).collect();
        snapshot
    }

    #[test]
    fn status_is_the_worst_that_counts() {
        let ok = || unit("a", UnitState::Active, "running");
        let failed = || unit("b", UnitState::Failed, "dead");
        let starting = || unit("c", UnitState::Activating, "start");
        assert_eq!(snapshot(vec![]).status(), Status::Ok);
        assert_eq!(snapshot(vec![ok()]).status(), Status::Ok);
        assert_eq!(snapshot(vec![ok(), starting()]).status(), Status::Starting);
        assert_eq!(snapshot(vec![failed(), starting()]).status(), Status::Failed);
        let mut optional = failed();
        optional.status.required = false;
        assert_eq!(snapshot(vec![ok(), optional.clone()]).status(), Status::Degraded);
        assert_eq!(snapshot(vec![starting(), optional]).status(), Status::Starting);
        let mut stopping = snapshot(vec![failed()]);
        stopping.phase = Phase::Stopping;
        assert_eq!(stopping.status(), Status::Stopping);
        assert!(!stopping.ready());
    }

    #[test]
    fn sync_that_lags_or_is_fenced_degrades() {
        let mut sandbox = snapshot(vec![unit("a", UnitState::Active, "running")]);
        sandbox.sync.oldest_unsynced_ms = SyncPart::LAG_LIMIT_MS;
        assert_eq!(sandbox.status(), Status::Ok);
        sandbox.sync.oldest_unsynced_ms += 1;
        assert_eq!(sandbox.status(), Status::Degraded);
        sandbox.sync = SyncPart {
            state: "fenced".into(),
            ..SyncPart::default()
        };
        assert_eq!(sandbox.status(), Status::Degraded);
        assert!(sandbox.ready());
    }

    #[test]
    fn every_unit_has_one_word() {
        let word = |state, sub_state: &str| unit("a", state, sub_state).readiness();
        assert_eq!(word(UnitState::Active, "running"), Readiness::Ready);
        assert_eq!(word(UnitState::Active, "unready"), Readiness::Unready);
        assert_eq!(word(UnitState::Activating, "waiting"), Readiness::Waiting);
        assert_eq!(word(UnitState::Activating, "auto-restart"), Readiness::Starting);
        assert_eq!(word(UnitState::Skipped, "dead"), Readiness::Skipped);
        assert_eq!(word(UnitState::Failed, "dead"), Readiness::Failed);
        let mut stopped = unit("a", UnitState::Inactive, "dead");
        stopped.goal = Goal::Down;
        assert_eq!(stopped.readiness(), Readiness::Stopped);
        assert_eq!(snapshot(vec![stopped]).status(), Status::Degraded);
    }

    #[test]
    fn skipped_units_are_not_required() {
        let mut skipped = unit("a", UnitState::Skipped, "dead");
        skipped.status.ready = false;
        assert!(snapshot(vec![skipped]).ready());
    }

    #[test]
    fn the_document_has_the_shape_of_the_contract() {
        let mut sandbox = snapshot(vec![unit("dev", UnitState::Active, "running")]);
        Arc::make_mut(&mut sandbox.units[0]).status.kind = "simple".into();
        let mut document = sandbox.document();
        document.version = "0.0.0".into();
        insta::assert_json_snapshot!(document);
        let text = serde_json::to_string(&sandbox.document()).unwrap();
        assert_eq!(serde_json::from_str::<StatusDocument>(&text).unwrap(), sandbox.document());
    }

    #[test]
    fn parts_of_workers_keep_what_we_do_not_know() {
        let part: SyncPart = serde_json::from_str(r#"{"state":"held","pending":3,"store":"file"}"#).unwrap();
        assert_eq!((part.state.as_str(), part.pending), ("held", 3));
        assert_eq!(serde_json::to_value(&part).unwrap()["store"], "file");
    }
}
