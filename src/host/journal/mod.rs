//! What units write: captured, kept, read.
//!
//! Owns `<state>/<instance>/logs/` (0700; files 0600). Logs never pass through the core and never through the daemon's loop:
//!
//! ```text
//! pipe ─▶ thread "journal" (epoll, ≤ 64 KiB a read) ─┬▶ <unit>.log   the bytes as they came
//!                                                    ├▶ <unit>.idx   when, which stream, which invocation
//!                                                    ├▶ log probes   (LogMatch)
//!                                                    └▶ Changes      wakes who follows
//! files ─▶ Reader: lines, joined, merged by time, masked, decoded ─▶ HTTP · CLI · why · postmortem
//! ```
//!
//! A thread of its own instead of the loop's readiness: writing to a disk blocks, and neither that nor a flood may touch `/readyz`.
//!
//! How the daemon uses it:
//!
//! ```text
//! let journal = Journal::open(dir, Limits { max_size, keep, most })?;          // or inherit(…) after an upgrade
//! let seen = journal.watch(&unit, invocation, regex);                    // for a `log` probe, before the capture
//! journal.capture(&unit, invocation, stdout, stderr);                    // read ends of the pipes
//! journal.note(&sandkeep, "dev: active (running)");                      // lines of the supervisor's own
//! journal.finish(&unit, invocation).await;                               // what it wrote is in the file; survivors are still read
//! let reader = journal.reader(masker);                                   // Clone; for HTTP
//! journal.close().await;                                                 // drains everything that is in the pipes
//! ```
//!
//! `Reader::new(dir, masker)` reads without a journal, also when no supervisor lives. Its calls do file I/O: from the loop, use
//! `tokio::task::spawn_blocking`.

mod capture;
mod files;
mod follow;
mod format;
mod matcher;
mod merge;
mod read;
mod scan;
#[cfg(test)]
mod tests;
mod text;
mod writer;

pub use follow::Follow;
pub use format::Stream;
pub use matcher::LogMatch;
pub use read::{Ansi, Cursor, Line, Lines, Page, Query, Reader};

use crate::host::mask::Masker;
use crate::supervisor::Invocation;
use crate::unit::Name;
use capture::{Capture, Command};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use regex::Regex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use tokio::sync::{oneshot, watch};

/// How much of a unit's output is kept: `keep` full files of `max_size` bytes beside the current one. Files end with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file.
    pub max_size: u64,
    /// Rotated files of a unit.
    pub keep: u32,
    /// Bytes of all files of all units together: the oldest rotated ones go first.
    pub most: u64,
}

impl Limits {
    /// What all units' logs together may take on a machine that is not made for keeping logs.
    pub const MOST: u64 = 2 << 30;
}

/// What the journal could not do; for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Units of which output was lost since the supervisor started.
    pub lost: BTreeMap<Name, Loss>,
}

/// Output that could not be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Lines.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
    /// Why: `No space left on device (os error 28)`.
    pub error: String,
    /// Whether it goes on.
    pub ongoing: bool,
}

/// A pipe that is handed to the next image of the supervisor in an upgrade.
#[derive(Debug)]
pub struct Handed {
    /// Whose.
    pub unit: Name,
    /// Of which run.
    pub invocation: Invocation,
    /// Which stream.
    pub stream: Stream,
    /// The source's number in the index.
    pub source: u32,
    /// Whether its last line in the file is unterminated.
    pub pending: bool,
    /// The read end.
    pub pipe: OwnedFd,
}

/// The journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory for the files.
    #[error("creating the log directory {}: {error}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The thread or its descriptors.
    #[error("starting to capture output: {error}")]
    Thread {
        /// Why.
        error: io::Error,
    },
}

/// Wakes the thread: once for all that it is told before it looks, so that a thousand units that start do not cost a thousand writes.
#[derive(Debug)]
struct Wake {
    event: EventFd,
    pending: AtomicBool,
}

impl Wake {
    fn new(event: EventFd) -> Self {
        Self {
            event,
            pending: AtomicBool::new(false),
        }
    }

