//! From the store to here: list, compare, keep copies of what would be lost, download only what differs, verify, put in place.

use super::beneath::{Kind, Near, Stat};
use super::beside::TRANSCRIPTS;
use super::content::{Content, Digest};
use super::engine::Engine;
use super::error::SyncError;
use super::index::Entry;
use super::manifest::FileEntry;
use super::path::TreePath;
use super::place::{Placed, fetch};
use super::plan::{Base, Edited, Moved, Remote, Step, decide};
use super::power;
use super::read::{Reading, hash, now_ns, read};
use super::rules::Rules;
use super::send::digest_of;
use super::store::{Etag, Listed, list_all};
use crate::ordered::IntoMap;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Downloads at once.
const AT_ONCE: usize = 32;
/// The index is saved after so many files, so that a crash resumes there.
const SAVE_EVERY: usize = 1000;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Arrived {
    /// The generation of the manifest.
    pub generation: u64,
    /// Files that were brought.
    pub downloaded: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that were removed here.
    pub removed: u64,
    /// Files that were right already.
    pub unchanged: u64,
    /// Files that stay as they are here and are still to be sent.
    pub kept: u64,
    /// Losers of conflicts, kept in the store.
    pub conflicts: u64,
    /// What could not be restored, with the reason.
    pub refused: BTreeMap<String, String>,
}

/// What the store has of one file.
#[derive(Clone, Debug)]
pub(super) struct There {
    pub(super) etag: Etag,
    pub(super) size: u64,
    /// What the manifest says of exactly this object.
    pub(super) known: Option<FileEntry>,
}

/// A file to be brought.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) path: TreePath,
    pub(super) there: There,
    /// What was here when it was decided.
    pub(super) seen: Option<Stat>,
}

/// A fresh clone as a baseline.
#[derive(Debug, Default)]
struct Baseline {
    /// Blobs of the commit that is checked out, of files that are unmodified here.
    clean: BTreeMap<TreePath, String>,
    /// Every blob of that commit.
    all: BTreeMap<TreePath, String>,
}

impl Engine {
    /// Brings the tree in step with the store. Local work is never overwritten.
    pub async fn arrive(&mut self, progress: &dyn Progress) -> Result<Arrived, SyncError> {
        let mut arrived = Arrived::default();
        self.settle_unsure().await?;
        let (mut there, beside) = self.listing(&mut arrived).await?;
        self.align_clone();
        self.identify(&mut there).await?;
        let baseline = self.baseline();
        let steps = self.plan(&there, baseline.as_ref());
        let total: u64 = steps
            .iter()
            .filter(|(_, step, _)| matches!(step, Step::Download | Step::CopyLocalDownload))
            .count() as u64;
        let mut wanted = Vec::new();
        let mut doomed = Vec::new();
        for (path, step, seen) in steps {
            let object = there.remove(&path);
            self.take_step(&path, step, object.as_ref(), seen, &mut arrived).await?;
            match (step, object) {
                (Step::Download | Step::CopyLocalDownload, Some(there)) => wanted.push(Wanted { path, there, seen }),
                (Step::RemoveLocal | Step::CopyLocalRemove, _) => doomed.push((path, seen)),
                _ => {}
            }
        }
        for (path, seen) in doomed {
            self.remove_here(&path, seen, &mut arrived)?;
        }
        progress.begin(total, wanted.iter().map(|wanted| wanted.there.size).sum());
        wanted.sort_by_key(|wanted| (!Rules::is_urgent(&wanted.path), wanted.path.clone()));
        let wanted = self.unpack(wanted, &mut arrived, progress).await?;
        self.download(wanted, &mut arrived, progress).await?;
        self.make_empty_directories(&mut arrived);
        self.bring_beside(beside).await?;
        if baseline.is_some() {
            for beside in self.restore_git().await? {
                arrived.refused.insert("git".into(), beside);
            }
        }
        self.index.generation = self.manifest.generation;
        self.index.manifest.clone_from(&self.manifest_etag);
        self.index.restored = true;
        self.index.boot.clone_from(&self.boot);
        if arrived.downloaded > 0 {
            power::make_durable(&self.project.root)?;
        }
        self.save_index()?;
        arrived.generation = self.manifest.generation;
        self.odd.extend(arrived.refused.clone());
        Ok(arrived)
    }

