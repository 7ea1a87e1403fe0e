//! From here to the store: a batch of files, then what vanished, each write conditional on what is known to be there.

use super::content::{Content, Digest};
use super::engine::{Engine, TRASH, TRASH_MOST, info_for};
use super::error::SyncError;
use super::intent::Record;
use super::manifest::FileEntry;
use super::path::TreePath;
use super::read::{Local, Reading, read};
use super::store::{Body, Condition, Etag, Fetched, Store, StoreError};
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Requests at once.
const AT_ONCE: usize = 32;
/// Files and bytes that are read before they are sent: one fsync of the intent log for so many.
const CHUNK_FILES: usize = 512;
const CHUNK_BYTES: u64 = 16 << 20;

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// To be looked at again: they changed while they were read, or while they were sent.
    pub again: Vec<TreePath>,
    /// Not there.
    pub gone: Vec<TreePath>,
}

/// What became of one file.
enum Outcome {
    /// The store has it under this token.
    Stored(Etag),
    /// It changed while it was being sent.
    Changed,
    /// The store cannot hold it.
    Odd(String),
    /// Something else is in the store.
    Differs,
}

struct Work {
    path: TreePath,
    local: Box<Local>,
    condition: Condition,
    /// What is there and goes to the trash first.
    old: Option<(Digest, Etag)>,
    /// Where the store has the same content already.
    source: Option<(TreePath, Etag)>,
}

impl Engine {
    /// Does ahead of time what sending these files will need, so that it takes one request when they are due: a look at the lease, and
    /// copies in the trash of what will be overwritten.
    pub async fn send_ahead(&mut self, paths: &[TreePath]) -> Result<(), SyncError> {
        let store = Arc::clone(&self.project.store);
        let is_changed = |path: &TreePath, entry: &super::index::Entry| {
            let here = self.project.root.lstat(path);
            here.is_ok_and(|here| here.is_some_and(|here| !entry.is_unchanged(&here)))
        };
        let copies: Vec<_> = paths
            .iter()
            .filter_map(|path| Some((path.clone(), self.index.files.get(path)?)))
            .filter(|(path, entry)| self.is_for_trash(&entry.content) && is_changed(path, entry))
            .map(|(path, entry)| (path, entry.content.sha256, entry.etag.clone()))
            .collect();
        self.check_lease().await?;
        let copies = copies.into_iter().map(|(path, sha256, etag)| {
            let store = Arc::clone(&store);
            async move {
                let to = format!("{TRASH}{sha256}");
                let copied = store.copy(path.as_str(), &etag, &to, info_for(&path, None)).await;
                copied.is_ok().then_some(sha256)
            }
        });
        self.trashed
            .extend(futures_util::future::join_all(copies).await.into_iter().flatten());
        Ok(())
    }

    /// Whether a content that the store has goes to the trash before it is replaced.
    fn is_for_trash(&self, content: &Content) -> bool {
        let small = content.size <= TRASH_MOST && !content.link && content.sha256 != Digest::UNKNOWN;
        small && !self.trashed.contains(&content.sha256)
    }

    /// Sends files; what is unchanged costs nothing.
    pub async fn send(&mut self, paths: &[TreePath]) -> Result<Sent, SyncError> {
        let mut sent = Sent::default();
        let mut rest = paths;
        while !rest.is_empty() {
            let (work, taken) = self.read_chunk(rest, &mut sent);
            rest = &rest[taken..];
            if !work.is_empty() {
                self.send_chunk(work, &mut sent).await?;
            }
        }
        Ok(sent)
    }

    fn read_chunk(&mut self, paths: &[TreePath], sent: &mut Sent) -> (Vec<Work>, usize) {
        let (mut work, mut bytes, mut taken) = (Vec::new(), 0, 0);
        for path in paths {
            if work.len() >= CHUNK_FILES || bytes >= CHUNK_BYTES {
                break;
            }
            taken += 1;
            match read(&self.project.root, path) {
                Reading::Gone => sent.gone.push(path.clone()),
                Reading::Changing => sent.again.push(path.clone()),
                Reading::Odd(why) => {
                    self.odd.insert(path.to_string(), why);
                }
                Reading::Local(local) => {
                    self.odd.remove(path.as_str());
                    if let Some(one) = self.consider(path, local) {
                        if let Body::Bytes(body) = &one.local.body {
                            bytes += body.len() as u64;
                        }
                        work.push(one);
                    }
                }
            }
        }
        (work, taken)
    }

