//! Probes: when each is asked, and what its answers add up to.

use super::event::ProbeResult;
use super::saved::some_instant;
use crate::ordered::Order;
use crate::unit::{Probe, ProbeCheck, ProbeKind, Unit};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// From one answer to the next question once a probe has passed, at least.
pub const QUIET_INTERVAL: Duration = Duration::from_secs(10);

/// What a probe's answers add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It has never passed in this run.
    Pending,
    /// `success_threshold` passes in a row.
    Passing,
    /// `failure_threshold` failures in a row, once it had passed.
    Failing,
}

/// What an answer changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    Passed,
    Failed(String),
}

/// The probes of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Probes(Vec<Asked>);

/// One probe of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) kind: ProbeKind,
    pub(super) verdict: Verdict,
    /// The last answer, for people.
    pub(super) message: String,
    /// When it is asked next; `None` while it is in flight, held back or done with.
    #[serde(with = "some_instant")]
    due: Option<Instant>,
    in_flight: bool,
    /// The answer in flight is to a question that a reload has changed.
    outdated: bool,
    row: u32,
    row_passed: bool,
}

impl Asked {
    fn new(kind: ProbeKind) -> Self {
        Self {
            kind,
            verdict: Verdict::Pending,
            message: String::new(),
            due: None,
            in_flight: false,
            outdated: false,
            row: 0,
            row_passed: false,
        }
    }

    fn ever_passed(&self) -> bool {
        self.verdict != Verdict::Pending
    }
}

impl Probes {
    /// The main process runs: startup and readiness are asked from here on, readiness after startup has passed.
    pub(super) fn begin(&mut self, spec: &Unit, now: Instant) {
        self.0 = spec.probes.keys().map(|&kind| Asked::new(kind)).collect();
        self.schedule(spec, now, ProbeKind::Startup);
        if !spec.probes.contains_key(&ProbeKind::Startup) {
            self.schedule(spec, now, ProbeKind::Readiness);
        }
    }

    /// The unit is ready: liveness is asked from here on.
    pub(super) fn started(&mut self, spec: &Unit, now: Instant) {
        self.schedule(spec, now, ProbeKind::Liveness);
    }

    fn schedule(&mut self, spec: &Unit, now: Instant, kind: ProbeKind) {
        if let (Some(probe), Some(asked)) = (spec.probes.get(&kind), self.0.iter_mut().find(|p| p.kind == kind)) {
            asked.due = (!asked.in_flight).then_some(now + probe.initial_delay);
        }
    }

