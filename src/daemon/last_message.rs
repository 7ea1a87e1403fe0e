//! The last that a sandbox tells: `drain.json` is to be written before sync, which carries it out, begins to flush for the last time.
//!
//! Only signals to the sync worker wait, for a moment at most, and never SIGKILL; everything else stops meanwhile.

use super::hands::Hands;
use crate::supervisor::{Action, Supervisor};
use std::time::{Duration, Instant};

/// No longer than this: a disk that hangs must not keep sync from its flush.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether the postmortem of the drain is written, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct LastMessage {
    written: bool,
    held: Vec<Action>,
    until: Option<Instant>,
}

impl LastMessage {
    /// Gives back what is to be done at once.
    pub(super) fn hold(&mut self, action: Action, hands: &Hands, supervisor: &mut Supervisor) -> Option<Action> {
        let Action::Signal { unit, signal, .. } = &action else {
            return Some(action);
        };
        let waits = !self.written && *signal != libc::SIGKILL && hands.is_sync(unit) && supervisor.status().stopping;
        if !waits {
            return Some(action);
        }
        self.until.get_or_insert_with(|| Instant::now() + PATIENCE);
        self.held.push(action);
        None
    }

    /// It is written.
    pub(super) fn written(&mut self) -> Vec<Action> {
        self.written = true;
        self.until = None;
        std::mem::take(&mut self.held)
    }

    /// Until when it is waited for.
    pub(super) fn patience(&self) -> Option<Instant> {
        self.until
    }

    /// What has waited for long enough.
    pub(super) fn impatient(&mut self) -> Vec<Action> {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return self.written();
        }
        Vec::new()
    }
}
