//! Both directions work on this: the project, what it was last in step with, and the manifest as it will be written next.

use super::beneath::Stat;
use super::content::{Content, Digest};
use super::error::SyncError;
use super::index::{Entry, Index};
use super::intent::{Log, Replay};
use super::lease::{self, Before, Claim, Lease};
use super::manifest::{self, FileEntry, Manifest, ManifestError};
use super::path::TreePath;
use super::power;
use super::project::Project;
use super::read::now_ns;
use super::side_by_side::side_by_side;
use super::store::{Body, Condition, Etag, Info, StoreError, content_type, read_small};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

/// R2 takes one write a second of one key.
const COMMIT_PACE: Duration = Duration::from_millis(1_050);
/// Files up to this size go to the trash before they are overwritten or removed.
pub const TRASH_MOST: u64 = 1 << 20;
/// Where the trash is, by digest.
pub const TRASH: &str = ".sandkeep/trash/";
/// The longest manifest.
const MANIFEST_MOST: u64 = 256 << 20;

/// Counters for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Files sent.
    pub uploaded: u64,
    /// Bytes of them.
    pub bytes_up: u64,
    /// Files brought here.
    pub downloaded: u64,
    /// Bytes of them.
    pub bytes_down: u64,
    /// Files removed from the store.
    pub removed_there: u64,
    /// Files removed here.
    pub removed_here: u64,
    /// Copies kept because both sides had changed.
    pub conflicts: u64,
}

/// What a worker works with.
#[derive(Debug)]
pub struct Engine {
    /// The project.
    pub project: Project,
    /// What was last in step.
    pub index: Index,
    /// The manifest, with what is not written yet.
    pub manifest: Manifest,
    /// Its token in the store; `None` when there is none.
    pub manifest_etag: Option<Etag>,
    /// Counters.
    pub tally: Tally,
    /// What cannot be kept or restored, with the reason.
    pub odd: BTreeMap<String, String>,
    /// This boot of the machine.
    pub(super) boot: Option<String>,
    pub(super) log: Log,
    replay: Replay,
    /// What an earlier life may have written.
    pub(super) unsure: BTreeMap<TreePath, Vec<Content>>,
    /// What the next manifest changes against the last one; `None` = removed.
    pub(super) changes: BTreeMap<TreePath, Option<FileEntry>>,
    pub(super) touched: bool,
    /// There is another pack for the same files: the manifest is to be written, and it is no new generation.
    pub(super) repacked: bool,
    pub(super) trashed: BTreeSet<Digest>,
    lease: Option<Lease>,
    committed_at: Option<Instant>,
    kept_at: Option<Instant>,
    /// The generation that was kept last.
    kept: Option<u64>,
    /// The manifest in the store is garbage: the objects alone count.
    pub(super) garbage: bool,
}

impl Engine {
    /// Reads what is known here and there, to read alone. The owner is checked first.
    pub async fn open(project: Project) -> Result<Self, SyncError> {
        lease::check_owner(&*project.store, &project.id, Claim::No).await?;
        let mut engine = Self::prepare(project)?;
        engine.reload_manifest().await?;
        engine.replay();
        Ok(engine)
    }

    /// The same, and takes the right to write.
    pub async fn open_to_write(project: Project) -> Result<Self, SyncError> {
        let before = lease::check_owner(&*project.store, &project.id, Claim::Yes).await?;
        let lease = Lease::take(&*project.store, &project.id, &project.sandbox, before).await?;
        let mut engine = Self::prepare(project)?;
        if before == Before::Perhaps {
            engine.reload_manifest().await?;
        }
        engine.replay();
        engine.lease = Some(lease);
        Ok(engine)
    }

