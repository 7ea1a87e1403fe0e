//! The supervisor itself: what happened goes in, what is to be done comes out.

use super::action::{Action, Outcome};
use super::deadline::Timer;
use super::event::{Event, Invocation, RequestId};
use super::graph::{Graph, Id};
use super::node::Node;
use super::requests::Pending;
use super::state::{Hope, State};
use super::status::UnitStatus;
use super::turn::{News, Turn, later};
use crate::unit::{Config, Name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a pause of the machine: how long watchdogs, probe failures and the start limit are held.
pub const HOLD: Duration = Duration::from_secs(10);

/// A deadline that is missed by more than this was missed because the machine, or the supervisor, stood still.
pub const LATE: Duration = Duration::from_secs(5);

/// Decides everything, does nothing.
///
/// [`step`](Self::step) is called with each thing that happens, and no later than [`next_deadline`](Self::next_deadline) with
/// [`Event::Deadline`]; its actions are performed in order. After [`Action::Halt`] it answers nothing any more.
#[derive(Clone, Debug)]
pub struct Supervisor {
    pub(super) config: Option<Arc<Config>>,
    pub(super) nodes: Vec<Node>,
    pub(super) graph: Graph,
    pub(super) turn: Turn,
    /// Units to look at again.
    pub(super) dirty: BTreeSet<Id>,
    deadlines: BTreeSet<(Instant, Id)>,
    pub(super) armed: Vec<Option<Instant>>,
    /// Units whose part of the status is to be made again, and what was made.
    pub(super) stale_status: BTreeSet<Id>,
    pub(super) status_cache: Vec<Arc<UnitStatus>>,
    /// The units or their edges changed: the table is to be made again.
    pub(super) stale_graph: bool,
    pub(super) pending: Vec<Pending>,
    pub(super) shutdown: Option<Shutdown>,
    /// The last run of each unit that was forgotten: should it come back, its runs go on being told apart.
    pub(super) retired: BTreeMap<Name, Invocation>,
    /// How many units are not going to be ready by themselves.
    pub(super) hopeless: usize,
    /// The drain deadline of a shutdown that a unit's `start_limit_action` begins, unless the config names one.
    pub(super) budget: Duration,
    pub(super) halted: bool,
}

/// A shutdown that goes on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Shutdown {
    /// Whether somebody asked for it; a unit's `start_limit_action` is nobody.
    asked: bool,
    waiting: Vec<RequestId>,
    culprit: Option<Name>,
}

impl Supervisor {
    /// A supervisor without units: the first [`Event::Configure`] brings them. The same `seed` gives the same jitter.
    pub fn new(now: Instant, seed: u64) -> Self {
        Self {
            config: None,
            nodes: Vec::new(),
            graph: Graph::default(),
            turn: Turn::new(now, seed),
            dirty: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            armed: Vec::new(),
            stale_status: BTreeSet::new(),
            status_cache: Vec::new(),
            stale_graph: false,
            pending: Vec::new(),
            shutdown: None,
            retired: BTreeMap::new(),
            hopeless: 0,
            budget: Duration::from_secs(30),
            halted: false,
        }
    }

    /// The drain deadline of a shutdown that a unit's `start_limit_action` begins, where the config names none. 30 s unless set.
    pub fn with_budget(self, budget: Duration) -> Self {
        Self { budget, ..self }
    }

