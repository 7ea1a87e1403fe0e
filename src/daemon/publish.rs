//! Makes the snapshot that everybody reads out of what the supervisor, the host and the workers say.

use super::clock::Clock;
use super::facts::Facts;
use super::isolation::Finding;
use super::last_words::LastWords;
use crate::control::document::{self, AgentPart, Capabilities, LastExit, SyncPart, Upgrade};
use crate::control::why::ProbeAnswer;
use crate::control::{Goal, Phase, Snapshot, Time, UnitSnapshot, UnitStatus};
use crate::host;
use crate::ordered::{IntoMap, Order};
use crate::supervisor::{self, Invocation, ProbeResult, Supervisor};
use crate::unit::{Config, Main, Name, ProbeCheck, ProbeKind, Service, Unit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What does not change while the supervisor lives.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) boot_id: String,
    pub(super) hostname: String,
    pub(super) pid: i32,
    pub(super) started_at: Time,
    pub(super) capabilities: Capabilities,
}

/// The parts of the status document that workers send.
#[derive(Debug, Default)]
pub(super) struct Parts {
    sync: SyncPart,
    agent: AgentPart,
}

impl Parts {
    /// Takes what a worker's process said with `X_SANDKEEP=`. What is not to be understood is dropped: a unit's bug harms nobody else.
    pub(super) fn take(&mut self, unit: &Unit, json: &str) {
        let Main::Worker(worker) = unit.main else { return };
        let read = match worker {
            crate::unit::Worker::Agent => serde_json::from_str(json).map(|part| self.agent = part),
            crate::unit::Worker::Sync | crate::unit::Worker::Restore => serde_json::from_str(json).map(|part| self.sync = part),
        };
        if let Err(error) = read {
            tracing::warn!(unit = %unit.name, "its part of the status is not to be read: {error}");
        }
    }
}

/// What one publisher leaves to the next.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HandedPublisher {
    pub(super) started_at: Option<Time>,
    sync: Option<SyncPart>,
    agent: Option<AgentPart>,
    probed: Vec<(Name, ProbeKind, Time, ProbeResult)>,
    last_words: Vec<(Name, Invocation, String)>,
}

/// The one writer of the snapshot.
#[derive(Debug)]
pub(super) struct Publisher {
    identity: Identity,
    sender: watch::Sender<Arc<Snapshot>>,
    /// What was published last, in the same order: a unit of which nothing changed is not told anew.
    units: Vec<(Arc<supervisor::UnitStatus>, Arc<UnitSnapshot>)>,
    pub(super) parts: Parts,
    facts: Facts,
    pub(super) preview: document::Preview,
    pub(super) isolation: Finding,
    /// How the last upgrade in place went.
    pub(super) upgrade: Option<Upgrade>,
    /// The last answer of each probe, which says more than its verdict when the unit has failed.
    probed: BTreeMap<(Name, ProbeKind), (Time, ProbeResult)>,
    /// What the last process of a unit said before its exit failed.
    last_words: BTreeMap<Name, (Invocation, String)>,
    /// Units that watch more than can be watched, and why.
    unwatched: Option<(Vec<Name>, &'static str)>,
}

impl Publisher {
    pub(super) fn new(identity: Identity) -> (Self, watch::Receiver<Arc<Snapshot>>) {
        let empty = Snapshot::empty(identity.pid, identity.started_at);
        let (sender, receiver) = watch::channel(Arc::new(empty));
        let publisher = Self {
            identity,
            sender,
            units: Vec::new(),
            parts: Parts::default(),
            facts: Facts::default(),
            preview: document::Preview::default(),
            isolation: Finding::default(),
            upgrade: None,
            probed: BTreeMap::new(),
            last_words: BTreeMap::new(),
            unwatched: None,
        };
        (publisher, receiver)
    }

