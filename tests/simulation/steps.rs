//! What must hold of every unit after each step.

use crate::facts::Facts;
use crate::invariants::clean;
use crate::kit::*;
use crate::world::World;
use sandkeep::supervisor::*;
use sandkeep::unit::*;

impl World<'_> {
    /// What must hold after each step.
    pub(crate) fn check(&mut self, event: &Event, before: &Status, after: &Status) {
        if !self.told.shutdown && self.supervisor.shutting_down() {
            self.told.shutdown = true;
            self.told.shutdown_at = Some(self.now);
        }
        if let Some((at, unit, timer)) = self.supervisor.next_deadline() {
            assert!(at > self.now, "{unit} left a deadline in the past: {timer}");
        }
        if let Some(at) = self.told.shutdown_at {
            let limit = ms(self.scenario.budget) + self.slack();
            assert!(
                self.halted || self.now - at <= limit,
                "still not down {:?} after the shutdown",
                self.now - at
            );
        }
        for unit in &after.units {
            self.check_unit(unit, event, before, after);
        }
        self.check_processes();
    }

    fn check_processes(&self) {
        for (pid, process) in &self.processes {
            let mains = self
                .processes
                .values()
                .filter(|p| p.unit == process.unit && p.stage == Some(Stage::Main))
                .count();
            assert!(mains <= 1, "{}: {mains} main processes", process.unit);
            let facts = &self.facts[&process.unit];
            assert_eq!(process.invocation, facts.invocation, "{}: {pid} is of an earlier run", process.unit);
        }
    }

    fn check_unit(&self, unit: &UnitStatus, event: &Event, earlier: &Status, after: &Status) {
        let name = &unit.spec.name;
        let before = earlier.unit(name.as_str()).map(|unit| &**unit);
        let facts = &self.facts[name];
        if !unit.removed {
            assert_eq!(unit.goal, self.told.goals[name], "{name}: the wrong goal");
        }
        if let Some(announced) = facts.announced {
            assert_eq!(
                announced,
                (unit.state, unit.sub_state, unit.ready),
                "{name}: a transition that was not announced"
            );
        }
        self.check_ready(unit, facts);
        self.check_timers(unit, facts);
        self.check_progress(unit, after);
        self.check_blame(unit, facts, before);
        self.check_reload(unit, event, earlier);
        if self.told.shutdown || unit.goal == Goal::Down {
            assert_ne!(unit.sub_state, "auto-restart", "{name}: waits to be started though it is stopped");
        }
    }

    /// Nothing counts as ready that has not said so in this run.
    fn check_ready(&self, unit: &UnitStatus, facts: &Facts) {
        let name = &unit.spec.name;
        let oneshot = matches!(unit.spec.service, Service::Oneshot { .. });
        if unit.ready && oneshot {
            let clean = matches!(facts.exit, Some((status, _)) if clean(&unit.spec, status));
            assert!(clean || facts.satisfied, "{name}: ready, but it did not succeed");
            assert!(self.of(name).next().is_none(), "{name}: done, but something of it is left");
        } else if unit.ready {
            assert!(facts.main.is_some(), "{name}: ready without a process");
            assert!(
                facts.said_ready || unit.spec.service == Service::Simple,
                "{name}: ready, but it did not say so"
            );
        }
        if unit.sub_state == "running" {
            for kind in unit.spec.probes.keys().filter(|kind| **kind != ProbeKind::Liveness) {
                assert!(
                    facts.probes.get(kind).is_some_and(|probe| probe.passed),
                    "{name}: running, but {kind:?} never passed"
                );
            }
            let failing = facts.probes.get(&ProbeKind::Readiness).is_some_and(|probe| probe.failing);
            assert_eq!(
                unit.ready, !failing,
                "{name}: ready {}, readiness probe failing {failing}",
                unit.ready
            );
        }
        if unit.state == "skipped" {
            assert!(facts.skipped, "{name}: skipped for no reason");
        }
    }

    /// Nothing is overdue.
    fn check_timers(&self, unit: &UnitStatus, facts: &Facts) {
        let name = &unit.spec.name;
        if let Some(term) = facts.term
            && unit.state == "deactivating"
            && self.of(name).next().is_some()
        {
            let end = (term.at + term.timeout).max(term.extended_until.unwrap_or(term.at));
            assert!(
                self.now < end || unit.sub_state == "stop-kill",
                "{name}: not killed at its stop timeout"
            );
        }
        let starts = matches!(unit.sub_state, "start-pre" | "start" | "ready-wait") && facts.exit.is_none();
        let restore = unit.spec.main == Main::Worker(Worker::Restore);
        if let Some(limit) = unit.spec.start_timeout
            && starts
            && !restore
        {
            let end = (facts.began + limit)
                .max(facts.extended_until.unwrap_or(facts.began))
                .max(self.told.held_until.unwrap_or(facts.began));
            assert!(self.now < end, "{name}: still starting after its start timeout");
        }
        let runs = unit.sub_state == "running";
        if let (true, Some(every), Some(ready)) = (runs, unit.spec.watchdog, facts.ready_since.or(facts.pinged)) {
            let last = ready.max(facts.pinged.unwrap_or(ready)).max(self.told.held_until.unwrap_or(ready));
            assert!(self.now < last + every, "{name}: its watchdog was not noticed");
            assert!(!facts.triggered || self.now < self.epoch, "{name}: its trigger was not noticed");
        }
        let liveness = facts.probes.get(&ProbeKind::Liveness);
        assert!(
            !(runs && liveness.is_some_and(|probe| probe.failing)),
            "{name}: runs though its liveness probe fails"
        );
    }

    /// Nothing stands still that could move.
    fn check_progress(&self, unit: &UnitStatus, after: &Status) {
        let name = &unit.spec.name;
        let find = |dep: &Name| after.unit(dep.as_str());
        let nothing_stops = after.units.iter().all(|unit| unit.state != "deactivating");
        if (unit.state, unit.sub_state) == ("inactive", "waiting") && nothing_stops && !self.told.shutdown {
            let mut hard = unit.spec.requires.iter().chain(&unit.spec.binds_to).filter_map(find);
            let bound = |dep: &UnitStatus| unit.spec.binds_to.contains(&dep.spec.name);
            let waits = hard.any(|dep| !dep.ready || dep.goal == Goal::Down || (bound(dep) && dep.state != "active"));
            let soft = unit.spec.after.iter().chain(&unit.spec.wants).filter_map(find);
            let holds = |dep: &UnitStatus| {
                matches!(dep.sub_state, "start-pre" | "start" | "ready-wait" | "waiting" | "auto-restart") || dep.goal == Goal::Down
            };
            assert!(
                waits || soft.into_iter().any(|dep| holds(dep)),
                "{name}: waits for nothing: {unit:?}"
            );
        }
        let leaves = self.told.shutdown || unit.goal == Goal::Down || unit.removed;
        let up = matches!(unit.state, "active" | "activating" | "reloading") && unit.sub_state != "auto-restart";
        let concludes = unit.sub_state == "start" && self.facts[name].exit.is_some();
        if leaves && up && !concludes {
            let follows = |other: &UnitStatus| {
                let spec = &other.spec;
                [&spec.requires, &spec.wants, &spec.binds_to, &spec.after]
                    .into_iter()
                    .any(|list| list.contains(name))
            };
            let up = |other: &UnitStatus| !matches!(other.state, "inactive" | "failed" | "skipped");
            let waits = after.units.iter().any(|other| follows(other) && up(other));
            assert!(waits, "{name}: is to stop, nothing is in the way, and it does not: {unit:?}");
        }
        if up && !leaves && unit.sub_state == "running" {
            let gone = unit
                .spec
                .binds_to
                .iter()
                .filter_map(find)
                .find(|dep| !matches!(dep.state, "active" | "reloading"));
            let follows = |other: &UnitStatus| {
                [&other.spec.requires, &other.spec.wants, &other.spec.binds_to, &other.spec.after]
                    .into_iter()
                    .any(|l| l.contains(name))
            };
            let waits = after
                .units
                .iter()
                .any(|other| follows(other) && !matches!(other.state, "inactive" | "failed" | "skipped"));
            assert!(
                gone.is_none() || waits,
                "{name}: runs though it is bound to {:?}",
                gone.map(|dep| dep.spec.name.clone())
            );
        }
    }

    /// A unit that is stopped for what it did has done it, and the machine was not only just paused.
    fn check_blame(&self, unit: &UnitStatus, facts: &Facts, before: Option<&UnitStatus>) {
        let name = &unit.spec.name;
        let newly = unit.state == "deactivating" && before.is_some_and(|before| before.state != "deactivating");
        if !newly {
            return;
        }
        if unit.reason.starts_with("liveness probe failed: it has never") {
            assert!(!self.held(), "{name}: blamed for a pause");
        } else if unit.reason.starts_with("liveness") {
            let failed = facts.probes.get(&ProbeKind::Liveness).is_some_and(|probe| probe.failing);
            assert!(failed && !self.held(), "{name}: stopped for a liveness probe that did not fail");
        }
        if unit.reason.starts_with("watchdog") && !facts.triggered {
            let every = unit.spec.watchdog.expect("it has one");
            assert!(!self.held(), "{name}: blamed for a pause");
            assert!(
                facts.pinged.is_none_or(|at| self.now >= at + every),
                "{name}: stopped though it pinged"
            );
        }
        if let Some(dep) = unit.reason.strip_suffix(" ran again") {
            let dep = &self.facts[&crate::kit::name(dep)];
            assert!(
                matches!(dep.exit, Some((ExitStatus::Code(0), _))),
                "{name}: restarts for a rerun that did not succeed"
            );
        }
        if unit.reason.starts_with("not ready within") {
            let limit = unit.spec.start_timeout.expect("it has one");
            assert!(
                self.now >= facts.began + limit || facts.disturbed || unit.spec.main == Main::Worker(Worker::Restore),
                "{name}: timed out too early"
            );
        }
    }

    /// A reload touches only what changed and what is part of it or bound to it.
    fn check_reload(&self, unit: &UnitStatus, event: &Event, earlier: &Status) {
        let (Event::Configure { .. }, Some(before)) = (event, earlier.unit(unit.spec.name.as_str())) else {
            return;
        };
        if unit.state != "deactivating" || before.state == "deactivating" {
            return;
        }
        let timed_out = unit.reason.starts_with("not ready within");
        let name = &unit.spec.name;
        assert!(
            self.facts[name].concerned || timed_out,
            "{name}: stopped by a reload that does not concern it: {}",
            unit.reason
        );
    }

    /// Takes down whom a reload concerns, and that a unit that is no longer there cannot be waited for.
    pub(crate) fn note_reload(&mut self, event: &Event, earlier: &Status, after: &Status) {
        for (verb, units) in self.told.open.values_mut() {
            if matches!(verb, Verb::Stop(_)) {
                units.retain(|unit| after.unit(unit.as_str()).is_some());
            }
        }
        let Event::Configure { config, .. } = event else { return };
        let changed = |spec: &Unit| {
            config.unit(spec.name.as_str()).is_none_or(|new| {
                let (description, start_timeout) = (new.description.clone(), new.start_timeout);
                *new != Unit {
                    description,
                    start_timeout,
                    stop_timeout: new.stop_timeout,
                    ..spec.clone()
                }
            })
        };
        let mut reached: Vec<&Name> = earlier
            .units
            .iter()
            .filter(|unit| changed(&unit.spec))
            .map(|unit| &unit.spec.name)
            .collect();
        let parts = |spec: &Unit, of: &[&Name]| spec.binds_to.iter().chain(&spec.part_of).any(|to| of.contains(&to));
        let next = |reached: &[&Name]| {
            let more = after
                .units
                .iter()
                .find(|unit| !reached.contains(&&unit.spec.name) && parts(&unit.spec, reached));
            more.map(|unit| &unit.spec.name)
        };
        while let Some(more) = next(&reached) {
            reached.push(more);
        }
        for name in reached {
            self.facts.get_mut(name).expect("known").concerned = true;
        }
    }
}
