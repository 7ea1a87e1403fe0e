//! What must hold of each thing that the supervisor wants done.

use crate::facts::Term;
use crate::kit::*;
use crate::world::World;
use sandkeep::supervisor::*;
use sandkeep::unit::*;
use std::time::Duration;

impl World<'_> {
    /// What must hold of each thing that the supervisor wants done.
    pub(crate) fn check_action(&mut self, action: &Action, event: &Event, before: &Status, after: &Status) {
        match action {
            Action::Spawn { unit, invocation, stage } => self.check_spawn(unit, *invocation, *stage, event, before, after),
            Action::Signal {
                unit,
                invocation,
                target,
                signal,
            } => self.check_signal(unit, *invocation, *target, *signal, event, after),
            Action::Empty { unit, invocation, kill } => self.check_empty(unit, *invocation, *kill, after),
            Action::Probe {
                unit,
                invocation,
                kind,
                connect_only,
            } => self.check_probe(unit, *invocation, *kind, *connect_only, after),
            Action::Announce(transition) => self.check_transition(transition, before, after),
            Action::Reply { request, outcome } => self.check_reply(*request, outcome, after),
            Action::Halt { code, culprit } => {
                assert!(self.processes.is_empty(), "halted with processes alive");
                assert!(self.spawning.is_empty(), "halted while a process is being started");
                assert_eq!(*code == 1, culprit.is_some());
            }
            Action::TakeHashes { unit } => {
                let Some(unit) = after.unit(unit.as_str()) else { return };
                let name = &unit.spec.name;
                let facts = &self.facts[name];
                let service = !matches!(unit.spec.service, Service::Oneshot { .. });
                let succeeded = matches!(facts.exit, Some((status, _)) if clean(&unit.spec, status)) || (service && facts.main.is_some());
                assert!(
                    (unit.ready || succeeded) && !unit.spec.watch.is_empty(),
                    "hashes of {name} taken before it succeeded"
                );
            }
            Action::Configured(_) => {}
        }
    }

    fn check_spawn(&mut self, unit: &Name, invocation: Invocation, stage: Stage, event: &Event, before: &Status, after: &Status) {
        let status = after.unit(unit.as_str()).expect("a unit that spawns is known").clone();
        let spec = status.spec.clone();
        assert!(!self.spawning.contains_key(unit), "{unit}: two processes are being started at once");
        let begins = matches!(stage, Stage::StartPre(_) | Stage::Main | Stage::StartPost(_));
        if begins {
            assert_eq!(self.told.goals[unit], Goal::Up, "{unit}: {stage} started though it is stopped");
            assert!(!self.told.shutdown, "{unit}: {stage} started after the shutdown began");
        }
        if matches!(stage, Stage::StartPost(_)) {
            let facts = &self.facts[unit];
            assert!(
                facts.main.is_some() || matches!(spec.service, Service::Oneshot { .. }),
                "{unit}: start-post without main"
            );
        }
        if let Stage::Stop(_) = stage {
            let now = self.now;
            let facts = self.facts.get_mut(unit).expect("known");
            (facts.stop_command, facts.signalled) = (Some(now), true);
        }
        if let Stage::StopPost(_) = stage {
            self.facts.get_mut(unit).expect("known").post_commands = true;
        }
        let first = stage
            == if spec.exec_start_pre.is_empty() {
                Stage::Main
            } else {
                Stage::StartPre(0)
            };
        if !first {
            assert_eq!(self.facts[unit].invocation, invocation, "{unit}: {stage} of another run");
            return;
        }
        self.check_begin(unit, invocation, &status, event, before, after);
        let now = self.now;
        let held = self.held();
        let facts = self.facts.get_mut(unit).expect("known");
        assert!(
            invocation > facts.invocation,
            "{unit}: run {invocation} after run {}",
            facts.invocation
        );
        facts.begin(now, invocation);
        if !held && spec.main != Main::Worker(Worker::Restore) {
            facts.starts.push(now);
        }
        let recent = facts.starts.iter().filter(|&&at| now - at < spec.start_limit_interval).count();
        let burst = usize::try_from(spec.start_limit_burst).expect("small");
        assert!(
            burst == 0 || recent <= burst,
            "{unit}: {recent} starts in {:?}, {burst} allowed",
            spec.start_limit_interval
        );
    }

    /// A run begins.
    fn check_begin(&self, unit: &Name, _: Invocation, status: &UnitStatus, event: &Event, before: &Status, after: &Status) {
        let spec = &status.spec;
        assert!(self.of(unit).next().is_none(), "{unit}: begins before the last run is gone");
        let wanted = self.supervisor.config().and_then(|config| config.unit(unit.as_str()).cloned());
        assert_eq!(wanted.as_ref(), Some(&**spec), "{unit}: started from an old config");
        for dep in spec.requires.iter().chain(&spec.binds_to) {
            let dep = after.unit(dep.as_str()).expect("checked config");
            let bound = spec.binds_to.contains(&dep.spec.name);
            assert!(
                dep.ready || (dep.state == "skipped" && !bound),
                "{unit}: begins before {} is ready: {dep:?}",
                dep.spec.name
            );
            assert!(
                !bound || dep.state == "active" || dep.state == "reloading",
                "{unit}: begins though {} is not active",
                dep.spec.name
            );
        }
        for dep in spec.after.iter().chain(&spec.wants) {
            let dep = after.unit(dep.as_str()).expect("checked config");
            let starts = matches!(dep.sub_state, "start-pre" | "start" | "ready-wait");
            assert!(!starts, "{unit}: begins while {}, which comes before, starts", dep.spec.name);
            assert!(
                !dep.sub_state.starts_with("stop"),
                "{unit}: begins while {}, which comes before, stops",
                dep.spec.name
            );
        }
        let asked = matches!(
            event,
            Event::Request(_) | Event::Configure { .. } | Event::WatchChanged { .. } | Event::RetryChanged { .. } | Event::Emptied { .. }
        );
        if let Some(was) = before.unit(unit.as_str())
            && was.sub_state == "auto-restart"
            && !asked
        {
            assert!(
                was.restart_at.is_some_and(|at| at <= self.now),
                "{unit}: started before its backoff was over"
            );
        }
        if let Some(was) = before.unit(unit.as_str())
            && (was.state, was.sub_state) == ("failed", "dead")
        {
            assert!(asked, "{unit}: started again though it had failed for good");
        }
    }

    fn check_signal(&mut self, unit: &Name, invocation: Invocation, target: Target, signal: i32, event: &Event, after: &Status) {
        let status = after.unit(unit.as_str()).expect("known").clone();
        assert_eq!(status.invocation, invocation, "{unit}: a signal to another run");
        let facts = self.facts.get_mut(unit).expect("known");
        let stops = signal == 15 || signal == 6;
        if !stops {
            let known = signal == 12 || signal == 1 || signal == 10 || (signal == 9 && matches!(target, Target::Control(_)));
            assert!(known, "{unit}: an unknown signal {signal}");
            assert!(
                signal != 12 || matches!(event, Event::Shutdown { .. }) || after.stopping,
                "{unit}: told to drain too early"
            );
            return;
        }
        if status.spec.kill_mode == KillMode::Mixed {
            assert!(target != Target::All, "{unit}: all of a mixed unit got the stop signal");
        }
        facts.signalled = true;
        self.check_stop_order(&status, after);
    }

    /// Nothing is stopped by request while something that needs it lives.
    fn check_stop_order(&self, status: &UnitStatus, after: &Status) {
        let asked = matches!(status.reason.as_str(), "shutdown" | "stopped by request" | "restarted by request");
        let name = &status.spec.name;
        let earlier = self.earlier.as_ref().and_then(|earlier| earlier.unit(name.as_str()));
        let begun = earlier.is_some_and(|earlier| earlier.state == "deactivating");
        if !asked || begun || self.told.asked_to_halt > 1 {
            return;
        }
        for other in &after.units {
            let needs = other.spec.requires.contains(name) || other.spec.binds_to.contains(name);
            let comes_after = other.spec.after.contains(name) || other.spec.wants.contains(name);
            let stops_too =
                self.told.shutdown || (status.reason == "stopped by request" && self.told.goals[&other.spec.name] == Goal::Down);
            if needs || (comes_after && stops_too) {
                let lives = self.of(&other.spec.name).next().is_some() || self.spawning.contains_key(&other.spec.name);
                assert!(!lives, "{name} is stopped ({}) while {} lives", status.reason, other.spec.name);
            }
        }
    }

    fn check_empty(&mut self, unit: &Name, invocation: Invocation, kill: bool, after: &Status) {
        let spec = after.unit(unit.as_str()).expect("known").spec.clone();
        assert!(
            !self.spawning.contains_key(unit),
            "{unit}: asked to be empty while a process of it is being started"
        );
        let main_lives = self.processes.values().any(|p| p.unit == *unit && p.stage == Some(Stage::Main));
        let control = self.processes.values().any(|p| p.unit == *unit && p.stage.is_some());
        let begun = self.told.shutdown_at.map_or(Duration::ZERO, |at| self.now - at);
        let all_fit = Duration::from_millis(self.scenario.budget).saturating_sub(begun)
            >= after
                .units
                .iter()
                .map(|u| u.spec.stop_timeout * u32::try_from(1 + u.spec.exec_stop.len() + u.spec.exec_stop_post.len()).expect("few"))
                .sum::<Duration>();
        let (now, told) = (self.now, &self.told);
        let facts = self.facts.get_mut(unit).expect("known");
        assert_eq!(facts.invocation, invocation, "{unit}: another run is to be emptied");
        if !kill {
            facts.term = Some(Term {
                at: now,
                timeout: spec.stop_timeout,
                extended_until: None,
                all_fit,
            });
            return;
        }
        let hurries = told.asked_to_halt > 1;
        let main_gone = spec.kill_mode == KillMode::Mixed && !main_lives && (!control || facts.exit.is_some());
        let latest = told.shutdown_at.map(|at| at + Duration::from_millis(self.scenario.budget));
        let fits = facts
            .term
            .is_some_and(|term| latest.is_none_or(|latest| term.at + term.timeout <= latest));
        // Its grace was set with the signal: what others have taken since, or changed, does not give it more.
        let all_fit = facts.term.map_or(all_fit, |term| term.all_fit);
        let cut_short = told.shutdown && !(all_fit && fits);
        let in_time = facts.term.is_some_and(|term| now >= term.at + term.timeout.min(spec.stop_timeout));
        let hung = facts.stop_command.is_some_and(|at| now >= at + spec.stop_timeout);
        let after_commands = facts.post_commands || (spec.kill_mode == KillMode::Mixed && hung);
        assert!(
            hurries || main_gone || cut_short || in_time || after_commands,
            "{unit}: killed before its stop timeout"
        );
        facts.term = None;
        facts.signalled = true;
    }

    fn check_probe(&mut self, unit: &Name, invocation: Invocation, kind: ProbeKind, connect_only: bool, after: &Status) {
        let (now, held) = (self.now, self.held());
        let status = after.unit(unit.as_str()).expect("known");
        let facts = self.facts.get_mut(unit).expect("known");
        assert_eq!(facts.invocation, invocation, "{unit}: probe of another run");
        assert!(facts.main.is_some(), "{unit}: probed without a process");
        let startup = facts.probes.get(&ProbeKind::Startup).is_some_and(|probe| probe.passed);
        if status.spec.probes.contains_key(&ProbeKind::Startup) {
            assert!(
                startup != (kind == ProbeKind::Startup),
                "{unit}: {kind:?} asked, startup passed: {startup}"
            );
        }
        let http = matches!(status.spec.probes[&kind].check, ProbeCheck::Http { .. });
        let probe = facts.probes.entry(kind).or_default();
        assert!(!probe.in_flight, "{unit}: {kind:?} asked twice at once");
        assert_eq!(connect_only, http && probe.passed, "{unit}: {kind:?} asks the wrong way");
        probe.in_flight = true;
        if let Some(at) = probe.answered_at
            && !held
        {
            let least = if probe.passed {
                secs(10)
            } else {
                status.spec.probes[&kind].interval
            };
            assert!(now - at >= least, "{unit}: {kind:?} asked again after {:?}", now - at);
        }
    }

    fn check_transition(&mut self, transition: &Transition, before: &Status, after: &Status) {
        let unit = &transition.unit;
        let new = (transition.state, transition.to, transition.ready);
        let now = self.now;
        let facts = self.facts.get_mut(unit).expect("known");
        if let Some(last) = facts.announced {
            assert_eq!(last.1, transition.from, "{unit}: a gap between announced transitions");
            assert_ne!(last, new, "{unit}: announced twice");
        }
        facts.announced = Some(new);
        match (transition.ready, facts.ready_since) {
            (true, None) => facts.ready_since = Some(now),
            (false, Some(since)) => {
                facts.ready_for += now - since;
                facts.ready_since = None;
            }
            _ => {}
        }
        // Told to restart while it waited: what was counted is forgotten once it is down.
        let interrupted =
            transition.from == "auto-restart" && transition.reason != before.unit(unit.as_str()).map_or("", |was| &was.reason);
        if interrupted {
            facts.last_wait = None;
        }
        let afresh = ["restarted by request", "started by request", "its config changed"].contains(&transition.reason.as_str())
            || transition.reason.ends_with(" changed")
            || transition.reason.ends_with(" ran again");
        if transition.state == "deactivating" && afresh {
            facts.afresh = true;
        }
        if transition.to == "exited" {
            facts.last_wait = None;
            facts.starts.clear();
        }
        if transition.from != "dead" && transition.from != "waiting" {
            self.check_end(transition, before, after);
        }
        if transition.to == "auto-restart" {
            self.check_backoff(transition, after);
        }
    }

    /// A run that ended by itself is followed by what its policy says.
    fn check_end(&self, transition: &Transition, _: &Status, after: &Status) {
        let facts = &self.facts[&transition.unit];
        let Some(status) = after.unit(transition.unit.as_str()) else {
            return;
        };
        let spec = &status.spec;
        let rests = matches!(
            (transition.state, transition.to),
            (_, "auto-restart" | "exited") | ("failed" | "inactive", "dead")
        );
        let left_alone = !facts.disturbed && self.told.goals[&transition.unit] == Goal::Up && !self.supervisor.shutting_down();
        let Some((exit, false)) = facts.exit else { return };
        let simple = facts.command_failed.is_none() && facts.spawn_failed.is_none() && !facts.said_stopping;
        if !rests || !left_alone || !simple || status.reason.starts_with("bound to") || transition.from == "auto-restart" {
            return;
        }
        let expected = expected_end(spec, exit, facts.said_ready);
        let series_over = transition.reason.contains("(start_timeout)");
        let seen = (transition.state, transition.to, transition.ready);
        assert!(
            seen == expected || series_over,
            "{}: {seen:?} after {exit} ({:?}), {expected:?} expected",
            transition.unit,
            spec.restart
        );
    }

    /// Consecutive short runs wait longer and longer, up to the maximum; a stable one starts over.
    fn check_backoff(&mut self, transition: &Transition, after: &Status) {
        let Some(status) = after.unit(transition.unit.as_str()).cloned() else {
            return;
        };
        let spec = &status.spec;
        let Some(at) = status.restart_at else { return };
        let wait = at - self.now;
        let facts = self.facts.get_mut(&transition.unit).expect("known");
        let max = spec.restart_max_delay.max(spec.restart_delay);
        assert!(wait <= max, "{}: waits {wait:?}, at most {max:?}", transition.unit);
        assert!(wait >= spec.restart_delay, "{}: waits only {wait:?}", transition.unit);
        let stable = facts.ready_for >= secs(10);
        let grows = spec.restart_steps > 0 && spec.restart_max_delay > spec.restart_delay * 2;
        match facts.last_wait {
            Some(last) if !stable && grows && last < max => assert!(wait > last, "{}: waits {wait:?} after {last:?}", transition.unit),
            Some(last) if !stable => assert!(wait >= last, "{}: waits {wait:?} after {last:?}", transition.unit),
            _ if stable && grows => {
                assert!(
                    wait <= spec.restart_delay + (max - spec.restart_delay) / 4,
                    "{}: waits {wait:?} after a stable run",
                    transition.unit
                );
            }
            _ => {}
        }
        facts.last_wait = Some(wait);
    }

    fn check_reply(&mut self, request: RequestId, outcome: &Outcome, after: &Status) {
        let open = self.told.open.remove(&request);
        assert!(
            open.is_some() || self.told.others.remove(&request),
            "request {request} answered twice"
        );
        let Some((verb, units)) = open else { return };
        if let Outcome::Failed(why) = outcome {
            assert!(
                !why.is_empty() && why.iter().all(|(_, why)| !why.is_empty()),
                "{verb:?} failed without a reason"
            );
        }
        if *outcome != Outcome::Done {
            return;
        }
        match verb {
            Verb::Start(_) | Verb::Restart(_) | Verb::Wait(_) => {
                let named = units.iter().filter_map(|unit| after.unit(unit.as_str()));
                named.for_each(|unit| assert!(unit.ready || unit.state == "skipped", "{verb:?} is done, but not {unit:?}"));
                if verb == Verb::Wait(vec![]) {
                    assert!(after.ready, "waited for all, but not all is ready");
                }
            }
            Verb::Stop(_) => {
                let lives = units
                    .iter()
                    .find(|unit| self.of(unit).next().is_some() || self.spawning.contains_key(*unit));
                assert!(lives.is_none(), "{verb:?} is done, but {lives:?} lives");
            }
            Verb::Reload(_) | Verb::Kill { .. } => {}
        }
    }

    /// Everyone got an answer.
    pub(crate) fn after_halt(&self) {
        assert!(self.told.open.is_empty(), "nobody answered {:?}", self.told.open);
        let late: Vec<_> = self.told.others.iter().filter(|id| **id != 0).collect();
        assert!(late.is_empty(), "nobody answered {late:?}");
    }
}

