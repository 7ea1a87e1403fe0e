//! How a run ends: signals, SIGKILL until nothing is left, and the look that says so.

use super::Host;
use crate::host::runs::{Key, Pending, Run};
use crate::host::set::Freshness;
use crate::host::{proc, sys};
use crate::supervisor::action::Target;
use crate::supervisor::event::{Event, Invocation, Pid, Stage};
use crate::unit::Name;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between the first two rounds of killing; doubled up to the longest.
const FIRST_ROUND: Duration = Duration::from_millis(5);
const LONGEST_ROUND: Duration = Duration::from_millis(200);
/// How long what got SIGKILL may take before it is reported as left.
const UNKILLABLE: Duration = Duration::from_secs(5);
/// How long the host's own end may take.
const LONGEST_END: Duration = Duration::from_secs(2);
/// Between two looks at a set whose end no child of ours will tell.
const LOOK: Duration = Duration::from_millis(50);

impl Host {
    /// Performs `Action::Signal`. Processes that are gone, or that are somebody else's, are passed over.
    pub fn signal(&mut self, unit: &Name, invocation: Invocation, target: Target, signal: i32) {
        let key = (unit.clone(), invocation);
        match target {
            Target::Main => self.signal_stage(&key, Stage::Main, signal),
            Target::Control(stage) => self.signal_stage(&key, stage, signal),
            Target::All => self.signal_all(&key, signal),
        }
    }

    fn signal_stage(&mut self, key: &Key, stage: Stage, signal: i32) {
        let Some(run) = self.runs.all.get_mut(key) else { return };
        run.killed |= signal == libc::SIGKILL;
        if let Some(tracked) = run.process(stage) {
            send(&tracked.handle, signal);
        }
    }

    fn signal_all(&mut self, key: &Key, signal: i32) {
        let others = self.set.others(&mut self.runs, key, Freshness::Recent);
        let Some(run) = self.runs.all.get_mut(key) else { return };
        run.killed |= signal == libc::SIGKILL;
        for tracked in &run.tracked {
            send(&tracked.handle, signal);
        }
        for process in &others {
            signal_other(process, signal);
        }
    }

    /// SIGKILL for everything of a run. Its cgroup and whole process groups first: the kernel does that in one go, so that processes which
    /// fork and exit faster than /proc can be read do not get away.
    fn kill_all(&mut self, key: &Key) {
        self.set.kill(key, |pid| {
            if let Some(process) = proc::process(pid) {
                signal_other(&process, libc::SIGKILL);
            }
        });
        let others = self.set.others(&mut self.runs, key, Freshness::Now);
        let Some(run) = self.runs.all.get_mut(key) else { return };
        run.killed = true;
        let held = run
            .tracked
            .iter()
            .filter(|tracked| !tracked.foreign)
            .map(|tracked| tracked.handle.pid);
        let led: BTreeSet<Pid> = held.collect();
        // A process that we hold leads the group of its number: as long as it is not reaped, no other group can have it.
        led.iter().for_each(|pid| sys::kill_group(*pid));
        let mut groups = led;
        for process in &others {
            if groups.insert(process.group) {
                kill_group_of(process);
            }
            signal_other(process, libc::SIGKILL);
        }
        run.tracked.iter().for_each(|tracked| send(&tracked.handle, libc::SIGKILL));
    }

    /// Performs `Action::Empty`: `Emptied` comes out of [`Host::events`] as soon as nothing of the run is left. With `kill`, everything
    /// gets SIGKILL, again and again; what does not go is named after a while. Asked again, the stricter wish holds, and one event answers.
    pub fn empty(&mut self, unit: &Name, invocation: Invocation, kill: bool) {
        let key = (unit.clone(), invocation);
        let now = Instant::now();
        let Some(run) = self.runs.all.get_mut(&key) else {
            self.outbox.push(Event::Emptied {
                unit: key.0,
                invocation,
                left: Vec::new(),
            });
            return;
        };
        let was_killing = run.pending.as_ref().is_some_and(|pending| pending.kill);
        if !was_killing {
            // The next look is at once, from within `events`.
            run.pending = Some(Pending::begin(kill, now));
        }
    }

