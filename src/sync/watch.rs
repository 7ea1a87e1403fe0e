//! The watcher: which paths were touched. It may be late, it may say too much, and when it has lost count it says so; what it says is
//! never trusted beyond "look there".
//!
//! One inotify watch for each directory that is entered; trees that are left out are not watched. A directory is watched before it is
//! read, so that what is made in it meanwhile is either read or told. Where the kernel has no more watches to give, the tree is polled.

use super::beneath::Root;
use super::rules::Rules;
use super::walk::{Walk, WalkError, walk_below};
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// What was touched since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Absolute paths.
    pub paths: BTreeSet<PathBuf>,
    /// Events were lost: everything is to be looked at.
    pub lost: bool,
}

#[derive(Debug, Default)]
struct Shared {
    touched: Mutex<Touched>,
    wake: Notify,
}

/// The watcher.
#[derive(Debug)]
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    shared: Arc<Shared>,
    watched: BTreeSet<String>,
    polling: Option<String>,
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// A watcher that watches nothing yet.
    pub fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let told = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event| told.take(event));
        let (watcher, polling) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self {
            watcher,
            shared,
            watched: BTreeSet::new(),
            polling,
        }
    }

    /// Why the tree has to be polled; `None` while it is watched.
    pub fn polling(&self) -> Option<&str> {
        self.polling.as_deref()
    }

    /// How many directories are watched.
    pub fn watched(&self) -> usize {
        self.watched.len()
    }

    /// Resolves once something was touched.
    pub async fn touched(&self) {
        self.shared.wake.notified().await;
    }

    /// Takes what was touched.
    pub fn take(&self) -> Touched {
        std::mem::take(&mut *self.shared.touched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Walks a directory and watches all of it: what is made meanwhile is either walked or told.
    pub fn scan(&mut self, root: &Root, rules: &Rules, directory: &str) -> Result<Walk, WalkError> {
        walk_below(root, rules, directory, &mut |entered| self.add(root, entered))
    }

    /// Whether this directory is watched.
    pub fn is_watched(&self, directory: &str) -> bool {
        self.watched.contains(directory)
    }

    /// Forgets a directory that is gone, or is another one by now, and all below it.
    pub fn forget(&mut self, root: &Root, directory: &str) {
        let below = format!("{directory}/");
        let gone: Vec<_> = self
            .watched
            .iter()
            .filter(|path| *path == directory || path.starts_with(&below))
            .cloned()
            .collect();
        for path in gone {
            self.watched.remove(&path);
            if let Some(watcher) = &mut self.watcher {
                // The kernel may have removed it already.
                let _ = watcher.unwatch(&root.path().join(&path));
            }
        }
    }

    fn add(&mut self, root: &Root, directory: &str) {
        if self.watched.contains(directory) {
            return;
        }
        let Some(watcher) = &mut self.watcher else { return };
        let path = if directory.is_empty() {
            root.path().to_owned()
        } else {
            root.path().join(directory)
        };
        match watcher.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.insert(directory.to_owned());
            }
            Err(error) if is_exhausted(&error) => {
                tracing::warn!("no more watches can be had ({error}): the tree is polled");
                self.polling = Some("the system's limit of watches is reached".to_owned());
                self.watcher = None;
                self.watched.clear();
            }
            // It is gone again; whoever removed it is told of by the directory above.
            Err(error) => tracing::debug!("watching {}: {error}", path.display()),
        }
    }
}

fn is_exhausted(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::MaxFilesWatch => true,
        ErrorKind::Io(error) => matches!(
            error.raw_os_error(),
            Some(libc::ENOSPC | libc::EMFILE | libc::ENFILE | libc::ENOMEM)
        ),
        _ => false,
    }
}

impl Shared {
    fn take(&self, event: notify::Result<notify::Event>) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if event.need_rescan() => touched.lost = true,
            Ok(event) => {
                // Reads, our own among them, change nothing.
                let read = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
                if read {
                    return;
                }
                touched.paths.extend(event.paths.into_iter().filter(|path| !is_ours(path)));
                if touched.paths.is_empty() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!("watching: {error}");
                touched.lost = true;
            }
        }
        drop(touched);
        self.wake.notify_one();
    }
}

fn is_ours(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(super::beneath::TEMPORARY))
}
