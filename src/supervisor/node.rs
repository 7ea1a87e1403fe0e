//! One unit under supervision: what it remembers from run to run, and what it shows to others.

use super::action::Action;
use super::event::{Invocation, Stage};
use super::restart::{self, Starts, Verdict};
use super::saved::{instant, some_instant, some_spec, spec, word};
use super::state::{End, Face, Goal, Hope, Phase, Start, State, Step, Stop, Word};
use super::turn::{News, Turn, later};
use crate::unit::{Service, StartLimitAction, Unit};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One unit under supervision.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Node {
    #[serde(with = "spec")]
    pub(super) spec: Arc<Unit>,
    /// What a reload made of it, where that has to wait for the end of this run.
    #[serde(with = "some_spec")]
    pub(super) next_spec: Option<Arc<Unit>>,
    /// The config does not name it any more; it is forgotten as soon as it is down.
    pub(super) removed: bool,
    pub(super) goal: Goal,
    /// Why it must be down once before it may run again.
    pub(super) cycle: Option<String>,
    /// What changed for a oneshot that now runs for that reason.
    pub(super) rerun: Option<String>,
    /// What changed while the oneshot ran: reason enough to try again at once should it fail.
    pub(super) changed: Option<String>,
    pub(super) state: State,
    /// Why it is in this state, for people.
    pub(super) reason: String,
    pub(super) invocation: Invocation,
    /// Starts that followed a failure.
    pub(super) restarts: u32,
    /// Short runs in a row.
    pub(super) attempts: u32,
    pub(super) starts: Starts,
    /// When the first of `restore`'s attempts began.
    #[serde(with = "some_instant")]
    pub(super) series: Option<Instant>,
    pub(super) last_exit: Option<LastExit>,
    pub(super) status_text: String,
    pub(super) errno: Option<i32>,
    /// What could not be had, what could not be ended.
    pub(super) warnings: Vec<String>,
    /// The processes that the last stop could not end.
    pub(super) left: Vec<String>,
    /// What keeps it from starting, while it waits: a unit that it requires and that will not come by itself.
    #[serde(skip)]
    pub(super) blocked: Option<(usize, Hope)>,
    /// A unit that it is bound to and that is not active.
    #[serde(skip)]
    pub(super) unbound: Option<usize>,
    pub(super) face: Face,
    #[serde(with = "instant")]
    pub(super) since: Instant,
    /// Shutdown: the longest chain of stop timeouts that is to follow, and whether one in it drains.
    pub(super) reserve: (Duration, bool),
}

/// How the last run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Which run.
    pub invocation: Invocation,
    /// Its exit code.
    pub code: Option<u8>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// systemd's word: `success exit-code signal core-dump timeout watchdog oom-kill resources protocol liveness`.
    #[serde(with = "word")]
    pub reason: Word,
    /// The same for people.
    pub message: String,
    /// What to do about it, where something is known.
    pub hint: Option<String>,
    /// When.
    #[serde(with = "instant")]
    pub at: Instant,
}

impl Node {
    pub(super) fn new(spec: Arc<Unit>, now: Instant) -> Self {
        let face = Face {
            state: "inactive",
            sub_state: "dead",
            ready: false,
            active: false,
            skipped: false,
            down: true,
            leaving: false,
            pending: true,
            hope: Hope::Some,
        };
        Self {
            spec,
            next_spec: None,
            removed: false,
            goal: Goal::Up,
            cycle: None,
            rerun: None,
            changed: None,
            state: State::Inactive,
            reason: String::new(),
            invocation: 0,
            restarts: 0,
            attempts: 0,
            starts: Starts::default(),
            series: None,
            last_exit: None,
            status_text: String::new(),
            errno: None,
            warnings: Vec::new(),
            left: Vec::new(),
            blocked: None,
            unbound: None,
            face,
            since: now,
            reserve: (Duration::ZERO, false),
        }
    }

    /// Why it has to stop, or to stop before it may start again; `None` while it may run.
    pub(super) fn must_stop(&self, turn: &Turn) -> Option<String> {
        if turn.stopping() {
            Some("shutdown".into())
        } else if self.removed {
            Some("no longer configured".into())
        } else if self.goal == Goal::Down {
            Some("stopped by request".into())
        } else {
            self.cycle.clone()
        }
    }

    /// Whether the config does not name it any more, nothing is left of it, and that was announced.
    pub(super) fn forgettable(&self) -> bool {
        self.removed && self.face.leaving && matches!(self.state, State::Inactive)
    }

    /// As [`must_stop`](Self::must_stop), without the reason.
    pub(super) fn leaving(&self, turn: &Turn) -> bool {
        turn.stopping() || self.removed || self.goal == Goal::Down || self.cycle.is_some() || self.unbound.is_some()
    }