    pub(super) fn look_at_pending(&mut self, events: &mut Vec<Event>) {
        let pending: Vec<Key> = self
            .runs
            .all
            .iter()
            .filter(|(_, run)| run.pending.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        if pending.is_empty() {
            return;
        }
        for key in self.set.emptied(&mut self.runs, pending.clone()) {
            self.answer(&key, Vec::new(), events);
        }
        let now = Instant::now();
        for key in pending {
            let lingers = self.set.lingers(&self.runs, &key);
            if let Some(pending) = self.runs.all.get_mut(&key).and_then(|run| run.pending.as_mut())
                && pending.next.is_none()
                && lingers
            {
                pending.next = Some(now + pending.wait);
            }
            let due = |run: &Run| {
                run.pending
                    .as_ref()
                    .is_some_and(|pending| pending.next.is_some_and(|next| next <= now))
            };
            if self.runs.all.get(&key).is_some_and(due) {
                self.round(&key, now, events);
            }
        }
    }

    fn answer(&mut self, key: &Key, left: Vec<String>, events: &mut Vec<Event>) {
        if let Some(run) = self.runs.all.get_mut(key)
            && run.pending.take().is_some()
        {
            events.push(Event::Emptied {
                unit: key.0.clone(),
                invocation: key.1,
                left,
            });
        }
    }

    /// One more look at a run that is to become empty, and one more SIGKILL for what is left, where that is wanted.
    fn round(&mut self, key: &Key, now: Instant, events: &mut Vec<Event>) {
        let adopts = self.capabilities.subreaper && self.capabilities.proc;
        let Some(pending) = self.runs.all.get_mut(key).and_then(|run| run.pending.as_mut()) else {
            return;
        };
        let (kill, since, wait) = (pending.kill, pending.since, pending.wait);
        pending.wait = (wait * 2).min(LONGEST_ROUND);
        pending.next = match (kill, adopts) {
            (true, _) => Some(now + wait),
            (false, false) => Some(now + LOOK),
            (false, true) => None,
        };
        if kill {
            self.kill_all(key);
            if now.duration_since(since) > UNKILLABLE {
                let left = self.left(key);
                self.answer(key, left, events);
            }
        }
    }

    fn left(&mut self, key: &Key) -> Vec<String> {
        let others = self.set.others(&mut self.runs, key, Freshness::Now);
        let tracked = self.runs.all.get(key).into_iter().flat_map(|run| run.pids());
        let held = tracked.filter_map(proc::process);
        held.chain(others).map(|process| describe(&process)).collect()
    }

    /// SIGKILL for everything that descends from us, again and again until nothing is left: orphans that hid from everything, and whatever
    /// runs when the supervisor ends before its time. Done when the host is dropped; blocks for a moment at most.
    pub(super) fn end_everything(&mut self) {
        let begun = Instant::now();
        loop {
            let left = self.set.descendants(&mut self.runs);
            left.iter().for_each(|process| signal_other(process, libc::SIGKILL));
            while let Some(dead) = sys::next_dead() {
                sys::reap(dead.pid);
                self.runs.release(dead.pid);
            }
            if left.is_empty() || begun.elapsed() > LONGEST_END {
                return;
            }
            std::thread::sleep(FIRST_ROUND);
        }
    }
}

pub(super) fn send(handle: &sys::Handle, signal: i32) {
    match handle.signal(signal) {
        Err(why) if why.raw_os_error() != Some(libc::ESRCH) => {
            tracing::warn!(pid = handle.pid, signal, %why, "a signal could not be sent");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Signals a process that we do not hold: takes hold of it first, and lets it be if it is not the one that was seen.
pub(super) fn signal_other(process: &proc::Process, signal: i32) {
    let handle = match sys::Handle::open(process.pid) {
        Ok(handle) => handle,
        Err(why) if why.raw_os_error() == Some(libc::ENOSYS) => sys::Handle::bare(process.pid),
        Err(_) => return,
    };
    if proc::process(process.pid).is_some_and(|seen| seen.start == process.start) {
        send(&handle, signal);
    }
}

/// Kills the process group that a process of a run is in, if it is still the one that was seen and still in it.
fn kill_group_of(process: &proc::Process) {
    let Ok(_held) = sys::Handle::open(process.pid) else { return };
    let same = |seen: &proc::Process| seen.start == process.start && seen.group == process.group && !seen.is_dead();
    if proc::process(process.pid).as_ref().is_some_and(same) {
        sys::kill_group(process.group);
    }
}

fn describe(process: &proc::Process) -> String {
    let state = match process.state {
        b'D' => "waits for the kernel (state D)",
        b'Z' => "waits for its parent to notice its end",
        _ => "cannot be signalled",
    };
    format!("pid {} ({}) {state}", process.pid, process.command)
}
