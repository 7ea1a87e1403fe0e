//! Time for people, and whether the machine stood still.
//!
//! The supervisor counts in monotonic time. What leaves is wall-clock time, and the two drift apart when the machine is paused or its
//! clock is set: each such jump begins a new pair of bases, so that what happened before keeps the time it had.

use crate::control::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A smaller difference between the clocks is drift, not a pause.
const JUMP: Duration = Duration::from_secs(3);

/// One moment on all clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    monotonic: Instant,
    /// Since the epoch.
    wall: Duration,
    /// Since boot, pauses included.
    boot: Duration,
}

impl Moment {
    fn now() -> Self {
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            boot,
        }
    }
}

/// Turns instants into times of the wall clock.
#[derive(Debug)]
pub(super) struct Clock {
    bases: Vec<Moment>,
    last: Moment,
}

impl Clock {
    pub(super) fn new() -> Self {
        let now = Moment::now();
        Self {
            bases: vec![now],
            last: now,
        }
    }

    /// Looks at all clocks: how long the machine was away since the last look, if it was.
    pub(super) fn look(&mut self) -> Option<Duration> {
        let last = std::mem::replace(&mut self.last, Moment::now());
        let now = self.last;
        let ran = now.monotonic.saturating_duration_since(last.monotonic);
        let ahead = now.wall.saturating_sub(last.wall).saturating_sub(ran);
        let back = (last.wall + ran).saturating_sub(now.wall);
        let slept = now.boot.saturating_sub(last.boot).saturating_sub(ran);
        if ahead > JUMP || back > JUMP {
            self.bases.push(now);
        }
        let away = ahead.max(slept);
        (away > JUMP).then_some(away)
    }

    /// The wall-clock time of an instant.
    pub(super) fn time(&self, instant: Instant) -> Time {
        let base = self
            .bases
            .iter()
            .rev()
            .find(|base| base.monotonic <= instant)
            .unwrap_or(&self.bases[0]);
        let wall = match instant.checked_duration_since(base.monotonic) {
            Some(after) => base.wall + after,
            None => base.wall.saturating_sub(base.monotonic - instant),
        };
        time_of(wall)
    }

    /// The time now.
    pub(super) fn now(&self) -> Time {
        self.time(Instant::now())
    }
}

fn time_of(wall: Duration) -> Time {
    let seconds = i64::try_from(wall.as_secs()).unwrap_or(i64::MAX);
    Time(jiff::Timestamp::new(seconds, wall.subsec_nanos().cast_signed()).unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at: Instant, wall: u64, boot: u64) -> Moment {
        Moment {
            monotonic: at,
            wall: Duration::from_secs(wall),
            boot: Duration::from_secs(boot),
        }
    }

    #[test]
    fn what_happened_before_a_pause_keeps_its_time() {
        let start = Instant::now();
        let resumed = start + Duration::from_secs(10);
        let clock = Clock {
            bases: vec![moment(start, 1000, 0), moment(resumed, 30_000, 0)],
            last: moment(resumed, 30_000, 0),
        };
        assert_eq!(clock.time(start + Duration::from_secs(5)).0.as_second(), 1005);
        assert_eq!(clock.time(resumed + Duration::from_secs(5)).0.as_second(), 30_005);
        assert_eq!(clock.time(start - Duration::from_secs(1)).0.as_second(), 999);
    }

    #[test]
    fn a_machine_that_runs_was_not_away() {
        let mut clock = Clock::new();
        assert_eq!(clock.look(), None);
        // As if the last look was six hours of wall and boot time ago, but no monotonic time has passed.
        let six_hours = Duration::from_secs(6 * 3600);
        clock.last.wall -= six_hours;
        clock.last.boot = clock.last.boot.saturating_sub(six_hours);
        let away = clock.look().unwrap();
        assert!(away > six_hours - JUMP && away < six_hours + JUMP, "{away:?}");
        assert_eq!(clock.bases.len(), 2);
    }
}
