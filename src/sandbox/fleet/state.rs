//! What is known of each sandbox and whom to ask next. Pure: `now` is passed in, jitter comes from a seed.
//!
//! Each sandbox waits for its time to be asked, in one of two lanes. [`Lane::Steady`] has those that answered or reported last time,
//! [`Lane::Doubtful`] those that did not; each lane has room for so many polls at once, so that the dead, who take the whole time limit
//! each, never take the room of the living. A report puts the time off; a failure puts it off further and further.
//!
//! A sandbox that nobody can ask (it only pushes) is in the queue too: when its time comes without a report, that is a failure.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::heard::Heard;
use crate::backoff::{Steps, mix};
use crate::control::document::Status;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// How sandboxes are looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a report is good for. Sandboxes push every 30 s, give or take a fifth: two may be lost.
    pub report_patience: Duration,
    /// From one poll of a sandbox that does not push to the next, give or take a fifth.
    pub period: Duration,
    /// From a failed poll to the next.
    pub retry: Steps,
    /// How long a poll may take.
    pub time_limit: Duration,
    /// Polls at once of sandboxes that answered last time.
    pub steady_at_once: usize,
    /// Polls at once of those that did not.
    pub doubtful_at_once: usize,
    /// So many failures in a row make a sandbox unreachable.
    pub failures_until_unreachable: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            report_patience: Duration::from_secs(100),
            period: Duration::from_secs(15),
            retry: Steps {
                delay: Duration::from_secs(2),
                max: Duration::from_secs(300),
                steps: 8,
            },
            time_limit: Duration::from_secs(5),
            steady_at_once: 48,
            doubtful_at_once: 16,
            failures_until_unreachable: 3,
        }
    }
}

/// How a sandbox is, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Nothing has been heard of it yet.
    Unknown,
    /// It said that every required unit is ready.
    Ready,
    /// It said that some is not.
    NotReady,
    /// It was asked several times in vain, or its reports stopped.
    Unreachable,
    /// It was stopped on request.
    Stopped,
}

impl Presence {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Ready, Self::NotReady, Self::Unreachable, Self::Stopped];

    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ready => "ready",
            Self::NotReady => "not-ready",
            Self::Unreachable => "unreachable",
            Self::Stopped => "stopped",
        }
    }
}

/// How something was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The sandbox pushed it.
    Report,
    /// It was asked for.
    Poll,
}

/// Which room a poll takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// That of sandboxes that answered last time.
    Steady,
    /// That of sandboxes that did not.
    Doubtful,
}

/// A sandbox to ask now. It comes back with its answer, whatever became of the sandbox meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poll {
    /// Which.
    pub sandbox: Arc<str>,
    /// Tells this poll from an earlier one of a sandbox of the same name.
    number: u64,
    lane: Lane,
}

impl Poll {
    /// Whose room it takes.
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

/// A sandbox came to be otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub sandbox: Arc<str>,
    /// How it was.
    pub from: Presence,
    /// How it is.
    pub to: Presence,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reports that were taken.
    pub reports: u64,
    /// Reports of a supervisor that is over.
    pub reports_late: u64,
    /// Polls that were answered.
    pub answered: u64,
    /// Polls that were not.
    pub unanswered: u64,
}

/// The last word of a sandbox.
#[derive(Clone, Debug)]
pub(super) struct LastHeard {
    pub(super) at: Instant,
    pub(super) by: By,
    pub(super) what: Heard,
}

#[derive(Clone, Copy, Debug)]
enum Contact {
    /// To be asked then; the key of its place in the lane's queue.
    Due { at: Instant, lane: Lane },
    /// Being asked since.
    Asked { number: u64, since: Instant },
    /// Left alone.
    Rest,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) last: Option<LastHeard>,
    pub(super) failures: u32,
    pub(super) fault: Option<String>,
    reported: Option<Instant>,
    contact: Contact,
    can_be_asked: bool,
    stopped: bool,
}

