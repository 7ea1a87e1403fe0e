//! What the world knows to be true, kept apart from what the supervisor believes.

use crate::kit::*;
use crate::world::World;
use sandkeep::supervisor::*;
use sandkeep::unit::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What is true of a unit's present run, and of its life.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) invocation: Invocation,
    pub(crate) behaviour: usize,
    /// When its main process came.
    pub(crate) spawned_at: Instant,
    /// When the first process of this run was asked for.
    pub(crate) began: Instant,
    pub(crate) main: Option<Pid>,
    pub(crate) said_ready: bool,
    pub(crate) said_stopping: bool,
    pub(crate) satisfied: bool,
    pub(crate) skipped: bool,
    pub(crate) spawn_failed: Option<bool>,
    /// How its main process ended, and whether anything had been done to it before.
    pub(crate) exit: Option<(ExitStatus, bool)>,
    pub(crate) command_failed: Option<ExitStatus>,
    /// It was told to end, by whatever signal.
    pub(crate) signalled: bool,
    pub(crate) probes: BTreeMap<ProbeKind, ProbeFacts>,
    pub(crate) pinged: Option<Instant>,
    pub(crate) triggered: bool,
    pub(crate) extended_until: Option<Instant>,
    pub(crate) ready_since: Option<Instant>,
    pub(crate) ready_for: Duration,
    /// Something from outside interfered with this run.
    pub(crate) disturbed: bool,
    /// The stop signal was sent, and what the grace is.
    pub(crate) term: Option<Term>,
    pub(crate) post_commands: bool,
    /// When the last of `exec_stop` was asked for.
    pub(crate) stop_command: Option<Instant>,
    /// It stops to be started again, by request or for something that changed: what was counted is forgotten.
    pub(crate) afresh: bool,
    /// A reload since this run began concerned it: changed it, or what it is bound to or part of.
    pub(crate) concerned: bool,
    /// The stop signals and starts of its whole life.
    pub(crate) starts: Vec<Instant>,
    /// The last wait before a restart that no one has since interfered with.
    pub(crate) last_wait: Option<Duration>,
    /// `sub_state` as last announced.
    pub(crate) announced: Option<(&'static str, &'static str, bool)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    pub(crate) at: Instant,
    pub(crate) timeout: Duration,
    pub(crate) extended_until: Option<Instant>,
    /// Whether what all units may take for their stop was within the shutdown's budget.
    pub(crate) all_fit: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeFacts {
    pub(crate) in_flight: bool,
    pub(crate) answered_at: Option<Instant>,
    pub(crate) passed: bool,
    pub(crate) failing: bool,
    pub(crate) passes: u32,
    pub(crate) failures: u32,
}

/// What was said to the supervisor.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) shutdown: bool,
    pub(crate) shutdown_at: Option<Instant>,
    pub(crate) asked_to_halt: u32,
    pub(crate) goals: BTreeMap<Name, Goal>,
    pub(crate) open: BTreeMap<RequestId, (Verb, BTreeSet<Name>)>,
    pub(crate) others: BTreeSet<RequestId>,
    pub(crate) held_until: Option<Instant>,
    pub(crate) last_reset: Option<Instant>,
}

impl Facts {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            invocation: 0,
            behaviour: 0,
            spawned_at: now,
            began: now,
            main: None,
            said_ready: false,
            said_stopping: false,
            satisfied: false,
            skipped: false,
            spawn_failed: None,
            exit: None,
            command_failed: None,
            signalled: false,
            probes: BTreeMap::new(),
            pinged: None,
            triggered: false,
            extended_until: None,
            ready_since: None,
            ready_for: Duration::ZERO,
            disturbed: false,
            term: None,
            post_commands: false,
            stop_command: None,
            concerned: false,
            afresh: false,
            starts: vec![],
            last_wait: None,
            announced: None,
        }
    }

    /// A new run: what was true of the one before is not of this one, except that it was a stable one.
    pub(crate) fn begin(&mut self, now: Instant, invocation: Invocation) {
        let stable = self.ready_for >= secs(10);
        let starts = if self.afresh { vec![] } else { std::mem::take(&mut self.starts) };
        *self = Self {
            invocation,
            starts,
            last_wait: self.last_wait.filter(|_| !stable && !self.afresh),
            announced: self.announced,
            ..Self::new(now)
        };
    }
}

