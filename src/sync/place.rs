//! One file of a restore: fetched, verified, put in place.

use super::arrive::Wanted;
use super::beneath::{Near, Replace, is_absent};
use super::content::{Content, Digest};
use super::engine::Engine;
use super::error::SyncError;
use super::manifest::FileEntry;
use super::path::TreePath;
use super::read::stays_inside;
use super::store::{Etag, Fetched, Store, StoreError};
use bytes::Bytes;
use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};

/// Up to this size a body is held in memory.
const SMALL: u64 = 4 << 20;
/// How often a body that was cut off or does not verify is fetched anew.
const TRIES: u32 = 5;

impl Engine {
    /// Puts a file in its place, unless the place has changed since it was decided.
    pub(super) async fn place(&mut self, near: &mut Near, wanted: &Wanted, fetched: Ready) -> Result<Placed, SyncError> {
        let path = &wanted.path;
        let Ready {
            mut content,
            etag,
            mtime_ns,
            body,
        } = fetched;
        let stat = if content.link {
            let Payload::Memory(bytes) = &body else {
                return Ok(Placed::Refused("the link's target is too long".into()));
            };
            let Ok(target) = std::str::from_utf8(bytes) else {
                return Ok(Placed::Refused("the link's target is not UTF-8".into()));
            };
            if !stays_inside(path, target) {
                return Ok(Placed::Refused(format!("the link leads out of the project, to `{target}`")));
            }
            if self.project.root.lstat(path).ok().flatten() != wanted.seen {
                return Ok(Placed::LocalWork);
            }
            match self.project.root.put_link(path, target) {
                Ok(stat) => stat,
                Err(error) => return refused_or_failed(path, error),
            }
        } else {
            let mut pending = match self.project.root.begin_near(near, path, content.mode) {
                Ok(pending) => pending,
                Err(error) => return refused_or_failed(path, error),
            };
            match body {
                Payload::Memory(bytes) => pending.file().write_all(&bytes).map_err(SyncError::local("writing", path))?,
                Payload::Stream(mut stream) => {
                    let mut hasher = Sha256::new();
                    while let Some(chunk) = stream.body.next().await {
                        let chunk = chunk?;
                        hasher.update(&chunk);
                        pending.file().write_all(&chunk).map_err(SyncError::local("writing", path))?;
                    }
                    let digest = Digest::finish(hasher);
                    if content.sha256 != Digest::UNKNOWN && content.sha256 != digest {
                        return Err(StoreError::Unavailable(format!("`{path}` does not verify")).into());
                    }
                    content.sha256 = digest;
                }
            }
            let dressed = pending.dress(content.mode, mtime_ns);
            dressed.map_err(SyncError::local("setting the permissions of", path))?;
            // Where nothing was, the kernel itself sees to it that nothing is replaced.
            let replace = match wanted.seen {
                None => Replace::Nothing,
                Some(_) if pending.seen().ok().flatten() == wanted.seen => Replace::Anything,
                Some(_) => return Ok(Placed::LocalWork),
            };
            match pending.appear(replace) {
                Ok(stat) => stat,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Placed::LocalWork),
                Err(error) => return refused_or_failed(path, error),
            }
        };
        self.tally.downloaded += 1;
        self.tally.bytes_down += content.size;
        if wanted.there.known.is_none() {
            let entry = FileEntry {
                content: content.clone(),
                mtime_ns: stat.mtime_ns,
                etag: etag.clone(),
                packed: false,
            };
            self.set_file(path.clone(), Some(entry));
        }
        // Written by us a moment ago, under a name that nobody knew: not racy.
        self.in_step(path, stat, content, etag, i64::MAX);
        Ok(Placed::Yes)
    }
}