    /// Applies what happened, expires what is due, settles until nothing moves.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        if self.halted {
            return Vec::new();
        }
        let late = self
            .deadlines
            .first()
            .is_some_and(|(due, _)| now.saturating_duration_since(*due) > LATE);
        self.turn.now = now.max(self.turn.now);
        if late {
            self.hold();
        }
        self.apply(event);
        while self.stale_graph || !self.dirty.is_empty() || self.deadlines.first().is_some_and(|(at, _)| *at <= self.turn.now) {
            if self.stale_graph {
                self.rebuild();
            }
            self.expire();
            self.settle();
            self.pass_on();
        }
        self.answer();
        self.halt();
        std::mem::take(&mut self.turn.actions)
    }

    /// When `step` must be called next if nothing happens before, for which unit and why.
    pub fn next_deadline(&self) -> Option<(Instant, &Name, Timer)> {
        if self.halted {
            return None;
        }
        let &(at, id) = self.deadlines.first()?;
        let node = &self.nodes[id];
        let (_, timer) = node.deadline()?;
        Some((at, &node.spec.name, timer))
    }

    /// Whether [`Action::Halt`] has been given.
    pub fn halted(&self) -> bool {
        self.halted
    }

    /// Whether a shutdown has begun.
    pub fn shutting_down(&self) -> bool {
        self.shutdown.is_some()
    }

    /// What the jitter is made from.
    pub fn seed(&self) -> u64 {
        self.turn.seed
    }

    /// The drain deadline where the config names none.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// The configuration that is in force.
    pub fn config(&self) -> Option<&Arc<Config>> {
        self.config.as_ref()
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Request(request) => self.request(request),
            Event::Configure { config, request } => self.configure(config, request),
            Event::Shutdown { request, budget } => self.shut_down(request, budget),
            Event::Spawned {
                unit,
                invocation,
                stage,
                pid,
                warnings,
            } => {
                self.on(&unit, invocation, |node, turn| node.spawned(turn, stage, pid, warnings));
            }
            Event::SpawnFailed {
                unit,
                invocation,
                stage,
                error,
            } => {
                self.on(&unit, invocation, |node, turn| node.spawn_failed(turn, stage, error));
            }
            Event::Skipped { unit, invocation, reason } => self.on(&unit, invocation, |node, turn| node.skipped(turn, reason)),
            Event::Satisfied { unit, invocation } => self.on(&unit, invocation, Node::satisfied),
            Event::Exited {
                unit,
                invocation,
                stage,
                pid,
                status,
                oom,
            } => {
                self.on(&unit, invocation, |node, turn| node.exited(turn, stage, pid, status, oom));
            }
            Event::Emptied { unit, invocation, left } => self.on(&unit, invocation, |node, turn| node.emptied(turn, left)),
            Event::Notified { unit, invocation, notice } => self.on(&unit, invocation, |node, turn| node.noticed(turn, notice)),
            Event::Probed {
                unit,
                invocation,
                kind,
                result,
            } => {
                self.on(&unit, invocation, |node, turn| node.probed(turn, kind, result));
            }
            Event::WatchChanged { unit, path } => self.watch_changed(&unit, path),
            Event::RetryChanged { unit, path } => self.retry_changed(&unit, &path),
            Event::Resumed { away: _ } => self.hold(),
            Event::Deadline => {}
        }
    }

    /// Tells a unit what happened to this run of it; news of an earlier run, or of a unit that is gone, is dropped.
    fn on(&mut self, unit: &Name, invocation: Invocation, act: impl FnOnce(&mut Node, &mut Turn)) {
        let Some(&id) = self.graph.ids.get(unit) else { return };
        if self.nodes[id].invocation == invocation {
            act(&mut self.nodes[id], &mut self.turn);
            self.changed(id);
        }
    }

    /// A unit changed: its stop may be over, its neighbours may have to move.
    pub(super) fn changed(&mut self, id: Id) {
        self.after_stop(id);
        self.dirty.insert(id);
        self.refresh(id);
    }

    fn expire(&mut self) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= self.turn.now
        {
            self.nodes[id].expire(&mut self.turn);
            self.changed(id);
        }
    }

    /// Keeps the deadline of a unit in the order of all.
    pub(super) fn rearm(&mut self, id: Id) {
        let at = self.nodes[id].deadline().map(|(at, _)| at);
        let before = std::mem::replace(&mut self.armed[id], at);
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, id));
        }
        if let Some(at) = at {
            self.deadlines.insert((at, id));
        }
    }

    /// Carries what units did to those whom it concerns.
    fn pass_on(&mut self) {
        for (unit, news) in std::mem::take(&mut self.turn.news) {
            match news {
                News::RerunSucceeded => self.rerun_succeeded(&unit),
                News::ShutDown => self.give_up(unit),
                News::Reloaded(failure) => self.reloaded(&unit, failure),
            }
        }
    }

    /// The machine was paused.
    fn hold(&mut self) {
        self.turn.held_until = Some(later(self.turn.now, HOLD));
        for id in 0..self.nodes.len() {
            self.nodes[id].resumed(&self.turn);
            self.refresh(id);
        }
    }

    /// Makes the table again: removed units that are down are forgotten, and edges follow the specs.
    pub(super) fn rebuild(&mut self) {
        self.stale_graph = false;
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.nodes).into_iter().partition(Node::forgettable);
        self.retired
            .extend(gone.into_iter().map(|node| (node.spec.name.clone(), node.invocation)));
        self.nodes = kept;
        self.nodes.shrink_to_fit();
        self.graph = Graph::new(&self.nodes);
        self.deadlines.clear();
        self.dirty.clear();
        self.armed = vec![None; self.nodes.len()];
        self.status_cache.clear();
        self.stale_status.clear();
        self.hopeless = self.nodes.iter().filter(|node| node.face.hope != Hope::Some).count();
        for id in 0..self.nodes.len() {
            self.look_around(id);
            self.dirty.insert(id);
            self.refresh(id);
        }
    }

    fn shut_down(&mut self, request: RequestId, budget: Duration) {
        let again = self.shutdown.as_ref().is_some_and(|shutdown| shutdown.asked);
        let drain_by = later(self.turn.now, budget);
        let begun = self
            .turn
            .drain_by
            .replace(self.turn.drain_by.map_or(drain_by, |by| by.min(drain_by)))
            .is_some();
        let shutdown = self.shutdown.get_or_insert_default();
        shutdown.asked = true;
        shutdown.waiting.extend((request != 0).then_some(request));
        self.turn.hurry |= again;
        self.stop_everything(begun);
    }

    /// A unit's `start_limit_action` shuts down.
    fn give_up(&mut self, culprit: Name) {
        if self.shutdown.is_some() {
            return;
        }
        let budget = self
            .config
            .as_ref()
            .and_then(|config| config.shutdown_budget)
            .unwrap_or(self.budget);
        self.turn.drain_by = Some(later(self.turn.now, budget));
        self.shutdown = Some(Shutdown {
            culprit: Some(culprit),
            ..Shutdown::default()
        });
        self.stop_everything(false);
    }

    /// Everything is to stop: those that drain are told at once, those that already stop get no more grace than there is.
    fn stop_everything(&mut self, begun: bool) {
        if !begun {
            self.cancel_all("the supervisor shuts down");
        }
        self.reserve();
        for id in 0..self.nodes.len() {
            let node = &mut self.nodes[id];
            let running = matches!(node.state, State::Starting(_) | State::Running(_)) && node.state.main().is_some();
            if let (false, true, Some(signal)) = (begun, running, node.spec.drain_signal) {
                self.turn
                    .signal(&node.spec.name, node.invocation, super::action::Target::Main, signal);
            }
            node.hasten(&mut self.turn);
            self.changed(id);
        }
        if self.turn.hurry {
            self.kill_everything();
        }
    }

    /// No more order and no more grace.
    fn kill_everything(&mut self) {
        for id in 0..self.nodes.len() {
            let node = &mut self.nodes[id];
            if matches!(node.state, State::Starting(_) | State::Running(_)) {
                node.begin_stop(&mut self.turn, Some(super::state::End::Asked("shutdown, in a hurry".into())), false);
                self.changed(id);
            }
        }
    }

    /// When everything is down: the last answers, then nothing more.
    fn halt(&mut self) {
        let Some(shutdown) = &self.shutdown else { return };
        if self.nodes.iter().any(|node| !node.face.down) {
            return;
        }
        let left: Vec<_> = self.nodes.iter().filter(|node| !node.left.is_empty()).collect();
        let left: Vec<_> = left
            .iter()
            .map(|node| (node.spec.name.clone(), format!("not ended: {}", node.left.join(", "))))
            .collect();
        let outcome = if left.is_empty() { Outcome::Done } else { Outcome::Failed(left) };
        for &request in &shutdown.waiting {
            self.turn.actions.push(Action::Reply {
                request,
                outcome: outcome.clone(),
            });
        }
        let culprit = shutdown.culprit.as_ref().map(|name| {
            let node = self.graph.ids.get(name).map(|&id| &self.nodes[id]);
            (
                name.clone(),
                node.and_then(|node| node.last_exit.as_ref()).and_then(|last| last.code),
            )
        });
        self.turn.actions.push(Action::Halt {
            code: u8::from(culprit.is_some()),
            culprit,
        });
        self.halted = true;
    }
}