    /// What others see of it.
    pub(super) fn look(&self, turn: &Turn) -> Face {
        let told = matches!(
            &self.state,
            State::Stopping(Stop {
                end: Some(End::Asked(_)),
                ..
            })
        );
        let leaving = told || self.leaving(turn);
        let (state, sub_state) = self.visible(turn);
        let (ready, active) = match &self.state {
            State::Running(run) => (run.ready_since.is_some(), true),
            State::Done { active } => (true, *active),
            State::Inactive
            | State::Skipped
            | State::Starting(_)
            | State::Stopping(_)
            | State::Backoff { .. }
            | State::Ended
            | State::Failed => (false, false),
        };
        let down = !self.state.alive() && !matches!(self.state, State::Done { active: true });
        let pending = match &self.state {
            _ if leaving => !down || self.cycle.is_some(),
            State::Inactive => self.blocked.is_none(),
            State::Starting(_) | State::Stopping(_) => true,
            State::Backoff { .. } => restart::restores(&self.spec),
            State::Skipped | State::Running(_) | State::Done { .. } | State::Ended | State::Failed => false,
        };
        let hope = match &self.state {
            State::Failed if self.cycle.is_none() => Hope::Failed,
            State::Ended if self.cycle.is_none() => Hope::Absent,
            _ if self.goal == Goal::Down || self.removed || turn.stopping() => Hope::Absent,
            State::Inactive => self.blocked.map_or(Hope::Some, |(_, hope)| hope),
            State::Skipped
            | State::Starting(_)
            | State::Running(_)
            | State::Stopping(_)
            | State::Backoff { .. }
            | State::Done { .. }
            | State::Ended
            | State::Failed => Hope::Some,
        };
        let skipped = matches!(self.state, State::Skipped);
        Face {
            state,
            sub_state,
            ready,
            active,
            skipped,
            down,
            leaving,
            pending,
            hope,
        }
    }

    /// systemd's ActiveState (or `skipped`) and the finer state.
    fn visible(&self, turn: &Turn) -> (&'static str, &'static str) {
        match &self.state {
            State::Inactive if self.goal == Goal::Down || self.removed || turn.stopping() => ("inactive", "dead"),
            State::Inactive => match self.blocked {
                Some((_, Hope::Failed)) => ("failed", "waiting"),
                Some((_, Hope::Absent | Hope::Some)) | None => ("inactive", "waiting"),
            },
            State::Skipped => ("skipped", "dead"),
            State::Starting(start) => match start.step {
                Step::Pre { .. } => ("activating", "start-pre"),
                Step::Spawn | Step::Main => ("activating", "start"),
                Step::Probes | Step::Post { .. } => ("activating", "ready-wait"),
            },
            State::Running(run) if run.reload.is_some() => ("reloading", "running"),
            State::Running(_) => ("active", "running"),
            State::Stopping(stop) => match stop.phase {
                Phase::Kill | Phase::PostKill => ("deactivating", "stop-kill"),
                _ if self.concludes(stop) => ("activating", "start"),
                Phase::Spawning(_) | Phase::Command { .. } | Phase::Term { .. } | Phase::Post { .. } => ("deactivating", "stop-term"),
            },
            State::Backoff { .. } => ("activating", "auto-restart"),
            State::Done { active: true } => ("active", "exited"),
            State::Done { active: false } | State::Ended => ("inactive", "dead"),
            State::Failed => ("failed", "dead"),
        }
    }

    /// Whether this is the last stretch of a oneshot that succeeded.
    fn concludes(&self, stop: &Stop) -> bool {
        stop.end
            .as_ref()
            .is_some_and(|end| !matches!(end, End::Asked(_)) && restart::verdict(&self.spec, end) == Verdict::Succeeded)
    }

    /// Leaves whatever state it was in.
    pub(super) fn enter(&mut self, state: State, reason: impl Into<String>) {
        self.state = state;
        self.reason = reason.into();
    }

    /// Begins a run, unless the start limit is hit.
    pub(super) fn start(&mut self, turn: &mut Turn) {
        let now = turn.now;
        if let Some(why) = self.spec.skip.clone() {
            return self.enter(State::Skipped, why);
        }
        if self.starts.exhausted(&self.spec, now) {
            return self.limit_hit(turn);
        }
        if !turn.held() {
            self.starts.count(&self.spec, now);
        }
        self.invocation += 1;
        self.changed = None;
        self.status_text.clear();
        self.errno = None;
        self.warnings.clear();
        self.left.clear();
        let first = if restart::restores(&self.spec) {
            *self.series.get_or_insert(now)
        } else {
            now
        };
        let by = self.spec.start_timeout.map(|limit| later(first, limit));
        let step = if self.spec.exec_start_pre.is_empty() {
            Step::Spawn
        } else {
            Step::Pre { n: 0, pid: None }
        };
        let reason = self.rerun.as_ref().map_or_else(String::new, |path| format!("{path} changed"));
        self.enter(
            State::Starting(Start {
                step,
                main: None,
                said_ready: false,
                began: first,
                by,
                probes: super::probes::Probes::default(),
            }),
            reason,
        );
        turn.spawn(&self.spec.name, self.invocation, self.first_stage());
    }