    /// What the next image has to know.
    pub(super) fn hand_over(&self) -> HandedPublisher {
        let probed = self
            .probed
            .iter()
            .map(|((unit, kind), (at, result))| (unit.clone(), *kind, *at, result.clone()));
        let last_words = self.last_words.iter();
        let last_words = last_words.map(|(unit, (invocation, text))| (unit.clone(), *invocation, text.clone()));
        HandedPublisher {
            started_at: Some(self.identity.started_at),
            sync: Some(self.parts.sync.clone()),
            agent: Some(self.parts.agent.clone()),
            probed: probed.collect(),
            last_words: last_words.collect(),
        }
    }

    /// Goes on with what an earlier image knew.
    pub(super) fn inherit(&mut self, handed: HandedPublisher) {
        let HandedPublisher {
            started_at,
            sync,
            agent,
            probed,
            last_words,
        } = handed;
        self.identity.started_at = started_at.unwrap_or(self.identity.started_at);
        self.parts.sync = sync.unwrap_or_default();
        self.parts.agent = agent.unwrap_or_default();
        let probed = probed.into_iter().map(|(unit, kind, at, result)| ((unit, kind), (at, result)));
        self.probed = probed.into_map();
        let last_words = last_words.into_iter().map(|(unit, invocation, text)| (unit, (invocation, text)));
        self.last_words = last_words.into_map();
    }

    /// How many upgrades have succeeded.
    pub(super) fn upgrades(&self) -> u64 {
        self.upgrade.as_ref().map_or(0, |upgrade| upgrade.count)
    }

    /// Notes what a probe answered.
    pub(super) fn probed(&mut self, unit: &Name, kind: ProbeKind, result: &ProbeResult, at: Time) {
        self.probed.insert((unit.clone(), kind), (at, result.clone()));
    }

    /// A new run: what was answered before says nothing of it.
    pub(super) fn started(&mut self, unit: &Name) {
        self.probed.retain(|(name, _), _| name != unit);
    }

    /// A process of the unit has ended: what an earlier one said is not why.
    pub(super) fn exited(&mut self, unit: &Name) {
        self.last_words.remove(unit);
    }

    /// Notes what a process said before its exit failed.
    pub(super) fn last_words(&mut self, words: LastWords) {
        let LastWords { unit, invocation, text } = words;
        self.units.clear();
        self.last_words.insert(unit, (invocation, text));
    }

