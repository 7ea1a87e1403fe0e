//! Whether a request is made again, and when. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::wildcard_enum_match_arm)]

use crate::backoff::full_jitter;
use std::time::Duration;

/// The first wait, before its jitter.
const FIRST: Duration = Duration::from_millis(400);
/// The longest wait that we choose ourselves.
const LONGEST: Duration = Duration::from_secs(10);
/// How often one thing is tried.
const ATTEMPTS: u32 = 5;
/// The longest `Retry-After` that is waited for; what takes longer is the caller's to decide.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a second request would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The same as one.
    Same,
    /// Something twice.
    Twice,
}

/// How a request went that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It was never sent.
    Unsent,
    /// It was sent, and no whole answer came.
    Unanswered,
    /// It was refused.
    Status {
        /// With this status,
        status: u16,
        /// and the wish to be asked again after this time.
        retry_after: Option<Duration>,
    },
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask again after this time.
    Again(Duration),
    /// It may have been done: look before it is asked again.
    Look(Duration),
    /// Say that it failed.
    GiveUp,
}

/// Decides after attempt `attempt` (from 0) failed.
pub(super) fn next(failure: Failure, effect: Effect, attempt: u32, random: u64) -> Next {
    if attempt + 1 >= ATTEMPTS {
        return Next::GiveUp;
    }
    // Never at once: half the wait is certain, half is chance.
    let half = full_jitter(FIRST, LONGEST, attempt, u64::MAX) / 2;
    let wait = half + full_jitter(FIRST / 2, LONGEST / 2, attempt, random);
    match (failure, effect) {
        (Failure::Unsent, _) => Next::Again(wait),
        (Failure::Unanswered, Effect::Same) => Next::Again(wait),
        (Failure::Unanswered, Effect::Twice) => Next::Look(wait),
        // Refused for the rate: nothing was done.
        (Failure::Status { status: 429, retry_after }, _) => match retry_after {
            Some(after) if after > PATIENCE => Next::GiveUp,
            after => Next::Again(after.unwrap_or(wait).max(wait)),
        },
        (
            Failure::Status {
                status: 408 | 425 | 500..=599,
                retry_after,
            },
            effect,
        ) => {
            let wait = retry_after.filter(|after| *after <= PATIENCE).unwrap_or(wait).max(wait);
            match effect {
                Effect::Same => Next::Again(wait),
                Effect::Twice => Next::Look(wait),
            }
        }
        (Failure::Status { .. }, _) => Next::GiveUp,
    }
}

/// Reads a `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> Failure {
        Failure::Status {
            status,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn word(failure: Failure, effect: Effect) -> &'static str {
        match next(failure, effect, 0, 0) {
            Next::Again(_) => "again",
            Next::Look(_) => "look",
            Next::GiveUp => "give up",
        }
    }

    #[test]
    fn what_may_have_been_done_is_looked_for_first() {
        let table = [
            (Failure::Unsent, "again", "again"),
            (Failure::Unanswered, "again", "look"),
            (status(500, None), "again", "look"),
            (status(503, Some(2)), "again", "look"),
            (status(408, None), "again", "look"),
            (status(429, None), "again", "again"),
            (status(429, Some(20)), "again", "again"),
            (status(429, Some(3600)), "give up", "give up"),
            (status(400, None), "give up", "give up"),
            (status(402, None), "give up", "give up"),
            (status(403, None), "give up", "give up"),
            (status(404, None), "give up", "give up"),
            (status(410, None), "give up", "give up"),
            (status(422, None), "give up", "give up"),
        ];
        for (failure, same, twice) in table {
            assert_eq!(
                (word(failure, Effect::Same), word(failure, Effect::Twice)),
                (same, twice),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let wait = |attempt| match next(Failure::Unsent, Effect::Same, attempt, 0) {
            Next::Again(wait) => Some(wait.as_millis()),
            Next::Look(_) | Next::GiveUp => None,
        };
        assert_eq!(
            [wait(0), wait(1), wait(2), wait(3), wait(4)],
            [Some(200), Some(400), Some(800), Some(1600), None]
        );
    }

    #[test]
    fn a_wish_is_kept() {
        let Next::Again(wait) = next(status(429, Some(7)), Effect::Twice, 0, u64::MAX) else {
            panic!("again")
        };
        assert_eq!(wait, Duration::from_secs(7));
        let Next::Again(wait) = next(status(429, Some(0)), Effect::Twice, 0, 0) else {
            panic!("again")
        };
        assert!(wait > Duration::from_millis(100), "never at once: {wait:?}");
    }

    #[test]
    fn seconds_and_dates_are_read() {
        let now = jiff::Timestamp::from_second(784_111_777).unwrap();
        assert_eq!(retry_after(" 5 ", now), Some(Duration::from_secs(5)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("-1", now), None);
        assert_eq!(retry_after("soon", now), None);
    }
}
