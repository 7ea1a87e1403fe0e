//! What processes say over the notify socket. sd_notify(3).

use super::event::Notice;
use super::node::Node;
use super::restart;
use super::state::{End, Reload, State, Step, Watchdog};
use super::turn::{Turn, later};
use crate::unit::Service;

impl Node {
    /// A process of this run said something.
    pub(super) fn noticed(&mut self, turn: &mut Turn, notice: Notice) {
        if !self.state.alive() {
            return;
        }
        match notice {
            Notice::Ready => self.said_ready(turn),
            Notice::Reloading => self.said_reloading(turn),
            Notice::Stopping => {
                if let State::Running(_) = self.state
                    && self.state.spawning().is_none()
                {
                    self.stops_by_itself(turn);
                }
            }
            Notice::Status(text) => self.status_text = text,
            Notice::Errno(errno) => self.errno = Some(errno),
            Notice::MainPid(pid) => {
                if let Some(main) = self.state.main_mut() {
                    *main = pid;
                }
            }
            Notice::Watchdog => self.watchdog(|watchdog| {
                if let Some(watchdog) = watchdog {
                    watchdog.at = turn.after(watchdog.every);
                }
            }),
            Notice::WatchdogTrigger => {
                if let State::Running(_) = self.state {
                    self.begin_stop(turn, Some(End::Watchdog), false);
                }
            }
            Notice::WatchdogInterval(every) => self.watchdog(|watchdog| {
                *watchdog = (!every.is_zero()).then(|| Watchdog {
                    every,
                    at: turn.after(every),
                });
            }),
            Notice::ExtendTimeout(by) => match &mut self.state {
                State::Starting(start) => start.by = start.by.map(|at| at.max(later(turn.now, by))),
                State::Running(run) => run.until = run.until.map(|at| at.max(later(turn.now, by))),
                State::Stopping(_) => self.extend_stop(turn, by),
                State::Inactive | State::Skipped | State::Backoff { .. } | State::Done { .. } | State::Ended | State::Failed => {}
            },
            Notice::Part(_) => {}
        }
    }

    fn said_ready(&mut self, turn: &mut Turn) {
        if let State::Starting(start) = &mut self.state
            && self.spec.service == Service::Notify
            && matches!(start.step, Step::Spawn | Step::Main)
        {
            start.said_ready = true;
            if start.main.is_some() {
                self.probe(turn);
            }
        } else if let Some(Reload::Said { .. }) = self.state.run().and_then(|run| run.reload) {
            self.reload_over(turn, None);
        }
    }

    fn said_reloading(&mut self, turn: &Turn) {
        if let State::Running(run) = &mut self.state
            && run.reload.is_none()
        {
            let by = self.spec.start_timeout.map(|limit| later(turn.now, limit));
            run.reload = Some(Reload::Said { by });
            self.reason = "it said RELOADING=1".into();
        }
    }

    fn watchdog(&mut self, change: impl FnOnce(&mut Option<Watchdog>)) {
        if let State::Running(run) = &mut self.state
            && !restart::oneshot(&self.spec)
        {
            change(&mut run.watchdog);
        }
    }
}
