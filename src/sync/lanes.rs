//! When a changed path is due. Pure: told what time it is, asks nothing.
//!
//! A path is only ever "dirty": first and last time it was touched. What happened to it is found out when it is due, by looking.

#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::wildcard_enum_match_arm)]

use super::path::TreePath;
use std::collections::BTreeMap;
use std::time::Duration;

/// Configuration is due after this much quiet,
const FAST_QUIET: Duration = Duration::from_millis(150);
/// or this long after it was first touched.
const FAST_AGE: Duration = Duration::from_secs(1);
/// Everything else is settled after this much quiet,
const QUIET: Duration = Duration::from_millis(300);
/// or this long after it was first touched: a file that is written without end.
const AGE: Duration = Duration::from_secs(10);

/// A moment, counted from the start of the worker.
pub type Moment = Duration;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Configuration and lock files: at once.
    Fast,
    /// The rest: in batches.
    Batch,
}

#[derive(Clone, Copy, Debug)]
struct Dirt {
    first: Moment,
    last: Moment,
    lane: Lane,
}

impl Dirt {
    fn settles_at(&self) -> Moment {
        match self.lane {
            Lane::Fast => (self.last + FAST_QUIET).min(self.first + FAST_AGE),
            Lane::Batch => (self.last + QUIET).min(self.first + AGE),
        }
    }
}

/// The dirty paths.
#[derive(Clone, Debug)]
pub struct Lanes {
    batch_files: usize,
    batch_interval: Duration,
    dirty: BTreeMap<TreePath, Dirt>,
}

impl Lanes {
    /// Lanes with nothing in them; a batch is due with so many settled files or after so long.
    pub fn new(batch_files: usize, batch_interval: Duration) -> Self {
        Self {
            batch_files: batch_files.max(1),
            batch_interval,
            dirty: BTreeMap::new(),
        }
    }

    /// The path was touched.
    pub fn mark(&mut self, path: TreePath, lane: Lane, now: Moment) {
        let dirt = self.dirty.entry(path).or_insert(Dirt {
            first: now,
            last: now,
            lane,
        });
        dirt.last = now;
        dirt.lane = dirt.lane.min(lane);
    }

    /// Whether it waits already.
    pub fn is_dirty(&self, path: &TreePath) -> bool {
        self.dirty.contains_key(path)
    }

    /// How many wait in a lane.
    pub fn pending(&self, lane: Lane) -> usize {
        self.dirty.values().filter(|dirt| dirt.lane == lane).count()
    }

    /// When the oldest was first touched.
    pub fn oldest(&self) -> Option<Moment> {
        self.dirty.values().map(|dirt| dirt.first).min()
    }

    /// Takes what is due: settled configuration, and the settled rest once there is a batch of it.
    pub fn take_due(&mut self, now: Moment) -> Vec<TreePath> {
        let batch = self.batch_due_at().is_some_and(|due| due <= now);
        let due = |dirt: &Dirt| dirt.settles_at() <= now && (dirt.lane == Lane::Fast || batch);
        let paths: Vec<_> = self
            .dirty
            .iter()
            .filter(|(_, dirt)| due(dirt))
            .map(|(path, _)| path.clone())
            .collect();
        for path in &paths {
            self.dirty.remove(path);
        }
        paths
    }

    /// Takes everything, settled or not.
    pub fn take_all(&mut self) -> Vec<TreePath> {
        std::mem::take(&mut self.dirty).into_keys().collect()
    }

    /// When something will be due, if nothing else happens.
    pub fn next_due(&self) -> Option<Moment> {
        let fast = self
            .dirty
            .values()
            .filter(|dirt| dirt.lane == Lane::Fast)
            .map(Dirt::settles_at)
            .min();
        [fast, self.batch_due_at()].into_iter().flatten().min()
    }

    /// A batch is due when so many are settled, or when one has waited for the whole interval.
    fn batch_due_at(&self) -> Option<Moment> {
        let batch = || self.dirty.values().filter(|dirt| dirt.lane == Lane::Batch);
        let by_age = batch().map(|dirt| dirt.settles_at().max(dirt.first + self.batch_interval)).min()?;
        let mut settle: Vec<_> = batch().map(Dirt::settles_at).collect();
        if settle.len() < self.batch_files {
            return Some(by_age);
        }
        let (_, by_count, _) = settle.select_nth_unstable(self.batch_files - 1);
        Some(by_age.min(*by_count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(name: &str) -> TreePath {
        TreePath::parse(name).expect("a good path")
    }

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn lanes() -> Lanes {
        Lanes::new(10, Duration::from_secs(30))
    }

    #[test]
    fn configuration_does_not_wait_for_a_batch() {
        let mut lanes = lanes();
        lanes.mark(path("package.json"), Lane::Fast, ms(0));
        lanes.mark(path("a.ts"), Lane::Batch, ms(0));
        assert_eq!(lanes.next_due(), Some(ms(150)));
        assert_eq!(lanes.take_due(ms(149)), []);
        assert_eq!(lanes.take_due(ms(150)), [path("package.json")]);
        assert_eq!(lanes.next_due(), Some(ms(30_000)));
        assert_eq!(lanes.take_due(ms(30_000)), [path("a.ts")]);
        assert_eq!(lanes.next_due(), None);
    }

    #[test]
    fn ten_files_are_a_batch() {
        let mut lanes = lanes();
        for n in 0..10 {
            lanes.mark(path(&format!("f{n}")), Lane::Batch, ms(n * 10));
        }
        assert_eq!(lanes.next_due(), Some(ms(390)));
        assert_eq!(lanes.take_due(ms(390)).len(), 10);
    }

    #[test]
    fn a_file_written_without_end_is_taken_at_its_age() {
        let mut lanes = lanes();
        let mut taken = None;
        for t in (0..60_000).step_by(100) {
            lanes.mark(path("busy.txt"), Lane::Batch, ms(t));
            if taken.is_none() && !lanes.take_due(ms(t)).is_empty() {
                taken = Some(t);
            }
        }
        assert_eq!(taken, Some(30_000));
        lanes.mark(path("busy.json"), Lane::Fast, ms(0));
        lanes.mark(path("busy.json"), Lane::Fast, ms(999));
        assert_eq!(lanes.take_due(ms(1000)).len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_waits_longer_than_it_may(touches in proptest::collection::vec((0_usize..20, 0_u64..90_000, any::<bool>()), 1..60)) {
            let mut touches = touches;
            touches.sort_by_key(|touch| touch.1);
            let mut lanes = lanes();
            let mut now = ms(0);
            let mut first = BTreeMap::new();
            for (file, at, fast) in touches {
                while let Some(due) = lanes.next_due().filter(|due| *due <= ms(at)) {
                    // Configuration that first looked like the rest may be due before it was known as such.
                    now = due.max(now);
                    let taken = lanes.take_due(now);
                    prop_assert!(!taken.is_empty(), "a deadline at which nothing is due");
                    for path in taken {
                        let since: Moment = first.remove(&path).expect("it was marked");
                        prop_assert!(now - since <= ms(30_000 + 10_000));
                    }
                }
                now = ms(at);
                let path = path(&format!("f{file}"));
                first.entry(path.clone()).or_insert(now);
                lanes.mark(path, if fast { Lane::Fast } else { Lane::Batch }, now);
            }
            prop_assert_eq!(lanes.take_all().len(), first.len());
        }
    }
}