/// The fleet.
#[derive(Debug)]
pub struct Fleet {
    pub(super) policy: Policy,
    pub(super) sandboxes: BTreeMap<Arc<str>, Entry>,
    steady: Queue,
    doubtful: Queue,
    pub(super) counts: Counts,
    seed: u64,
    drawn: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<(Instant, Arc<str>)>,
    asked: usize,
    room: usize,
}

impl Entry {
    fn lane(&self) -> Lane {
        if self.failures == 0 { Lane::Steady } else { Lane::Doubtful }
    }

    pub(super) fn presence(&self, policy: &Policy) -> Presence {
        if self.stopped {
            return Presence::Stopped;
        }
        if self.failures >= policy.failures_until_unreachable {
            return Presence::Unreachable;
        }
        match &self.last {
            None => Presence::Unknown,
            Some(last) if last.what.ready() => Presence::Ready,
            Some(_) => Presence::NotReady,
        }
    }
}

impl Fleet {
    /// An empty one. The same seed gives the same jitter.
    pub fn new(policy: Policy, seed: u64) -> Self {
        let queue = |room: usize| Queue {
            room: room.max(1),
            ..Queue::default()
        };
        Self {
            steady: queue(policy.steady_at_once),
            doubtful: queue(policy.doubtful_at_once),
            policy,
            sandboxes: BTreeMap::new(),
            counts: Counts::default(),
            seed,
            drawn: 0,
        }
    }

    /// How many sandboxes there are.
    pub fn len(&self) -> usize {
        self.sandboxes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty()
    }