impl Engine {
    /// Writes a file of an earlier generation over whatever is there, as a person's edit would.
    pub(super) fn put_here(&mut self, path: &TreePath, entry: &FileEntry, bytes: &[u8]) -> Result<(), SyncError> {
        let root = &self.project.root;
        if entry.content.link {
            let target = String::from_utf8_lossy(bytes);
            if !stays_inside(path, &target) {
                return Ok(());
            }
            return root.put_link(path, &target).map(drop).map_err(SyncError::local("writing", path));
        }
        let mut pending = root.begin(path).map_err(SyncError::local("writing", path))?;
        pending.file().write_all(bytes).map_err(SyncError::local("writing", path))?;
        pending
            .dress(entry.content.mode, Some(entry.mtime_ns))
            .map_err(SyncError::local("writing", path))?;
        pending
            .appear(Replace::Anything)
            .map(drop)
            .map_err(SyncError::local("writing", path))
    }
}

/// What became of a file that arrived.
pub(super) enum Placed {
    Yes,
    LocalWork,
    Refused(String),
}

fn refused_or_failed(path: &TreePath, error: io::Error) -> Result<Placed, SyncError> {
    use io::ErrorKind as K;
    match error.kind() {
        K::NotADirectory | K::IsADirectory | K::DirectoryNotEmpty | K::AlreadyExists | K::InvalidFilename => {
            Ok(Placed::Refused(error.to_string()))
        }
        _ if is_absent(&error) || error.raw_os_error() == Some(libc::EXDEV) => {
            Ok(Placed::Refused(format!("a link or a file is where a directory should be: {error}")))
        }
        _ => Err(SyncError::local("writing", path)(error)),
    }
}

/// A body that arrived, or is arriving.
pub(super) enum Payload {
    Memory(Bytes),
    Stream(Box<Fetched>),
}

/// A file that is ready to be put in place.
pub(super) struct Ready {
    pub(super) content: Content,
    pub(super) etag: Etag,
    pub(super) mtime_ns: Option<i64>,
    pub(super) body: Payload,
}

/// Gets an object; small ones whole and verified. `None` when it is gone, or does not hold what the manifest says under the same token.
pub(super) async fn fetch(store: &dyn Store, wanted: &Wanted) -> Result<Option<Ready>, StoreError> {
    let mut last = StoreError::Unavailable("no attempt was made".into());
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(100 << attempt)).await;
        }
        let Some(fetched) = store.get(wanted.path.as_str()).await? else {
            return Ok(None);
        };
        let known = wanted.there.known.as_ref().filter(|known| known.etag == fetched.head.etag);
        let (mut content, mtime_ns) = described(&fetched, known);
        let etag = fetched.head.etag.clone();
        if fetched.head.size > SMALL {
            return Ok(Some(Ready {
                content,
                etag,
                mtime_ns,
                body: Payload::Stream(Box::new(fetched)),
            }));
        }
        match fetched.bytes(SMALL).await {
            Ok((_, bytes)) => {
                let digest = Digest::of(&bytes);
                if known.is_some_and(|known| known.content.sha256 != digest) {
                    last = StoreError::Unavailable("it does not verify".into());
                    continue;
                }
                content.sha256 = digest;
                return Ok(Some(Ready {
                    content,
                    etag,
                    mtime_ns,
                    body: Payload::Memory(bytes),
                }));
            }
            Err(error) => last = error,
        }
    }
    tracing::warn!("`{}`: {last}", wanted.path);
    if last.is_temporary() && last != StoreError::Unavailable("it does not verify".into()) {
        return Err(last);
    }
    Ok(None)
}

fn described(fetched: &Fetched, known: Option<&FileEntry>) -> (Content, Option<i64>) {
    if let Some(known) = known {
        return (known.content.clone(), (known.mtime_ns > 0).then_some(known.mtime_ns));
    }
    let metadata = &fetched.head.info.metadata;
    let mode = metadata
        .get("mode")
        .and_then(|mode| u32::from_str_radix(mode, 8).ok())
        .unwrap_or(0o644);
    let content = Content {
        sha256: Digest::UNKNOWN,
        size: fetched.head.size,
        mode: mode & 0o777,
        link: metadata.contains_key("link"),
    };
    (content, metadata.get("mtime-ns").and_then(|ns| ns.parse().ok()))
}