    /// The files in the store, and what it keeps beside them.
    async fn listing(&mut self, arrived: &mut Arrived) -> Result<(BTreeMap<TreePath, There>, Vec<Listed>), SyncError> {
        let (mut there, mut beside) = (BTreeMap::new(), Vec::new());
        for object in list_all(&*self.project.store, "").await? {
            if object.key.starts_with(".sandkeep/") {
                if object.key.starts_with(TRANSCRIPTS) {
                    beside.push(object);
                }
                continue;
            }
            let Listed { key, size, etag, .. } = object;
            let path = match TreePath::parse(&key) {
                Ok(path) => path,
                Err(fault) => {
                    arrived.refused.insert(key, fault.to_string());
                    continue;
                }
            };
            if path.as_str().split('/').any(|part| matches!(part, ".git" | ".sandkeep")) {
                arrived.refused.insert(key, "it would be Git's or sandkeep's own".into());
                continue;
            }
            // What was removed, and only its object is left.
            if self.manifest.tombstones.get(&path) == Some(&etag) {
                continue;
            }
            let known = self.manifest.files.get(&path).filter(|known| known.etag == etag).cloned();
            there.insert(path, There { etag, size, known });
        }
        for path in self.manifest.files.keys().filter(|path| !there.contains_key(*path)) {
            tracing::debug!("`{path}` is in the manifest, but its object is gone");
        }
        Ok((there, beside))
    }

    /// Reads the strangers' objects that may be what is here already, so that equal ones are no conflict.
    async fn identify(&self, there: &mut BTreeMap<TreePath, There>) -> Result<(), SyncError> {
        let alike = |(path, object): &(&TreePath, &There)| {
            let known = object.known.is_some() || self.index.files.get(*path).is_some_and(|entry| entry.etag == object.etag);
            !known
                && self
                    .project
                    .root
                    .lstat(path)
                    .ok()
                    .flatten()
                    .is_some_and(|stat| stat.size == object.size)
        };
        let unknown: Vec<_> = there.iter().filter(alike).map(|(path, _)| path.clone()).collect();
        let store = Arc::clone(&self.project.store);
        let reads = futures_util::stream::iter(unknown).map(|path| {
            let store = Arc::clone(&store);
            async move {
                let read = digest_of(&*store, path.as_str()).await;
                (path, read)
            }
        });
        let mut reads = reads.buffer_unordered(AT_ONCE);
        while let Some((path, read)) = reads.next().await {
            let Some((sha256, etag, link)) = read? else { continue };
            let mode = self.project.root.lstat(&path).ok().flatten().map_or(0o644, |stat| stat.mode);
            if let Some(object) = there.get_mut(&path).filter(|object| object.etag == etag) {
                let content = Content {
                    sha256,
                    size: object.size,
                    mode,
                    link,
                };
                object.known = Some(FileEntry {
                    content,
                    mtime_ns: 0,
                    etag,
                    packed: false,
                });
            }
        }
        Ok(())
    }

    /// The clone as a baseline: until a restore has completed here, where the manifest knows its base.
    fn baseline(&self) -> Option<Baseline> {
        let git = self.project.git.as_ref()?;
        if self.index.restored || self.manifest.git.is_none() {
            return None;
        }
        let head = git.head()?;
        let found = git.blobs(&head).and_then(|all| Ok((all, git.differing("HEAD")?)));
        match found {
            Ok((all, modified)) => {
                let clean = all.iter().filter(|(path, _)| !modified.contains(*path));
                Some(Baseline {
                    clean: clean.map(|(path, blob)| (path.clone(), blob.clone())).into_map(),
                    all,
                })
            }
            Err(error) => {
                tracing::warn!("the clone cannot be compared with its base: {error}");
                None
            }
        }
    }

