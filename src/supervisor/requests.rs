//! Clients that ask: what each verb sets in motion, and when its outcome is known. Nobody is left waiting: a later request that decides
//! otherwise, a reload that drops the unit, and a shutdown each answer.

use super::action::{Action, Outcome, Target};
use super::event::{Invocation, Request, RequestId, Verb};
use super::graph::Id;
use super::machine::Supervisor;
use super::restart;
use super::state::{Goal, Hope, Reload, State, human};
use crate::unit::Name;
use serde::{Deserialize, Serialize};

/// A client that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Pending {
    id: RequestId,
    kind: Kind,
    /// What it waits for; `None`: all required units.
    units: Option<Vec<(Name, Invocation)>>,
    failed: Vec<(Name, String)>,
    /// The unit at which the last look ended: still not ready, it is all that has to be looked at.
    #[serde(skip)]
    hint: Id,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Each was ready once in the run given or a later one.
    Started,
    /// Nothing is left of them.
    Stopped,
    /// All are ready at the same time.
    Ready,
    /// `exec_reload` is over.
    Reloaded,
}

/// What is known of one unit.
enum Known {
    NotYet,
    Yes,
    No(String),
}

impl Supervisor {
    /// A client asks.
    pub(super) fn request(&mut self, request: Request) {
        let Request { id, verb } = request;
        let names = match &verb {
            Verb::Start(names) | Verb::Stop(names) | Verb::Restart(names) | Verb::Reload(names) | Verb::Wait(names) => names.clone(),
            Verb::Kill { unit, .. } => vec![unit.clone()],
        };
        let units = match self.find(&names) {
            Ok(units) => units,
            Err(unknown) => return self.reply(id, Outcome::NoSuchUnit(unknown)),
        };
        let starts = matches!(verb, Verb::Start(_) | Verb::Restart(_) | Verb::Reload(_) | Verb::Wait(_));
        if self.shutdown.is_some() && starts {
            return self.reply(id, Outcome::Cancelled("the supervisor shuts down".into()));
        }
        match verb {
            Verb::Start(_) => self.start_units(id, &units),
            Verb::Stop(_) => self.stop_units(id, &units),
            Verb::Restart(_) => self.restart_units(id, &units),
            Verb::Reload(_) => self.reload_units(id, &units),
            Verb::Kill { signal, .. } => self.kill_units(id, &units, signal),
            Verb::Wait(_) => {
                let units = (!units.is_empty()).then(|| units.iter().map(|&unit| (self.name(unit), 0)).collect());
                self.wait(id, Kind::Ready, units);
            }
        }
    }

    fn find(&self, names: &[String]) -> Result<Vec<Id>, String> {
        names
            .iter()
            .map(|name| self.graph.ids.get(name.as_str()).copied().ok_or_else(|| name.clone()))
            .collect()
    }

    fn name(&self, id: Id) -> Name {
        self.nodes[id].spec.name.clone()
    }

    pub(super) fn reply(&mut self, request: RequestId, outcome: Outcome) {
        if request != 0 {
            self.turn.actions.push(Action::Reply { request, outcome });
        }
    }

    pub(super) fn wait(&mut self, id: RequestId, kind: Kind, units: Option<Vec<(Name, Invocation)>>) {
        if id != 0 {
            self.pending.push(Pending {
                id,
                kind,
                units,
                failed: Vec::new(),
                hint: 0,
            });
        }
    }

    fn start_units(&mut self, request: RequestId, units: &[Id]) {
        let pulled = self
            .graph
            .closure(units, |edges| [&edges.requires[..], &edges.binds_to[..], &edges.wants[..]].concat());
        self.cancel(&pulled, &[Kind::Stopped], "started by a later request");
        let wanted = units.iter().map(|&id| (self.name(id), self.run_to_come(id))).collect();
        for &id in &pulled {
            let node = &mut self.nodes[id];
            let returns = std::mem::replace(&mut node.goal, Goal::Up) == Goal::Down;
            let named = units.contains(&id);
            let rests = matches!(node.state, State::Backoff { .. } | State::Failed | State::Ended);
            if named || rests {
                node.absolve();
            }
            // It is at the end of a run, which its policy may follow with none.
            if named && matches!(node.state, State::Stopping(_)) {
                node.cycle = Some("started by request".into());
            }
            if returns {
                self.wanted_again(id);
            }
            self.changed(id);
        }
        self.wait(request, Kind::Started, Some(wanted));
    }

    /// A unit that was to stop, and did not yet, is wanted after all: it restarts with what it depends on, where that is about to.
    pub(super) fn wanted_again(&mut self, id: Id) {
        let edges = self.graph.of(id);
        let restarts = |dep: &Id| self.nodes[*dep].cycle.clone();
        let why = edges.requires.iter().chain(&edges.binds_to).find_map(restarts);
        let node = &mut self.nodes[id];
        if node.state.alive() && why.is_some() {
            node.cycle = why;
        }
    }

