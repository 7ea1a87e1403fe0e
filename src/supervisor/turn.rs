//! What one `step` carries along: what time it is, what holds for the whole supervisor, and the actions so far.

use super::action::{Action, Target};
use super::event::{Invocation, Stage};
use crate::unit::Name;
use std::time::{Duration, Instant};

/// One `step`, as a unit sees it.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) now: Instant,
    /// Until when watchdogs, probe failures and the start limit are held: the machine was paused.
    pub(super) held_until: Option<Instant>,
    /// When everything must be down; set by a shutdown.
    pub(super) drain_by: Option<Instant>,
    /// Nothing gets any grace.
    pub(super) hurry: bool,
    pub(super) seed: u64,
    pub(super) actions: Vec<Action>,
    /// What a unit did that concerns others.
    pub(super) news: Vec<(Name, News)>,
}

/// What a unit did that concerns others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// A rerun that `watch` had asked for succeeded.
    RerunSucceeded,
    /// The start limit was hit, and its action is to shut down.
    ShutDown,
    /// `exec_reload` is over: `None` is success.
    Reloaded(Option<String>),
}

impl Turn {
    pub(super) fn new(now: Instant, seed: u64) -> Self {
        Self {
            now,
            held_until: None,
            drain_by: None,
            hurry: false,
            seed,
            actions: Vec::new(),
            news: Vec::new(),
        }
    }

    /// Whether the machine has only just come back from a pause.
    pub(super) fn held(&self) -> bool {
        self.held_until.is_some_and(|until| self.now < until)
    }

    /// Whether a shutdown has begun.
    pub(super) fn stopping(&self) -> bool {
        self.drain_by.is_some()
    }

    /// So long from now, or at the end of the hold, whichever is later.
    pub(super) fn after(&self, wait: Duration) -> Instant {
        let at = later(self.now, wait);
        if self.held() {
            at.max(later(self.held_until.expect("held"), wait))
        } else {
            at
        }
    }

    pub(super) fn spawn(&mut self, unit: &Name, invocation: Invocation, stage: Stage) {
        self.actions.push(Action::Spawn {
            unit: unit.clone(),
            invocation,
            stage,
        });
    }

    pub(super) fn signal(&mut self, unit: &Name, invocation: Invocation, target: Target, signal: i32) {
        self.actions.push(Action::Signal {
            unit: unit.clone(),
            invocation,
            target,
            signal,
        });
    }

    pub(super) fn empty(&mut self, unit: &Name, invocation: Invocation, kill: bool) {
        self.actions.push(Action::Empty {
            unit: unit.clone(),
            invocation,
            kill,
        });
    }
}

/// `at + wait`, or thirty years on where that cannot be told: no timeout may make the supervisor panic.
pub(super) fn later(at: Instant, wait: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    at + wait.min(FAR)
}
