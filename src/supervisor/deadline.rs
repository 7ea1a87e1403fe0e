//! When a unit must next be looked at, why, and what is done then.

use super::action::{Action, Target};
use super::event::Stage;
use super::node::Node;
use super::restart;
use super::state::{End, Phase, Reload, State};
use super::turn::{Turn, later};
use std::fmt;
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// `stop_timeout` is over.
    Stop,
    /// `start_timeout` is over.
    Start,
    /// The watchdog's interval is over.
    Watchdog,
    /// `runtime_max` is over.
    RuntimeMax,
    /// A liveness probe has never passed.
    Liveness,
    /// A reload takes too long.
    Reload,
    /// The backoff is over.
    Backoff,
    /// A probe is to be asked.
    Probe,
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop timeout",
            Self::Start => "start timeout",
            Self::Watchdog => "watchdog",
            Self::RuntimeMax => "runtime_max",
            Self::Liveness => "first pass of the liveness probe",
            Self::Reload => "reload timeout",
            Self::Backoff => "restart",
            Self::Probe => "probe",
        })
    }
}

impl Node {
    /// The next deadline, and what it is for.
    pub(super) fn deadline(&self) -> Option<(Instant, Timer)> {
        match &self.state {
            State::Starting(start) => {
                let probe = start.probes.due().map(|(at, _)| (at, Timer::Probe));
                start.by.map(|at| (at, Timer::Start)).into_iter().chain(probe).min()
            }
            State::Running(run) => {
                let alive_by = run.alive_by.filter(|_| run.probes.liveness_pending());
                let reload = run.reload.and_then(|reload| match reload {
                    Reload::Said { by } | Reload::Command { by, .. } => by,
                });
                let due = [
                    (run.watchdog.map(|watchdog| watchdog.at), Timer::Watchdog),
                    (run.until, Timer::RuntimeMax),
                    (alive_by, Timer::Liveness),
                    (reload, Timer::Reload),
                    (run.probes.due().map(|(at, _)| at), Timer::Probe),
                ];
                due.into_iter().filter_map(|(at, timer)| Some((at?, timer))).min()
            }
            State::Stopping(stop) => match stop.phase {
                Phase::Command { by: at, .. } | Phase::Term { kill_at: at } | Phase::Post { by: at, .. } => Some((at, Timer::Stop)),
                Phase::Spawning(_) | Phase::Kill | Phase::PostKill => None,
            },
            State::Backoff { until } => {
                let series = self.series_deadline();
                Some(series.map_or((*until, Timer::Backoff), |at| (*until, Timer::Backoff).min((at, Timer::Start))))
            }
            State::Inactive | State::Skipped | State::Done { .. } | State::Ended | State::Failed => None,
        }
    }

    /// When `restore` gives up.
    fn series_deadline(&self) -> Option<Instant> {
        let series = self.series.filter(|_| restart::restores(&self.spec))?;
        Some(later(series, self.spec.start_timeout?))
    }

    /// Does what is due. May leave another deadline that is due, never the same.
    pub(super) fn expire(&mut self, turn: &mut Turn) {
        let Some((_, timer)) = self.deadline().filter(|(at, _)| *at <= turn.now) else {
            return;
        };
        match timer {
            Timer::Stop => self.stop_deadline(turn),
            Timer::Start => self.start_deadline(turn),
            Timer::Watchdog => self.begin_stop(turn, Some(End::Watchdog), false),
            Timer::RuntimeMax => {
                let limit = self.spec.runtime_max.unwrap_or(Duration::ZERO);
                self.begin_stop(turn, Some(End::RuntimeMax(limit)), true);
            }
            Timer::Liveness => self.begin_stop(turn, Some(End::Liveness("it has never passed".into())), false),
            Timer::Reload => self.reload_deadline(turn),
            Timer::Backoff => self.state = State::Inactive,
            Timer::Probe => self.ask(turn),
        }
    }

    fn start_deadline(&mut self, turn: &mut Turn) {
        let limit = self.spec.start_timeout.unwrap_or(Duration::ZERO);
        if let State::Backoff { .. } = self.state {
            self.series = None;
            let reason = format!("{}; {} are over (start_timeout)", self.reason, super::state::human(limit));
            return self.enter(State::Failed, reason);
        }
        self.begin_stop(turn, Some(End::StartTimeout(limit)), false);
    }

    fn reload_deadline(&mut self, turn: &mut Turn) {
        if let Some(Reload::Command { n, pid, .. }) = self.state.run().and_then(|run| run.reload) {
            if pid.is_none() {
                // Whoever waits for a process to be spawned must not forget it: a stop could overlook it.
                if let State::Running(run) = &mut self.state {
                    run.reload = Some(Reload::Command { n, pid, by: None });
                }
                return;
            }
            turn.signal(&self.spec.name, self.invocation, Target::Control(Stage::Reload(n)), SIGKILL);
        }
        self.reload_over(turn, Some("it took longer than start_timeout".into()));
    }

    fn ask(&mut self, turn: &mut Turn) {
        let Some(probes) = self.state.probes_mut() else { return };
        if let Some((kind, connect_only)) = probes.take_due(&self.spec, turn.now) {
            turn.actions.push(Action::Probe {
                unit: self.spec.name.clone(),
                invocation: self.invocation,
                kind,
                connect_only,
            });
        }
    }

    /// The machine was paused: nobody is blamed for the time that was lost.
    pub(super) fn resumed(&mut self, turn: &Turn) {
        self.starts.forget();
        let Some(until) = turn.held_until else { return };
        match &mut self.state {
            State::Starting(start) => {
                start.by = start.by.map(|at| at.max(until));
                start.probes.recheck(turn.now);
            }
            State::Running(run) => {
                if let Some(watchdog) = &mut run.watchdog {
                    watchdog.at = turn.after(watchdog.every);
                }
                run.alive_by = run.alive_by.map(|at| at.max(until));
                run.probes.recheck(turn.now);
            }
            State::Inactive
            | State::Skipped
            | State::Stopping(_)
            | State::Backoff { .. }
            | State::Done { .. }
            | State::Ended
            | State::Failed => {}
        }
    }
}