    /// Takes over which units watch more than can be watched; what is to be said of it when that is new.
    pub(super) fn watching(&mut self, unwatched: Option<(Vec<Name>, &'static str)>) -> Option<String> {
        if unwatched == self.unwatched {
            return None;
        }
        self.unwatched = unwatched;
        self.units.clear();
        let (units, why) = self.unwatched.as_ref()?;
        let units: Vec<&str> = units.iter().map(Name::as_str).collect();
        Some(format!("{}: {why}", units.join(", ")))
    }

    fn warnings(&self, unit: &supervisor::UnitStatus) -> Vec<String> {
        let watches = self.unwatched.as_ref().filter(|(units, _)| units.contains(&unit.spec.name));
        let more = watches.map(|(_, why)| (*why).to_owned());
        unit.warnings.iter().cloned().chain(more).collect()
    }

    /// The last answers, also of a run that is over.
    fn answers(&self, unit: &supervisor::UnitStatus) -> Vec<ProbeAnswer> {
        let name = &unit.spec.name;
        let answer = |kind: &ProbeKind| {
            let current = unit.probes.iter().find(|probe| probe.kind == *kind);
            let last = self.probed.get(&(name.clone(), *kind));
            let state = match (current, last) {
                (Some(probe), _) => verdict(probe.verdict),
                (None, Some((_, result))) if result.passed => "passing",
                (None, Some(_)) => "failing",
                (None, None) => return None,
            };
            Some(ProbeAnswer {
                kind: probe_kind(*kind).to_owned(),
                state: state.to_owned(),
                message: last.map(|(_, result)| result.message.clone()).unwrap_or_default(),
                at: last.map(|(at, _)| *at),
            })
        };
        unit.spec.probes.keys().filter_map(answer).collect()
    }

    /// Takes facts over; every unit's are new.
    pub(super) fn take_facts(&mut self, facts: Facts) {
        self.facts = facts;
        self.units.clear();
    }

    /// Publishes how things are.
    pub(super) fn publish(&mut self, supervisor: &mut Supervisor, clock: &Clock, config: &Config) {
        let status = supervisor.status();
        let seen = status.units.iter().enumerate().map(|(n, unit)| {
            let known = self.units.get(n).filter(|(known, _)| Arc::ptr_eq(known, unit));
            let snapshot = known.map(|(_, snapshot)| Arc::clone(snapshot));
            let snapshot = snapshot.unwrap_or_else(|| Arc::new(self.unit(unit, clock, config)));
            (Arc::clone(unit), snapshot)
        });
        self.units = seen.collect();
        let units = self.units.iter().map(|(_, snapshot)| Arc::clone(snapshot)).collect();
        let snapshot = self.whole(units, &status, config);
        self.sender.send_replace(Arc::new(snapshot));
    }

    fn whole(&self, units: Vec<Arc<UnitSnapshot>>, status: &supervisor::Status, config: &Config) -> Snapshot {
        let Identity {
            boot_id,
            hostname,
            pid,
            started_at,
            capabilities,
        } = &self.identity;
        let sandbox = if config.sandbox_id.is_empty() {
            hostname
        } else {
            &config.sandbox_id
        };
        let allow = config
            .allow
            .iter()
            .map(|(unit, what)| (unit.as_str().to_owned(), what.clone()))
            .into_map();
        let mut sync = self.parts.sync.clone();
        let mut agent = self.parts.agent.clone();
        let runs = |worker| {
            let mut units = status.units.iter();
            units.any(|unit| unit.spec.main == Main::Worker(worker) && unit.pid.is_some())
        };
        if !runs(crate::unit::Worker::Sync) && !runs(crate::unit::Worker::Restore) && sync.state != "fenced" {
            "off".clone_into(&mut sync.state);
        }
        if !runs(crate::unit::Worker::Agent) {
            "off".clone_into(&mut agent.state);
        }
        Snapshot {
            project: config.project_id.clone(),
            sandbox: sandbox.clone(),
            boot_id: boot_id.clone(),
            config_hash: status.config_hash.clone(),
            pid: *pid,
            started_at: *started_at,
            upgrade: self.upgrade.clone(),
            expires_at: config.expires_at.and_then(|at| jiff::Timestamp::from_second(at).ok()).map(Time),
            phase: if status.stopping { Phase::Stopping } else { Phase::Running },
            capabilities: capabilities.clone(),
            secret_isolation: self.isolation.isolation,
            secret_isolation_reason: self.isolation.reason.clone(),
            machine: self.facts.machine.clone(),
            units,
            preview: self.preview.clone(),
            sync,
            agent,
            report_url: config.report_url.clone(),
            allow: Arc::new(allow),
        }
    }

    fn message(&self, unit: &supervisor::UnitStatus, exit: &supervisor::LastExit) -> Option<String> {
        let (invocation, text) = self.last_words.get(&unit.spec.name)?;
        (exit.reason != "success" && *invocation <= unit.invocation).then(|| text.clone())
    }

    fn unit(&self, unit: &supervisor::UnitStatus, clock: &Clock, config: &Config) -> UnitSnapshot {
        let name = &unit.spec.name;
        let facts = self
            .facts
            .units
            .get(name)
            .filter(|facts| facts.invocation == unit.invocation && unit.pid.is_some());
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let status = UnitStatus {
            name: name.as_str().to_owned(),
            kind: kind(&unit.spec).to_owned(),
            description: unit.spec.description.clone(),
            state: crate::control::document::UnitState::parse(unit.state).unwrap_or_default(),
            sub_state: unit.sub_state.to_owned(),
            reason: text(&unit.reason),
            ready: unit.ready,
            required: unit.required,
            pid: unit.pid,
            invocation: unit.invocation,
            since: Some(clock.time(unit.since)),
            restarts: unit.restarts.into(),
            last_exit: unit.last_exit.as_ref().map(|exit| LastExit {
                message: self.message(unit, exit),
                ..last_exit(exit, clock)
            }),
            ports: facts.map(|facts| facts.ports.clone()).unwrap_or_default(),
            memory_bytes: facts.map(|facts| facts.memory_bytes),
            cpu_usec: facts.map(|facts| facts.cpu_usec),
            oom_kills: facts.and_then(|facts| facts.oom_kills),
            warnings: self.warnings(unit),
            status_text: text(&unit.status_text),
            probes: unit
                .probes
                .iter()
                .map(|probe| (probe_kind(probe.kind).to_owned(), verdict(probe.verdict).to_owned()))
                .into_map(),
        };
        UnitSnapshot {
            status,
            goal: match unit.goal {
                supervisor::Goal::Up => Goal::Up,
                supervisor::Goal::Down => Goal::Down,
            },
            cause: unit
                .waits_for
                .iter()
                .max_by_key(|waits| waits.hopeless)
                .map(|waits| waits.unit.as_str().to_owned()),
            answers: self.answers(unit),
            next_start_at: unit.restart_at.map(|at| clock.time(at)),
            retry_on_change: unit.spec.retry_on_change.clone(),
            expected_ports: expected_ports(&unit.spec, config),
            warnings: self.warnings(unit),
        }
    }
}

fn last_exit(exit: &supervisor::LastExit, clock: &Clock) -> LastExit {
    LastExit {
        code: exit.code,
        signal: exit.signal,
        reason: exit.reason.to_owned(),
        at: clock.time(exit.at),
        message: None,
    }
}

fn kind(unit: &Unit) -> &'static str {
    match unit.service {
        Service::Simple => "simple",
        Service::Notify => "notify",
        Service::Oneshot { .. } => "oneshot",
    }
}

/// The word for a probe, as in the configuration.
pub(super) fn probe_kind(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "startup",
        ProbeKind::Readiness => "readiness",
        ProbeKind::Liveness => "liveness",
    }
}

