//! A store that is a directory: the plain tree, readable with `ls`.
//!
//! Writes exclude each other by flock(2) on a file beside the objects, and `Absent` by renameat2(2). The token of an object is its inode,
//! size and time of change. Permissions, symbolic links and times are the file's own; the media type follows from the name. What a file
//! system cannot hold (`a` beside `a/b`, a component over 255 bytes) is refused as unrepresentable.
//!
//! Objects are flushed to the disk by the write of one of ours (`.sandkeep/…`), which always comes after what it speaks of.

use super::{Answer, Body, Condition, Etag, Fetched, Head, Info, Listed, Page, Requests, Store, StoreError, content_type};
use crate::sync::beneath::{Kind, Pending, Replace, Root, Stat, TEMPORARY, is_absent};
use crate::sync::content::Digest;
use crate::sync::path::TreePath;
use crate::tasks;
use bytes::Bytes;
use futures_util::StreamExt;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LOCK: &str = ".sandkeep-lock";
const CHUNK: usize = 1 << 20;

/// A directory as a store.
#[derive(Clone, Debug)]
pub struct FileStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    root: Root,
    writes: AtomicU64,
    reads: AtomicU64,
    free: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl FileStore {
    /// Opens a directory as a store; it is made when it is missing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => StoreError::Denied(format!("{}: {error}", path.display())),
            _ => StoreError::Missing(format!("{}: {error}", path.display())),
        };
        std::fs::create_dir_all(path).map_err(failed)?;
        let root = Root::open(path).map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            root,
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            free: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
        })))
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static) -> Answer<'static, T> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            match tasks::spawn_blocking(move || work(&inner)).await {
                Ok(result) => result,
                Err(error) => Err(StoreError::Unavailable(error.to_string())),
            }
        })
    }
}

impl Store for FileStore {
    fn name(&self) -> String {
        format!("file://{}", self.0.path.display())
    }

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Head>> {
        let key = key.to_owned();
        self.run(move |inner| {
            inner.reads.fetch_add(1, Ordering::Relaxed);
            let path = path_of(&key)?;
            Ok(inner.stat(&path)?.map(|stat| head_of(&path, &stat)))
        })
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Fetched>> {
        let (key, store) = (key.to_owned(), self.clone());
        Box::pin(async move {
            let opened = store.run(move |inner| inner.open(&path_of(&key)?)).await?;
            Ok(opened.map(|(head, source)| {
                let body = match source {
                    Source::Link(bytes) => futures_util::stream::iter([Ok(bytes)]).boxed(),
                    Source::File(file) => chunks(file, head.size, store),
                };
                Fetched { head, body }
            }))
        })
    }

    fn put<'a>(&'a self, key: &'a str, body: Body, info: Info, condition: Condition) -> Answer<'a, Etag> {
        let key = key.to_owned();
        self.run(move |inner| inner.put(&path_of(&key)?, &body, &info, &condition))
    }

    fn list<'a>(&'a self, prefix: &'a str, _after: Option<String>) -> Answer<'a, Page> {
        let prefix = prefix.to_owned();
        self.run(move |inner| {
            inner.writes.fetch_add(1, Ordering::Relaxed);
            let directory = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
            let mut objects = Vec::new();
            inner.collect(directory, &prefix, &mut objects)?;
            Ok(Page { objects, next: None })
        })
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        let keys = keys.to_vec();
        self.run(move |inner| {
            let _lock = inner.lock()?;
            for key in &keys {
                inner.free.fetch_add(1, Ordering::Relaxed);
                let path = path_of(key)?;
                if inner.stat(&path)?.is_some() {
                    inner.root.remove(&path).map_err(|error| failed("removing", &path, &error))?;
                }
            }
            Ok(())
        })
    }

    fn copy<'a>(&'a self, from: &'a str, etag: &'a Etag, to: &'a str, info: Info) -> Answer<'a, Etag> {
        let (from, etag, to) = (from.to_owned(), etag.clone(), to.to_owned());
        self.run(move |inner| {
            let Some((head, source)) = inner.open(&path_of(&from)?)? else {
                return Err(StoreError::Precondition);
            };
            if head.etag != etag {
                return Err(StoreError::Precondition);
            }
            let bytes = match source {
                Source::Link(bytes) => bytes,
                Source::File(mut file) => {
                    let mut bytes = Vec::new();
                    let unreadable = |error: io::Error| StoreError::Unavailable(format!("reading `{from}`: {error}"));
                    file.read_to_end(&mut bytes).map_err(unreadable)?;
                    bytes.into()
                }
            };
            inner.put(&path_of(&to)?, &Body::Bytes(bytes), &info, &Condition::Always)
        })
    }

    fn requests(&self) -> Requests {
        let inner = &self.0;
        Requests {
            writes: inner.writes.load(Ordering::Relaxed),
            reads: inner.reads.load(Ordering::Relaxed),
            free: inner.free.load(Ordering::Relaxed),
            retries: 0,
            bytes_up: inner.bytes_up.load(Ordering::Relaxed),
            bytes_down: inner.bytes_down.load(Ordering::Relaxed),
        }
    }
}

enum Source {
    Link(Bytes),
    File(File),
}

impl Inner {
    fn stat(&self, path: &TreePath) -> Result<Option<Stat>, StoreError> {
        let stat = self.root.lstat(path).map_err(|error| failed("looking at", path, &error))?;
        Ok(stat.filter(|stat| matches!(stat.kind, Kind::File | Kind::Link)))
    }

