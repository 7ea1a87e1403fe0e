//! Files whose change runs, restarts or retries a unit.
//!
//! `watch` is looked after from the configuration on; `retry_on_change` only while somebody waits for it, for its patterns may reach over
//! the whole tree. Nothing wakes up when nothing is watched. After two seconds of quiet, and once no package manager works in the root any
//! more, contents are compared: a file that was written as it was is no change. For `retry_on_change` that is so for a few small files that
//! are named without `**`; of whole trees nothing is remembered, and a file that was only touched is tried with.

use super::globs::{self, Depth, Globs};
use super::hashes::Hashes;
use super::{hashes, packages};
use crate::ordered::IntoMap;
use crate::supervisor::event::Event;
use crate::unit::{Config, Name, Unit};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nothing must change before it is looked at.
const QUIET: Duration = Duration::from_secs(2);
/// The same for a retry, which somebody waits for.
const RETRY_QUIET: Duration = Duration::from_millis(300);
/// Between two looks at whether a package manager still works.
const PACKAGES: Duration = Duration::from_secs(1);
/// More directories than this are not watched.
const MOST_DIRECTORIES: usize = 8192;

/// So many times changes are read in one go, a page each.
const MOST_READS: usize = 64;

/// Why some directories are not watched.
const TOO_MANY: &str = "it watches more than 8192 directories: changes in the rest are not seen";
const KERNEL_LIMIT: &str = "the kernel watches no more directories (fs.inotify.max_user_watches): changes in the rest are not seen";

/// Which of a unit's two lists of patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Watch,
    Retry,
}

/// Something changed, and it is waited for quiet.
#[derive(Debug)]
struct Settling {
    due: Instant,
    path: String,
}

/// Looks after the files of all units.
#[derive(Debug)]
pub(super) struct Watcher {
    root: PathBuf,
    state: PathBuf,
    units: BTreeMap<Name, Arc<Unit>>,
    retrying: BTreeSet<Name>,
    globs: BTreeMap<(Name, Purpose), Globs>,
    inotify: Option<Inotify>,
    /// Directories, relative to the root.
    directories: HashMap<WatchDescriptor, String>,
    settling: BTreeMap<(Name, Purpose), Settling>,
    /// Why not everything is watched.
    unwatched: Option<&'static str>,
    /// What files held when the wait for a change of them began.
    before: BTreeMap<Name, Hashes>,
    /// When to look for new directories.
    look_again: Option<Instant>,
    /// What may have changed while nobody watched: an image of this process gave way to another.
    missed: bool,
    missed_retries: Vec<(Name, String)>,
}

impl Watcher {
    /// A watcher of nothing.
    pub(super) fn new(state: PathBuf) -> Self {
        Self {
            root: PathBuf::from("/"),
            state,
            units: BTreeMap::new(),
            retrying: BTreeSet::new(),
            globs: BTreeMap::new(),
            inotify: None,
            directories: HashMap::new(),
            settling: BTreeMap::new(),
            unwatched: None,
            before: BTreeMap::new(),
            look_again: None,
            missed: false,
            missed_retries: Vec::new(),
        }
    }

    /// Watches what the units of a configuration name.
    pub(super) fn configure(&mut self, config: &Config) {
        self.root.clone_from(&config.root);
        let watching = config
            .units
            .iter()
            .filter(|unit| !unit.watch.is_empty() || !unit.retry_on_change.is_empty());
        self.units = watching.map(|unit| (unit.name.clone(), Arc::clone(unit))).into_map();
        self.begin();
    }

    /// Watches `retry_on_change` of these units, and of no others.
    pub(super) fn retry(&mut self, units: &BTreeSet<Name>) {
        let wanting = |name: &&Name| self.units.get(*name).is_some_and(|unit| !unit.retry_on_change.is_empty());
        let units: BTreeSet<Name> = units.iter().filter(wanting).cloned().collect();
        if units != self.retrying {
            self.before.retain(|name, _| units.contains(name));
            for name in units.difference(&self.retrying) {
                let unit = self.units.get(name);
                let held = unit.and_then(|unit| hashes::of_few(&unit.retry_on_change, &self.root));
                self.before.extend(held.map(|held| (name.clone(), held)));
            }
            self.retrying = units;
            self.begin();
        }
    }

