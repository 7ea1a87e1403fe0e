//! From the first sign of a stop to nothing left: `exec_stop`, the stop signal, SIGKILL, `exec_stop_post`.
//!
//! Whatever the mode, one grace for all: it counts from the stop signal and is the unit's `stop_timeout`, or its share of the shutdown's
//! budget where that is less.

use super::action::Target;
use super::event::{ExitStatus, Pid, Stage};
use super::node::{LastExit, Node};
use super::restart::{self, Verdict};
use super::state::{End, Phase, Run, State, Stop};
use super::turn::{Turn, later};
use crate::unit::KillMode;
use std::time::{Duration, Instant};

const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;

/// How often a stop looks again whether a process is known that it has to wait for.
const SPAWNING: Duration = Duration::from_secs(1);

impl Node {
    /// Begins to stop a unit that has something to stop. `orderly`: `exec_stop` is asked first, where it has one.
    pub(super) fn begin_stop(&mut self, turn: &mut Turn, end: Option<End>, orderly: bool) {
        let spawning = self.state.spawning();
        let started = matches!(self.state, State::Running(_) | State::Done { active: true });
        self.stopping(turn, end);
        if let Some(stage) = spawning {
            self.phase(Phase::Spawning(stage));
        } else if orderly && started && !turn.hurry && !self.spec.exec_stop.is_empty() {
            self.stop_command(turn, 0);
        } else {
            self.terminate(turn);
        }
    }

    /// The run is over by itself, or its start failed: ends the rest of it.
    pub(super) fn wind_up(&mut self, turn: &mut Turn, end: Option<End>) {
        self.begin_stop(turn, end, false);
    }

    /// It said `STOPPING=1`: it gets its grace without a signal.
    pub(super) fn stops_by_itself(&mut self, turn: &mut Turn) {
        let kill_at = later(turn.now, self.grace(turn, self.phases_from_term()));
        self.stopping(turn, None);
        self.reason = "it said STOPPING=1".into();
        self.phase(Phase::Term { kill_at });
        turn.empty(&self.spec.name, self.invocation, false);
    }

    fn stopping(&mut self, turn: &Turn, end: Option<End>) {
        let (main, control) = (self.state.main(), self.state.control());
        let ready_for = self.state.run().map_or(Duration::ZERO, |run| run.ready_for(turn.now));
        let reason = end.as_ref().map_or_else(String::new, End::to_string);
        self.enter(
            State::Stopping(Stop {
                phase: Phase::Kill,
                main,
                control,
                end,
                ready_for,
            }),
            reason,
        );
    }

    fn stop_command(&mut self, turn: &mut Turn, n: usize) {
        let phases = count(self.spec.exec_stop.len() - n).saturating_add(self.phases_from_term());
        let by = later(turn.now, self.grace(turn, phases));
        self.phase(Phase::Command { n, pid: None, by });
        turn.spawn(&self.spec.name, self.invocation, Stage::Stop(n));
    }

    /// Sends the stop signal and asks to be told when nothing is left.
    fn terminate(&mut self, turn: &mut Turn) {
        let State::Stopping(stop) = &self.state else { return };
        let signal = if stop.end == Some(End::Watchdog) {
            SIGABRT
        } else {
            self.spec.kill_signal
        };
        let target = match (self.spec.kill_mode, stop.main, stop.control) {
            (KillMode::ControlGroup, _, _) => Target::All,
            (KillMode::Mixed, Some(_), _) => Target::Main,
            (KillMode::Mixed, None, Some(stage)) => Target::Control(stage),
            (KillMode::Mixed, None, None) => return self.kill(turn),
        };
        if turn.hurry {
            return self.kill(turn);
        }
        turn.signal(&self.spec.name, self.invocation, target, signal);
        turn.empty(&self.spec.name, self.invocation, false);
        self.phase(Phase::Term {
            kill_at: later(turn.now, self.grace(turn, self.phases_from_term())),
        });
    }

    /// SIGKILL to all that is left.
    pub(super) fn kill(&mut self, turn: &mut Turn) {
        turn.empty(&self.spec.name, self.invocation, true);
        self.phase(Phase::Kill);
    }

    pub(super) fn spawned_while_stopping(&mut self, turn: &mut Turn, stage: Stage, pid: Pid) {
        let State::Stopping(stop) = &mut self.state else { return };
        match &mut stop.phase {
            Phase::Spawning(_) => {
                if stage == Stage::Main {
                    stop.main = Some(pid);
                } else {
                    stop.control = Some(stage);
                }
                self.terminate(turn);
            }
            Phase::Command { pid: slot, .. } => *slot = Some(pid),
            Phase::Post { .. } if turn.hurry => {
                turn.empty(&self.spec.name, self.invocation, true);
                stop.phase = Phase::PostKill;
            }
            Phase::Post { pid: slot, .. } => *slot = Some(pid),
            Phase::Term { .. } | Phase::Kill | Phase::PostKill => {}
        }
    }