    /// The run that decides about a start asked for now: the one that is going on, or the next.
    fn run_to_come(&self, id: Id) -> Invocation {
        let node = &self.nodes[id];
        let goes_on = match node.state {
            State::Starting(_) | State::Running(_) | State::Done { active: true } => !node.face.leaving || node.goal == Goal::Down,
            State::Inactive
            | State::Skipped
            | State::Stopping(_)
            | State::Backoff { .. }
            | State::Done { active: false }
            | State::Ended
            | State::Failed => false,
        };
        node.invocation + u64::from(!goes_on)
    }

    fn stop_units(&mut self, request: RequestId, units: &[Id]) {
        let all = self.graph.closure(units, |edges| edges.dependents.clone());
        self.cancel(&all, &[Kind::Started, Kind::Ready, Kind::Reloaded], "stopped by a later request");
        for &id in &all {
            self.nodes[id].goal = Goal::Down;
            self.nodes[id].cycle = None;
            self.nodes[id].rerun = None;
            self.changed(id);
        }
        let wanted = all.iter().map(|&id| (self.name(id), 0)).collect();
        self.wait(request, Kind::Stopped, Some(wanted));
    }

    fn restart_units(&mut self, request: RequestId, units: &[Id]) {
        let pulled = self
            .graph
            .closure(units, |edges| [&edges.requires[..], &edges.binds_to[..], &edges.wants[..]].concat());
        self.cancel(&pulled, &[Kind::Stopped], "started by a later request");
        for &id in &pulled {
            let node = &mut self.nodes[id];
            node.goal = Goal::Up;
            if matches!(node.state, State::Backoff { .. } | State::Failed | State::Ended) {
                node.absolve();
            }
        }
        let all = self.graph.closure(units, |edges| edges.dependents.clone());
        self.cycle(&all, "restarted by request");
        for &id in &pulled {
            self.changed(id);
        }
        let wanted = units.iter().map(|&id| (self.name(id), self.nodes[id].invocation + 1)).collect();
        self.wait(request, Kind::Started, Some(wanted));
    }

    /// These have to be down once before they run again; those that are not wanted stay as they are.
    pub(super) fn cycle(&mut self, units: &[Id], why: &str) {
        for &id in units {
            let node = &mut self.nodes[id];
            if node.goal == Goal::Up && !node.removed {
                node.cycle = Some(why.into());
                node.rerun = None;
            }
        }
        for &id in units {
            self.changed(id);
        }
    }

    fn reload_units(&mut self, request: RequestId, units: &[Id]) {
        let (mut waits, mut failed) = (Vec::new(), Vec::new());
        for &id in units {
            let node = &mut self.nodes[id];
            let name = node.spec.name.clone();
            let State::Running(run) = &node.state else {
                failed.push((name, format!("it is {}, not running", node.face.state)));
                continue;
            };
            if !node.spec.exec_reload.is_empty() {
                if !matches!(run.reload, Some(Reload::Command { .. })) {
                    node.reload_command(&mut self.turn, 0);
                }
                waits.push((name, node.invocation));
            } else if let Some(signal) = node.spec.reload_signal {
                self.turn.signal(&name, node.invocation, Target::Main, signal);
            } else {
                failed.push((name, "it has neither `exec_reload` nor `reload_signal`".into()));
            }
            self.changed(id);
        }
        if request != 0 {
            self.pending.push(Pending {
                id: request,
                kind: Kind::Reloaded,
                units: Some(waits),
                failed,
                hint: 0,
            });
        }
    }

    /// `exec_reload` of a unit is over.
    pub(super) fn reloaded(&mut self, unit: &Name, failure: Option<String>) {
        for pending in self.pending.iter_mut().filter(|pending| pending.kind == Kind::Reloaded) {
            let units = pending.units.get_or_insert_default();
            let before = units.len();
            units.retain(|(name, _)| name != unit);
            if units.len() < before {
                pending.failed.extend(failure.clone().map(|why| (unit.clone(), why)));
            }
        }
    }

    fn kill_units(&mut self, request: RequestId, units: &[Id], signal: i32) {
        let mut failed = Vec::new();
        for &id in units {
            let node = &self.nodes[id];
            if node.state.alive() {
                self.turn.signal(&node.spec.name, node.invocation, Target::All, signal);
            } else {
                failed.push((node.spec.name.clone(), "nothing of it runs".into()));
            }
        }
        self.reply(
            request,
            if failed.is_empty() {
                Outcome::Done
            } else {
                Outcome::Failed(failed)
            },
        );
    }