    /// Reads what is known here. Makes no request; to be followed by [`Self::reload_manifest`] and [`Self::replay`].
    pub fn prepare(project: Project) -> Result<Self, SyncError> {
        let state_failed = |error| SyncError::Local {
            act: "opening the intent log",
            path: project.log_path().display().to_string(),
            error,
        };
        let (log, replay) = Log::open(&project.log_path()).map_err(state_failed)?;
        let root = project.root.stat().map_err(state_failed)?;
        let index = Index::load(&project.index_path())
            .filter(|index| index.is_of(&root))
            .unwrap_or_else(|| Index {
                root: (root.dev, root.ino),
                ..Index::default()
            });
        Ok(Self {
            project,
            index,
            manifest: Manifest::default(),
            manifest_etag: None,
            tally: Tally::default(),
            odd: BTreeMap::new(),
            boot: power::boot(),
            log,
            replay,
            unsure: BTreeMap::new(),
            changes: BTreeMap::new(),
            touched: false,
            repacked: false,
            trashed: BTreeSet::new(),
            lease: None,
            committed_at: None,
            kept_at: None,
            kept: None,
            garbage: false,
        })
    }

    /// Takes the right to write that was got elsewhere.
    pub fn set_lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// Reads the manifest anew. What is not written yet stays on top of it.
    pub async fn reload_manifest(&mut self) -> Result<(), SyncError> {
        let Some((head, bytes)) = read_small(&*self.project.store, manifest::KEY, MANIFEST_MOST).await? else {
            self.manifest_etag = None;
            return Ok(());
        };
        if self.manifest_etag.as_ref() == Some(&head.etag) {
            return Ok(());
        }
        match Manifest::decode(&bytes) {
            Ok(read) if read.project == self.project.id => {
                self.manifest = read;
                let changes = std::mem::take(&mut self.changes);
                changes.into_iter().for_each(|(path, entry)| self.set_file(path, entry));
            }
            Ok(read) => {
                return Err(SyncError::Owner {
                    store: self.project.store.name(),
                    owner: read.project,
                    project: self.project.id.clone(),
                });
            }
            Err(error @ ManifestError::Newer(_)) => return Err(SyncError::Form(error.to_string())),
            Err(error @ ManifestError::Garbage(_)) => {
                tracing::warn!("{error}: every object counts as it is, and the manifest is written anew");
                self.garbage = true;
                self.touched = true;
                self.manifest.generation = self.index.generation.max(self.manifest.generation);
            }
        }
        self.manifest_etag = Some(head.etag);
        Ok(())
    }

    /// Takes over what an earlier life had written before it ended.
    pub fn replay(&mut self) {
        let replay = std::mem::take(&mut self.replay);
        self.take_replay(replay);
    }

    /// What is in step here and not in the manifest, because a crash or a restore came between, goes into the next one.
    pub fn adopt_index(&mut self) {
        let stray = side_by_side(&self.index.files, &self.manifest.files).filter_map(|(path, entry, known)| {
            let entry = entry.filter(|entry| entry.content.sha256 != Digest::UNKNOWN && entry.stat.is_some())?;
            known.is_none_or(|known| known.etag != entry.etag).then_some((path, entry))
        });
        let stray: Vec<_> = stray
            .map(|(path, entry)| {
                let file = FileEntry {
                    content: entry.content.clone(),
                    mtime_ns: entry.stat.map_or(0, |stat| stat.mtime_ns),
                    etag: entry.etag.clone(),
                    packed: false,
                };
                (path.clone(), file)
            })
            .collect();
        stray.into_iter().for_each(|(path, file)| self.set_file(path, Some(file)));
    }

    /// Takes the empty directories that there are.
    pub fn set_empty(&mut self, empty: BTreeSet<TreePath>) {
        self.index.empty.clone_from(&empty);
        self.manifest.empty = empty;
        self.touched = true;
    }