fn verdict(verdict: supervisor::Verdict) -> &'static str {
    match verdict {
        supervisor::Verdict::Pending => "unknown",
        supervisor::Verdict::Passing => "passing",
        supervisor::Verdict::Failing => "failing",
    }
}

/// The ports that a unit is expected to listen on: those of its probes, and `[project] port` for `dev`.
pub(super) fn expected_ports(unit: &Unit, config: &Config) -> Vec<u16> {
    let of_probe = |check: &ProbeCheck| match check {
        ProbeCheck::Listen(port) => *port,
        ProbeCheck::Tcp(address) => address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()),
        ProbeCheck::Http { url, .. } => {
            let authority = url.split("://").nth(1).and_then(|rest| rest.split('/').next())?;
            authority.rsplit_once(':').map_or(Some(80), |(_, port)| port.parse().ok())
        }
        ProbeCheck::Exec(_) | ProbeCheck::Log(_) => None,
    };
    let mut ports: Vec<u16> = unit.probes.values().filter_map(|probe| of_probe(&probe.check)).collect();
    if unit.name.as_str() == DEV {
        ports.extend(config.port);
    }
    ports.order();
    ports.dedup();
    ports
}

/// The unit whose port the preview is about.
pub(super) const DEV: &str = "dev";

/// The host's capabilities in the document's words.
pub(super) fn capabilities(found: &host::Capabilities) -> Capabilities {
    Capabilities {
        pid1: found.pid1,
        subreaper: found.subreaper,
        root: found.root,
        cgroup2: found.cgroup2,
        cgroup_controllers: found.cgroup.controllers.clone(),
        cgroup_reason: found.cgroup.reason.clone(),
    }
}