    pub(super) fn not_spawned_while_stopping(&mut self, turn: &mut Turn, stage: Stage, failure: Option<String>) {
        let State::Stopping(stop) = &self.state else { return };
        let phase = stop.phase;
        self.warnings.extend(failure.map(|why| format!("{stage}: {why}")));
        match phase {
            Phase::Spawning(_) => self.terminate(turn),
            Phase::Command { n, .. } => self.next_stop_command(turn, n),
            Phase::Post { n, .. } => self.next_post_command(turn, n),
            Phase::Term { .. } | Phase::Kill | Phase::PostKill => {}
        }
    }

    pub(super) fn exited_while_stopping(&mut self, turn: &mut Turn, stage: Stage, pid: Pid) {
        let State::Stopping(stop) = &self.state else { return };
        match stop.phase {
            Phase::Command { n, pid: Some(runs), .. } if (Stage::Stop(n), runs) == (stage, pid) => self.next_stop_command(turn, n),
            Phase::Post { n, pid: Some(runs), .. } if (Stage::StopPost(n), runs) == (stage, pid) => self.next_post_command(turn, n),
            Phase::Term { .. } if stop.control == Some(stage) && stop.main.is_none() && self.spec.kill_mode == KillMode::Mixed => {
                self.kill(turn);
            }
            Phase::Spawning(_) | Phase::Command { .. } | Phase::Term { .. } | Phase::Kill | Phase::Post { .. } | Phase::PostKill => {}
        }
    }

    pub(super) fn main_gone_while_stopping(&mut self, turn: &mut Turn, end: End, was_spawning: bool) {
        let mixed = self.spec.kill_mode == KillMode::Mixed;
        let State::Stopping(stop) = &mut self.state else { return };
        stop.main = None;
        stop.end.get_or_insert(end);
        match stop.phase {
            Phase::Spawning(_) if was_spawning => self.terminate(turn),
            Phase::Term { .. } if mixed => self.kill(turn),
            Phase::Spawning(_) | Phase::Command { .. } | Phase::Term { .. } | Phase::Kill | Phase::Post { .. } | Phase::PostKill => {}
        }
    }

    fn next_stop_command(&mut self, turn: &mut Turn, n: usize) {
        if n + 1 < self.spec.exec_stop.len() {
            self.stop_command(turn, n + 1);
        } else {
            self.terminate(turn);
        }
    }

    fn next_post_command(&mut self, turn: &mut Turn, n: usize) {
        if n + 1 < self.spec.exec_stop_post.len() {
            self.post_command(turn, n + 1);
        } else {
            turn.empty(&self.spec.name, self.invocation, true);
            self.phase(Phase::PostKill);
        }
    }

    fn post_command(&mut self, turn: &mut Turn, n: usize) {
        let by = later(turn.now, self.grace(turn, count(self.spec.exec_stop_post.len() - n)));
        self.phase(Phase::Post { n, pid: None, by });
        turn.spawn(&self.spec.name, self.invocation, Stage::StopPost(n));
    }

    /// Nothing is left, or what is left (named) cannot be ended.
    pub(super) fn emptied(&mut self, turn: &mut Turn, mut left: Vec<String>) {
        let State::Stopping(stop) = &mut self.state else { return };
        let post = match stop.phase {
            Phase::Term { .. } | Phase::Kill => !self.spec.exec_stop_post.is_empty() && !turn.hurry && !concluded(&self.spec, &stop.end),
            Phase::PostKill => false,
            Phase::Spawning(_) | Phase::Command { .. } | Phase::Post { .. } => return,
        };
        stop.main = None;
        self.left.append(&mut left);
        if post {
            return self.post_command(turn, 0);
        }
        let end = stop.end.take().unwrap_or(End::StopTimeout);
        let ready_for = stop.ready_for;
        self.finish(turn, end, ready_for);
    }

    /// A deadline of the stop is over.
    pub(super) fn stop_deadline(&mut self, turn: &mut Turn) {
        let State::Stopping(stop) = &mut self.state else { return };
        match stop.phase {
            Phase::Command { n, pid: None, .. } => stop.phase = Phase::Spawning(Stage::Stop(n)),
            Phase::Command { n, .. } => {
                self.warnings.push(format!("{}: not done within stop_timeout", Stage::Stop(n)));
                turn.signal(&self.spec.name, self.invocation, Target::Control(Stage::Stop(n)), SIGKILL);
                self.terminate(turn);
            }
            Phase::Term { .. } => {
                stop.end.get_or_insert(End::StopTimeout);
                self.kill(turn);
            }
            // A process that is being spawned cannot be killed: it gets its time once it is known.
            Phase::Post { n, pid: None, .. } => {
                stop.phase = Phase::Post {
                    n,
                    pid: None,
                    by: later(turn.now, SPAWNING),
                }
            }
            Phase::Post { n, .. } => {
                self.warnings.push(format!("{}: not done within stop_timeout", Stage::StopPost(n)));
                turn.empty(&self.spec.name, self.invocation, true);
                self.phase(Phase::PostKill);
            }
            Phase::Spawning(_) | Phase::Kill | Phase::PostKill => {}
        }
    }