    /// To be called after a command was sent.
    fn up(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            let _ = self.event.write(1);
        }
    }

    /// To be called before commands are received: what is sent from here on wakes anew.
    fn seen(&self) {
        let _ = self.event.read();
        // Not a store: what was sent before `pending` was found set is seen then.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

/// The handle on the capturing thread. Nothing here blocks.
#[derive(Debug)]
pub struct Journal {
    dir: Arc<Path>,
    commands: mpsc::Sender<Command>,
    wake: Arc<Wake>,
    sources: AtomicU32,
    changes: watch::Receiver<u64>,
    health: watch::Receiver<Health>,
}

impl Journal {
    /// Creates the directory where it is missing and starts the thread.
    pub fn open(dir: PathBuf, limits: Limits) -> Result<Self, JournalError> {
        Self::start(dir, limits)
    }

    /// As `open`, and goes on with the pipes of the image before this one.
    pub fn inherit(dir: PathBuf, limits: Limits, handed: Vec<Handed>) -> Result<Self, JournalError> {
        let journal = Self::start(dir, limits)?;
        let next = handed.iter().map(|h| h.source).max().unwrap_or(0) + 1;
        journal.adopt(handed, next);
        Ok(journal)
    }

    fn start(dir: PathBuf, limits: Limits) -> Result<Self, JournalError> {
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        let rotated = created.and_then(|()| files::units(&dir));
        let rotated = rotated.map_err(|error| JournalError::Directory { path: dir.clone(), error })?;
        let dir: Arc<Path> = dir.into();
        let (commands, receiver) = mpsc::channel();
        let (changes_sender, changes) = watch::channel(0);
        let (health_sender, health) = watch::channel(Health::default());
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let started = EventFd::from_flags(flags).map_err(io::Error::from).and_then(|wake| {
            let wake = Arc::new(Wake::new(wake));
            let capture = Capture::new(
                Arc::clone(&dir),
                limits,
                rotated,
                Arc::clone(&wake),
                receiver,
                changes_sender,
                health_sender,
            )?;
            let thread = std::thread::Builder::new().name("journal".into()).stack_size(256 * 1024);
            thread.spawn(move || {
                // Signals are the main thread's business.
                let _ = SigSet::all().thread_block();
                capture.run();
            })?;
            Ok(wake)
        });
        Ok(Self {
            dir,
            commands,
            wake: started.map_err(|error| JournalError::Thread { error })?,
            sources: AtomicU32::new(1),
            changes,
            health,
        })
    }

    /// Goes on with the pipes of the image before this one, whose next source would have had this number.
    pub fn adopt(&self, handed: Vec<Handed>, next_source: u32) {
        self.sources.fetch_max(next_source, Ordering::Relaxed);
        self.tell(Command::Adopt(handed));
    }

    /// The number of the source to come.
    pub fn next_source(&self) -> u32 {
        self.sources.load(Ordering::Relaxed)
    }

    /// Reads these pipes until their ends, whatever becomes of the unit. Each process of a stage has its own two.
    pub fn capture(&self, unit: &Name, invocation: Invocation, stdout: OwnedFd, stderr: OwnedFd) {
        for (stream, pipe) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let source = self.sources.fetch_add(1, Ordering::Relaxed);
            self.send(Command::Capture(unit.clone(), capture::tag(source, stream, invocation), pipe));
        }
        // Once for both.
        self.wake.up();
    }

    /// Looks for a line of this run that matches; where the run writes already, among its earlier lines too. Forgotten with `finish` and
    /// with a watch of a later run.
    pub fn watch(&self, unit: &Name, invocation: Invocation, regex: Regex) -> LogMatch {
        let found = LogMatch::default();
        self.tell(Command::Watch(unit.clone(), invocation, regex, found.clone()));
        found
    }

    /// Adds a line of the supervisor's own.
    pub fn note(&self, unit: &Name, text: &str) {
        self.tell(Command::Note(unit.clone(), format!("{}\n", text.trim_end_matches('\n'))));
    }

    /// Returns when everything that this run has written so far is in its file. A process that outlived it goes on being read, so that
    /// it neither blocks nor dies of SIGPIPE.
    pub fn finish(&self, unit: &Name, invocation: Invocation) -> impl Future<Output = ()> + Send + use<> {
        let (done, finished) = oneshot::channel();
        self.tell(Command::Finish(unit.clone(), invocation, done));
        async move {
            let _ = finished.await;
        }
    }

    /// New limits, from the next write on.
    pub fn limit(&self, limits: Limits) {
        self.tell(Command::Limit(limits));
    }

    /// A reader that knows when something is written.
    pub fn reader(&self, masker: Masker) -> Reader {
        Reader {
            dir: Arc::clone(&self.dir),
            masker,
            changes: Some(self.changes.clone()),
        }
    }

    /// Changes when something was written, at most a hundred times a second.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// What was lost since the start.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Where the files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stops reading and gives the pipes away; what they hold stays in them. The last thing that is asked of this journal.
    pub async fn hand_over(&self) -> Vec<Handed> {
        let (reply, handed) = oneshot::channel();
        self.tell(Command::Handover(reply));
        handed.await.unwrap_or_default()
    }

    /// Writes everything that is in the pipes, then lets go of them.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        self.tell(Command::Close(done));
        let _ = closed.await;
    }

    fn tell(&self, command: Command) {
        self.send(command);
        self.wake.up();
    }

    /// Without waking anybody.
    fn send(&self, command: Command) {
        // Where the thread is gone it has said why, and there is nothing to be done here.
        let _ = self.commands.send(command);
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let (commands, _) = mpsc::channel();
        drop(std::mem::replace(&mut self.commands, commands));
        self.wake.up();
    }
}
