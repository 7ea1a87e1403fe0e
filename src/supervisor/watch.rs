//! Content that changed: `watch` runs or restarts again, `retry_on_change` starts again what waits or has failed. Neither ever touches a
//! unit that is not wanted.

use super::action::{Action, Target};
use super::graph::Id;
use super::machine::Supervisor;
use super::node::Node;
use super::restart;
use super::state::{Goal, State, Step};
use crate::unit::Name;

impl Supervisor {
    /// The content that a unit watches differs from what its last successful run saw.
    pub(super) fn watch_changed(&mut self, unit: &Name, path: String) {
        let Some(id) = self.wanted(unit) else { return };
        if restart::oneshot(&self.nodes[id].spec) {
            self.nodes[id].run_again(path);
            self.changed(id);
        } else {
            self.restart_for(id, &path);
        }
    }

    /// A service that watches: reloads if it knows how to, else restarts with what is part of it.
    fn restart_for(&mut self, id: Id, path: &str) {
        let node = &mut self.nodes[id];
        match &node.state {
            State::Running(_) if node.spec.reload_signal.is_some() => {
                let signal = node.spec.reload_signal.unwrap_or_default();
                let unit = node.spec.name.clone();
                self.turn.signal(&unit, node.invocation, Target::Main, signal);
                self.turn.actions.push(Action::TakeHashes { unit });
            }
            State::Starting(start) if matches!(start.step, Step::Pre { .. } | Step::Spawn) => {}
            State::Starting(_) | State::Running(_) => {
                let parts = self.graph.closure(&[id], |edges| edges.parts.clone());
                self.cycle(&parts, &format!("{path} changed"));
            }
            State::Backoff { .. } | State::Failed | State::Ended | State::Done { .. } => {
                node.absolve();
                node.reason = format!("{path} changed");
                self.changed(id);
            }
            // It starts with the content as it is then.
            State::Inactive | State::Skipped | State::Stopping(_) => {}
        }
    }

    /// A rerun that `watch` had asked for succeeded: what is part of it restarts.
    pub(super) fn rerun_succeeded(&mut self, unit: &Name) {
        let Some(id) = self.wanted(unit) else { return };
        let mut parts = self.graph.closure(&[id], |edges| edges.parts.clone());
        parts.retain(|&part| part != id);
        self.cycle(&parts, &format!("{unit} ran again"));
    }

    /// The content that may have made a unit fail changed.
    pub(super) fn retry_changed(&mut self, unit: &Name, path: &str) {
        let Some(id) = self.wanted(unit) else { return };
        let node = &mut self.nodes[id];
        if matches!(node.state, State::Backoff { .. } | State::Failed) {
            node.absolve();
            node.reason = format!("{path} changed");
            self.changed(id);
        }
    }

    /// A unit that is to run.
    fn wanted(&self, unit: &Name) -> Option<Id> {
        let id = *self.graph.ids.get(unit)?;
        let node = &self.nodes[id];
        (node.goal == Goal::Up && !node.removed && self.shutdown.is_none()).then_some(id)
    }
}

impl Node {
    /// A oneshot whose content changed runs again; once more at most, since what it reads is hashed when it succeeds.
    fn run_again(&mut self, path: String) {
        match self.state {
            State::Starting(_) | State::Stopping(_) => self.changed = Some(path),
            State::Done { .. } | State::Backoff { .. } | State::Failed | State::Ended => {
                self.absolve();
                self.reason = format!("{path} changed");
                self.rerun = Some(path);
                self.state = State::Inactive;
            }
            State::Inactive | State::Skipped | State::Running(_) => {}
        }
    }
}