    /// Decides what to do with a file that was read; `None` when it is in step.
    fn consider(&mut self, path: &TreePath, local: Box<Local>) -> Option<Work> {
        let known = self.index.files.get(path);
        if let Some(entry) = known
            && entry.content == local.content
        {
            let etag = entry.etag.clone();
            self.in_step(path, local.stat, local.content, etag, local.read_at_ns);
            return None;
        }
        let (condition, old) = match known {
            Some(entry) => {
                let differs = entry.content.sha256 != local.content.sha256;
                let old = (differs && self.is_for_trash(&entry.content)).then(|| (entry.content.sha256, entry.etag.clone()));
                (Condition::Matches(entry.etag.clone()), old)
            }
            None => match self.manifest.tombstones.get(path) {
                Some(etag) => (Condition::Matches(etag.clone()), None),
                None => (Condition::Absent, None),
            },
        };
        let source = (known.is_none()).then(|| self.source_of(path, &local.content)).flatten();
        Some(Work {
            path: path.clone(),
            local,
            condition,
            old,
            source,
        })
    }

    /// Where the store has this content: a file that was moved away from there, or a large one.
    fn source_of(&self, path: &TreePath, content: &Content) -> Option<(TreePath, Etag)> {
        if content.link || content.size == 0 {
            return None;
        }
        let same = |(other, entry): &(&TreePath, &super::index::Entry)| {
            *other != path
                && entry.content.sha256 == content.sha256
                && !entry.content.link
                && (content.size >= TRASH_MOST || matches!(self.project.root.lstat(other), Ok(None)))
        };
        // Looking through the whole index for each of thousands of new files would be quadratic.
        let worth = content.size >= 4096 || self.changes.len() < 256;
        let found = worth.then(|| self.index.files.iter().find(same)).flatten();
        found.map(|(other, entry)| (other.clone(), entry.etag.clone()))
    }

    async fn send_chunk(&mut self, work: Vec<Work>, sent: &mut Sent) -> Result<(), SyncError> {
        self.check_lease_at_work().await?;
        let intents: Vec<_> = work
            .iter()
            .map(|one| Record::Intent(one.path.clone(), one.local.content.clone()))
            .collect();
        self.log.append(&intents).map_err(|error| self.log_failed(error))?;
        let store = Arc::clone(&self.project.store);
        let mut differing = Vec::new();
        let mut acks = Vec::new();
        let mut failed = None;
        {
            let puts = futures_util::stream::iter(work).map(|one| {
                let store = Arc::clone(&store);
                async move {
                    let result = put_one(&*store, &one).await;
                    (one, result)
                }
            });
            let mut puts = puts.buffer_unordered(AT_ONCE);
            while let Some((one, result)) = puts.next().await {
                if let (Some((sha256, _)), Ok(Outcome::Stored(_))) = (&one.old, &result) {
                    self.trashed.insert(*sha256);
                }
                match result {
                    Ok(Outcome::Stored(etag)) => {
                        acks.push(Record::Ack(one.path.clone(), etag.clone()));
                        self.stored(one, etag);
                    }
                    Ok(Outcome::Changed) => sent.again.push(one.path),
                    Ok(Outcome::Odd(why)) => {
                        self.odd.insert(one.path.to_string(), why);
                    }
                    Ok(Outcome::Differs) => differing.push(one),
                    // The others may still succeed, and what they did is to be remembered.
                    Err(error) => failed = Some(error),
                }
            }
        }
        self.log.append(&acks).map_err(|error| self.log_failed(error))?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        for one in differing {
            self.settle(one, sent).await?;
        }
        Ok(())
    }

    fn stored(&mut self, one: Work, etag: Etag) {
        self.tally.uploaded += 1;
        self.tally.bytes_up += one.local.content.size;
        let entry = FileEntry {
            content: one.local.content.clone(),
            mtime_ns: one.local.stat.mtime_ns,
            etag: etag.clone(),
            packed: false,
        };
        self.set_file(one.path.clone(), Some(entry));
        self.in_step(&one.path, one.local.stat, one.local.content, etag, one.local.read_at_ns);
    }

