//! What is kept although it is not in the tree: files of the box's state directory that are worth more than the box.
//!
//! The agent's transcripts come back at a restore, so that a conversation goes on in the next box; the supervisor's postmortems only go
//! up, each box's in its own folder, so that a person can see what became of a box that is gone. Both are under `.sandkeep/` in the store
//! and in no manifest: they belong to no generation, and going back to one does not touch them. Nothing is removed from the store because
//! it is gone here; `gc` removes old postmortems.

use super::arrive::There;
use super::beneath::{Kind, Replace, Root};
use super::conflicts::{CONFLICTS, STAMP};
use super::content::{Content, Digest};
use super::engine::{Engine, info_for};
use super::error::SyncError;
use super::index::Entry;
use super::path::TreePath;
use super::power;
use super::read::{Reading, now_ns, read};
use super::send::digest_of;
use super::store::{Condition, Etag, Info, Listed, StoreError, read_small};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

/// Where transcripts are in the store.
pub const TRANSCRIPTS: &str = ".sandkeep/transcripts/";
/// Where postmortems are in the store.
pub const POSTMORTEMS: &str = ".sandkeep/postmortem/";
/// The largest transcript that is brought.
const MOST: u64 = 1 << 30;
/// How often a file is read again that grows while it is read.
const TRIES: u32 = 5;

/// A file of the state directory.
struct Beside {
    /// Below its folder.
    path: TreePath,
    /// In the store.
    key: TreePath,
}

impl Engine {
    /// Sends what is new of the transcripts and postmortems. What is unchanged costs nothing.
    pub async fn send_beside(&mut self) -> Result<(), SyncError> {
        let box_name = self.project.sandbox.replace('/', "_");
        let postmortems = format!("{POSTMORTEMS}{box_name}/");
        let mut sent = false;
        for (folder, prefix) in [("transcripts", TRANSCRIPTS), ("postmortem", postmortems.as_str())] {
            let Ok(root) = Root::open(&self.project.beside.join(folder)) else {
                continue;
            };
            for file in files_of(&root, prefix) {
                sent |= self.send_one_beside(&root, &file).await?;
            }
        }
        if sent { self.save_index() } else { Ok(()) }
    }

