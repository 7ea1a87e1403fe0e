//! When what vanished here may be removed from the store. Pure.
//!
//! A removal is the one thing that a bucket without versions cannot take back, so it waits: until the file has been gone for a while,
//! until a restore has completed, for as long as the root is not the one that the index speaks of; and when much goes at once it waits
//! for a second look a minute later. An empty tree never empties the store by itself.

#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::wildcard_enum_match_arm)]

use super::lanes::Moment;
use super::path::TreePath;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a file must have been gone.
const GONE: Duration = Duration::from_secs(2);
/// How long many at once are held.
const HOLD: Duration = Duration::from_secs(60);
/// So many in one window are many,
const MANY: usize = 200;
/// and so are 30 % of all.
const PERCENT: usize = 30;
/// Fewer than this are never many, whatever the percentage.
const FEW: usize = 5;

/// What is known about the tree as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether the root is the directory that the index speaks of.
    pub root_in_place: bool,
    /// Whether a restore has completed here.
    pub restored: bool,
    /// Kept files that are there.
    pub present: usize,
    /// Files that the index has.
    pub known: usize,
}

/// Why removals wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    /// The root was replaced or is gone.
    #[error("the project's directory is not the one that was restored")]
    Root,
    /// No restore has completed.
    #[error("no restore has completed here")]
    NotRestored,
    /// Nothing is left of the tree.
    #[error("every file is gone")]
    Everything,
    /// Many at once, for a minute.
    #[error("many files went at once")]
    Many,
}

/// Files that vanished and are still in the store.
#[derive(Clone, Debug, Default)]
pub struct Deletes {
    gone: BTreeMap<TreePath, Moment>,
    many_since: Option<Moment>,
    confirmed: bool,
}

/// What may be removed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// These.
    pub remove: Vec<TreePath>,
    /// Why others wait; `None` when they only have not been gone for long enough.
    pub held: Option<Held>,
}

impl Deletes {
    /// The file is gone; it was looked for just now.
    pub fn gone(&mut self, path: TreePath, now: Moment) {
        self.gone.entry(path).or_insert(now);
    }

    /// The file is there again.
    pub fn back(&mut self, path: &TreePath) {
        self.gone.remove(path);
        self.settle();
    }

    /// The same for all of which this is so.
    pub fn back_where(&mut self, is_there: impl Fn(&TreePath) -> bool) {
        self.gone.retain(|path, _| !is_there(path));
        self.settle();
    }

    fn settle(&mut self) {
        if self.gone.is_empty() {
            self.many_since = None;
            self.confirmed = false;
        }
    }

    /// A person said that so many may go.
    pub fn confirm(&mut self) {
        self.confirmed = true;
    }

    /// How many wait.
    pub fn pending(&self) -> usize {
        self.gone.len()
    }

    /// Which wait.
    pub fn paths(&self) -> impl Iterator<Item = &TreePath> {
        self.gone.keys()
    }

    /// Takes what may be removed now. `at_once` leaves out the two seconds: the last look before an end.
    pub fn take(&mut self, now: Moment, at_once: bool, around: &Surroundings) -> Decision {
        let held = self.held(now, around);
        if held.is_some() {
            return Decision { remove: Vec::new(), held };
        }
        let long_enough = |since: Moment| at_once || since + GONE <= now;
        let remove: Vec<_> = self
            .gone
            .iter()
            .filter(|(_, since)| long_enough(**since))
            .map(|(path, _)| path.clone())
            .collect();
        for path in &remove {
            self.back(path);
        }
        Decision { remove, held: None }
    }

    /// When to look again, if nothing else happens.
    pub fn next_due(&self, held: Option<Held>) -> Option<Moment> {
        match held {
            Some(Held::Many) => self.many_since.map(|since| since + HOLD),
            // These end by an event, not by time.
            Some(Held::Root | Held::NotRestored | Held::Everything) => None,
            None => self.gone.values().min().map(|since| *since + GONE),
        }
    }

    fn held(&mut self, now: Moment, around: &Surroundings) -> Option<Held> {
        let count = self.gone.len();
        if count == 0 {
            return None;
        }
        if !around.root_in_place {
            return Some(Held::Root);
        }
        if !around.restored {
            return Some(Held::NotRestored);
        }
        if self.confirmed {
            return None;
        }
        if around.present == 0 && around.known > 1 {
            return Some(Held::Everything);
        }
        let many = count > MANY || (count >= FEW && count * 100 > around.known * PERCENT);
        if !many {
            self.many_since = None;
            return None;
        }
        let since = *self.many_since.get_or_insert(now);
        (now < since + HOLD).then_some(Held::Many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: usize) -> TreePath {
        TreePath::parse(&format!("f{n}")).expect("a good path")
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn around(known: usize, present: usize) -> Surroundings {
        Surroundings {
            root_in_place: true,
            restored: true,
            present,
            known,
        }
    }

    fn many(n: usize) -> Deletes {
        let mut deletes = Deletes::default();
        (0..n).for_each(|n| deletes.gone(path(n), at(0)));
        deletes
    }

    #[test]
    fn a_removal_waits_two_seconds_and_is_called_off_when_the_file_is_back() {
        let mut deletes = many(2);
        assert_eq!(deletes.take(at(1), false, &around(100, 98)).remove, []);
        assert_eq!(deletes.next_due(None), Some(at(2)));
        deletes.back(&path(0));
        assert_eq!(deletes.take(at(2), false, &around(100, 98)).remove, [path(1)]);
        assert_eq!(deletes.pending(), 0);
    }

    #[test]
    fn many_are_held_for_a_minute() {
        let mut deletes = many(40);
        assert_eq!(deletes.take(at(5), false, &around(100, 60)).held, Some(Held::Many));
        assert_eq!(deletes.next_due(Some(Held::Many)), Some(at(65)));
        assert_eq!(deletes.take(at(64), true, &around(100, 60)).held, Some(Held::Many));
        assert_eq!(deletes.take(at(65), false, &around(100, 60)).remove.len(), 40);
        let mut deletes = many(201);
        assert_eq!(deletes.take(at(5), false, &around(100_000, 99_000)).held, Some(Held::Many));
        deletes.confirm();
        assert_eq!(deletes.take(at(5), false, &around(100_000, 99_000)).remove.len(), 201);
    }

    #[test]
    fn a_vanished_tree_never_empties_the_store() {
        let mut deletes = many(100);
        assert_eq!(deletes.take(at(10_000), true, &around(100, 0)).held, Some(Held::Everything));
        assert_eq!(deletes.next_due(Some(Held::Everything)), None);
        let moved = Surroundings {
            root_in_place: false,
            ..around(100, 100)
        };
        assert_eq!(deletes.take(at(10_000), true, &moved).held, Some(Held::Root));
        let fresh = Surroundings {
            restored: false,
            ..around(100, 100)
        };
        assert_eq!(deletes.take(at(10_000), true, &fresh).held, Some(Held::NotRestored));
    }
}
