//! Reading prompts' files, also while they grow.

use super::*;
use crate::tasks;
use std::io::{Read, Seek, SeekFrom};

/// Reads events from `from` on, until `bytes` of them are there.
pub fn read(path: &Path, from: u64, bytes: usize) -> io::Result<Vec<Event>> {
    let mut reader = Reader::open(path)?;
    let mut events = reader.next(usize::MAX)?;
    events.retain(|event| event.seq >= from);
    let mut room = bytes;
    let fitting = events.iter().take_while(|event| {
        let size = event.data.to_string().len() + 64;
        let fits = room > 0;
        room = room.saturating_sub(size);
        fits
    });
    let count = fitting.count();
    events.truncate(count);
    Ok(events)
}

/// Questions of a file that have neither an answer nor been withdrawn.
pub(super) fn open_questions(path: &Path) -> io::Result<Vec<String>> {
    let mut open = Vec::new();
    let mut reader = Reader::open(path)?;
    loop {
        let events = reader.next(256 << 10)?;
        if events.is_empty() {
            return Ok(open);
        }
        for event in events {
            let Some(question) = event.data["question"].as_str() else {
                continue;
            };
            match event.kind.as_str() {
                "question" => open.push(question.to_owned()),
                "answer" => open.retain(|known| known != question),
                _ => {}
            }
        }
    }
}

/// Returns once everything that is in the file is on the disk. Whoever shows events to others waits for it after reading them. The disk
/// may be slow, so a thread of its own waits for it.
pub async fn on_disk(path: PathBuf) -> io::Result<()> {
    let synced = tasks::spawn_blocking(move || File::open(path)?.sync_data());
    synced.await.map_err(io::Error::other)?
}

/// Reads a prompt's file from the beginning, a piece at a time, while it grows.
#[derive(Debug)]
pub struct Reader {
    file: File,
    rest: Vec<u8>,
}

impl Reader {
    /// Opens a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            rest: Vec::new(),
        })
    }

    /// The next events: those of at most about `bytes` of the file. None = it has been read to its end.
    pub fn next(&mut self, bytes: usize) -> io::Result<Vec<Event>> {
        loop {
            let limit = u64::try_from(bytes).unwrap_or(u64::MAX);
            let got = (&mut self.file).take(limit).read_to_end(&mut self.rest)?;
            let whole = self.rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            if whole == 0 && got > 0 {
                continue;
            }
            let tail = self.rest.split_off(whole);
            let lines = std::mem::replace(&mut self.rest, tail);
            return Ok(lines
                .split(|&byte| byte == b'\n')
                .filter_map(|line| serde_json::from_slice(line).ok())
                .collect());
        }
    }
}

/// Cuts off what a crash left of a line, and finds how far the file has come.
pub(super) fn mend(file: &mut File) -> io::Result<Progress> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut text)?;
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole < text.len() {
        file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
    }
    let last = text[..whole]
        .split(|&byte| byte == b'\n')
        .rev()
        .find_map(|line| serde_json::from_slice::<Event>(line).ok());
    Ok(last.map_or(Progress::default(), |event| Progress {
        last_seq: event.seq,
        ended: event.kind == Event::END,
        urgent: true,
    }))
}
