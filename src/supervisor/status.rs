//! How things are: a snapshot that others read without asking the supervisor.

use super::event::{Invocation, Pid};
use super::machine::Supervisor;
use super::node::{LastExit, Node};
use super::probes::{Asked, Probes, Verdict};
use super::state::{Goal, Hope, State};
use crate::unit::{Name, ProbeKind, Unit};
use std::sync::Arc;
use std::time::Instant;

/// Everything, at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The units in start order; one of which nothing changed is the same `Arc` as before.
    pub units: Vec<Arc<UnitStatus>>,
    /// Whether every required unit is ready. Not so before the first configuration, nor while shutting down.
    pub ready: bool,
    /// Whether a shutdown has begun.
    pub stopping: bool,
    /// The hash of the configuration in force; empty before the first.
    pub config_hash: String,
}

/// One unit, at one moment.
#[derive(Clone, Debug)]
pub struct UnitStatus {
    /// Its section.
    pub spec: Arc<Unit>,
    /// systemd's ActiveState, or `skipped`.
    pub state: &'static str,
    /// The finer state.
    pub sub_state: &'static str,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether the sandbox is not ready without it: neither optional nor skipped nor dropped from the config.
    pub required: bool,
    /// What is wanted of it.
    pub goal: Goal,
    /// The config does not name it any more; it is being stopped.
    pub removed: bool,
    /// Since when it is in this state.
    pub since: Instant,
    /// Why it is in this state, for people.
    pub reason: String,
    /// Its main process.
    pub pid: Option<Pid>,
    /// Which run this is, from 1; 0 = it never ran.
    pub invocation: Invocation,
    /// Starts that followed a failure.
    pub restarts: u32,
    /// How its last run ended.
    pub last_exit: Option<LastExit>,
    /// What it said with `STATUS=`.
    pub status_text: String,
    /// What it said with `ERRNO=`.
    pub errno: Option<i32>,
    /// Its probes, as far as they are asked in this state.
    pub probes: Vec<ProbeStatus>,
    /// When it is started again, while it waits for that.
    pub restart_at: Option<Instant>,
    /// What keeps it from starting, or from stopping, while something does.
    pub waits_for: Vec<WaitsFor>,
    /// What could not be had and was done without, what could not be ended.
    pub warnings: Vec<String>,
}

/// One probe, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStatus {
    /// Which.
    pub kind: ProbeKind,
    /// What its answers add up to.
    pub verdict: Verdict,
    /// The last answer.
    pub message: String,
}

/// A unit that another one waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitsFor {
    /// Which.
    pub unit: Name,
    /// Why: `requires`, `binds_to`, `after`, or `before` for a stop that waits for those that come after it.
    pub how: &'static str,
    /// That it will not come by itself.
    pub hopeless: bool,
}

/// A link of the chain of causes.
#[derive(Clone, Debug)]
pub struct Cause {
    /// The unit.
    pub unit: Arc<UnitStatus>,
    /// How the one before it waits for this one; empty for the first.
    pub how: &'static str,
}

impl Status {
    /// A unit by its name.
    pub fn unit(&self, name: &str) -> Option<&Arc<UnitStatus>> {
        self.units.iter().find(|unit| unit.spec.name.as_str() == name)
    }

    /// The chain of causes: the unit, what it waits for, what that waits for, to the one at which it begins. Of several that a unit waits
    /// for the hopeless come first.
    pub fn why(&self, name: &str) -> Vec<Cause> {
        let mut chain: Vec<Cause> = Vec::new();
        let mut next = self.unit(name).map(|unit| (unit.clone(), ""));
        while let Some((unit, how)) = next {
            let waits = unit.waits_for.iter().max_by_key(|waits| waits.hopeless).cloned();
            chain.push(Cause { unit, how });
            let known = |name: &Name| chain.iter().any(|cause| cause.unit.spec.name == *name);
            next = waits
                .filter(|waits| !known(&waits.unit))
                .and_then(|w| Some((self.unit(w.unit.as_str())?.clone(), w.how)));
        }
        chain
    }
}

impl Supervisor {
    /// How things are. Cheap to call after every step: only what changed is made again.
    pub fn status(&mut self) -> Status {
        if self.status_cache.len() == self.nodes.len() {
            while let Some(id) = self.stale_status.pop_first() {
                self.status_cache[id] = Arc::new(self.unit_status(id));
            }
        } else {
            self.status_cache = (0..self.nodes.len()).map(|id| Arc::new(self.unit_status(id))).collect();
            self.stale_status.clear();
        }
        let ready = self.status_cache.iter().all(|unit| unit.ready || !unit.required);
        Status {
            ready: ready && self.config.is_some() && self.shutdown.is_none(),
            units: self.status_cache.clone(),
            stopping: self.shutdown.is_some(),
            config_hash: self.config.as_ref().map_or_else(String::new, |config| config.hash.clone()),
        }
    }

    fn unit_status(&self, id: usize) -> UnitStatus {
        let node = &self.nodes[id];
        let left = node.left.iter().map(|left| format!("not ended: {left}"));
        UnitStatus {
            spec: node.spec.clone(),
            state: node.face.state,
            sub_state: node.face.sub_state,
            ready: node.face.ready,
            required: !node.spec.optional && !node.face.skipped && !node.removed,
            goal: node.goal,
            removed: node.removed,
            since: node.since,
            reason: self.explain(id).unwrap_or_else(|| node.reason.clone()),
            pid: node.state.main(),
            invocation: node.invocation,
            restarts: node.restarts,
            last_exit: node.last_exit.clone(),
            status_text: node.status_text.clone(),
            errno: node.errno,
            probes: node.probe_status(),
            restart_at: if let State::Backoff { until } = node.state {
                Some(until)
            } else {
                None
            },
            waits_for: self.waits_for(id),
            warnings: node.warnings.iter().cloned().chain(left).collect(),
        }
    }

    fn waits_for(&self, id: usize) -> Vec<WaitsFor> {
        let (node, edges) = (&self.nodes[id], self.graph.of(id));
        let name = |id: usize| self.nodes[id].spec.name.clone();
        let face = |id: usize| self.nodes[id].face;
        if node.face.leaving && !matches!(node.state, State::Inactive | State::Stopping(_)) {
            return self
                .stops_before(id)
                .map(|f| WaitsFor {
                    unit: name(f),
                    how: "before",
                    hopeless: false,
                })
                .collect();
        }
        if node.face.leaving || !matches!(node.state, State::Inactive) {
            return Vec::new();
        }
        let required = edges
            .requires
            .iter()
            .filter(|&&dep| face(dep).leaving || !(face(dep).ready || face(dep).skipped));
        let bound = edges
            .binds_to
            .iter()
            .filter(|&&dep| face(dep).leaving || !(face(dep).ready && face(dep).active));
        let after = edges.after.iter().filter(|&&dep| face(dep).pending);
        let waits = |dep: usize, how, hopeless| WaitsFor {
            unit: name(dep),
            how,
            hopeless,
        };
        let required = required.map(|&dep| waits(dep, "requires", face(dep).hope != Hope::Some));
        let bound = bound.map(|&dep| waits(dep, "binds_to", face(dep).hope != Hope::Some || face(dep).skipped));
        required.chain(bound).chain(after.map(|&dep| waits(dep, "after", false))).collect()
    }
}

impl Node {
    fn probe_status(&self) -> Vec<ProbeStatus> {
        let status = |probe: &Asked| ProbeStatus {
            kind: probe.kind,
            verdict: probe.verdict,
            message: probe.message.clone(),
        };
        self.state.probes().into_iter().flat_map(Probes::iter).map(status).collect()
    }
}
