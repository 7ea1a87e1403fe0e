//! Moves every unit towards its goal until none can move. Each unit looks at itself and at the faces of its neighbours alone, so that
//! the order in which they are looked at does not decide where it ends.

use super::action::{Action, Transition};
use super::graph::Id;
use super::machine::Supervisor;
use super::state::{End, Face, Hope, State};
use crate::unit::{Name, Unit};
use std::time::Duration;

impl Supervisor {
    /// Until nothing moves, or the table is to be made again before anything may.
    pub(super) fn settle(&mut self) {
        while !self.stale_graph
            && let Some(id) = self.dirty.pop_first()
        {
            self.look_around(id);
            while self.advance(id) && !self.stale_graph {
                self.refresh(id);
            }
            self.refresh(id);
        }
    }

    /// What its neighbours mean for it.
    pub(super) fn look_around(&mut self, id: Id) {
        let edges = self.graph.of(id);
        let face = |dep: &Id| self.nodes[*dep].face;
        let required = edges
            .requires
            .iter()
            .map(|dep| (dep, false))
            .chain(edges.binds_to.iter().map(|dep| (dep, true)));
        let blocked = required
            .filter_map(|(dep, bound)| match face(dep) {
                Face {
                    hope: Hope::Some,
                    skipped: true,
                    ..
                } if bound => Some((*dep, Hope::Absent)),
                Face {
                    hope: Hope::Some,
                    ready: true,
                    active: false,
                    ..
                } if bound => Some((*dep, Hope::Absent)),
                Face { hope: Hope::Some, .. } => None,
                Face { hope, .. } => Some((*dep, hope)),
            })
            .max_by_key(|(dep, hope)| (*hope == Hope::Failed, std::cmp::Reverse(*dep)));
        let lives = self.nodes[id].state.alive() || matches!(self.nodes[id].state, State::Done { active: true });
        let unbound = edges.binds_to.iter().find(|dep| lives && !face(dep).active).copied();
        let node = &mut self.nodes[id];
        node.blocked = blocked;
        node.unbound = unbound;
    }

    /// Why a unit waits, where what it requires will not come by itself.
    pub(super) fn explain(&self, id: Id) -> Option<String> {
        let node = &self.nodes[id];
        let waits = matches!(node.state, State::Inactive) && node.must_stop(&self.turn).is_none();
        node.blocked.filter(|_| waits).map(|(dep, hope)| self.blocked_by(dep, hope))
    }

    /// `requires install, which failed: exit code 1`.
    fn blocked_by(&self, dep: Id, hope: Hope) -> String {
        let node = &self.nodes[dep];
        let name = &node.spec.name;
        match hope {
            Hope::Failed if node.blocked.is_some() => format!("requires {name}, which cannot start: {}", node.reason),
            Hope::Failed => format!("requires {name}, which failed: {}", node.reason),
            Hope::Absent | Hope::Some => format!("requires {name}, which is {}", self.absence(dep)),
        }
    }