    /// What was written before a crash is in step as far as the store goes; what is here is to be looked at again.
    fn take_replay(&mut self, replay: Replay) {
        for (path, (content, etag)) in replay.written {
            let entry = FileEntry {
                content: content.clone(),
                mtime_ns: 0,
                etag: etag.clone(),
                packed: false,
            };
            if self.manifest.files.get(&path).is_none_or(|known| known.etag != etag) {
                self.set_file(path.clone(), Some(entry));
            }
            self.index.files.insert(path, Entry { stat: None, content, etag });
        }
        self.unsure = replay.unsure;
    }

    /// Whether the tree is the one that the index speaks of.
    pub fn root_in_place(&self) -> bool {
        self.project.root.is_in_place() && self.project.root.stat().is_ok_and(|stat| self.index.is_of(&stat))
    }

    /// Changes what the next manifest says of a file.
    pub(super) fn set_file(&mut self, path: TreePath, entry: Option<FileEntry>) {
        match &entry {
            Some(entry) => {
                self.manifest.tombstones.remove(&path);
                self.manifest.files.insert(path.clone(), entry.clone());
            }
            None => {
                self.manifest.files.remove(&path);
            }
        }
        self.changes.insert(path, entry);
        self.touched = true;
    }

    /// Remembers that a file is in step.
    pub(super) fn in_step(&mut self, path: &TreePath, stat: Stat, content: Content, etag: Etag, now_ns: i64) {
        self.unsure.remove(path);
        self.index.files.insert(path.clone(), Entry::new(stat, content, etag, now_ns));
    }

    /// The same between two batches that follow each other.
    pub(super) async fn check_lease_at_work(&mut self) -> Result<(), SyncError> {
        match &mut self.lease {
            Some(lease) => lease.check_at_work(&*self.project.store).await,
            None => self.check_lease().await,
        }
    }

    /// Looks whether this box may still write.
    pub(super) async fn check_lease(&mut self) -> Result<(), SyncError> {
        match &mut self.lease {
            Some(lease) => lease.check(&*self.project.store).await,
            None => Err(SyncError::Config("this command does not hold the lease".into())),
        }
    }

