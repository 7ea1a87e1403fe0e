//! Time for people, and whether the machine stood still.
//!
//! The supervisor counts in monotonic time. What leaves is wall-clock time, and the two drift apart when the machine is paused or its
//! clock is set: each such jump begins a new pair of bases, so that what happened before keeps the time it had.

use crate::control::Time;
use serde::{Deserialize, Serialize};
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

/// What passes from one image to the next: (nanoseconds from the moment of the handover, wall clock, time since boot).
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct HandedClock(Vec<(i64, Duration, Duration)>);

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

    /// The bases, relative to a moment, for the clock of the next image: times are told as before.
    pub(super) fn hand_over(&self, moment: Instant) -> HandedClock {
        let base = |base: &Moment| {
            let after = base.monotonic.saturating_duration_since(moment).as_nanos();
            let before = moment.saturating_duration_since(base.monotonic).as_nanos();
            let offset = i64::try_from(after).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX);
            (offset, base.wall, base.boot)
        };
        HandedClock(self.bases.iter().map(base).collect())
    }

    /// The clock that goes on with these.
    pub(super) fn inherit(handed: HandedClock, moment: Instant) -> Self {
        let base = |(offset, wall, boot): (i64, Duration, Duration)| {
            let span = Duration::from_nanos(offset.unsigned_abs());
            let at = if offset < 0 {
                moment.checked_sub(span)
            } else {
                moment.checked_add(span)
            };
            Some(Moment {
                monotonic: at?,
                wall,
                boot,
            })
        };
        let bases: Vec<Moment> = handed.0.into_iter().filter_map(base).collect();
        if bases.is_empty() {
            return Self::new();
        }
        Self {
            bases,
            last: Moment::now(),
        }
    }

    /// Looks at all clocks: how long the machine was away since the last look, if it was. Where every clock jumps at once, as with some
    /// snapshots, none of them tells: then it is told by `due`, when we wanted to be awake, and were not for much longer. A supervisor
    /// that was stopped or starved for so long could not see what happened either.
    pub(super) fn look(&mut self, due: Option<Instant>) -> Option<Duration> {
        let last = std::mem::replace(&mut self.last, Moment::now());
        let now = self.last;
        let ran = now.monotonic.saturating_duration_since(last.monotonic);
        let ahead = now.wall.saturating_sub(last.wall).saturating_sub(ran);
        let back = (last.wall + ran).saturating_sub(now.wall);
        let slept = now.boot.saturating_sub(last.boot).saturating_sub(ran);
        if ahead > JUMP || back > JUMP {
            self.bases.push(now);
        }
        let overslept = due.map_or(Duration::ZERO, |due| now.monotonic.saturating_duration_since(due));
        let away = ahead.max(slept).max(overslept);
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
    fn the_next_image_tells_the_same_times() {
        let moment = Instant::now();
        let before = moment - Duration::from_secs(7);
        let clock = Clock {
            bases: vec![Moment {
                monotonic: before,
                ..moment_at(1000)
            }],
            last: Moment::now(),
        };
        let text = serde_json::to_string(&clock.hand_over(moment)).unwrap();
        let next = Clock::inherit(serde_json::from_str(&text).unwrap(), moment);
        assert_eq!(next.time(before + Duration::from_secs(3)).0.as_second(), 1003);
        assert_eq!(Clock::inherit(HandedClock::default(), moment).bases.len(), 1);
    }

    fn moment_at(wall: u64) -> Moment {
        moment(Instant::now(), wall, 0)
    }

    #[test]
    fn a_machine_that_runs_was_not_away() {
        let mut clock = Clock::new();
        assert_eq!(clock.look(None), None);
        assert_eq!(clock.look(Some(Instant::now())), None);
        // As if the last look was six hours of wall and boot time ago, but no monotonic time has passed.
        let six_hours = Duration::from_secs(6 * 3600);
        clock.last.wall -= six_hours;
        clock.last.boot = clock.last.boot.saturating_sub(six_hours);
        let away = clock.look(None).unwrap();
        assert!(away > six_hours - JUMP && away < six_hours + JUMP, "{away:?}");
        assert_eq!(clock.bases.len(), 2);
        let overslept = clock.look(Instant::now().checked_sub(six_hours)).unwrap();
        assert!(overslept >= six_hours, "{overslept:?}");
        assert_eq!(clock.bases.len(), 2, "the times that are told have not changed");
    }
}