    async fn send_one_beside(&mut self, root: &Root, file: &Beside) -> Result<bool, SyncError> {
        let Beside { path, key } = file;
        let known = self.index.beside.get(key).cloned();
        if let (Some(known), Ok(Some(stat))) = (&known, root.lstat(path))
            && known.is_unchanged(&stat)
        {
            return Ok(false);
        }
        let mut reading = read(root, path);
        for attempt in 0..TRIES {
            if !matches!(reading, Reading::Changing) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10 << attempt)).await;
            reading = read(root, path);
        }
        let Reading::Local(local) = reading else {
            // It is looked at again at the next walk.
            return Ok(false);
        };
        if local.content.link {
            return Ok(false);
        }
        let mut condition = match known {
            Some(known) if known.content.sha256 == local.content.sha256 => {
                let entry = Entry::new(local.stat, local.content, known.etag, local.read_at_ns);
                self.index.beside.insert(key.clone(), entry);
                return Ok(true);
            }
            Some(known) => Condition::Matches(known.etag),
            None => Condition::Absent,
        };
        self.check_lease().await?;
        let store = Arc::clone(&self.project.store);
        let info = info_for(path, Some((&local.content, local.stat.mtime_ns)));
        loop {
            let etag = match store.put(key.as_str(), local.body.clone(), info.clone(), condition.clone()).await {
                Ok(etag) => etag,
                // Appended to while it was sent.
                Err(StoreError::Changed) => return Ok(false),
                Err(StoreError::Precondition) => match digest_of(&*store, key.as_str()).await? {
                    Some((digest, etag, _)) if digest == local.content.sha256 => etag,
                    Some((_, etag, _)) => {
                        self.keep_other_beside(key, &etag).await?;
                        condition = Condition::Matches(etag);
                        continue;
                    }
                    None => {
                        condition = Condition::Absent;
                        continue;
                    }
                },
                Err(error) => return Err(error.into()),
            };
            let entry = Entry::new(local.stat, local.content, etag, local.read_at_ns);
            self.index.beside.insert(key.clone(), entry);
            return Ok(true);
        }
    }

    /// Another box has written the same conversation: its version is kept.
    async fn keep_other_beside(&mut self, key: &TreePath, etag: &Etag) -> Result<(), SyncError> {
        let stamp = jiff::Timestamp::now().strftime(STAMP);
        let to = format!(
            "{CONFLICTS}{stamp}-{:04x}/{}",
            fastrand::u16(..),
            key.as_str().replacen(".sandkeep/", "", 1)
        );
        match self.project.store.copy(key.as_str(), etag, &to, Info::default()).await {
            Ok(_) => {
                self.tally.conflicts += 1;
                Ok(())
            }
            Err(StoreError::Precondition) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the transcripts that another box wrote. What was changed here stays.
    pub(super) async fn bring_beside(&mut self, listed: Vec<Listed>) -> Result<(), SyncError> {
        if listed.is_empty() {
            return Ok(());
        }
        let folder = self.project.beside.join("transcripts");
        let failed = |error| SyncError::Local {
            act: "making the directory",
            path: folder.display().to_string(),
            error,
        };
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let root = Root::open(&folder).map_err(failed)?;
        let mut brought = false;
        for object in listed {
            let path = object.key.strip_prefix(TRANSCRIPTS).map(TreePath::parse);
            let (Some(Ok(path)), Ok(key)) = (path, TreePath::parse(&object.key)) else {
                self.odd.insert(object.key, "no name of a transcript".into());
                continue;
            };
            match self.bring_one_beside(&root, &Beside { path, key }, &object).await? {
                Ok(was_brought) => brought |= was_brought,
                Err(why) => {
                    self.odd.insert(object.key, why);
                }
            }
        }
        if brought { power::make_durable(&root) } else { Ok(()) }
    }

    /// Whether it was brought, or why it cannot be.
    async fn bring_one_beside(&mut self, root: &Root, file: &Beside, object: &Listed) -> Result<Result<bool, String>, SyncError> {
        let here = root.lstat(&file.path).ok().flatten();
        let known = self.index.beside.get(&file.key);
        let there = There {
            etag: object.etag.clone(),
            size: object.size,
            known: None,
        };
        let lost = self.may_have_lost_bytes() && here.is_some_and(|here| power::mend(&here, known, Some(&there)).is_some());
        let has_it = known.is_some_and(|known| known.etag == object.etag);
        if !lost && (has_it || (here.is_some() && !known.is_some_and(|known| is_as_it_was(root, &file.path, known)))) {
            return Ok(Ok(false));
        }
        let Some((head, bytes)) = read_small(&*self.project.store, file.key.as_str(), MOST).await? else {
            return Ok(Ok(false));
        };
        let sha256 = Digest::of(&bytes);
        let said = head.info.metadata.get("sha256");
        if said.is_some_and(|said| *said != sha256.to_string()) {
            return Ok(Err("it does not verify".into()));
        }
        let written = root.begin(&file.path).and_then(|mut pending| {
            pending.file().write_all(&bytes)?;
            pending.dress(0o600, None)?;
            pending.appear(if here.is_some() { Replace::Anything } else { Replace::Nothing })
        });
        match written {
            Ok(stat) => {
                let content = Content {
                    sha256,
                    size: bytes.len() as u64,
                    mode: stat.mode,
                    link: false,
                };
                let entry = Entry::new(stat, content, head.etag, now_ns());
                self.index.beside.insert(file.key.clone(), entry);
                Ok(Ok(true))
            }
            Err(error) => Ok(Err(format!("writing it here: {error}"))),
        }
    }
}

/// Whether a file is what was sent or brought last.
fn is_as_it_was(root: &Root, path: &TreePath, known: &Entry) -> bool {
    if root
        .lstat(path)
        .is_ok_and(|stat| stat.is_some_and(|stat| known.is_unchanged(&stat)))
    {
        return true;
    }
    matches!(read(root, path), Reading::Local(local) if local.content.sha256 == known.content.sha256)
}

/// Every file below a folder, without temporaries.
fn files_of(root: &Root, prefix: &str) -> Vec<Beside> {
    let (mut found, mut to_look_at) = (Vec::new(), vec![String::new()]);
    while let Some(directory) = to_look_at.pop() {
        for (name, stat) in root.entries(&directory).unwrap_or_default() {
            let Some(name) = name.to_str().filter(|name| !is_temporary(name)) else {
                continue;
            };
            let relative = super::walk::join(&directory, name);
            match stat.kind {
                Kind::Directory => to_look_at.push(relative),
                Kind::File => {
                    if let (Ok(path), Ok(key)) = (TreePath::parse(&relative), TreePath::parse(&format!("{prefix}{relative}"))) {
                        found.push(Beside { path, key });
                    }
                }
                Kind::Link | Kind::Special => {}
            }
        }
    }
    found
}

fn is_temporary(name: &str) -> bool {
    name.starts_with(super::beneath::TEMPORARY) || name.ends_with(".tmp")
}