impl World<'_> {
    pub(crate) fn held(&self) -> bool {
        self.told.held_until.is_some_and(|until| self.now < until)
    }

    /// Takes down what an event says, before the supervisor hears of it.
    pub(crate) fn note(&mut self, event: &Event, before: &Status) {
        let late = self
            .supervisor
            .next_deadline()
            .is_some_and(|(due, _, _)| self.now.saturating_duration_since(due) > LATE);
        if late || matches!(event, Event::Resumed { .. }) {
            self.told.held_until = Some(self.now + HOLD);
            for facts in self.facts.values_mut() {
                facts.starts.clear();
                for probe in facts.probes.values_mut() {
                    (probe.passes, probe.failures) = (0, 0);
                }
            }
        }
        match event {
            Event::Request(request) => self.note_request(request, before),
            Event::Configure { config, request } => {
                self.told.others.insert(*request);
                self.disturb();
                let (now, known) = (
                    self.now,
                    before
                        .units
                        .iter()
                        .filter(|u| !u.removed)
                        .map(|u| &u.spec.name)
                        .collect::<BTreeSet<_>>(),
                );
                for unit in config.units.iter().filter(|_| !self.told.shutdown) {
                    self.facts.entry(unit.name.clone()).or_insert_with(|| Facts::new(now));
                    if !known.contains(&unit.name) {
                        self.told.goals.insert(unit.name.clone(), Goal::Up);
                    }
                }
            }
            Event::WatchChanged { .. } | Event::RetryChanged { .. } => self.disturb(),
            Event::Shutdown { request, .. } => {
                self.told.others.insert(*request);
                self.told.asked_to_halt += 1;
                self.told.shutdown = true;
                self.told.shutdown_at.get_or_insert(self.now);
            }
            Event::Spawned {
                unit,
                invocation,
                stage: Stage::Main,
                pid,
                ..
            } => self.of_run(unit, *invocation, |facts, _| facts.main = Some(*pid)),
            Event::SpawnFailed {
                unit,
                invocation,
                error,
                stage,
            } => {
                let starting = matches!(stage, Stage::Main | Stage::StartPre(_) | Stage::StartPost(_));
                self.of_run(unit, *invocation, |facts, _| {
                    facts.spawn_failed = facts.spawn_failed.or(starting.then_some(error.temporary))
                });
            }
            Event::Satisfied { unit, invocation } => self.of_run(unit, *invocation, |facts, _| facts.satisfied = true),
            Event::Skipped { unit, invocation, .. } => self.of_run(unit, *invocation, |facts, _| facts.skipped = true),
            Event::Exited {
                unit,
                invocation,
                stage,
                pid,
                status,
                ..
            } => self.of_run(unit, *invocation, |facts, _| match stage {
                Stage::Main if facts.main == Some(*pid) => {
                    facts.exit = Some((*status, facts.signalled));
                    facts.main = None;
                }
                Stage::StartPre(_) | Stage::StartPost(_) if *status != ExitStatus::Code(0) && !facts.signalled => {
                    facts.command_failed = Some(*status);
                }
                _ => {}
            }),
            Event::Notified { unit, invocation, notice } => self.of_run(unit, *invocation, |facts, now| match notice {
                Notice::Ready => facts.said_ready |= facts.main.is_some(),
                Notice::Stopping => facts.said_stopping = true,
                Notice::Watchdog => facts.pinged = Some(now),
                Notice::WatchdogTrigger => facts.triggered |= before.unit(unit.as_str()).is_some_and(|unit| unit.sub_state == "running"),
                Notice::ExtendTimeout(by) => {
                    facts.extended_until = facts.extended_until.max(Some(now + *by));
                    if let Some(term) = &mut facts.term {
                        term.extended_until = term.extended_until.max(Some(now + *by));
                    }
                }
                _ => {}
            }),
            Event::Probed {
                unit,
                invocation,
                kind,
                result,
            } => self.note_answer(unit, *invocation, *kind, result.passed, before),
            Event::Emptied { unit, invocation, .. } => self.of_run(unit, *invocation, |facts, _| facts.term = None),
            Event::Spawned { .. } | Event::Resumed { .. } | Event::Deadline => {}
        }
    }

    fn of_run(&mut self, unit: &Name, invocation: Invocation, act: impl FnOnce(&mut Facts, Instant)) {
        let now = self.now;
        if let Some(facts) = self.facts.get_mut(unit).filter(|facts| facts.invocation == invocation) {
            act(facts, now);
        }
    }

    fn note_answer(&mut self, unit: &Name, invocation: Invocation, kind: ProbeKind, passed: bool, before: &Status) {
        let held = self.held();
        let Some(spec) = before.unit(unit.as_str()).and_then(|unit| unit.spec.probes.get(&kind).cloned()) else {
            return;
        };
        self.of_run(unit, invocation, |facts, now| {
            let probe = facts.probes.entry(kind).or_default();
            if !std::mem::take(&mut probe.in_flight) {
                return;
            }
            probe.answered_at = Some(now);
            if passed {
                (probe.passes, probe.failures) = (probe.passes + 1, 0);
            } else if !held {
                (probe.passes, probe.failures) = (0, probe.failures + 1);
            }
            if probe.passes >= spec.success_threshold {
                (probe.passed, probe.failing) = (true, false);
            }
            if probe.passed && probe.failures >= spec.failure_threshold {
                probe.failing = true;
            }
        });
    }

    /// Something from outside that resets what was counted.
    fn disturb(&mut self) {
        self.told.last_reset = Some(self.now);
        for facts in self.facts.values_mut() {
            facts.disturbed = true;
            facts.last_wait = None;
            facts.starts.clear();
        }
    }

    fn note_request(&mut self, request: &Request, before: &Status) {
        let closure = |names: &[String], next: &dyn Fn(&Unit, &Unit) -> bool| {
            let mut reached: BTreeSet<Name> = names.iter().map(|n| name(n)).collect();
            while let Some(more) = before.units.iter().find(|unit| {
                !reached.contains(&unit.spec.name)
                    && before
                        .units
                        .iter()
                        .any(|from| reached.contains(&from.spec.name) && next(&from.spec, &unit.spec))
            }) {
                reached.insert(more.spec.name.clone());
            }
            reached
        };
        let pulls = |from: &Unit, to: &Unit| {
            [&from.requires, &from.binds_to, &from.wants]
                .iter()
                .any(|list| list.contains(&to.name))
        };
        let drags = |from: &Unit, to: &Unit| {
            [&to.requires, &to.binds_to, &to.part_of]
                .iter()
                .any(|list| list.contains(&from.name))
        };
        let concerned = match &request.verb {
            Verb::Start(names) | Verb::Restart(names) if !self.told.shutdown => {
                self.disturb();
                for unit in closure(names, &pulls) {
                    self.told.goals.insert(unit, Goal::Up);
                }
                names.iter().map(|n| name(n)).collect()
            }
            Verb::Stop(names) => {
                let all = closure(names, &drags);
                for unit in &all {
                    self.told.goals.insert(unit.clone(), Goal::Down);
                    self.facts.get_mut(unit).expect("known").disturbed = true;
                }
                all
            }
            Verb::Wait(names) => names.iter().map(|n| name(n)).collect(),
            _ => BTreeSet::new(),
        };
        self.told.open.insert(request.id, (request.verb.clone(), concerned));
    }
}