    /// How a sandbox is; `None` if there is no such one.
    pub fn presence(&self, sandbox: &str) -> Option<Presence> {
        self.sandboxes.get(sandbox).map(|entry| entry.presence(&self.policy))
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How long a poll may take.
    pub fn time_limit(&self) -> Duration {
        self.policy.time_limit
    }

    /// Polls that are under way.
    pub fn asked(&self) -> usize {
        self.steady.asked + self.doubtful.asked
    }

    /// Takes a sandbox in, or one that is there already back into care. Its first poll is at a random moment of the next period, so that
    /// a thousand taken in together are not asked together; `can_be_asked` says whether it can be polled at all.
    pub fn add(&mut self, now: Instant, sandbox: &str, can_be_asked: bool) -> Option<Change> {
        let name: Arc<str> = sandbox.into();
        if !self.sandboxes.contains_key(sandbox) {
            let entry = Entry {
                last: None,
                failures: 0,
                fault: None,
                reported: None,
                contact: Contact::Rest,
                can_be_asked,
                stopped: false,
            };
            self.sandboxes.insert(name.clone(), entry);
        }
        let before = self.presence(sandbox)?;
        let wait = if can_be_asked {
            self.policy.period
        } else {
            self.policy.report_patience
        };
        let at = now + wait.mul_f64(self.draw());
        let entry = self.sandboxes.get_mut(sandbox)?;
        let otherwise = entry.can_be_asked != can_be_asked;
        entry.can_be_asked = can_be_asked;
        entry.stopped = false;
        if otherwise && matches!(entry.contact, Contact::Due { .. }) {
            self.leave_queue(&name);
        }
        let resting = self
            .sandboxes
            .get(sandbox)
            .is_some_and(|entry| matches!(entry.contact, Contact::Rest));
        if resting {
            // A sandbox that pushes has its whole patience.
            let at = if can_be_asked { at } else { now + wait };
            self.wait_until(&name, at);
        }
        self.changed(&name, before)
    }

    /// Forgets a sandbox.
    pub fn remove(&mut self, sandbox: &str) {
        let name: Arc<str> = sandbox.into();
        self.leave_queue(&name);
        self.sandboxes.remove(sandbox);
    }

    /// A sandbox was stopped on request: it is left alone, and what its supervisor still says does not bring it back.
    pub fn stopped(&mut self, sandbox: &str) -> Option<Change> {
        let name: Arc<str> = sandbox.into();
        let before = self.presence(sandbox)?;
        self.leave_queue(&name);
        let entry = self.sandboxes.get_mut(sandbox)?;
        entry.stopped = true;
        entry.failures = 0;
        entry.fault = None;
        self.changed(&name, before)
    }

    /// A sandbox pushed its status. One that is not known is taken in: whoever may push has been let in before.
    pub fn reported(&mut self, now: Instant, sandbox: &str, what: Heard) -> Option<Change> {
        let known = self.sandboxes.get(sandbox);
        let over = match known {
            Some(entry) => Self::is_over(entry, &what),
            // The last word of one that is going need not be kept.
            None => what.status() == Status::Stopping,
        };
        if over {
            self.counts.reports_late += 1;
            return None;
        }
        if known.is_none() {
            self.add(now, sandbox, false);
        }
        self.counts.reports += 1;
        let name: Arc<str> = sandbox.into();
        let before = self.presence(sandbox)?;
        let patience = self.policy.report_patience;
        let entry = self.sandboxes.get_mut(sandbox)?;
        entry.reported = Some(now);
        entry.stopped = false;
        Self::hear(entry, now, By::Report, what);
        if !matches!(entry.contact, Contact::Asked { .. }) {
            self.leave_queue(&name);
            self.wait_until(&name, now + patience);
        }
        self.changed(&name, before)
    }

    /// A sandbox was asked for another reason, and this is what it said. One that is not known is not taken in.
    pub fn learned(&mut self, now: Instant, sandbox: &str, what: Heard) -> Option<Change> {
        let before = self.presence(sandbox)?;
        let name: Arc<str> = sandbox.into();
        let period = self.policy.period;
        let entry = self.sandboxes.get_mut(sandbox)?;
        if Self::is_over(entry, &what) {
            return None;
        }
        entry.stopped = false;
        Self::hear(entry, now, By::Poll, what);
        if !matches!(entry.contact, Contact::Asked { .. }) {
            let report = entry.reported.map(|at| at + self.policy.report_patience);
            let at = report.filter(|at| *at > now).unwrap_or(now + period);
            self.leave_queue(&name);
            self.wait_until(&name, at);
        }
        self.changed(&name, before)
    }

    /// Whether a report comes from a supervisor before the one last heard, or from the one that was stopped.
    fn is_over(entry: &Entry, what: &Heard) -> bool {
        let known = entry.last.as_ref().and_then(|last| last.what.started_at());
        match (known, what.started_at()) {
            (Some(known), Some(this)) if entry.stopped => this <= known,
            (Some(known), Some(this)) => this < known,
            _ => entry.stopped && what.status() == Status::Stopping,
        }
    }

    fn hear(entry: &mut Entry, now: Instant, by: By, what: Heard) {
        entry.last = Some(LastHeard { at: now, by, what });
        entry.failures = 0;
        entry.fault = None;
    }

    /// Whose time has come, as far as there is room; and what became otherwise by time alone.
    pub fn take_due(&mut self, now: Instant) -> (Vec<Poll>, Vec<Change>) {
        let (mut polls, mut changes) = (Vec::new(), Vec::new());
        for lane in [Lane::Steady, Lane::Doubtful] {
            while let Some(name) = self.queue(lane).next_due(now) {
                let can_be_asked = self.sandboxes.get(&name).is_some_and(|entry| entry.can_be_asked);
                if can_be_asked {
                    polls.push(self.ask(now, name, lane));
                } else {
                    changes.extend(self.missed(now, &name));
                }
            }
        }
        (polls, changes)
    }

    fn ask(&mut self, now: Instant, sandbox: Arc<str>, lane: Lane) -> Poll {
        self.drawn += 1;
        let number = self.drawn;
        self.queue(lane).asked += 1;
        if let Some(entry) = self.sandboxes.get_mut(&sandbox) {
            entry.contact = Contact::Asked { number, since: now };
        }
        Poll { sandbox, number, lane }
    }

    /// A sandbox that only pushes did not.
    fn missed(&mut self, now: Instant, sandbox: &Arc<str>) -> Option<Change> {
        let before = self.presence(sandbox)?;
        let (patience, enough) = (self.policy.report_patience, self.policy.failures_until_unreachable);
        let entry = self.sandboxes.get_mut(sandbox)?;
        entry.failures = enough;
        entry.fault = Some(format!("no report for {} s", patience.as_secs()));
        entry.contact = Contact::Rest;
        self.wait_until(sandbox, now + patience);
        self.changed(sandbox, before)
    }

    /// What came of a poll.
    pub fn polled(&mut self, now: Instant, poll: &Poll, answer: Result<Heard, String>) -> Option<Change> {
        self.queue(poll.lane).asked -= 1;
        match &answer {
            Ok(_) => self.counts.answered += 1,
            Err(_) => self.counts.unanswered += 1,
        }
        let before = self.presence(&poll.sandbox)?;
        let random = self.drawn_bits();
        let jitter = 0.8 + 0.4 * self.draw();
        let policy = self.policy.clone();
        let entry = self.sandboxes.get_mut(&poll.sandbox)?;
        let since = match entry.contact {
            Contact::Asked { number, since } if number == poll.number => since,
            // It was stopped, or forgotten and taken in again, meanwhile.
            _ => return None,
        };
        let reported_meanwhile = entry.reported.is_some_and(|at| at >= since);
        let at = match answer {
            Ok(what) => {
                Self::hear(entry, now, By::Poll, what);
                let report = entry.reported.map(|at| at + policy.report_patience);
                report.filter(|at| *at > now).unwrap_or_else(|| now + policy.period.mul_f64(jitter))
            }
            // What it said itself is worth more than a poll that was lost.
            Err(_) if reported_meanwhile => now + policy.report_patience,
            Err(fault) => {
                let wait = policy.retry.wait(entry.failures, random);
                entry.failures = entry.failures.saturating_add(1);
                entry.fault = Some(fault);
                now + wait
            }
        };
        entry.contact = Contact::Rest;
        self.wait_until(&poll.sandbox, at);
        self.changed(&poll.sandbox, before)
    }

    /// When [`take_due`](Self::take_due) has something to give next; `None` while only an answer can change that.
    pub fn next_deadline(&self) -> Option<Instant> {
        let first = |queue: &Queue| queue.waiting.first().filter(|_| queue.asked < queue.room).map(|(at, _)| *at);
        [first(&self.steady), first(&self.doubtful)].into_iter().flatten().min()
    }

    fn changed(&self, sandbox: &Arc<str>, from: Presence) -> Option<Change> {
        let to = self.presence(sandbox)?;
        (from != to).then(|| Change {
            sandbox: sandbox.clone(),
            from,
            to,
        })
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Steady => &mut self.steady,
            Lane::Doubtful => &mut self.doubtful,
        }
    }

