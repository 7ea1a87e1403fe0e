//! When a sandbox in use gets more time. Pure: `now` is passed in.
//!
//! In use is a sandbox that was started or asked for within the last while, or whose agent is at a prompt. One whose end is near is given
//! a little more, again and again, until it is left alone or its provider's plan has no more; so a forgotten one costs no more than that
//! little.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Until a failed attempt is made again.
const RETRY: SignedDuration = SignedDuration::from_secs(30);
/// A deadline that moved by less has not moved.
const SLACK: SignedDuration = SignedDuration::from_secs(1);

/// How sandboxes in use are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlinePolicy {
    /// For how long after its last use a sandbox counts as used; zero: none is given more time.
    pub idle: Duration,
    /// It is given more when it has less than this left. More than what a supervisor needs to bring its files to the store.
    pub reserve: Duration,
    /// How much it has then.
    pub lease: Duration,
    /// From one look at all of them to the next.
    pub period: Duration,
}

impl Default for DeadlinePolicy {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(15 * 60),
            reserve: Duration::from_secs(5 * 60),
            lease: Duration::from_secs(10 * 60),
            period: Duration::from_secs(10),
        }
    }
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It ends later.
    Later,
    /// The plan has no more.
    NoMore,
    /// It is tried again.
    NotYet,
}

#[derive(Debug)]
struct Use {
    last: Timestamp,
    /// The deadline that could not be moved.
    fixed: Option<Timestamp>,
    not_before: Option<Timestamp>,
}

/// When each was used last.
#[derive(Debug)]
pub(super) struct Deadlines {
    policy: DeadlinePolicy,
    used: BTreeMap<String, Use>,
}

impl Deadlines {
    pub(super) fn new(policy: DeadlinePolicy) -> Self {
        Self {
            policy,
            used: BTreeMap::new(),
        }
    }

    /// A sandbox is used at this moment.
    pub(super) fn used(&mut self, sandbox: &str, now: Timestamp) {
        let fresh = || Use {
            last: now,
            fixed: None,
            not_before: None,
        };
        self.used.entry(sandbox.to_owned()).or_insert_with(fresh).last = now;
    }

    /// Until when a sandbox that ends then should live; `None` to leave it as it is. One that is seen for the first time is used: perhaps
    /// the server was away while it was.
    pub(super) fn due(&mut self, sandbox: &str, ends: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if !self.used.contains_key(sandbox) {
            self.used(sandbox, now);
        }
        let known = &self.used[sandbox];
        let signed = |duration: Duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        let left = ends.duration_since(now);
        let idle = self.policy.idle.is_zero() || now.duration_since(known.last) > signed(self.policy.idle);
        let over = left <= SignedDuration::ZERO;
        let early = left > signed(self.policy.reserve);
        let in_vain = known.fixed == Some(ends) || known.not_before.is_some_and(|at| now < at);
        if idle || over || early || in_vain {
            return None;
        }
        now.checked_add(signed(self.policy.lease)).ok()
    }

    /// What came of an attempt to have it end later than `before`.
    pub(super) fn moved(&mut self, sandbox: &str, before: Timestamp, after: Option<Option<Timestamp>>, now: Timestamp) -> Moved {
        let Some(known) = self.used.get_mut(sandbox) else {
            return Moved::NotYet;
        };
        known.not_before = None;
        match after {
            None => {
                known.not_before = now.checked_add(RETRY).ok();
                Moved::NotYet
            }
            Some(Some(after)) if after.duration_since(before) > SLACK => Moved::Later,
            Some(after) => {
                known.fixed = Some(after.unwrap_or(before));
                Moved::NoMore
            }
        }
    }

    /// Forgets those that are not there.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.used.retain(|sandbox, _| is_there(sandbox));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn deadlines() -> Deadlines {
        Deadlines::new(DeadlinePolicy {
            idle: Duration::from_secs(900),
            reserve: Duration::from_secs(300),
            lease: Duration::from_secs(600),
            period: Duration::from_secs(10),
        })
    }

    #[test]
    fn one_in_use_gets_more_when_its_end_is_near_and_not_before() {
        let mut deadlines = deadlines();
        assert_eq!(deadlines.due("a", at(1000), at(500)), None, "its end is not near");
        assert_eq!(deadlines.due("a", at(1000), at(700)), Some(at(1300)));
        assert_eq!(deadlines.moved("a", at(1000), Some(Some(at(1300))), at(701)), Moved::Later);
        assert_eq!(deadlines.due("a", at(1300), at(702)), None);
        assert_eq!(deadlines.due("a", at(1300), at(1000)), Some(at(1600)));
        assert_eq!(deadlines.due("a", at(1300), at(1300)), None, "it is over");
    }

    #[test]
    fn one_that_is_left_alone_ends_as_it_would() {
        let mut deadlines = deadlines();
        deadlines.used("a", at(0));
        assert_eq!(deadlines.due("a", at(1000), at(901)), None);
        deadlines.used("a", at(902));
        assert_eq!(deadlines.due("a", at(1000), at(903)), Some(at(1503)));
        let mut never = Deadlines::new(DeadlinePolicy {
            idle: Duration::ZERO,
            ..DeadlinePolicy::default()
        });
        assert_eq!(never.due("a", at(1000), at(999)), None);
    }

    #[test]
    fn what_the_plan_does_not_give_is_not_asked_for_again() {
        let mut deadlines = deadlines();
        assert!(deadlines.due("a", at(1000), at(900)).is_some());
        assert_eq!(deadlines.moved("a", at(1000), Some(Some(at(1000))), at(901)), Moved::NoMore);
        assert_eq!(deadlines.due("a", at(1000), at(910)), None);
        assert!(deadlines.due("a", at(1500), at(1300)).is_some(), "another life has another end");
        assert_eq!(deadlines.moved("a", at(1500), None, at(1300)), Moved::NotYet);
        assert_eq!(deadlines.due("a", at(1500), at(1310)), None);
        assert!(deadlines.due("a", at(1500), at(1331)).is_some());
        deadlines.keep(|_| false);
        assert_eq!(deadlines.moved("a", at(1500), Some(None), at(1331)), Moved::NotYet, "it is gone");
    }
}
