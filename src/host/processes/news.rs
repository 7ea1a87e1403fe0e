//! What the host hears of its processes: that they ended, and what they said.

use super::Host;
use crate::host::runs::{Key, Role, Tracked};
use crate::host::{notice, oom, proc, sys};
use crate::supervisor::event::{Event, ExitStatus, Notice, Pid, Stage};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::io::Read;
use std::time::Instant;

/// So many dead are looked at in one go.
const MOST_DEAD: usize = 1024;

impl Host {
    /// Whether the OOM killer ended a process: exactly, where the run's cgroup counts that.
    fn ended_by_oom(&mut self, key: &Key, pid: Pid, status: ExitStatus) -> bool {
        let Some(run) = self.runs.all.get_mut(key).filter(|run| !run.killed) else {
            return false;
        };
        match self.set.oom_kills(key) {
            None => self.oom.did(pid, status),
            count => oom::is_suspicious(status) && count > std::mem::replace(&mut run.oom_kills, count),
        }
    }

    /// What happened, in the order in which the supervisor must hear of it. Never blocks, and comes to its end however much happens
    /// meanwhile: what is left is told by [`Host::has_more`].
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.outbox);
        self.drain_wakeups();
        self.more = self.take_notices(&mut events);
        for count in 0_usize.. {
            let Some(dead) = sys::next_dead() else { break };
            // It said what it had to say before it died, and until it is reaped its pid says whose it was.
            let floods = self.take_notices(&mut events);
            sys::reap(dead.pid);
            self.ended(dead.pid, dead.status, &mut events);
            if floods || count >= MOST_DEAD {
                self.more = true;
                break;
            }
        }
        self.look_at_foreign(&mut events);
        self.look_at_pending(&mut events);
        self.more |= self.watcher.events(Instant::now(), &mut events);
        self.record.flush();
        events
    }

    /// Whether [`Host::events`] is to be called again soon, though no descriptor says so: somebody is faster than it is read.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// Whether [`Host::events`] has said everything that it knew.
    pub fn is_told(&self) -> bool {
        self.outbox.is_empty()
    }

    fn drain_wakeups(&mut self) {
        let mut buffer = [0; 256];
        while self.child_died.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }

    fn ended(&mut self, pid: Pid, status: ExitStatus, events: &mut Vec<Event>) {
        let Some(((unit, invocation), tracked)) = self.runs.release(pid) else {
            return;
        };
        self.record.ended(pid);
        let run = self.runs.all.get_mut(&(unit.clone(), invocation));
        match tracked.role {
            Role::Former => {}
            Role::Probe(sender) => {
                // Who asked may have given up on it.
                let _ = sender.send(status);
            }
            Role::Stage(stage) => {
                if let (Some(run), Stage::Main) = (run, stage) {
                    run.main_exit = Some(status);
                }
                let oom = self.ended_by_oom(&(unit.clone(), invocation), pid, status);
                events.push(Event::Exited {
                    unit,
                    invocation,
                    stage,
                    pid,
                    status,
                    oom,
                });
            }
        }
    }

    /// Takes what was said before the call. `true` if there may be more.
    fn take_notices(&mut self, events: &mut Vec<Event>) -> bool {
        let mut round = self.notify.round();
        while let Some(message) = self.notify.receive(&mut round) {
            let Some((unit, invocation)) = self.set.owner(&mut self.runs, message.pid) else {
                tracing::debug!(pid = message.pid, "a notification from a process of no unit was dropped");
                continue;
            };
            for notice in notice::parse(&message.text) {
                if let Notice::MainPid(pid) = notice
                    && !self.take_main(&(unit.clone(), invocation), pid)
                {
                    tracing::warn!(unit = %unit, pid, "MAINPID= names a process that is none of the unit's: ignored");
                    continue;
                }
                events.push(Event::Notified {
                    unit: unit.clone(),
                    invocation,
                    notice,
                });
            }
        }
        round.is_cut()
    }

    /// Makes another process of the run its main process. `false` if it is none of its.
    fn take_main(&mut self, key: &Key, pid: Pid) -> bool {
        if self.set.owner(&mut self.runs, pid).as_ref() != Some(key) {
            return false;
        }
        let held = self.runs.of_pid(pid).is_some();
        let Some(run) = self.runs.all.get_mut(key) else { return false };
        if !held {
            let Ok(handle) = sys::Handle::open(pid) else { return false };
            for tracked in run
                .tracked
                .iter_mut()
                .filter(|tracked| matches!(tracked.role, Role::Stage(Stage::Main)))
            {
                tracked.role = Role::Former;
            }
            self.watch_end_of(&handle);
            self.runs.track(
                key,
                Tracked {
                    handle,
                    role: Role::Stage(Stage::Main),
                    foreign: true,
                },
            );
            return true;
        }
        for tracked in &mut run.tracked {
            let is_it = tracked.handle.pid == pid;
            match tracked.role {
                Role::Stage(Stage::Main) if !is_it => tracked.role = Role::Former,
                Role::Former if is_it => tracked.role = Role::Stage(Stage::Main),
                Role::Stage(_) | Role::Former | Role::Probe(_) => {}
            }
        }
        true
    }

    /// A child of somebody else's: its descriptor alone tells of its end. Closing it takes it out of the epoll set.
    pub(in crate::host) fn watch_end_of(&self, handle: &sys::Handle) {
        if let Some(descriptor) = handle.descriptor() {
            let _ = self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, 0));
        }
    }

    /// Main processes that are not our children: their parent learns how they ended, we only that they did.
    fn look_at_foreign(&mut self, events: &mut Vec<Event>) {
        let foreign = self
            .runs
            .all
            .values()
            .flat_map(|run| run.tracked.iter())
            .filter(|tracked| tracked.foreign);
        let gone: Vec<Pid> = foreign
            .map(|tracked| tracked.handle.pid)
            .filter(|pid| proc::process(*pid).is_none_or(|process| process.is_dead()))
            .collect();
        for pid in gone {
            self.ended(pid, ExitStatus::Code(0), events);
        }
    }
}