    fn wait_until(&mut self, sandbox: &Arc<str>, at: Instant) {
        let Some(entry) = self.sandboxes.get_mut(sandbox) else { return };
        let lane = entry.lane();
        entry.contact = Contact::Due { at, lane };
        self.queue(lane).waiting.insert((at, sandbox.clone()));
    }

    fn leave_queue(&mut self, sandbox: &Arc<str>) {
        let Some(entry) = self.sandboxes.get_mut(sandbox) else { return };
        if let Contact::Due { at, lane } = entry.contact {
            self.queue(lane).waiting.remove(&(at, sandbox.clone()));
        }
        if let Some(entry) = self.sandboxes.get_mut(sandbox) {
            entry.contact = Contact::Rest;
        }
    }

    fn drawn_bits(&mut self) -> u64 {
        self.drawn += 1;
        mix(self.seed, self.drawn)
    }

    /// From 0 to 1.
    fn draw(&mut self) -> f64 {
        let bits = u32::try_from(self.drawn_bits() >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / f64::from(u32::MAX)
    }
}

impl Queue {
    fn next_due(&mut self, now: Instant) -> Option<Arc<str>> {
        let (at, _) = self.waiting.first()?;
        if self.asked >= self.room || *at > now {
            return None;
        }
        self.waiting.pop_first().map(|(_, sandbox)| sandbox)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