    /// Something else than expected is in the store: an echo of this box's own write, or somebody's work, which is kept first.
    async fn settle(&mut self, mut one: Work, sent: &mut Sent) -> Result<(), SyncError> {
        // It may be a newer box's.
        self.check_lease().await?;
        let store = Arc::clone(&self.project.store);
        for _ in 0..5 {
            match digest_of(&*store, one.path.as_str()).await? {
                None => one.condition = Condition::Absent,
                Some((digest, etag, info_link)) => {
                    if digest == one.local.content.sha256 && info_link == one.local.content.link {
                        self.stored(one, etag);
                        return Ok(());
                    }
                    let ours = self
                        .unsure
                        .get(&one.path)
                        .is_some_and(|own| own.iter().any(|content| content.sha256 == digest))
                        || self.index.files.get(&one.path).is_some_and(|entry| entry.content.sha256 == digest);
                    if !ours && self.keep_conflict(&one.path, &etag).await?.is_none() {
                        continue;
                    }
                    one.condition = Condition::Matches(etag);
                }
            }
            (one.old, one.source) = (None, None);
            match put_one(&*store, &one).await? {
                Outcome::Stored(etag) => {
                    self.log
                        .append(&[Record::Ack(one.path.clone(), etag.clone())])
                        .map_err(|error| self.log_failed(error))?;
                    self.stored(one, etag);
                    return Ok(());
                }
                Outcome::Changed => break,
                Outcome::Odd(why) => {
                    self.odd.insert(one.path.to_string(), why);
                    return Ok(());
                }
                Outcome::Differs => {}
            }
        }
        sent.again.push(one.path);
        Ok(())
    }

    /// After a crash: what an earlier life may have written, and the store does have, was written by this box.
    pub async fn settle_unsure(&mut self) -> Result<(), SyncError> {
        let store = Arc::clone(&self.project.store);
        for (path, intents) in self.unsure.clone() {
            let Some((digest, etag, link)) = digest_of(&*store, path.as_str()).await? else {
                continue;
            };
            let Some(content) = intents.into_iter().find(|content| content.sha256 == digest && content.link == link) else {
                continue;
            };
            let entry = FileEntry {
                content: content.clone(),
                mtime_ns: 0,
                etag: etag.clone(),
                packed: false,
            };
            if self.manifest.files.get(&path).is_none_or(|known| known.etag != etag) {
                self.set_file(path.clone(), Some(entry));
            }
            self.unsure.remove(&path);
            let entry = super::index::Entry { stat: None, content, etag };
            self.index.files.insert(path, entry);
        }
        Ok(())
    }