    pub(super) fn find(&self, kind: ProbeKind) -> Option<&Asked> {
        self.0.iter().find(|probe| probe.kind == kind)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Asked> {
        self.0.iter()
    }

    /// Whether those that hold readiness back have passed.
    pub(super) fn passed(&self) -> bool {
        self.0
            .iter()
            .all(|probe| probe.kind == ProbeKind::Liveness || probe.verdict == Verdict::Passing)
    }

    /// Whether there is a liveness probe that has never passed.
    pub(super) fn liveness_pending(&self) -> bool {
        self.find(ProbeKind::Liveness)
            .is_some_and(|probe| probe.verdict == Verdict::Pending)
    }

    /// When the next is to be asked, and which.
    pub(super) fn due(&self) -> Option<(Instant, ProbeKind)> {
        self.0.iter().filter_map(|probe| Some((probe.due?, probe.kind))).min()
    }

    /// Takes one that is due; it is in flight from here on. The second: whether an `http` probe falls back to a connect.
    pub(super) fn take_due(&mut self, spec: &Unit, now: Instant) -> Option<(ProbeKind, bool)> {
        let probe = self.0.iter_mut().find(|probe| probe.due.is_some_and(|due| due <= now))?;
        probe.due = None;
        let check = &spec.probes.get(&probe.kind)?.check;
        probe.in_flight = true;
        let connect_only = probe.ever_passed() && matches!(check, ProbeCheck::Http { always: false, .. });
        Some((probe.kind, connect_only))
    }

    /// Counts an answer. `held`: failures do not count, the machine was paused.
    pub(super) fn answer(&mut self, spec: &Unit, now: Instant, kind: ProbeKind, result: ProbeResult, held: bool) -> Change {
        let (Some(probe), Some(asked)) = (spec.probes.get(&kind), self.0.iter_mut().find(|p| p.kind == kind && p.in_flight)) else {
            return Change::Nothing;
        };
        asked.in_flight = false;
        if std::mem::take(&mut asked.outdated) {
            asked.due = Some(now);
            return Change::Nothing;
        }
        asked.message = result.message;
        let change = if result.passed || !held {
            asked.count(probe, result.passed)
        } else {
            Change::Nothing
        };
        let done = kind == ProbeKind::Startup && asked.ever_passed();
        let quiet = asked.ever_passed() && (result.passed || !held);
        let interval = if quiet {
            probe.interval.max(QUIET_INTERVAL)
        } else {
            probe.interval
        };
        asked.due = (!done).then_some(now + interval);
        if kind == ProbeKind::Startup && change == Change::Passed {
            self.schedule(spec, now, ProbeKind::Readiness);
        }
        change
    }

    /// The machine was paused: what was counted so far says nothing, and everything that was known is asked again.
    pub(super) fn recheck(&mut self, now: Instant) {
        for probe in &mut self.0 {
            probe.row = 0;
            if probe.ever_passed() && probe.due.is_some() {
                probe.due = Some(now);
            }
        }
    }

    /// Who was asked is gone without an answer: it is asked again.
    pub(super) fn ask_again(&mut self, now: Instant) {
        for probe in self.0.iter_mut().filter(|probe| probe.in_flight) {
            (probe.in_flight, probe.outdated, probe.due) = (false, false, Some(now));
        }
    }

    /// The config changed under a running unit: what is new begins, what is gone ends, what changed is asked anew and until it has
    /// failed the unit stays what it was.
    pub(super) fn reconcile(&mut self, old: &Unit, new: &Unit, now: Instant, running: bool) {
        self.0.retain(|probe| new.probes.contains_key(&probe.kind));
        for (&kind, probe) in &new.probes {
            let same = old.probes.get(&kind).is_some_and(|before| before.check == probe.check);
            match self.0.iter_mut().find(|asked| asked.kind == kind) {
                Some(_) if same => {}
                Some(asked) if asked.in_flight => {
                    *asked = Asked {
                        in_flight: true,
                        outdated: true,
                        ..Asked::new(kind)
                    }
                }
                Some(asked) => {
                    *asked = Asked {
                        due: asked.due.map(|_| now),
                        ..Asked::new(kind)
                    }
                }
                None if kind == ProbeKind::Liveness && !running => self.0.push(Asked::new(kind)),
                None if kind == ProbeKind::Startup && running => {}
                None => self.0.push(Asked {
                    due: Some(now + probe.initial_delay),
                    ..Asked::new(kind)
                }),
            }
        }
        self.0.order_by_key(|probe| probe.kind);
        let held_back = self.find(ProbeKind::Startup).is_some_and(|startup| !startup.ever_passed());
        let waiting = |p: &&mut Asked| p.kind == ProbeKind::Readiness && p.due.is_none() && !p.in_flight;
        if !held_back && let Some(readiness) = self.0.iter_mut().find(waiting) {
            readiness.due = Some(now);
        }
    }
}

impl Asked {
    fn count(&mut self, probe: &Probe, passed: bool) -> Change {
        if self.row == 0 || self.row_passed != passed {
            (self.row, self.row_passed) = (0, passed);
        }
        self.row = self.row.saturating_add(1);
        if passed && self.row >= probe.success_threshold && self.verdict != Verdict::Passing {
            self.verdict = Verdict::Passing;
            return Change::Passed;
        }
        if !passed && self.row >= probe.failure_threshold && self.verdict == Verdict::Passing {
            self.verdict = Verdict::Failing;
            return Change::Failed(self.message.clone());
        }
        Change::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{Command, Main, Name};

    fn unit(failure_threshold: u32) -> Unit {
        let name = Name::new("u").expect("a name");
        let probe = Probe {
            failure_threshold,
            success_threshold: 2,
            ..Probe::new(ProbeCheck::Listen(None))
        };
        let probes = [(ProbeKind::Readiness, probe)].into();
        Unit {
            probes,
            ..Unit::new(name, Main::Exec(Command::Shell("u".into())))
        }
    }

    fn answer(probes: &mut Probes, spec: &Unit, now: &mut Instant, passed: bool, held: bool) -> Change {
        *now = probes.due().expect("asked again").0;
        assert_eq!(probes.take_due(spec, *now), Some((ProbeKind::Readiness, false)));
        assert_eq!(probes.due(), None, "one in flight");
        let result = ProbeResult {
            passed,
            message: "seen".into(),
        };
        probes.answer(spec, *now, ProbeKind::Readiness, result, held)
    }

    #[test]
    fn answers_count_in_a_row() {
        let (spec, mut now, mut probes) = (unit(2), Instant::now(), Probes::default());
        probes.begin(&spec, now);
        let seen =
            [true, false, true, true, false, true, false, false, true, true].map(|ok| answer(&mut probes, &spec, &mut now, ok, false));
        let passes = seen.iter().filter(|change| **change == Change::Passed).count();
        assert_eq!(
            (seen[3].clone(), seen[7].clone(), passes),
            (Change::Passed, Change::Failed("seen".into()), 2)
        );
    }

    #[test]
    fn failures_after_a_pause_do_not_count() {
        let (spec, mut now, mut probes) = (unit(1), Instant::now(), Probes::default());
        probes.begin(&spec, now);
        for _ in 0..2 {
            answer(&mut probes, &spec, &mut now, true, false);
        }
        probes.recheck(now);
        assert_eq!(answer(&mut probes, &spec, &mut now, false, true), Change::Nothing);
        assert_eq!(answer(&mut probes, &spec, &mut now, false, false), Change::Failed("seen".into()));
    }

    #[test]
    fn an_answer_to_a_question_that_changed_is_not_counted() {
        let (old, mut now, mut probes) = (unit(1), Instant::now(), Probes::default());
        probes.begin(&old, now);
        assert!(probes.take_due(&old, now).is_some());
        let check = ProbeCheck::Listen(Some(1));
        let new = Unit {
            probes: [(
                ProbeKind::Readiness,
                Probe {
                    success_threshold: 1,
                    ..Probe::new(check)
                },
            )]
            .into(),
            ..unit(1)
        };
        probes.reconcile(&old, &new, now, false);
        let result = ProbeResult {
            passed: true,
            message: "old".into(),
        };
        assert_eq!(probes.answer(&new, now, ProbeKind::Readiness, result, false), Change::Nothing);
        assert_eq!(answer(&mut probes, &new, &mut now, true, false), Change::Passed);
    }
}