    /// The stage that a run begins with: the one at which conditions are looked at.
    pub(super) fn first_stage(&self) -> Stage {
        if self.spec.exec_start_pre.is_empty() {
            Stage::Main
        } else {
            Stage::StartPre(0)
        }
    }

    fn limit_hit(&mut self, turn: &mut Turn) {
        let last = self
            .last_exit
            .as_ref()
            .map_or(String::new(), |last| format!(", last: {}", last.message));
        let (burst, interval) = (self.spec.start_limit_burst, super::state::human(self.spec.start_limit_interval));
        self.enter(State::Failed, format!("start limit hit: {burst} starts in {interval}{last}"));
        self.rerun = None;
        if self.spec.start_limit_action == StartLimitAction::Shutdown {
            turn.news.push((self.spec.name.clone(), News::ShutDown));
        }
    }

    /// The run is over and nothing of it is left: what comes next.
    pub(super) fn finish(&mut self, turn: &mut Turn, end: End, ready_for: Duration) {
        let (class, word) = restart::classify(&self.spec, &end);
        let message = end.to_string();
        if ready_for >= restart::STABLE_AFTER {
            self.attempts = 0;
        }
        if let End::Asked(_) = end {
            return self.enter(State::Inactive, message);
        }
        self.remember(turn, &end, word);
        let unwanted = self.must_stop(turn).is_some();
        match restart::verdict(&self.spec, &end) {
            Verdict::Succeeded => self.succeed(turn, message),
            _ if unwanted => self.enter(State::Inactive, message),
            Verdict::Again => self.back_off(turn, message),
            Verdict::Ended => self.enter(State::Ended, message),
            Verdict::Failed if self.changed.take().is_some() => self.enter(State::Inactive, message),
            Verdict::Failed => {
                debug_assert_ne!(class, restart::Class::Clean);
                self.enter(State::Failed, message);
            }
        }
        if !matches!(self.state, State::Backoff { .. }) {
            self.series = None;
        }
        if !matches!(self.state, State::Backoff { .. } | State::Inactive) {
            self.rerun = None;
        }
    }

    /// The oneshot did what it was for.
    pub(super) fn succeed(&mut self, turn: &mut Turn, reason: String) {
        let active = matches!(self.spec.service, Service::Oneshot { remain_after_exit: true });
        self.attempts = 0;
        self.changed = None;
        self.series = None;
        self.starts.forget();
        self.enter(State::Done { active }, reason);
        if !self.spec.watch.is_empty() {
            turn.actions.push(Action::TakeHashes {
                unit: self.spec.name.clone(),
            });
        }
        if self.rerun.take().is_some() {
            turn.news.push((self.spec.name.clone(), News::RerunSucceeded));
        }
    }

    /// Waits for another start; at once where the content that it works on changed meanwhile.
    fn back_off(&mut self, turn: &mut Turn, message: String) {
        if let (true, Some(series), Some(limit)) = (restart::restores(&self.spec), self.series, self.spec.start_timeout)
            && later(series, limit) <= turn.now
        {
            return self.enter(
                State::Failed,
                format!("{message}; {} are over (start_timeout)", super::state::human(limit)),
            );
        }
        self.restarts = self.restarts.saturating_add(1);
        if self.changed.take().is_some() {
            return self.enter(State::Inactive, message);
        }
        let random = restart::randomness(turn.seed, self.spec.name.as_str(), self.invocation);
        let wait = restart::delay(&self.spec, self.attempts, random);
        self.attempts = self.attempts.saturating_add(1);
        self.enter(
            State::Backoff {
                until: later(turn.now, wait),
            },
            message,
        );
    }

    /// Keeps how the run ended.
    fn remember(&mut self, turn: &Turn, end: &End, word: &'static str) {
        let hint = if let End::SpawnFailed { error, .. } = end {
            error.hint.clone()
        } else {
            None
        };
        let known = self.last_exit.take().filter(|last| last.invocation == self.invocation);
        let (code, signal) = known.map_or((None, None), |last| (last.code, last.signal));
        self.last_exit = Some(LastExit {
            invocation: self.invocation,
            code,
            signal,
            reason: word,
            message: end.to_string(),
            hint,
            at: turn.now,
        });
    }

    /// Somebody asked for it: what was counted against it is forgotten, and it may start from any state of rest.
    pub(super) fn absolve(&mut self) {
        self.attempts = 0;
        self.series = None;
        self.starts.forget();
        match self.state {
            State::Backoff { .. } | State::Failed | State::Ended | State::Skipped | State::Done { active: false } => {
                self.state = State::Inactive;
            }
            State::Inactive | State::Starting(_) | State::Running(_) | State::Stopping(_) | State::Done { active: true } => {}
        }
        if let State::Inactive = self.state {
            self.reason.clear();
        }
    }
}
