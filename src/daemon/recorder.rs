//! `up --record FILE`: what the core was given and what it answered, written down as it happens.

use super::handover::monotonic;
use crate::control::Mask;
use crate::supervisor::{Action, Entry, Event, Supervisor};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A recording ends at this size: it is for finding out about something, not for a year.
const LARGEST: u64 = 256 << 20;

/// Writes a recording. What cannot be written ends it, and nothing else.
pub(super) struct Recorder {
    path: PathBuf,
    file: File,
    begun: Instant,
    written: u64,
    mask: Mask,
    over: bool,
}

/// What the next image goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HandedRecorder {
    path: PathBuf,
    /// CLOCK_MONOTONIC at its beginning, nanoseconds.
    begun: u64,
    written: u64,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("path", &self.path).finish_non_exhaustive()
    }
}

fn open(path: &Path, truncate: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    if truncate {
        options.write(true).truncate(true).open(path)
    } else {
        options.append(true).open(path)
    }
}

impl Recorder {
    /// Begins one with a supervisor that has not stepped yet.
    pub(super) fn begin(path: PathBuf, supervisor: &Supervisor, mask: Mask) -> io::Result<Self> {
        let file = open(&path, true)?;
        let mut recorder = Self {
            path,
            file,
            begun: Instant::now(),
            written: 0,
            mask,
            over: false,
        };
        recorder.write(&Entry::Began {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: supervisor.seed(),
            budget: supervisor.budget(),
        });
        Ok(recorder)
    }

    /// Goes on with the one of the image before this one. `moment`: when the supervisor was saved.
    pub(super) fn go_on(handed: HandedRecorder, moment: Instant, mask: Mask) -> io::Result<Self> {
        let HandedRecorder { path, begun, written } = handed;
        let file = open(&path, false)?;
        let (now, clock) = (Instant::now(), monotonic());
        let begun = now.checked_sub(Duration::from_nanos(clock.saturating_sub(begun))).unwrap_or(now);
        let mut recorder = Self {
            path,
            file,
            begun,
            written,
            mask,
            over: false,
        };
        let at = moment.saturating_duration_since(begun);
        recorder.write(&Entry::Restored { at });
        Ok(recorder)
    }

    pub(super) fn hand_over(&self) -> HandedRecorder {
        let begun = monotonic().saturating_sub(u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        HandedRecorder {
            path: self.path.clone(),
            begun,
            written: self.written,
        }
    }

    /// A step.
    pub(super) fn step(&mut self, now: Instant, event: &Event, actions: &[Action]) {
        if !self.over {
            self.write(&Entry::step(now.saturating_duration_since(self.begun), event, actions));
        }
    }

    fn write(&mut self, entry: &Entry) {
        let text = serde_json::to_string(entry).unwrap_or_default();
        let line = (self.mask)(&text) + "\n";
        self.written += line.len() as u64;
        self.over = self.written > LARGEST;
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            tracing::warn!("recording into {}: {error}; the recording ends here", self.path.display());
            self.over = true;
        }
    }
}
