//! What happened in each prompt, numbered and on disk before anybody hears of it.
//!
//! One file a prompt, one event a line: `{"seq":3,"at":1700000000000,"type":"text","data":{…}}`. A line that a crash cut off is cut
//! away when the file is opened again; the sequence has no gap because a number is given only to a line that is written. The event of
//! type `end` is the last: nothing is written after it.

mod log;
mod read;

use super::prompt::{Happening, Outcome, PromptId};
use crate::host::mask::Masker;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

use log::Log;
pub use read::{Reader, on_disk, read};

/// One line of a prompt's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// From 1, without gaps.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at: u64,
    /// What kind of thing happened.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened.
    pub data: Value,
}

impl Event {
    /// The type of the terminal event.
    pub const END: &str = "end";
}

/// How far a prompt's file has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last number that is on disk.
    pub last_seq: u64,
    /// Whether that is the terminal event.
    pub ended: bool,
    /// Whether what is there should be handed on without waiting for more.
    pub urgent: bool,
}

/// Working with the outbox: what went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{act} {}: {source}", .path.display())]
pub struct OutboxError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// All prompts' files.
pub struct Outbox {
    directory: PathBuf,
    masker: Masker,
    logs: BTreeMap<PromptId, Log>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("directory", &self.directory)
            .field("logs", &self.logs.keys())
            .finish_non_exhaustive()
    }
}

impl Outbox {
    /// Opens the directory, which is made when there is none.
    pub fn open(directory: &Path, masker: Masker) -> Result<Self, OutboxError> {
        std::fs::create_dir_all(directory).map_err(failed("making the directory", directory))?;
        Ok(Self {
            directory: directory.to_owned(),
            masker,
            logs: BTreeMap::new(),
        })
    }

    /// Opens a prompt's file. `first_seq`: the number of its first event, where this box begins it.
    pub fn begin(&mut self, id: &PromptId, first_seq: u64) -> Result<Progress, OutboxError> {
        if let Some(log) = self.logs.get(id) {
            return Ok(*log.progress.borrow());
        }
        let log = Log::open(path_of(&self.directory, id), first_seq)?;
        let progress = *log.progress.borrow();
        self.logs.insert(id.clone(), log);
        Ok(progress)
    }

    /// How far a prompt has come, whether its file is open or not; `None` = it has none.
    pub fn progress(&self, id: &PromptId) -> Option<Progress> {
        if let Some(log) = self.logs.get(id) {
            return Some(*log.progress.borrow());
        }
        let mut file = OpenOptions::new().read(true).append(true).open(path_of(&self.directory, id)).ok()?;
        read::mend(&mut file).ok()
    }

    /// Follows a prompt: its file and how far it has come. A prompt that is not open has ended and stays as it is.
    pub fn follow(&self, id: &PromptId) -> Option<(PathBuf, watch::Receiver<Progress>)> {
        if let Some(log) = self.logs.get(id) {
            return Some((log.path.clone(), log.progress.subscribe()));
        }
        let progress = self.progress(id)?;
        Some((path_of(&self.directory, id), watch::channel(progress).1))
    }

    /// Numbers an event and puts it with those to be written by [`Self::commit`]. Text is joined with text.
    pub fn record(&mut self, now: Instant, id: &PromptId, happening: Happening) {
        let masker = self.masker.clone();
        let Some(log) = self.logs.get_mut(id) else { return };
        match happening {
            Happening::Text(text) => log.join(now, false, &text, &masker),
            Happening::Thinking(text) => log.join(now, true, &text, &masker),
            other => {
                log.end_text(&masker);
                log.append(other, &masker);
            }
        }
    }

    /// When joined text is to be written at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.logs.values().filter_map(Log::due).min()
    }

    /// Writes what has been recorded and tells those who follow.
    pub fn commit(&mut self, now: Instant) -> Result<(), OutboxError> {
        let masker = self.masker.clone();
        for log in self.logs.values_mut() {
            if log.due().is_some_and(|due| now >= due) {
                log.part(&masker);
            }
            log.write()?;
        }
        Ok(())
    }

    /// Writes the terminal event, on the disk when this returns, and closes the file. A second one is not written.
    pub fn end(&mut self, id: &PromptId, outcome: Outcome) -> Result<Progress, OutboxError> {
        self.begin(id, 1)?;
        let masker = self.masker.clone();
        let mut log = self.logs.remove(id).expect("it was begun above");
        let ended = log.progress.borrow().ended;
        if !ended {
            log.end_text(&masker);
            log.append(Happening::End(Box::new(outcome)), &masker);
            log.write()?;
            log.file.sync_data().map_err(failed("writing to the disk", &log.path))?;
        }
        let progress = *log.progress.borrow();
        Ok(progress)
    }

    /// Writes what has been recorded of a prompt that this box has lost, and closes its file.
    pub fn close(&mut self, id: &PromptId) {
        if let Some(mut log) = self.logs.remove(id)
            && let Err(error) = log.write()
        {
            tracing::warn!("{error}");
        }
    }

    /// Questions of a prompt that nobody can answer any more, once what asked them is gone.
    pub fn open_questions(&self, id: &PromptId) -> Vec<String> {
        read::open_questions(&path_of(&self.directory, id)).unwrap_or_default()
    }

    /// Writes everything, on the disk when this returns: the agent ends.
    pub fn rest(&mut self) -> Result<(), OutboxError> {
        let masker = self.masker.clone();
        for log in self.logs.values_mut() {
            log.end_text(&masker);
            log.write()?;
            log.file.sync_data().map_err(failed("writing to the disk", &log.path))?;
        }
        Ok(())
    }

    /// Takes away what this box has recorded of a prompt: another attempt has been made since.
    pub fn forget(&mut self, id: &PromptId) -> Result<(), OutboxError> {
        self.logs.remove(id);
        let path = path_of(&self.directory, id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes the files of prompts that `keep` does not want.
    pub fn prune(&self, keep: impl Fn(&PromptId) -> bool) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(PromptId::new);
            if id.is_some_and(|id| !self.logs.contains_key(&id) && !keep(&id)) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// The file of a prompt.
pub fn path_of(directory: &Path, id: &PromptId) -> PathBuf {
    directory.join(format!("{id}.ndjson"))
}

/// Milliseconds since the epoch.
pub fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn failed<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OutboxError + 'a {
    move |source| OutboxError {
        act,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
