//! From the first process of a run to ready.

use super::action::Action;
use super::event::{ExitStatus, Pid, ProbeResult, Stage, StartError};
use super::node::Node;
use super::probes::{Change, Probes};
use super::restart;
use super::state::{End, Phase, Reload, Run, State, Step, Watchdog};
use super::turn::{News, Turn, later};
use crate::unit::{ProbeKind, Service};
use std::time::Duration;

impl Node {
    /// A process runs that was asked for.
    pub(super) fn spawned(&mut self, turn: &mut Turn, stage: Stage, pid: Pid, mut warnings: Vec<String>) {
        if self.state.spawning() != Some(stage) {
            return;
        }
        self.warnings.append(&mut warnings);
        match (&mut self.state, stage) {
            (State::Starting(start), Stage::StartPre(_)) => {
                start.step = Step::Pre {
                    n: index(stage),
                    pid: Some(pid),
                }
            }
            (State::Starting(start), Stage::StartPost(_)) => {
                start.step = Step::Post {
                    n: index(stage),
                    pid: Some(pid),
                }
            }
            (State::Starting(start), Stage::Main) => {
                start.main = Some(pid);
                start.step = Step::Main;
                if self.spec.service == Service::Simple || (self.spec.service == Service::Notify && start.said_ready) {
                    self.probe(turn);
                }
            }
            (State::Running(run), Stage::Reload(_)) => {
                if let Some(Reload::Command { pid: slot, .. }) = &mut run.reload {
                    *slot = Some(pid);
                }
            }
            (State::Stopping(_), _) => self.spawned_while_stopping(turn, stage, pid),
            _ => {}
        }
    }

    /// A process could not be started.
    pub(super) fn spawn_failed(&mut self, turn: &mut Turn, stage: Stage, error: StartError) {
        if self.state.spawning() != Some(stage) {
            return;
        }
        let first = stage == self.first_stage();
        match &mut self.state {
            State::Starting(_) if first => {
                self.finish(turn, End::SpawnFailed { stage, error }, Duration::ZERO);
            }
            State::Starting(start) => {
                start.step = Step::Main;
                self.wind_up(turn, Some(End::SpawnFailed { stage, error }));
            }
            State::Running(run) => {
                run.reload = None;
                turn.news
                    .push((self.spec.name.clone(), News::Reloaded(Some(format!("{stage}: {}", error.message)))));
            }
            State::Stopping(_) => self.not_spawned_while_stopping(turn, stage, Some(error.message)),
            State::Inactive | State::Skipped | State::Backoff { .. } | State::Done { .. } | State::Ended | State::Failed => {}
        }
    }

    /// A condition was not met, so that nothing was started.
    pub(super) fn skipped(&mut self, turn: &mut Turn, why: String) {
        if self.state.spawning() != Some(self.first_stage()) {
            return;
        }
        match self.state {
            State::Starting(_) => {
                self.rerun = None;
                self.series = None;
                self.starts.forget();
                self.enter(State::Skipped, why);
            }
            State::Stopping(_) => self.not_spawned_while_stopping(turn, self.first_stage(), None),
            State::Inactive
            | State::Skipped
            | State::Running(_)
            | State::Backoff { .. }
            | State::Done { .. }
            | State::Ended
            | State::Failed => {}
        }
    }

    /// The products of a oneshot are there: a success without a run, so that nothing that is part of it restarts.
    pub(super) fn satisfied(&mut self, turn: &mut Turn) {
        if self.state.spawning() != Some(self.first_stage()) {
            return;
        }
        if let State::Stopping(_) = self.state {
            return self.not_spawned_while_stopping(turn, self.first_stage(), None);
        }
        self.rerun = None;
        if restart::oneshot(&self.spec) {
            self.succeed(
                turn,
                "already done: what it creates exists, and what it watches is unchanged".into(),
            );
        } else {
            self.enter(State::Ended, "nothing to do");
        }
    }