    fn lock(&self) -> Result<Flock<File>, StoreError> {
        let broken = |error: io::Error| StoreError::Unavailable(format!("locking {}: {error}", self.path.display()));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.root.path().join(LOCK))
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    StoreError::Denied(format!("{}: {error}", self.path.display()))
                }
                _ => broken(error),
            })?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| broken(error.into()))
    }

    fn open(&self, path: &TreePath) -> Result<Option<(Head, Source)>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let Some(stat) = self.stat(path)? else { return Ok(None) };
        if stat.kind == Kind::Link {
            let target = self.root.read_link(path).map_err(|error| failed("reading", path, &error))?;
            let target = Bytes::from(target.to_string_lossy().into_owned());
            return Ok(Some((head_of(path, &stat), Source::Link(target))));
        }
        match self.root.open_file(path) {
            Ok(file) => {
                let stat = Stat::of(&file).map_err(|error| failed("looking at", path, &error))?;
                Ok(Some((head_of(path, &stat), Source::File(file))))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("opening", path, &error)),
        }
    }

    fn put(&self, path: &TreePath, body: &Body, info: &Info, condition: &Condition) -> Result<Etag, StoreError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let _lock = self.lock()?;
        let there = self.stat(path)?;
        match condition {
            Condition::Always => {}
            Condition::Absent if there.is_none() => {}
            Condition::Matches(etag) if there.is_some_and(|stat| etag_of(&stat) == *etag) => {}
            Condition::Absent | Condition::Matches(_) => return Err(StoreError::Precondition),
        }
        self.write(path, body, info, condition)?;
        if path.as_str().starts_with(".sandkeep/") {
            let directory = self.root.directory("").map_err(|error| failed("opening", path, &error))?;
            nix::unistd::syncfs(&directory).map_err(|error| failed("flushing", path, &error.into()))?;
        }
        let stat = self
            .stat(path)?
            .ok_or_else(|| StoreError::Unavailable(format!("`{path}` vanished")))?;
        self.bytes_up.fetch_add(stat.size, Ordering::Relaxed);
        Ok(etag_of(&stat))
    }

    fn write(&self, path: &TreePath, body: &Body, info: &Info, condition: &Condition) -> Result<(), StoreError> {
        let failed = |error: io::Error| failed("writing", path, &error);
        if info.metadata.contains_key("link") {
            let Body::Bytes(target) = body else {
                return Err(StoreError::Refused("a link's target is small".into()));
            };
            return self.root.put_link(path, &String::from_utf8_lossy(target)).map(drop).map_err(failed);
        }
        let mut pending = self.root.begin(path).map_err(failed)?;
        match body {
            Body::Bytes(bytes) => pending.file().write_all(bytes).map_err(failed)?,
            Body::File { file, size, sha256 } => {
                if copy_and_hash(file, *size, &mut pending).map_err(failed)? != *sha256 {
                    return Err(StoreError::Changed);
                }
            }
        }
        let number = |name: &str, radix: u32| info.metadata.get(name).and_then(|text| i64::from_str_radix(text, radix).ok());
        let mode = number("mode", 8).and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
        pending.dress(mode, number("mtime-ns", 10)).map_err(failed)?;
        let replace = if *condition == Condition::Absent {
            Replace::Nothing
        } else {
            Replace::Anything
        };
        pending.appear(replace).map(drop).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists if self.stat(path).is_ok_and(|there| there.is_some()) => StoreError::Precondition,
            _ => failed(error),
        })
    }

    fn collect(&self, directory: &str, prefix: &str, objects: &mut Vec<Listed>) -> Result<(), StoreError> {
        let entries = match self.root.entries(directory) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return Err(StoreError::Unavailable(format!("listing {}: {error}", self.path.display()))),
        };
        for (name, stat) in entries {
            let Some(name) = name.to_str().filter(|name| !name.starts_with(TEMPORARY) && *name != LOCK) else {
                continue;
            };
            let key = if directory.is_empty() {
                name.to_owned()
            } else {
                format!("{directory}/{name}")
            };
            let related = key.starts_with(prefix) || prefix.starts_with(&format!("{key}/"));
            match stat.kind {
                Kind::Directory if related => self.collect(&key, prefix, objects)?,
                Kind::File | Kind::Link if key.starts_with(prefix) => objects.push(Listed {
                    key,
                    size: stat.size,
                    etag: etag_of(&stat),
                    modified_s: stat.ctime_ns / 1_000_000_000,
                }),
                Kind::Directory | Kind::File | Kind::Link | Kind::Special => {}
            }
        }
        Ok(())
    }
}