    fn plan(&self, there: &BTreeMap<TreePath, There>, baseline: Option<&Baseline>) -> Vec<(TreePath, Step, Option<Stat>)> {
        let mut paths: BTreeSet<&TreePath> = there.keys().chain(self.index.files.keys()).collect();
        let git = self.manifest.git.as_ref().filter(|_| baseline.is_some());
        if let Some(git) = git {
            paths.extend(git.changed.keys());
        }
        let lost = self.may_have_lost_bytes();
        let mut near = Near::default();
        let mut steps = Vec::with_capacity(paths.len());
        for path in paths {
            let seen = self
                .project
                .root
                .lstat_near(&mut near, path)
                .ok()
                .flatten()
                .filter(|stat| stat.kind != Kind::Directory);
            let entry = self.index.files.get(path);
            let object = there.get(path);
            // The common case needs no hashing.
            if let (Some(seen), Some(entry), Some(object)) = (&seen, entry, object)
                && entry.is_unchanged(seen)
                && entry.etag == object.etag
            {
                steps.push((path.clone(), Step::Nothing, Some(*seen)));
                continue;
            }
            if lost && let Some(step) = seen.as_ref().and_then(|seen| power::mend(seen, entry, object)) {
                tracing::info!("the machine had lost bytes of `{path}`: it is restored again");
                steps.push((path.clone(), step, seen));
                continue;
            }
            let local = seen.as_ref().and_then(|seen| self.content_here(path, seen, entry));
            let edited = match git {
                Some(git) if !git.changed.contains_key(path) => Edited::No,
                _ => Edited::Yes,
            };
            let base = match (entry, baseline) {
                (Some(entry), _) => Base::Index {
                    content: &entry.content,
                    etag: &entry.etag,
                },
                (None, Some(baseline)) => clone_base(baseline, git.and_then(|git| git.changed.get(path)), edited, path, seen.is_some()),
                (None, None) => Base::None,
            };
            let remote = match object {
                Some(There {
                    etag, known: Some(known), ..
                }) => Remote::Known {
                    content: &known.content,
                    etag,
                    edited,
                },
                Some(There { etag, known: None, .. }) => Remote::Foreign { etag },
                None if self.was_removed(path, git.is_some()) => Remote::Removed,
                None => Remote::Never,
            };
            steps.push((path.clone(), decide(local.as_ref(), &base, &remote), seen));
        }
        steps
    }

    /// Whether the store's lack of an object means that somebody removed it: the manifest does not have it either.
    fn was_removed(&self, path: &TreePath, with_git: bool) -> bool {
        let in_manifest = self.manifest.files.contains_key(path);
        let tracked_then = with_git
            && self
                .manifest
                .git
                .as_ref()
                .is_some_and(|git| git.changed.get(path).is_some_and(Option::is_some));
        !in_manifest && !self.garbage && (self.index.files.contains_key(path) || tracked_then)
    }

    fn content_here(&self, path: &TreePath, seen: &Stat, entry: Option<&Entry>) -> Option<Content> {
        if let Some(entry) = entry.filter(|entry| entry.is_unchanged(seen)) {
            return Some(entry.content.clone());
        }
        match read(&self.project.root, path) {
            Reading::Local(local) => Some(local.content),
            Reading::Gone => None,
            // Something is there that cannot be read: it equals nothing, so that it is kept or copied, never replaced unseen.
            Reading::Changing | Reading::Odd(_) => Some(Content {
                sha256: Digest::UNKNOWN,
                size: seen.size,
                mode: seen.mode,
                link: seen.kind == Kind::Link,
            }),
        }
    }

    async fn take_step(
        &mut self,
        path: &TreePath,
        step: Step,
        there: Option<&There>,
        seen: Option<Stat>,
        arrived: &mut Arrived,
    ) -> Result<(), SyncError> {
        match step {
            Step::Nothing => arrived.unchanged += u64::from(seen.is_some()),
            Step::Download | Step::RemoveLocal => {}
            Step::Adopt => {
                arrived.unchanged += 1;
                if let (
                    Some(seen),
                    Some(There {
                        etag, known: Some(known), ..
                    }),
                ) = (seen, there)
                {
                    let content = Content {
                        mode: seen.mode,
                        ..known.content.clone()
                    };
                    self.in_step(path, seen, content, etag.clone(), now_ns());
                }
            }
            Step::Forget => {
                self.index.files.remove(path);
                if self.manifest.files.contains_key(path) {
                    self.set_file(path.clone(), None);
                }
            }
            Step::KeepLocal | Step::RemoveRemote => {
                arrived.kept += 1;
                self.expect_there(path, there);
            }
            Step::KeepLocalCopyRemote => {
                arrived.kept += 1;
                if let Some(there) = there
                    && self.keep_conflict(path, &there.etag).await?.is_some()
                {
                    arrived.conflicts += 1;
                    self.expect_there(path, Some(there));
                }
            }
            Step::CopyLocalDownload | Step::CopyLocalRemove => {
                self.keep_local_copy(path).await?;
                arrived.conflicts += 1;
            }
        }
        Ok(())
    }