    fn absence(&self, id: Id) -> &'static str {
        let node = &self.nodes[id];
        match node.state {
            State::Ended => "not running: it has ended",
            State::Skipped => "skipped",
            State::Done { .. } => "not active: it does not remain after exit",
            State::Inactive if node.blocked.is_some() => "waiting itself",
            State::Inactive | State::Starting(_) | State::Running(_) | State::Stopping(_) | State::Backoff { .. } | State::Failed => {
                "stopped"
            }
        }
    }

    /// One move, if it has one to make.
    fn advance(&mut self, id: Id) -> bool {
        let unbound = self.nodes[id]
            .unbound
            .map(|dep| format!("bound to {}, which is not active", self.nodes[dep].spec.name));
        match self.nodes[id].must_stop(&self.turn).or(unbound) {
            Some(why) => self.retreat(id, why),
            None => matches!(self.nodes[id].state, State::Inactive) && self.may_start(id) && self.begin(id),
        }
    }

    fn begin(&mut self, id: Id) -> bool {
        self.nodes[id].start(&mut self.turn);
        true
    }

    /// It must stop: begins to, once all that is ordered after it and has to stop too is down.
    fn retreat(&mut self, id: Id, why: String) -> bool {
        let node = &self.nodes[id];
        // A restart that is to come keeps its place in the order, unless nothing comes any more.
        let unwanted = node.cycle.is_none() || node.removed || self.turn.stopping();
        let rests = node.face.down && unwanted;
        if !rests && !self.followers_down(id) {
            return false;
        }
        let node = &mut self.nodes[id];
        match &mut node.state {
            State::Stopping(_) => return false,
            State::Starting(_) | State::Running(_) => node.begin_stop(&mut self.turn, Some(End::Asked(why)), true),
            State::Done { active: true } if !node.spec.exec_stop.is_empty() => {
                node.begin_stop(&mut self.turn, Some(End::Asked(why)), true);
            }
            State::Inactive if node.cycle.is_none() => return false,
            State::Failed | State::Skipped | State::Ended | State::Done { active: false } if self.turn.stopping() => return false,
            State::Inactive | State::Skipped | State::Backoff { .. } | State::Done { .. } | State::Ended | State::Failed => {
                node.state = State::Inactive;
                node.reason = why;
            }
        }
        self.after_stop(id);
        true
    }

    /// A unit that is down has stopped for whatever reason it had to, and takes the spec that waited for this.
    pub(super) fn after_stop(&mut self, id: Id) {
        let node = &mut self.nodes[id];
        if !matches!(node.state, State::Inactive) {
            return;
        }
        if node.cycle.take().is_some() {
            node.absolve();
        }
        if let Some(spec) = node.next_spec.take() {
            self.stale_graph |= !same_order(&node.spec, &spec);
            node.spec = spec;
        }
    }

    /// Whether all that has to stop before it is down.
    fn followers_down(&self, id: Id) -> bool {
        self.stops_before(id).next().is_none()
    }

    /// What is still up of all that is ordered after it and has to stop too.
    pub(super) fn stops_before(&self, id: Id) -> impl Iterator<Item = Id> {
        let up = |f: &Id| self.nodes[*f].face.leaving && !self.nodes[*f].face.down;
        self.graph.of(id).followers.iter().copied().filter(up)
    }

    /// Whether what it is ordered after allows it to start.
    fn may_start(&self, id: Id) -> bool {
        let edges = self.graph.of(id);
        let face = |dep: &Id| self.nodes[*dep].face;
        edges
            .requires
            .iter()
            .all(|dep| (face(dep).ready || face(dep).skipped) && !face(dep).leaving)
            && edges
                .binds_to
                .iter()
                .all(|dep| face(dep).ready && face(dep).active && !face(dep).leaving)
            && edges.after.iter().all(|dep| !face(dep).pending)
    }

    /// Brings a unit's face up to date: announces what others see, and has its neighbours look again.
    pub(super) fn refresh(&mut self, id: Id) {
        let node = &self.nodes[id];
        let face = node.look(&self.turn);
        let before = node.face;
        self.rearm(id);
        self.stale_status.insert(id);
        if face == before {
            return;
        }
        self.hopeless = self.hopeless + usize::from(face.hope != Hope::Some) - usize::from(before.hope != Hope::Some);
        let explained = self.explain(id);
        let node = &mut self.nodes[id];
        node.face = face;
        node.reason = explained.unwrap_or_else(|| std::mem::take(&mut node.reason));
        if (face.state, face.sub_state) != (before.state, before.sub_state) {
            node.since = self.turn.now;
        }
        if (face.state, face.sub_state, face.ready) != (before.state, before.sub_state, before.ready) {
            self.turn.actions.push(Action::Announce(Transition {
                unit: node.spec.name.clone(),
                invocation: node.invocation,
                from: before.sub_state,
                state: face.state,
                to: face.sub_state,
                ready: face.ready,
                reason: node.reason.clone(),
            }));
        }
        self.dirty.insert(id);
        let edges = self.graph.of(id);
        self.dirty.extend(edges.followers.iter().copied());
        self.dirty
            .extend([&edges.requires, &edges.binds_to, &edges.after].into_iter().flatten().copied());
        self.stale_graph |= node.forgettable();
    }

    /// For each unit the longest chain of stops that is to follow its own, and whether one in it drains.
    pub(super) fn reserve(&mut self) {
        for id in 0..self.nodes.len() {
            let edges = self.graph.of(id);
            let before = [&edges.requires, &edges.binds_to, &edges.after].into_iter().flatten();
            let later = before.map(|&dep| &self.nodes[dep]).filter(|node| !node.face.down).map(|node| {
                let drains = node.reserve.1 || node.spec.drain_signal.is_some();
                (node.stop_span().saturating_add(node.reserve.0), drains)
            });
            let reserve = later.fold((Duration::ZERO, false), |all, one| (all.0.max(one.0), all.1 || one.1));
            self.nodes[id].reserve = reserve;
        }
    }
}

/// Whether two specs of a unit have the same edges.
fn same_order(a: &Unit, b: &Unit) -> bool {
    fn edges(unit: &Unit) -> [&Vec<Name>; 5] {
        [&unit.requires, &unit.wants, &unit.binds_to, &unit.after, &unit.part_of]
    }
    edges(a) == edges(b)
}