pub(crate) fn clean(spec: &Unit, status: ExitStatus) -> bool {
    match status {
        ExitStatus::Code(code) => code == 0 || spec.success_exit_status.codes.contains(&code),
        ExitStatus::Signal { signal, .. } => spec.success_exit_status.signals.contains(&signal),
    }
}

/// systemd.service(5), table 2, and what DESIGN adds to it.
fn expected_end(spec: &Unit, exit: ExitStatus, said_ready: bool) -> (&'static str, &'static str, bool) {
    use Restart::*;
    let early = spec.service == Service::Notify && !said_ready;
    let clean = clean(spec, exit) && !early;
    let again = ("activating", "auto-restart", false);
    match (spec.service, clean) {
        (Service::Oneshot { remain_after_exit: true }, true) => return ("active", "exited", true),
        (Service::Oneshot { remain_after_exit: false }, true) => return ("inactive", "dead", true),
        _ => {}
    }
    let restarts = match (spec.restart, exit) {
        (_, ExitStatus::Code(78)) => false,
        (_, ExitStatus::Code(126 | 127)) if spec.main == Main::Exec(shell("x")) => false,
        (Always, _) => true,
        (OnSuccess, _) => clean,
        (OnFailure, _) => !clean,
        (OnAbnormal, ExitStatus::Signal { .. }) => true,
        (OnAbnormal | OnWatchdog | No, _) => false,
    };
    let restore = spec.main == Main::Worker(Worker::Restore) && !clean && exit != ExitStatus::Code(78);
    match (restarts || restore, clean) {
        (true, _) => again,
        (false, true) => ("inactive", "dead", false),
        (false, false) => ("failed", "dead", false),
    }
}