    /// `EXTEND_TIMEOUT_USEC` while stopping: as far as the shutdown's budget goes, never less than it had.
    pub(super) fn extend_stop(&mut self, turn: &Turn, by: Duration) {
        let limit = turn
            .drain_by
            .map(|drain_by| drain_by.checked_sub(self.reserve.0).unwrap_or(turn.now));
        if let State::Stopping(stop) = &mut self.state
            && let Phase::Term { kill_at } = &mut stop.phase
        {
            let wanted = later(turn.now, by);
            *kill_at = limit.map_or(wanted, |limit| wanted.min(limit)).max(*kill_at);
        }
    }

    /// A shutdown began while it was stopping, or hurries: no more grace than that leaves.
    pub(super) fn hasten(&mut self, turn: &mut Turn) {
        let State::Stopping(stop) = &self.state else { return };
        let phases = match stop.phase {
            Phase::Command { n, .. } => count(self.spec.exec_stop.len().saturating_sub(n)).saturating_add(self.phases_from_term()),
            Phase::Post { n, .. } => count(self.spec.exec_stop_post.len().saturating_sub(n)),
            Phase::Spawning(_) | Phase::Term { .. } | Phase::Kill | Phase::PostKill => self.phases_from_term(),
        };
        let by_budget = later(turn.now, self.grace(turn, phases));
        let State::Stopping(stop) = &mut self.state else { return };
        match &mut stop.phase {
            Phase::Command { n, pid: None, .. } if turn.hurry => stop.phase = Phase::Spawning(Stage::Stop(*n)),
            Phase::Command { .. } | Phase::Term { .. } if turn.hurry => self.kill(turn),
            Phase::Post { pid: Some(_), .. } if turn.hurry => {
                turn.empty(&self.spec.name, self.invocation, true);
                self.phase(Phase::PostKill);
            }
            Phase::Command { by: at, .. } | Phase::Term { kill_at: at } | Phase::Post { by: at, .. } => *at = by_budget.min(*at),
            Phase::Spawning(_) | Phase::Kill | Phase::PostKill => {}
        }
    }

    /// How long one of so many phases of its stop may take: its `stop_timeout`, less where a shutdown's budget does not suffice. When not all fits,
    /// it gets its share in proportion, and at most half of what is left where one that comes later drains.
    fn grace(&self, turn: &Turn, phases: u32) -> Duration {
        let (Some(drain_by), timeout) = (turn.drain_by, self.spec.stop_timeout) else {
            return self.spec.stop_timeout;
        };
        let available = drain_by.saturating_duration_since(turn.now);
        let (reserve, drains) = self.reserve;
        let own = timeout.saturating_mul(phases.max(1));
        if own.saturating_add(reserve) <= available {
            return timeout;
        }
        let fraction = own.as_secs_f64() / (own.as_secs_f64() + reserve.as_secs_f64()).max(f64::MIN_POSITIVE);
        let share = available.mul_f64(fraction.clamp(0.0, 1.0));
        let share = if drains { share.min(available / 2) } else { share };
        (share / phases.max(1)).min(timeout)
    }

    /// The longest that a stop of it can take.
    pub(super) fn stop_span(&self) -> Duration {
        let phases = count(self.spec.exec_stop.len()).saturating_add(self.phases_from_term());
        self.spec.stop_timeout.saturating_mul(phases)
    }

    /// The stop signal, and each of `exec_stop_post`.
    fn phases_from_term(&self) -> u32 {
        count(self.spec.exec_stop_post.len()).saturating_add(1)
    }

    /// Keeps how the main process ended, as soon as it is known.
    pub(super) fn note_exit(&mut self, turn: &Turn, end: &End) {
        let End::Exited { status, .. } = end else { return };
        let (code, signal) = match *status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal { signal, .. } => (None, Some(signal)),
        };
        let told = matches!(
            &self.state,
            State::Stopping(Stop {
                end: Some(End::Asked(_)),
                ..
            })
        );
        let asked = told && signal.is_some_and(|signal| signal == self.spec.kill_signal);
        let reason = if asked { "success" } else { restart::classify(&self.spec, end).1 };
        let invocation = self.invocation;
        self.last_exit = Some(LastExit {
            invocation,
            code,
            signal,
            reason,
            message: end.to_string(),
            hint: None,
            at: turn.now,
        });
    }
}

impl Run {
    /// How long it has been ready in this run.
    pub(super) fn ready_for(&self, now: Instant) -> Duration {
        self.ready_before + self.ready_since.map_or(Duration::ZERO, |since| now.duration_since(since))
    }
}

fn count(commands: usize) -> u32 {
    u32::try_from(commands).unwrap_or(u32::MAX)
}

/// Whether a oneshot succeeded and stays active: it has not stopped, so that `exec_stop_post` is not due.
fn concluded(spec: &crate::unit::Unit, end: &Option<End>) -> bool {
    use crate::unit::Service;
    let succeeded = end
        .as_ref()
        .is_some_and(|end| !matches!(end, End::Asked(_)) && restart::verdict(spec, end) == Verdict::Succeeded);
    succeeded && spec.service == Service::Oneshot { remain_after_exit: true }
}
