//! Content that changed: `watch` runs or restarts again, `retry_on_change` starts again what waits or has failed. Neither ever touches a
//! unit that is not wanted.

use super::action::{Action, Target};
use super::graph::Id;
use super::machine::Supervisor;
use super::restart;
use super::state::{Goal, State, Step};
use crate::unit::Name;

impl Supervisor {
    /// The content that a unit watches differs from what its last successful run saw.
    pub(super) fn watch_changed(&mut self, unit: &Name, path: String) {
        let Some(id) = self.wanted(unit) else { return };
        let node = &mut self.nodes[id];
        let oneshot = restart::oneshot(&node.spec);
        match &mut node.state {
            // What it reads is hashed again when it succeeds; if it fails, the change is reason enough to try again at once.
            State::Starting(_) | State::Stopping(_) if oneshot && node.cycle.is_none() => node.changed = Some(path),
            State::Inactive | State::Skipped if oneshot => return,
            State::Done { .. } | State::Backoff { .. } | State::Failed | State::Ended if oneshot => {
                node.absolve();
                node.rerun = Some(path);
                node.state = State::Inactive;
            }
            State::Starting(_) | State::Stopping(_) | State::Inactive | State::Skipped | State::Done { .. } if oneshot => return,
            State::Running(run) if node.spec.reload_signal.is_some() && run.reload.is_none() => {
                let signal = node.spec.reload_signal.unwrap_or_default();
                self.turn.signal(unit, node.invocation, Target::Main, signal);
                self.turn.actions.push(Action::TakeHashes { unit: unit.clone() });
            }
            State::Inactive | State::Skipped | State::Stopping(_) => return,
            State::Backoff { .. } | State::Failed | State::Ended | State::Done { .. } => node.absolve(),
            State::Starting(start) if start.step == Step::Spawn => return,
            State::Starting(_) | State::Running(_) => {
                let parts = self.graph.closure(&[id], |edges| edges.parts.clone());
                return self.cycle(&parts, &format!("{path} changed"));
            }
        }
        self.changed(id);
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