    /// Removes from the store what was decided to be gone: to the trash, out of the manifest, then the object.
    pub async fn remove(&mut self, paths: &[TreePath]) -> Result<(), SyncError> {
        self.check_lease().await?;
        let store = Arc::clone(&self.project.store);
        let mut doomed: BTreeMap<TreePath, Etag> = BTreeMap::new();
        let known: Vec<_> = paths
            .iter()
            .filter_map(|path| Some((path.clone(), self.index.files.get(path)?.clone())))
            .collect();
        let elsewhere = self.kept_elsewhere(paths);
        let checks = futures_util::stream::iter(known).map(|(path, entry)| {
            let store = Arc::clone(&store);
            let small = !entry.content.link && entry.content.size <= TRASH_MOST && entry.content.sha256 != Digest::UNKNOWN;
            let trash = (small && !elsewhere.contains(&entry.content.sha256)).then_some(entry.content.sha256);
            async move {
                let result = if let Some(sha256) = trash {
                    let to = format!("{TRASH}{sha256}");
                    store
                        .copy(path.as_str(), &entry.etag, &to, info_for(&path, None))
                        .await
                        .map(|_| true)
                } else {
                    store
                        .head(path.as_str())
                        .await
                        .map(|head| head.is_some_and(|head| head.etag == entry.etag))
                };
                (path, entry, result)
            }
        });
        let mut checks = checks.buffer_unordered(AT_ONCE);
        let mut failed = None;
        while let Some((path, entry, result)) = checks.next().await {
            match result {
                Ok(true) => {
                    doomed.insert(path, entry.etag);
                }
                // Gone there too, or another's edit: an edit beats a removal, and the next pull brings it.
                Ok(false) | Err(StoreError::Precondition) => {
                    self.index.files.remove(&path);
                    if store.head(path.as_str()).await?.is_none() {
                        self.set_file(path, None);
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        let records: Vec<_> = doomed
            .iter()
            .map(|(path, etag)| Record::Remove(path.clone(), etag.clone()))
            .collect();
        self.log.append(&records).map_err(|error| self.log_failed(error))?;
        for (path, etag) in &doomed {
            self.set_file(path.clone(), None);
            self.manifest.tombstones.insert(path.clone(), etag.clone());
            self.index.files.remove(path);
        }
        self.commit(false).await?;
        self.bury(doomed).await
    }

    /// Contents that the store keeps under other paths than these: what was only renamed needs no copy in the trash.
    fn kept_elsewhere(&self, paths: &[TreePath]) -> BTreeSet<Digest> {
        let doomed: BTreeSet<_> = paths.iter().collect();
        let others = self
            .manifest
            .files
            .iter()
            .filter(|(path, entry)| !doomed.contains(path) && !entry.content.link);
        others.map(|(_, entry)| entry.content.sha256).collect()
    }

    /// Deletes the objects of tombstones that are still what was removed. After a crash this finishes what was begun.
    pub async fn bury(&mut self, doomed: BTreeMap<TreePath, Etag>) -> Result<(), SyncError> {
        let keys: Vec<_> = doomed.keys().map(ToString::to_string).collect();
        self.project.store.delete(&keys).await?;
        self.tally.removed_there += doomed.len() as u64;
        for path in doomed.keys() {
            self.manifest.tombstones.remove(path);
        }
        Ok(())
    }

    /// Finishes removals that an earlier life had begun.
    pub async fn bury_leftovers(&mut self) -> Result<(), SyncError> {
        let mut doomed = BTreeMap::new();
        for (path, etag) in self.manifest.tombstones.clone() {
            match self.project.store.head(path.as_str()).await? {
                Some(head) if head.etag == etag => {
                    doomed.insert(path, etag);
                }
                _ => {
                    self.manifest.tombstones.remove(&path);
                    self.touched = true;
                }
            }
        }
        if doomed.is_empty() {
            return Ok(());
        }
        self.check_lease().await?;
        self.touched = true;
        self.bury(doomed).await
    }
}

async fn put_one(store: &dyn Store, one: &Work) -> Result<Outcome, StoreError> {
    let info = info_for(&one.path, Some((&one.local.content, one.local.stat.mtime_ns)));
    if let Some((sha256, etag)) = &one.old {
        match store
            .copy(one.path.as_str(), etag, &format!("{TRASH}{sha256}"), info_for(&one.path, None))
            .await
        {
            Ok(_) => {}
            Err(StoreError::Precondition) => return Ok(Outcome::Differs),
            Err(error) => return Err(error),
        }
    }
    if let Some((from, etag)) = &one.source
        && one.condition == Condition::Absent
        && store.head(one.path.as_str()).await?.is_none()
    {
        match store.copy(from.as_str(), etag, one.path.as_str(), info.clone()).await {
            Ok(etag) => return Ok(Outcome::Stored(etag)),
            Err(StoreError::Precondition) => {}
            Err(error) => return Err(error),
        }
    }
    match store
        .put(one.path.as_str(), one.local.body.clone(), info, one.condition.clone())
        .await
    {
        Ok(etag) => Ok(Outcome::Stored(etag)),
        Err(StoreError::Precondition) => Ok(Outcome::Differs),
        Err(StoreError::Changed) => Ok(Outcome::Changed),
        Err(error @ (StoreError::Unrepresentable { .. } | StoreError::Refused(_))) => Ok(Outcome::Odd(error.to_string())),
        Err(error) => Err(error),
    }
}

/// The digest of an object's bytes, its token, and whether it is a link. A body that was cut off is fetched anew a few times.
pub(super) async fn digest_of(store: &dyn Store, key: &str) -> Result<Option<(Digest, Etag, bool)>, StoreError> {
    let mut attempt = 0;
    loop {
        let Some(fetched) = store.get(key).await? else {
            return Ok(None);
        };
        let head = fetched.head.clone();
        match digest_of_body(fetched).await {
            Ok(digest) => return Ok(Some((digest, head.etag, head.info.metadata.contains_key("link")))),
            Err(error) if error.is_temporary() && attempt < 5 => {
                attempt += 1;
                tokio::time::sleep(std::time::Duration::from_millis(50 << attempt)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn digest_of_body(mut fetched: Fetched) -> Result<Digest, StoreError> {
    let mut hasher = Sha256::new();
    while let Some(chunk) = fetched.body.next().await {
        hasher.update(&chunk?);
    }
    Ok(Digest::finish(hasher))
}