    /// Writes the manifest if anything of it changed. Gives the generation.
    ///
    /// `keep` also keeps this generation for `sync restore --at`.
    pub async fn commit(&mut self, keep: bool) -> Result<u64, SyncError> {
        if keep {
            self.refresh_bundle().await?;
        }
        let written = if self.touched { Some(self.write_manifest().await?) } else { None };
        let due = self.kept_at.is_none_or(|at| at.elapsed() > Duration::from_secs(60));
        let is_kept = self.kept == Some(self.manifest.generation);
        if self.manifest_etag.is_some() && self.committed_at.is_some() && !is_kept && (keep || due) {
            let key = Manifest::generation_key(self.manifest.generation);
            let body = Body::Bytes(written.unwrap_or_else(|| self.manifest.encode().into()));
            match self.project.store.put(&key, body, Info::default(), Condition::Absent).await {
                Ok(_) | Err(StoreError::Precondition) => {
                    (self.kept_at, self.kept) = (Some(Instant::now()), Some(self.manifest.generation));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.manifest.generation)
    }

    /// Gives it as it was written.
    pub(super) async fn write_manifest(&mut self) -> Result<Bytes, SyncError> {
        self.check_lease().await?;
        self.read_git();
        for _ in 0..5 {
            if let Some(at) = self.committed_at {
                tokio::time::sleep(COMMIT_PACE.saturating_sub(at.elapsed())).await;
            }
            self.manifest.project.clone_from(&self.project.id);
            self.manifest.sandbox.clone_from(&self.project.sandbox);
            self.manifest.epoch = self.lease.as_ref().map_or(0, |lease| lease.epoch);
            self.manifest.generation += u64::from(self.touched);
            self.manifest.created_ms = now_ns() / 1_000_000;
            self.manifest.nonce = fastrand::u64(..) >> 1;
            let bytes = Bytes::from(self.manifest.encode());
            let condition = match &self.manifest_etag {
                Some(etag) => Condition::Matches(etag.clone()),
                None => Condition::Absent,
            };
            let put = self
                .project
                .store
                .put(manifest::KEY, Body::Bytes(bytes.clone()), Info::default(), condition)
                .await;
            self.committed_at = Some(Instant::now());
            let etag = match put {
                Ok(etag) => etag,
                Err(StoreError::Precondition) => match self.meet_other_manifest(&bytes).await? {
                    Some(etag) => etag,
                    None => continue,
                },
                Err(error) => {
                    // Perhaps it was written and only the answer lost: the next attempt will meet it.
                    return Err(error.into());
                }
            };
            self.manifest_etag = Some(etag.clone());
            self.index.manifest = Some(etag);
            self.index.generation = self.manifest.generation;
            (self.touched, self.repacked, self.garbage) = (false, false, false);
            self.changes.clear();
            self.save_index()?;
            self.clear_log()?;
            return Ok(bytes);
        }
        Err(StoreError::Unavailable("the manifest keeps changing".into()).into())
    }

    /// The manifest is not the one that was expected: it is this write's own echo, a newer box's, or a straggler's to build upon.
    async fn meet_other_manifest(&mut self, mine: &Bytes) -> Result<Option<Etag>, SyncError> {
        let found = read_small(&*self.project.store, manifest::KEY, MANIFEST_MOST).await?;
        let Some((head, bytes)) = found else {
            self.manifest_etag = None;
            return Ok(None);
        };
        if bytes == *mine {
            return Ok(Some(head.etag));
        }
        if let Ok(other) = Manifest::decode(&bytes) {
            if other.epoch > self.manifest.epoch {
                return Err(SyncError::Fenced(other.sandbox));
            }
            let mut merged = other;
            for (path, entry) in &self.changes {
                match entry {
                    Some(entry) => merged.files.insert(path.clone(), entry.clone()),
                    None => merged.files.remove(path),
                };
            }
            merged.empty.clone_from(&self.manifest.empty);
            merged.tombstones.extend(self.manifest.tombstones.clone());
            merged.git.clone_from(&self.manifest.git);
            merged.generation = merged.generation.max(self.manifest.generation);
            self.manifest = merged;
        }
        self.manifest_etag = Some(head.etag);
        Ok(None)
    }

    /// What the manifest says of Git. A repository that does not answer leaves it as it was.
    pub(super) fn read_git(&mut self) {
        let Some(git) = &self.project.git else { return };
        match git.state(self.manifest.files.keys()) {
            Ok(Some(mut state)) => {
                if let Some(before) = &self.manifest.git {
                    (state.bundle, state.refs) = (before.bundle.clone(), before.refs);
                }
                self.manifest.git = Some(state);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Writes the stat index.
    pub fn save_index(&self) -> Result<(), SyncError> {
        let path = self.project.index_path();
        self.index.save(&path).map_err(|error| SyncError::Local {
            act: "writing the stat index",
            path: path.display().to_string(),
            error,
        })
    }

    pub(super) fn clear_log(&mut self) -> Result<(), SyncError> {
        self.log.clear().map_err(|error| self.log_failed(error))
    }

    pub(super) fn log_failed(&self, error: io::Error) -> SyncError {
        SyncError::Local {
            act: "writing the intent log",
            path: self.project.log_path().display().to_string(),
            error,
        }
    }
}

/// What is said of an object beside its bytes.
pub fn info_for(path: &TreePath, file: Option<(&Content, i64)>) -> Info {
    let mut info = Info {
        content_type: content_type(path.as_str()).into(),
        ..Info::default()
    };
    if let Some((content, mtime_ns)) = file {
        info.metadata.insert("sha256".into(), content.sha256.to_string());
        if content.link {
            info.metadata.insert("link".into(), "1".into());
        } else {
            info.metadata.insert("mode".into(), format!("{:o}", content.mode));
            info.metadata.insert("mtime-ns".into(), mtime_ns.to_string());
        }
    }
    info
}