fn path_of(key: &str) -> Result<TreePath, StoreError> {
    TreePath::parse(key).map_err(|fault| StoreError::Unrepresentable {
        key: key.into(),
        why: fault.to_string(),
    })
}

fn etag_of(stat: &Stat) -> Etag {
    Etag(format!("{:x}-{:x}-{:x}", stat.ino, stat.size, stat.ctime_ns))
}

fn head_of(path: &TreePath, stat: &Stat) -> Head {
    let mut info = Info {
        content_type: content_type(path.as_str()).into(),
        ..Info::default()
    };
    if stat.kind == Kind::Link {
        info.metadata.insert("link".into(), "1".into());
    } else {
        info.metadata.insert("mode".into(), format!("{:o}", stat.mode));
        info.metadata.insert("mtime-ns".into(), stat.mtime_ns.to_string());
    }
    Head {
        size: stat.size,
        etag: etag_of(stat),
        info,
    }
}

fn copy_and_hash(file: &File, size: u64, pending: &mut Pending) -> io::Result<Digest> {
    let (mut buffer, mut at, mut hasher) = (vec![0; CHUNK], 0, Sha256::new());
    while at < size {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        pending.file().write_all(&buffer[..read])?;
        at += read as u64;
    }
    Ok(Digest::finish(hasher))
}

fn chunks(file: File, size: u64, store: FileStore) -> futures_util::stream::BoxStream<'static, Result<Bytes, StoreError>> {
    let file = Arc::new(file);
    futures_util::stream::try_unfold(0_u64, move |at| {
        let (file, store) = (Arc::clone(&file), store.clone());
        async move {
            if at >= size {
                return Ok(None);
            }
            let chunk = store.run(move |inner| {
                let mut buffer = vec![0; CHUNK.min(usize::try_from(size - at).unwrap_or(CHUNK))];
                let read = file
                    .read_at(&mut buffer, at)
                    .map_err(|error| StoreError::Unavailable(error.to_string()))?;
                buffer.truncate(read);
                inner.bytes_down.fetch_add(read as u64, Ordering::Relaxed);
                Ok(Bytes::from(buffer))
            });
            let chunk = chunk.await?;
            let next = at + chunk.len() as u64;
            Ok((!chunk.is_empty()).then_some((chunk, next)))
        }
    })
    .boxed()
}

fn failed(act: &str, path: &TreePath, error: &io::Error) -> StoreError {
    let why = format!("{act} `{path}`: {error}");
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOTDIR | Errno::EISDIR | Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENAMETOOLONG | Errno::ELOOP) => {
            StoreError::Unrepresentable {
                key: path.to_string(),
                why: error.to_string(),
            }
        }
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => StoreError::Denied(why),
        _ => StoreError::Unavailable(why),
    }
}
