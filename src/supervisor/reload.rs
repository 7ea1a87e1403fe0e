//! A new configuration: the difference to the one in force, applied.

use super::action::{Action, Outcome};
use super::event::RequestId;
use super::graph::Id;
use super::machine::Supervisor;
use super::node::Node;
use super::requests::Kind;
use super::state::{Goal, State, Step, Watchdog};
use super::turn::later;
use crate::ordered::IntoMap;
use crate::unit::{Config, Name, Unit};
use std::sync::Arc;

/// What a unit's new section asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// It is the same.
    None,
    /// It holds for the run that is going on.
    Live,
    /// It takes another run.
    Restart,
}

/// Compares two specs of a unit. Description, `optional`, probes, restart policy, start limit, timeouts and resource limits apply live;
/// anything else takes a restart.
pub(super) fn difference(old: &Unit, new: &Unit) -> Difference {
    if old == new {
        return Difference::None;
    }
    let Unit {
        description,
        optional,
        probes,
        restart,
        restart_delay,
        restart_max_delay,
        restart_steps,
        start_limit_burst,
        start_limit_interval,
        start_limit_action,
        success_exit_status,
        restart_prevent_exit_status,
        start_timeout,
        stop_timeout,
        runtime_max,
        watchdog,
        limits,
        ..
    } = new.clone();
    let live = Unit {
        description,
        optional,
        probes,
        restart,
        restart_delay,
        restart_max_delay,
        restart_steps,
        start_limit_burst,
        start_limit_interval,
        start_limit_action,
        success_exit_status,
        restart_prevent_exit_status,
        start_timeout,
        stop_timeout,
        runtime_max,
        watchdog,
        limits,
        ..old.clone()
    };
    if live == *new { Difference::Live } else { Difference::Restart }
}

/// What a new configuration means for those units that are wanted.
struct Replaced {
    /// New or changed.
    concerned: Vec<Name>,
    /// They have to be restarted for it.
    restart: Vec<Name>,
    /// They were to go, and are there again before they went.
    returned: Vec<Name>,
}

impl Supervisor {
    /// A new configuration. Stopped by hand stays stopped.
    pub(super) fn configure(&mut self, config: Arc<Config>, request: RequestId) {
        if let Some(refusal) = self.refuses(&config) {
            return self.reply(request, refusal);
        }
        self.turn.actions.push(Action::Configured(config.clone()));
        self.config = Some(config.clone());
        let Replaced {
            concerned,
            restart,
            returned,
        } = self.replace(&config);
        self.rebuild();
        for id in 0..self.nodes.len() {
            if returned.contains(&self.nodes[id].spec.name) {
                self.wanted_again(id);
            }
            self.changed(id);
        }
        let ids: Vec<Id> = restart.iter().filter_map(|name| self.graph.ids.get(name).copied()).collect();
        let parts = self.graph.closure(&ids, |edges| edges.parts.clone());
        self.cycle(&parts, "its config changed");
        let wanted = concerned.into_iter().filter_map(|name| {
            let node = &self.nodes[*self.graph.ids.get(&name)?];
            Some((name, node.invocation + u64::from(node.cycle.is_some())))
        });
        let wanted = wanted.collect();
        self.wait(request, Kind::Started, Some(wanted));
    }

    fn refuses(&self, new: &Config) -> Option<Outcome> {
        if self.shutdown.is_some() {
            return Some(Outcome::Cancelled("the supervisor shuts down".into()));
        }
        let old = self.config.as_ref()?;
        let hint = "`sandkeep down` first, then `up`";
        if old.root != new.root {
            let (from, to) = (old.root.display(), new.root.display());
            return Some(Outcome::Refused(format!("`root` changed from {from} to {to}: {hint}")));
        }
        if old.project_id != new.project_id {
            return Some(Outcome::Refused(format!(
                "`id` changed from `{}` to `{}`: {hint}",
                old.project_id, new.project_id
            )));
        }
        None
    }

    /// Puts the new units in the place of the old ones.
    fn replace(&mut self, config: &Config) -> Replaced {
        let now = self.turn.now;
        let mut old = std::mem::take(&mut self.nodes)
            .into_iter()
            .map(|n| (n.spec.name.clone(), n))
            .into_map();
        let (mut concerned, mut restart, mut returned) = (Vec::new(), Vec::new(), Vec::new());
        for unit in &config.units {
            let Some(mut node) = old.remove(&unit.name) else {
                concerned.push(unit.name.clone());
                let mut node = Node::new(Arc::clone(unit), now);
                node.invocation = self.retired.remove(&unit.name).unwrap_or_default();
                self.nodes.push(node);
                continue;
            };
            if std::mem::take(&mut node.removed) {
                node.goal = Goal::Up;
                returned.push(unit.name.clone());
            }
            let difference = node.adopt(unit, now);
            if difference != Difference::None && node.goal == Goal::Up {
                concerned.push(unit.name.clone());
            }
            if difference == Difference::Restart {
                restart.push(unit.name.clone());
            }
            self.nodes.push(node);
        }
        for mut node in old.into_values() {
            node.removed = true;
            self.nodes.push(node);
        }
        Replaced {
            concerned,
            restart,
            returned,
        }
    }
}

impl Node {
    /// Takes a new spec: at once where that is possible, else when this run is over.
    fn adopt(&mut self, new: &Arc<Unit>, now: std::time::Instant) -> Difference {
        let difference = difference(&self.spec, new);
        self.next_spec = None;
        match difference {
            Difference::None => {}
            Difference::Restart if self.state.alive() || matches!(self.state, State::Done { active: true }) => {
                self.next_spec = Some(Arc::clone(new));
            }
            Difference::Restart => {
                self.spec = Arc::clone(new);
                self.absolve();
            }
            Difference::Live => {
                let new = Arc::clone(new);
                match &mut self.state {
                    State::Starting(start) => {
                        if self.spec.start_timeout != new.start_timeout {
                            start.by = new.start_timeout.map(|limit| later(start.began, limit));
                        }
                        if start.step == Step::Probes {
                            start.probes.reconcile(&self.spec, &new, now, false);
                        }
                    }
                    State::Running(run) => {
                        if self.spec.runtime_max != new.runtime_max {
                            run.until = new.runtime_max.map(|limit| later(run.began, limit));
                        }
                        if self.spec.watchdog != new.watchdog {
                            run.watchdog = new.watchdog.map(|every| Watchdog {
                                every,
                                at: later(now, every),
                            });
                        }
                        run.probes.reconcile(&self.spec, &new, now, true);
                    }
                    State::Inactive
                    | State::Skipped
                    | State::Stopping(_)
                    | State::Backoff { .. }
                    | State::Done { .. }
                    | State::Ended
                    | State::Failed => {}
                }
                self.spec = new;
            }
        }
        difference
    }
}
