//! How much longer a session has to live. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use jiff::Timestamp;
use std::time::Duration;

/// Less than this is no reason to ask.
const SLACK: Duration = Duration::from_secs(1);
/// The least that the API takes.
const LEAST: Duration = Duration::from_secs(1);

/// What to add to a deadline so that it is not before `until`; `None` if it is late enough.
pub(super) fn missing(deadline: Timestamp, until: Timestamp) -> Option<Duration> {
    let missing = Duration::try_from(until.duration_since(deadline)).unwrap_or_default();
    (missing > SLACK).then(|| missing.max(LEAST))
}

/// What to ask for after so much was refused as too much; `None` if it is not worth it.
pub(super) fn less(refused: Duration) -> Option<Duration> {
    let less = refused / 2;
    (less >= Duration::from_secs(60)).then_some(less)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(missing(at(100), at(400)), Some(Duration::from_secs(300)));
        assert_eq!(missing(at(400), at(400)), None);
        assert_eq!(missing(at(900), at(400)), None);
        assert_eq!(
            missing(at(100), at(100) + jiff::SignedDuration::from_millis(1500)),
            Some(Duration::from_millis(1500))
        );
    }

    #[test]
    fn a_refusal_is_met_with_half_and_ends() {
        let mut asked = Duration::from_secs(24 * 3600);
        let mut rounds = 0;
        while let Some(next) = less(asked) {
            asked = next;
            rounds += 1;
        }
        assert!(rounds < 12, "{rounds}");
    }
}