    /// A process of this run ended.
    pub(super) fn exited(&mut self, turn: &mut Turn, stage: Stage, pid: Pid, status: ExitStatus, oom: bool) {
        if stage == Stage::Main {
            return self.main_exited(turn, pid, status, oom);
        }
        match &mut self.state {
            State::Starting(start) => {
                let running = match start.step {
                    Step::Pre { n, pid: Some(pid) } => Some((Stage::StartPre(n), pid)),
                    Step::Post { n, pid: Some(pid) } => Some((Stage::StartPost(n), pid)),
                    Step::Pre { .. } | Step::Spawn | Step::Main | Step::Probes | Step::Post { .. } => None,
                };
                if running == Some((stage, pid)) {
                    self.command_ended(turn, stage, status);
                }
            }
            State::Running(run) => {
                if let Some(Reload::Command { n, pid: Some(runs), .. }) = run.reload
                    && (Stage::Reload(n), runs) == (stage, pid)
                {
                    self.reload_command_ended(turn, n, status);
                }
            }
            State::Stopping(_) => self.exited_while_stopping(turn, stage, pid),
            State::Inactive | State::Skipped | State::Backoff { .. } | State::Done { .. } | State::Ended | State::Failed => {}
        }
    }

    /// The main process ended by itself, or because it was stopped.
    fn main_exited(&mut self, turn: &mut Turn, pid: Pid, status: ExitStatus, oom: bool) {
        let stopping = matches!(self.state, State::Stopping(_));
        let spawning = self.state.spawning() == Some(Stage::Main);
        if self.state.main() != Some(pid) && !spawning {
            return;
        }
        let unready = |step| matches!(step, Step::Spawn | Step::Main);
        let early = self.spec.service == Service::Notify && matches!(&self.state, State::Starting(start) if unready(start.step));
        let end = End::Exited { status, oom, early };
        self.note_exit(turn, &end);
        if stopping {
            return self.main_gone_while_stopping(turn, end, spawning);
        }
        if let State::Starting(start) = &mut self.state {
            start.main = None;
            if start.step == Step::Spawn {
                start.step = Step::Main;
            }
            if restart::oneshot(&self.spec) && start.step == Step::Main && !self.spec.exec_start_post.is_empty() {
                let succeeded = restart::verdict(&self.spec, &end) == restart::Verdict::Succeeded;
                if succeeded {
                    return self.post(turn, 0);
                }
            }
        }
        self.wind_up(turn, Some(end));
    }

    /// A command beside the main process ended while starting.
    fn command_ended(&mut self, turn: &mut Turn, stage: Stage, status: ExitStatus) {
        if status != ExitStatus::Code(0) {
            return self.wind_up(turn, Some(End::CommandFailed { stage, status }));
        }
        match stage {
            // A stop wins: it only waits for those that come after it.
            Stage::StartPre(_) if self.leaving(turn) => self.wind_up(turn, Some(End::Asked("stopped while starting".into()))),
            Stage::StartPre(n) if n + 1 < self.spec.exec_start_pre.len() => {
                self.step(Step::Pre { n: n + 1, pid: None });
                turn.spawn(&self.spec.name, self.invocation, Stage::StartPre(n + 1));
            }
            Stage::StartPre(_) => {
                self.step(Step::Spawn);
                turn.spawn(&self.spec.name, self.invocation, Stage::Main);
            }
            Stage::StartPost(n) => self.post(turn, n + 1),
            Stage::Main | Stage::Reload(_) | Stage::Stop(_) | Stage::StopPost(_) => {}
        }
    }

    fn step(&mut self, step: Step) {
        if let State::Starting(start) = &mut self.state {
            start.step = step;
        }
    }

    /// It has started as far as its type says: its probes decide.
    pub(super) fn probe(&mut self, turn: &mut Turn) {
        let State::Starting(start) = &mut self.state else { return };
        start.step = Step::Probes;
        start.probes.begin(&self.spec, turn.now);
        if start.probes.passed() {
            self.post(turn, 0);
        }
    }

    /// Runs the n-th of `exec_start_post`, or is ready.
    fn post(&mut self, turn: &mut Turn, n: usize) {
        if n < self.spec.exec_start_post.len() && !self.leaving(turn) {
            self.step(Step::Post { n, pid: None });
            turn.spawn(&self.spec.name, self.invocation, Stage::StartPost(n));
        } else if restart::oneshot(&self.spec) {
            self.wind_up(
                turn,
                Some(End::Exited {
                    status: ExitStatus::Code(0),
                    oom: false,
                    early: false,
                }),
            );
        } else {
            self.ready(turn);
        }
    }