    /// Answers those that wait for something that a later request has decided otherwise.
    pub(super) fn cancel(&mut self, units: &[Id], kinds: &[Kind], why: &str) {
        let names: Vec<&Name> = units.iter().map(|&id| &self.nodes[id].spec.name).collect();
        let hit = |pending: &Pending| {
            let first = pending.units.iter().flatten().find(|(name, _)| names.contains(&name));
            first
                .filter(|_| kinds.contains(&pending.kind))
                .map(|(name, _)| format!("{name} was {why}"))
        };
        let (cancelled, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(|p| hit(p).is_some());
        let replies: Vec<_> = cancelled.iter().filter_map(|pending| Some((pending.id, hit(pending)?))).collect();
        self.pending = kept;
        for (id, why) in replies {
            self.reply(id, Outcome::Cancelled(why));
        }
    }

    /// Answers everyone who waits for something that cannot come any more; those who wait for a stop go on.
    pub(super) fn cancel_all(&mut self, why: &str) {
        let all = std::mem::take(&mut self.pending).into_iter();
        let (cancelled, kept): (Vec<_>, Vec<_>) = all.partition(|pending| pending.kind != Kind::Stopped);
        self.pending = kept;
        for Pending { id, .. } in cancelled {
            self.reply(id, Outcome::Cancelled(why.into()));
        }
    }

    /// Answers everyone whose outcome is known.
    pub(super) fn answer(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain_mut(|pending| match self.outcome(pending) {
            None => true,
            Some(outcome) => {
                self.reply(pending.id, outcome);
                false
            }
        });
        self.pending = pending;
    }

    fn outcome(&self, pending: &mut Pending) -> Option<Outcome> {
        let Pending {
            kind, units, failed, hint, ..
        } = pending;
        let Some(units) = units else { return self.all_required(hint) };
        let mut gone = None;
        let once = matches!(kind, Kind::Started | Kind::Reloaded);
        let mut open = 0;
        units.retain(|(name, since)| {
            let Some(&id) = self.graph.ids.get(name) else {
                gone = (*kind != Kind::Stopped).then(|| format!("{name} is no longer configured"));
                return false;
            };
            match self.known(id, *kind, *since) {
                Known::NotYet => open += 1,
                Known::Yes => return !once,
                Known::No(why) => {
                    failed.push((name.clone(), why));
                    return false;
                }
            }
            true
        });
        match gone {
            Some(why) => Some(Outcome::Cancelled(why)),
            None if open > 0 && (once || failed.is_empty()) => None,
            None if failed.is_empty() => Some(Outcome::Done),
            None => Some(Outcome::Failed(std::mem::take(failed))),
        }
    }

    /// For those who wait for the whole sandbox.
    fn all_required(&self, hint: &mut Id) -> Option<Outcome> {
        self.config.as_ref()?;
        let hinted = self.nodes.get(*hint).filter(|node| !node.spec.optional && !node.removed);
        if self.hopeless == 0 && hinted.is_some_and(|node| !node.face.ready && !node.face.skipped) {
            return None;
        }
        let (mut failed, mut open) = (Vec::new(), false);
        for (id, node) in self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, node)| !node.spec.optional && !node.removed)
        {
            match self.known(id, Kind::Ready, 0) {
                Known::NotYet => (open, *hint) = (true, id),
                Known::Yes => {}
                Known::No(why) => failed.push((node.spec.name.clone(), why)),
            }
        }
        match (open, failed.is_empty()) {
            (_, false) => Some(Outcome::Failed(failed)),
            (false, true) => Some(Outcome::Done),
            (true, true) => None,
        }
    }

    fn known(&self, id: Id, kind: Kind, since: Invocation) -> Known {
        let node = &self.nodes[id];
        match kind {
            Kind::Stopped if !node.face.down => Known::NotYet,
            Kind::Stopped if node.left.is_empty() => Known::Yes,
            Kind::Stopped => Known::No(format!("not ended: {}", node.left.join(", "))),
            Kind::Reloaded if matches!(node.state, State::Running(_)) && node.invocation == since => Known::NotYet,
            Kind::Reloaded => Known::No("it ended meanwhile".into()),
            Kind::Started | Kind::Ready if node.cycle.is_some() => Known::NotYet,
            Kind::Started | Kind::Ready if node.face.skipped => Known::Yes,
            Kind::Started if node.invocation < since => self.chances(id),
            Kind::Started | Kind::Ready if node.face.ready => Known::Yes,
            Kind::Started => match (&node.state, &node.last_exit) {
                (State::Backoff { until }, Some(last)) if last.invocation >= since && !restart::restores(&node.spec) => {
                    let wait = until.saturating_duration_since(self.turn.now);
                    Known::No(format!("{}; tried again in {}", last.message, human(wait)))
                }
                _ => self.chances(id),
            },
            Kind::Ready => self.chances(id),
        }
    }

    /// Whether a unit that is not ready may yet become so by itself.
    fn chances(&self, id: Id) -> Known {
        let node = &self.nodes[id];
        match (node.face.hope, &node.state) {
            (Hope::Some, _) => Known::NotYet,
            (_, State::Ended) => Known::No(format!("it ended: {}", node.reason)),
            (_, State::Inactive) if node.goal == Goal::Down => Known::No("it is stopped".into()),
            (_, State::Starting(_) | State::Running(_) | State::Stopping(_)) => Known::No("it is being stopped".into()),
            (Hope::Failed | Hope::Absent, _) => Known::No(self.explain(id).unwrap_or_else(|| node.reason.clone())),
        }
    }
}
