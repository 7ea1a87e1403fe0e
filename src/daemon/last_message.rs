//! The last that a sandbox tells: `drain.json` is to be written before sync, which carries it out, begins to flush for the last time.
//!
//! Only signals to the sync worker wait, for a moment at most, and never SIGKILL; everything else stops meanwhile.

use crate::supervisor::Action;
use crate::unit::Name;
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
    /// Gives back what is to be done at once. `drains` tells whether a signal to this unit has it flush for the last time.
    pub(super) fn hold(&mut self, action: Action, drains: impl FnOnce(&Name) -> bool) -> Option<Action> {
        let Action::Signal { unit, signal, .. } = &action else {
            return Some(action);
        };
        let waits = !self.written && *signal != libc::SIGKILL && drains(unit);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Target;

    fn signal(unit: &str, signal: i32) -> Action {
        Action::Signal {
            unit: Name::new(unit).unwrap(),
            invocation: 1,
            target: Target::Main,
            signal,
        }
    }

    fn is_sync(unit: &Name) -> bool {
        unit.as_str() == "sync"
    }

    #[test]
    fn sync_alone_waits_until_it_is_written_and_in_order() {
        let mut last = LastMessage::default();
        let (drain, term) = (signal("sync", libc::SIGUSR2), signal("sync", libc::SIGTERM));
        assert_eq!(last.hold(drain.clone(), is_sync), None);
        assert_eq!(last.hold(term.clone(), is_sync), None);
        let other = signal("dev", libc::SIGTERM);
        assert_eq!(last.hold(other.clone(), is_sync), Some(other));
        assert!(last.patience().is_some());
        assert_eq!(last.written(), [drain, term.clone()]);
        assert_eq!(last.patience(), None);
        assert_eq!(last.hold(term.clone(), is_sync), Some(term), "nothing waits for what is written");
    }

    #[test]
    fn what_does_not_drain_and_what_kills_never_waits() {
        let mut last = LastMessage::default();
        let restart = signal("sync", libc::SIGTERM);
        assert_eq!(last.hold(restart.clone(), |_| false), Some(restart));
        let kill = signal("sync", libc::SIGKILL);
        assert_eq!(last.hold(kill.clone(), is_sync), Some(kill));
        assert_eq!(last.patience(), None);
    }

    #[test]
    fn a_disk_that_hangs_is_not_waited_for_any_longer() {
        let mut last = LastMessage::default();
        let drain = signal("sync", libc::SIGUSR2);
        assert_eq!(last.hold(drain.clone(), is_sync), None);
        last.until = Some(Instant::now());
        assert_eq!(last.impatient(), [drain]);
        assert_eq!(last.impatient(), []);
    }
}