    /// It is ready.
    fn ready(&mut self, turn: &mut Turn) {
        let State::Starting(start) = &mut self.state else { return };
        let Some(main) = start.main else { return };
        let mut probes: Probes = std::mem::take(&mut start.probes);
        probes.started(&self.spec, turn.now);
        let run = Run {
            main,
            probes,
            reload: None,
            began: turn.now,
            watchdog: self.spec.watchdog.map(|every| Watchdog {
                every,
                at: turn.after(every),
            }),
            until: self.spec.runtime_max.map(|limit| later(turn.now, limit)),
            alive_by: self.spec.start_timeout.map(|limit| turn.after(limit)),
            ready_since: Some(turn.now),
            ready_before: Duration::ZERO,
        };
        self.enter(State::Running(run), "ready");
        if !self.spec.watch.is_empty() {
            turn.actions.push(Action::TakeHashes {
                unit: self.spec.name.clone(),
            });
        }
    }

    /// A probe answered.
    pub(super) fn probed(&mut self, turn: &mut Turn, kind: ProbeKind, result: ProbeResult) {
        let held = turn.held();
        let message = result.message.clone();
        match &mut self.state {
            State::Starting(start) => {
                start.probes.answer(&self.spec, turn.now, kind, result, held);
                if start.step == Step::Probes {
                    self.reason = format!("{} probe: {message}", probe_name(kind));
                    if start.probes.passed() {
                        self.post(turn, 0);
                    }
                }
            }
            State::Running(run) => match (run.probes.answer(&self.spec, turn.now, kind, result, held), kind) {
                (Change::Failed(why), ProbeKind::Readiness) => {
                    run.ready_before += run
                        .ready_since
                        .take()
                        .map_or(Duration::ZERO, |since| turn.now.duration_since(since));
                    self.reason = format!("readiness probe failed: {why}");
                }
                (Change::Passed, ProbeKind::Readiness) if run.ready_since.is_none() => {
                    run.ready_since = Some(turn.now);
                    self.reason = format!("readiness probe passed: {message}");
                }
                (Change::Failed(why), ProbeKind::Liveness) => self.begin_stop(turn, Some(End::Liveness(why)), false),
                (Change::Nothing | Change::Passed | Change::Failed(_), _) => {}
            },
            State::Inactive
            | State::Skipped
            | State::Stopping(_)
            | State::Backoff { .. }
            | State::Done { .. }
            | State::Ended
            | State::Failed => {}
        }
    }

    /// Runs the n-th of `exec_reload`.
    pub(super) fn reload_command(&mut self, turn: &mut Turn, n: usize) {
        let by = self.spec.start_timeout.map(|limit| later(turn.now, limit));
        if let State::Running(run) = &mut self.state {
            run.reload = Some(Reload::Command { n, pid: None, by });
            turn.spawn(&self.spec.name, self.invocation, Stage::Reload(n));
        }
    }

    fn reload_command_ended(&mut self, turn: &mut Turn, n: usize, status: ExitStatus) {
        if status == ExitStatus::Code(0) && n + 1 < self.spec.exec_reload.len() {
            return self.reload_command(turn, n + 1);
        }
        let failure = (status != ExitStatus::Code(0)).then(|| format!("{}: {status}", Stage::Reload(n)));
        self.reload_over(turn, failure);
    }

    /// The reload is over, with this failure if any.
    pub(super) fn reload_over(&mut self, turn: &mut Turn, failure: Option<String>) {
        if let State::Running(run) = &mut self.state {
            run.reload = None;
            self.reason = failure
                .as_ref()
                .map_or_else(|| "reloaded".into(), |why| format!("reload failed: {why}"));
            turn.news.push((self.spec.name.clone(), News::Reloaded(failure)));
        }
    }

    /// What became of the phase of a stop that waited for a process to be known.
    pub(super) fn phase(&mut self, phase: Phase) {
        if let State::Stopping(stop) = &mut self.state {
            stop.phase = phase;
        }
    }
}

/// The probe's name in the config.
pub(super) fn probe_name(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "startup",
        ProbeKind::Readiness => "readiness",
        ProbeKind::Liveness => "liveness",
    }
}

/// The number of a command within its list.
pub(super) fn index(stage: Stage) -> usize {
    match stage {
        Stage::StartPre(n) | Stage::StartPost(n) | Stage::Reload(n) | Stage::Stop(n) | Stage::StopPost(n) => n,
        Stage::Main => 0,
    }
}