    /// Retries that are settling, for the next image of this process.
    pub(super) fn retries(&self) -> Vec<(Name, String)> {
        let retries = self.settling.iter().filter(|((_, purpose), _)| *purpose == Purpose::Retry);
        retries.map(|((unit, _), settling)| (unit.clone(), settling.path.clone())).collect()
    }

    /// Goes on where an earlier image of this process left off. What changed while nobody watched is found by its content. Call it after
    /// the configuration is known.
    pub(super) fn go_on_with(&mut self, retries: Vec<(Name, String)>) {
        self.missed = true;
        self.missed_retries = retries;
    }

    fn begin(&mut self) {
        let mut globs = BTreeMap::new();
        for (name, unit) in &self.units {
            for (purpose, patterns) in [(Purpose::Watch, &unit.watch), (Purpose::Retry, &unit.retry_on_change)] {
                if !patterns.is_empty() && (purpose == Purpose::Watch || self.retrying.contains(name)) {
                    globs.insert((name.clone(), purpose), Globs::new(patterns));
                }
            }
        }
        self.settling.retain(|key, _| globs.contains_key(key));
        self.globs = globs;
        self.look_again = None;
        // A new instance rather than changes to the old one: what is no longer watched is gone with it.
        self.inotify = None;
        self.directories.clear();
        self.unwatched = None;
        if self.globs.is_empty() {
            return;
        }
        match Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC) {
            Ok(inotify) => self.inotify = Some(inotify),
            Err(why) => tracing::warn!(%why, "files cannot be watched: `watch` and `retry_on_change` have no effect"),
        }
        self.add_directories();
        self.catch_up();
    }

    fn catch_up(&mut self) {
        let now = Instant::now();
        if std::mem::take(&mut self.missed) {
            let watching: Vec<_> = self
                .globs
                .keys()
                .filter(|(_, purpose)| *purpose == Purpose::Watch)
                .cloned()
                .collect();
            watching.into_iter().for_each(|key| self.settle(key, "(during an upgrade)", now));
        }
        for (unit, path) in std::mem::take(&mut self.missed_retries) {
            let key = (unit, Purpose::Retry);
            if self.globs.contains_key(&key) {
                self.settle(key, &path, now);
            } else {
                self.missed_retries.push((key.0, path));
            }
        }
    }

    fn add_directories(&mut self) {
        let starts: BTreeSet<(String, Depth)> = self.globs.values().flat_map(|globs| globs.starts().iter().cloned()).collect();
        for (start, depth) in starts {
            let existing = nearest(&self.root, &start);
            let depth = if existing == start { depth } else { Depth::Here };
            self.add(existing, depth);
        }
    }

    fn add(&mut self, directory: String, depth: Depth) {
        let Some(inotify) = &self.inotify else { return };
        if self.directories.len() >= MOST_DIRECTORIES {
            self.unwatched = Some(TOO_MANY);
            return;
        }
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ONLYDIR;
        let path = self.root.join(&directory);
        let descriptor = match inotify.add_watch(&path, flags) {
            Ok(descriptor) => descriptor,
            // What vanished meanwhile is no loss.
            Err(why) => {
                self.unwatched = self.unwatched.or((why == Errno::ENOSPC).then_some(KERNEL_LIMIT));
                return;
            }
        };
        self.directories.insert(descriptor, directory.clone());
        if depth == Depth::Here {
            return;
        }
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if let (true, Some(name)) = (is_directory, entry.file_name().to_str())
                && !globs::is_passed_over(name)
            {
                self.add(join(&directory, name), depth);
            }
        }
    }

    /// Units of whose files not all are watched, and why.
    pub(super) fn unwatched(&self) -> Option<(Vec<Name>, &'static str)> {
        let why = self.unwatched?;
        let deep = |globs: &Globs| globs.starts().iter().any(|(_, depth)| *depth == Depth::Below);
        let units: BTreeSet<&Name> = self
            .globs
            .iter()
            .filter(|(_, globs)| deep(globs))
            .map(|((name, _), _)| name)
            .collect();
        Some((units.into_iter().cloned().collect(), why))
    }

    /// Readable when something changed.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// When `events` wants to be called.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.settling.values().map(|settling| settling.due).chain(self.look_again).min()
    }

    /// What changed, once it is quiet. `true` if more has changed than was read.
    pub(super) fn events(&mut self, now: Instant, events: &mut Vec<Event>) -> bool {
        let more = self.take_changes(now);
        if self.look_again.is_some_and(|at| at <= now) {
            self.look_again = None;
            self.add_directories();
        }
        let due: Vec<_> = self
            .settling
            .iter()
            .filter(|(_, settling)| settling.due <= now)
            .map(|(key, _)| key.clone())
            .collect();
        if due.is_empty() {
            return more;
        }
        let busy = packages::manager_works_in(&self.root);
        for key in due {
            if let (Purpose::Watch, true, Some(settling)) = (key.1, busy, self.settling.get_mut(&key)) {
                settling.due = now + PACKAGES;
            } else if let Some(settling) = self.settling.remove(&key) {
                events.extend(self.event(key, settling.path));
            }
        }
        more
    }

    fn event(&self, (unit, purpose): (Name, Purpose), path: String) -> Option<Event> {
        match purpose {
            Purpose::Retry => {
                let before = self.before.get(&unit);
                let now = before.and_then(|_| hashes::of_few(&self.units.get(&unit)?.retry_on_change, &self.root));
                let same = before.is_some() && before == now.as_ref();
                (!same).then_some(Event::RetryChanged { unit, path })
            }
            Purpose::Watch => {
                let changed = hashes::changed(self.units.get(&unit)?, &self.root, &self.state)?;
                let path = if changed.is_remembered { changed.path } else { path };
                Some(Event::WatchChanged { unit, path })
            }
        }
    }

    /// `true` if there may be more: what writes files fast enough must not keep us here.
    fn take_changes(&mut self, now: Instant) -> bool {
        for _ in 0..MOST_READS {
            let Some(Ok(changes)) = self.inotify.as_ref().map(Inotify::read_events) else {
                return false;
            };
            for change in changes {
                self.take_change(&change, now);
            }
        }
        true
    }

    fn take_change(&mut self, change: &InotifyEvent, now: Instant) {
        if change.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            let everything: Vec<_> = self.globs.keys().cloned().collect();
            everything.into_iter().for_each(|key| self.settle(key, "(many files)", now));
            self.look_again = Some(now + RETRY_QUIET);
            return;
        }
        let name = change.name.as_ref().and_then(|name| name.to_str());
        let (Some(directory), Some(name)) = (self.directories.get(&change.wd), name) else {
            return;
        };
        let path = join(directory, name);
        if change.mask.contains(AddWatchFlags::IN_ISDIR) {
            let appears = change.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO);
            if appears && !globs::is_passed_over(name) {
                self.look_again.get_or_insert(now + RETRY_QUIET);
                self.settle_below(&path, now);
            }
            return;
        }
        if is_temporary(name) {
            return;
        }
        let matching: Vec<_> = self
            .globs
            .iter()
            .filter(|(_, globs)| globs.matches(&path))
            .map(|(key, _)| key.clone())
            .collect();
        matching.into_iter().for_each(|key| self.settle(key, &path, now));
    }

    /// A directory came with files in it that nobody told us of one by one.
    fn settle_below(&mut self, directory: &str, now: Instant) {
        let prefix = format!("{directory}/");
        let reaches = |globs: &Globs| globs.files(&self.root).into_iter().find(|path| path.starts_with(&prefix));
        let found: Vec<_> = self
            .globs
            .iter()
            .filter_map(|(key, globs)| Some((key.clone(), reaches(globs)?)))
            .collect();
        found.into_iter().for_each(|(key, path)| self.settle(key, &path, now));
    }

    fn settle(&mut self, key: (Name, Purpose), path: &str, now: Instant) {
        let quiet = if key.1 == Purpose::Watch { QUIET } else { RETRY_QUIET };
        self.settling.insert(
            key,
            Settling {
                due: now + quiet,
                path: path.to_owned(),
            },
        );
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

/// The directory itself or the nearest above it that exists.
fn nearest(root: &Path, directory: &str) -> String {
    let mut at = directory;
    while !at.is_empty() && !root.join(at).is_dir() {
        at = at.rsplit_once('/').map_or("", |(above, _)| above);
    }
    at.to_owned()
}

/// What programs write beside the files that matter: logs, and files on their way to another name.
fn is_temporary(name: &str) -> bool {
    let by_end = [".log", ".tmp", ".swp", ".swx", "~"].iter().any(|end| name.ends_with(end));
    by_end || name.contains(".timestamp-") || name.starts_with(".#")
}
