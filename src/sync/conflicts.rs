//! The losers of conflicts: both sides had changed a file, one of them won, and the other's content is kept in the store, by the time at
//! which that was found out.

use super::content::Digest;
use super::engine::{Engine, info_for};
use super::error::SyncError;
use super::lease::{Claim, check_owner};
use super::path::TreePath;
use super::project::Project;
use super::read::{Reading, read};
use super::store::{Condition, Etag, StoreError, list_all, read_small};
use crate::ordered::Order;
use bytes::Bytes;
use serde::Serialize;
use std::io;

/// Where they are: `<time>-<four hex digits>/<path>` below this.
pub const CONFLICTS: &str = ".sandkeep/conflicts/";
/// The form of the time.
pub const STAMP: &str = "%Y%m%dT%H%M%SZ";
/// The largest that is shown.
const MOST: u64 = 1 << 30;

/// A version that lost, and is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// What to ask for it by: the key below `.sandkeep/conflicts/`.
    pub name: String,
    /// The file's path in the project.
    pub path: String,
    /// When it was found out; RFC 3339, empty where the name does not say it.
    pub at: String,
    /// Bytes.
    pub size: u64,
}

/// Every loser that is kept, the newest first.
pub async fn conflicts(project: &Project) -> Result<Vec<Conflict>, SyncError> {
    check_owner(&*project.store, &project.id, Claim::No).await?;
    let listed = list_all(&*project.store, CONFLICTS).await?;
    let mut conflicts: Vec<_> = listed
        .into_iter()
        .filter_map(|object| {
            let name = object.key.strip_prefix(CONFLICTS)?.to_owned();
            let (stamp, path) = name.split_once('/')?;
            let (at, path) = (at(stamp), path.to_owned());
            Some(Conflict {
                name,
                path,
                at,
                size: object.size,
            })
        })
        .collect();
    conflicts.order_by(|a, b| b.name.cmp(&a.name));
    Ok(conflicts)
}

/// The content of one; `None` when there is no such.
pub async fn conflict(project: &Project, name: &str) -> Result<Option<Bytes>, SyncError> {
    check_owner(&*project.store, &project.id, Claim::No).await?;
    let found = read_small(&*project.store, &format!("{CONFLICTS}{name}"), MOST).await?;
    Ok(found.map(|(_, bytes)| bytes))
}

fn at(stamp: &str) -> String {
    let time = stamp.split_once('-').map_or(stamp, |(time, _)| time);
    let time = jiff::fmt::strtime::parse(STAMP, time).and_then(|time| time.to_datetime());
    time.map_or_else(|_| String::new(), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

impl Engine {
    /// Keeps a copy of an object, in the store. Gives its key; `None` when the object is another one by now.
    pub(super) async fn keep_conflict(&mut self, path: &TreePath, etag: &Etag) -> Result<Option<String>, SyncError> {
        let key = conflict_key(path);
        match self.project.store.copy(path.as_str(), etag, &key, info_for(path, None)).await {
            Ok(_) => {
                tracing::warn!("`{path}` was changed here and in the store: the store's is kept as {key}");
                self.tally.conflicts += 1;
                Ok(Some(key))
            }
            Err(StoreError::Precondition) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps a copy of what is here, in the store.
    pub(super) async fn keep_local_copy(&mut self, path: &TreePath) -> Result<(), SyncError> {
        let key = conflict_key(path);
        match read(&self.project.root, path) {
            Reading::Local(local) => {
                let info = info_for(path, Some((&local.content, local.stat.mtime_ns)));
                self.project.store.put(&key, local.body, info, Condition::Always).await?;
                tracing::warn!("`{path}` was changed here and in the store: the one that was here is kept as {key}");
                self.tally.conflicts += 1;
                Ok(())
            }
            Reading::Gone => Ok(()),
            Reading::Changing => Err(StoreError::Changed.into()),
            Reading::Odd(why) => Err(SyncError::Local {
                act: "keeping a copy of",
                path: path.to_string(),
                error: io::Error::other(why),
            }),
        }
    }
}

/// A long path is shortened from the left, so that the key is no longer than a key can be.
fn conflict_key(path: &TreePath) -> String {
    let stamp = jiff::Timestamp::now().strftime(STAMP);
    let key = format!("{CONFLICTS}{stamp}-{:04x}/{path}", fastrand::u16(..));
    if key.len() <= super::path::MAX_KEY {
        return key;
    }
    let digest = Digest::of(path.as_str().as_bytes()).to_string();
    let name = path.file_name();
    let name = if name.len() <= 255 { name } else { "long-name" };
    format!("{CONFLICTS}{stamp}-{:04x}/{}/{name}", fastrand::u16(..), &digest[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_when_and_is_never_too_long() {
        let short = conflict_key(&TreePath::parse("a/b").expect("good"));
        assert!(short.starts_with(CONFLICTS) && short.ends_with("/a/b"), "{short}");
        let long = TreePath::parse(&format!("{}/f", vec!["d".repeat(200); 5].join("/"))).expect("good");
        let key = conflict_key(&long);
        assert!(key.len() <= super::super::path::MAX_KEY && key.ends_with("/f"), "{key}");
        assert_eq!(at("20260102T030405Z-00ff"), "2026-01-02T03:04:05Z");
        assert_eq!(at("not a time"), "");
    }
}