    /// Remembers what the store has, so that the worker sends or removes against exactly that.
    fn expect_there(&mut self, path: &TreePath, there: Option<&There>) {
        let Some(there) = there else {
            self.index.files.remove(path);
            return;
        };
        let unknown = Content {
            sha256: Digest::UNKNOWN,
            size: there.size,
            mode: 0,
            link: false,
        };
        let entry = Entry {
            stat: None,
            content: there.known.as_ref().map_or(unknown, |known| known.content.clone()),
            etag: there.etag.clone(),
        };
        self.index.files.insert(path.clone(), entry);
    }

    fn remove_here(&mut self, path: &TreePath, seen: Option<Stat>, arrived: &mut Arrived) -> Result<(), SyncError> {
        if self.project.root.lstat(path).ok().flatten() != seen {
            arrived.kept += 1;
            return Ok(());
        }
        self.project.root.remove(path).map_err(SyncError::local("removing", path))?;
        self.index.files.remove(path);
        self.tally.removed_here += 1;
        arrived.removed += 1;
        Ok(())
    }

    async fn download(&mut self, wanted: Vec<Wanted>, arrived: &mut Arrived, progress: &dyn Progress) -> Result<(), SyncError> {
        let store = Arc::clone(&self.project.store);
        let mut since_save = 0;
        let fetches = futures_util::stream::iter(wanted).map(|wanted| {
            let store = Arc::clone(&store);
            async move {
                let fetched = fetch(&*store, &wanted).await;
                (wanted, fetched)
            }
        });
        let mut fetches = fetches.buffer_unordered(AT_ONCE);
        while let Some((wanted, fetched)) = fetches.next().await {
            match fetched? {
                Some(fetched) => {
                    let size = fetched.content.size;
                    match self.place(&mut Near::default(), &wanted, fetched).await? {
                        Placed::Yes => {
                            arrived.downloaded += 1;
                            arrived.bytes += size;
                            progress.advance(1, size);
                        }
                        Placed::LocalWork => arrived.kept += 1,
                        Placed::Refused(why) => {
                            arrived.refused.insert(wanted.path.to_string(), why);
                        }
                    }
                }
                None => {
                    arrived
                        .refused
                        .insert(wanted.path.to_string(), "the object vanished or does not verify".into());
                }
            }
            since_save += 1;
            if since_save >= SAVE_EVERY {
                since_save = 0;
                power::make_durable(&self.project.root)?;
                self.save_index()?;
            }
        }
        Ok(())
    }

    fn make_empty_directories(&mut self, arrived: &mut Arrived) {
        for path in self.manifest.empty.clone() {
            match self.project.root.make_directory(path.as_str()) {
                Ok(_) => {
                    self.index.empty.insert(path);
                }
                Err(error) => {
                    arrived.refused.insert(path.to_string(), error.to_string());
                }
            }
        }
        // Such as were emptied or removed elsewhere.
        let obsolete: Vec<_> = self.index.empty.difference(&self.manifest.empty).cloned().collect();
        for path in obsolete {
            let _ = self.project.root.remove_directory(path.as_str());
            self.index.empty.remove(&path);
        }
    }
}

fn clone_base<'a>(baseline: &Baseline, changed: Option<&Option<String>>, edited: Edited, path: &TreePath, is_here: bool) -> Base<'a> {
    let at_head = baseline.all.get(path);
    let unmodified = baseline.clean.contains_key(path) && is_here;
    if unmodified || (at_head.is_none() && !is_here && edited == Edited::No) {
        let at_base = changed.and_then(Option::as_ref);
        let moved = edited == Edited::Yes && at_base != at_head;
        return Base::Clone {
            moved: if moved { Moved::Yes } else { Moved::No },
        };
    }
    Base::None
}

/// Is told how a restore goes on.
pub trait Progress: Send + Sync {
    /// So many files and bytes are to come.
    fn begin(&self, files: u64, bytes: u64);
    /// So many more have come.
    fn advance(&self, files: u64, bytes: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _files: u64, _bytes: u64) {}
    fn advance(&self, _files: u64, _bytes: u64) {}
}

/// Checks that a file is what an index says, by reading it. For `sync verify`.
pub fn digest_here(engine: &Engine, path: &TreePath) -> io::Result<Digest> {
    hash(&engine.project.root.open_file(path)?)
}
