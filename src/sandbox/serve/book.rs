//! Operations on disk: one file each, written whole or not at all, so that a server that comes back goes on with what was under way.

use super::events::Event;
use super::operation::Operation;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The form of a file.
const VERSION: u32 = 1;

/// What is kept of an operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Page {
    /// The form of the file.
    pub(super) version: u32,
    /// The operation.
    pub(super) operation: Operation,
    /// The `Idempotency-Key` that it came with.
    #[serde(default)]
    pub(super) key: Option<String>,
    /// Tells requests of the same key apart.
    pub(super) fingerprint: String,
    /// What happened.
    #[serde(default)]
    pub(super) events: Vec<Event>,
}

impl Page {
    pub(super) fn new(operation: Operation, key: Option<String>, fingerprint: String) -> Self {
        Self {
            version: VERSION,
            operation,
            key,
            fingerprint,
            events: Vec::new(),
        }
    }
}

/// Why the book cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Making, reading or writing failed.
    #[error("{act} `{}`: {why}", path.display())]
    Io {
        /// What was being done.
        act: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        why: io::Error,
    },
    /// Another server has it.
    #[error("another `sandkeep serve` works with `{}`", .0.display())]
    Locked(PathBuf),
}

/// The directory of the operations, locked.
#[derive(Debug)]
pub(super) struct Book {
    directory: PathBuf,
    _lock: File,
}

impl Book {
    /// Opens it, and makes it if it is not there.
    pub(super) fn open(directory: &Path) -> Result<Self, BookError> {
        let failed = |act, path: &Path| {
            let path = path.to_owned();
            move |why| BookError::Io { act, path, why }
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(failed("making", directory))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("opening", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                directory: directory.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(BookError::Locked(directory.to_owned())),
            Err(TryLockError::Error(why)) => Err(failed("locking", &path)(why)),
        }
    }

    fn file(&self, operation: &str) -> PathBuf {
        self.directory.join(format!("{operation}.json"))
    }

    /// All pages. One that cannot be read is left where it is, and said.
    pub(super) fn load(&self) -> Result<Vec<Page>, BookError> {
        let failed = |why| BookError::Io {
            act: "reading",
            path: self.directory.clone(),
            why,
        };
        let mut pages = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed)?.flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
                continue;
            };
            match self.read(id) {
                Ok(page) => pages.push(page),
                Err(why) => tracing::warn!("the operation in `{}` is left out: {why}", entry.path().display()),
            }
        }
        Ok(pages)
    }

    /// One page.
    pub(super) fn read(&self, operation: &str) -> io::Result<Page> {
        let text = fs::read(self.file(operation))?;
        let page: Page = serde_json::from_slice(&text)?;
        if page.version > VERSION || page.operation.operation_id != operation {
            return Err(io::Error::other("it is of another version, or another operation's"));
        }
        Ok(page)
    }

    /// Writes a page.
    pub(super) fn save(&self, page: &Page) -> Result<(), BookError> {
        let path = self.file(&page.operation.operation_id);
        let new = path.with_extension("new");
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec(page)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|why| BookError::Io {
            act: "writing",
            path: path.clone(),
            why,
        })
    }

    /// Removes a page.
    pub(super) fn remove(&self, operation: &str) {
        if let Err(error) = fs::remove_file(self.file(operation)) {
            tracing::warn!("removing `{}`: {error}", self.file(operation).display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::Time;

    fn page(id: &str) -> Page {
        let order = serde_json::from_str(r#"{"githubRepoUrl":"https://github.com/a/b"}"#).unwrap();
        let operation = Operation::new(id.into(), "sb-1".into(), order, Time(jiff::Timestamp::UNIX_EPOCH));
        Page::new(operation, Some("k".into()), "f".into())
    }

    #[test]
    fn what_is_written_is_read_by_the_next_and_the_broken_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path()).unwrap();
        assert!(matches!(Book::open(dir.path()), Err(BookError::Locked(_))));
        book.save(&page("op-1")).unwrap();
        book.save(&page("op-2")).unwrap();
        fs::write(dir.path().join("op-3.json"), "{").unwrap();
        drop(book);
        let book = Book::open(dir.path()).unwrap();
        book.remove("op-2");
        let pages = book.load().unwrap();
        assert_eq!(pages.len(), 1);
        assert_eq!(pages[0].operation, page("op-1").operation);
        assert_eq!(pages[0].key.as_deref(), Some("k"));
    }
}
