//! What happened in each prompt, numbered and on disk before anybody hears of it.
//!
//! One file a prompt, one event a line: `{"seq":3,"at":1700000000000,"type":"text","data":{…}}`. A line that a crash cut off is cut
//! away when the file is opened again; the sequence has no gap because a number is given only to a line that is written. The event of
//! type `end` is the last: nothing is written after it.

use super::prompt::{Happening, Outcome, PromptId};
use crate::host::mask::Masker;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The longest string that an event carries, and the longest event; the rest is said to be left out.
const STRING_MAX: usize = 64 << 10;
const EVENT_MAX: usize = 256 << 10;
/// Text that is joined into one event: until so much of it, or so long after its first piece. The first piece of all is not held back.
const JOIN_BYTES: usize = 4 << 10;
const JOIN_TIME: Duration = Duration::from_millis(200);

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

struct Log {
    path: PathBuf,
    file: File,
    unwritten: Vec<u8>,
    next_seq: u64,
    joined: Option<Joined>,
    progress: watch::Sender<Progress>,
}

/// A run of text, of which this has not become an event yet.
struct Joined {
    thinking: bool,
    text: String,
    /// None = it waits for more: there is nothing, or what may be the beginning of a secret.
    due: Option<Instant>,
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
        let path = path_of(&self.directory, id);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(failed("opening", &path))?;
        let progress = mend(&mut file).map_err(failed("reading", &path))?;
        let log = Log {
            path,
            file,
            unwritten: Vec::new(),
            next_seq: (progress.last_seq + 1).max(first_seq),
            joined: None,
            progress: watch::Sender::new(progress),
        };
        self.logs.insert(id.clone(), log);
        Ok(progress)
    }

    /// How far a prompt has come, whether its file is open or not; `None` = it has none.
    pub fn progress(&self, id: &PromptId) -> Option<Progress> {
        if let Some(log) = self.logs.get(id) {
            return Some(*log.progress.borrow());
        }
        let mut file = OpenOptions::new().read(true).append(true).open(path_of(&self.directory, id)).ok()?;
        mend(&mut file).ok()
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
        self.logs
            .values()
            .filter_map(|log| log.joined.as_ref().and_then(|joined| joined.due))
            .min()
    }

    /// Writes what has been recorded and tells those who follow.
    pub fn commit(&mut self, now: Instant) -> Result<(), OutboxError> {
        let masker = self.masker.clone();
        for log in self.logs.values_mut() {
            if log.joined.as_ref().is_some_and(|joined| joined.due.is_some_and(|due| now >= due)) {
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

impl Log {
    fn join(&mut self, now: Instant, thinking: bool, text: &str, masker: &Masker) {
        if self.joined.as_ref().is_some_and(|joined| joined.thinking != thinking) {
            self.end_text(masker);
        }
        let goes_on = self.joined.is_some();
        let joined = self.joined.get_or_insert_with(|| Joined {
            thinking,
            text: String::new(),
            due: None,
        });
        joined.text.push_str(text);
        joined.due.get_or_insert(if goes_on { now + JOIN_TIME } else { now });
        if joined.text.len() >= JOIN_BYTES {
            self.part(masker);
        }
    }

    /// Makes an event of the text, but for an end that may be the beginning of a secret: cut in two it would not be recognised.
    fn part(&mut self, masker: &Masker) {
        let Some(joined) = self.joined.as_mut() else { return };
        let bytes = joined.text.as_bytes();
        let cut = masker.cut(bytes, masker.open_end(bytes));
        let held = joined.text.split_off(joined.text.floor_char_boundary(cut));
        let text = std::mem::replace(&mut joined.text, held);
        joined.due = None;
        let thinking = joined.thinking;
        self.append_text(thinking, text, masker);
    }

    /// Ends the run of text: nothing follows that could complete a secret.
    fn end_text(&mut self, masker: &Masker) {
        if let Some(joined) = self.joined.take() {
            self.append_text(joined.thinking, joined.text, masker);
        }
    }

    fn append_text(&mut self, thinking: bool, text: String, masker: &Masker) {
        if text.is_empty() {
            return;
        }
        let happening = if thinking {
            Happening::Thinking(text)
        } else {
            Happening::Text(text)
        };
        self.append(happening, masker);
    }

    fn append(&mut self, happening: Happening, masker: &Masker) {
        let urgent = happening.urgent();
        let kind = happening.kind().to_owned();
        let ended = kind == Event::END;
        let mut data = happening.data();
        shorten(&mut data, masker);
        let mut event = Event {
            seq: self.next_seq,
            at: epoch_ms(),
            kind,
            data,
        };
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        if line.len() > EVENT_MAX {
            event.data = serde_json::json!({"left_out_bytes": line.len()});
            line = serde_json::to_vec(&event).unwrap_or_default();
        }
        self.unwritten.append(&mut line);
        self.unwritten.push(b'\n');
        self.next_seq += 1;
        self.progress.send_if_modified(|progress| {
            progress.ended |= ended;
            progress.urgent |= urgent;
            false
        });
    }

    fn write(&mut self) -> Result<(), OutboxError> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let written = self.file.metadata().and_then(|before| {
            let result = self.file.write_all(&self.unwritten);
            if result.is_err() {
                // A disk that is full holds half a line: take it back, so that the next try does not follow it.
                self.file.set_len(before.len())?;
            }
            result
        });
        written.map_err(failed("writing", &self.path))?;
        self.unwritten.clear();
        let last_seq = self.next_seq - 1;
        self.progress.send_modify(|progress| progress.last_seq = last_seq);
        Ok(())
    }
}

/// The file of a prompt.
pub fn path_of(directory: &Path, id: &PromptId) -> PathBuf {
    directory.join(format!("{id}.ndjson"))
}

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
fn mend(file: &mut File) -> io::Result<Progress> {
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

/// Masks whole strings first, so that no cut goes through a secret.
fn shorten(value: &mut Value, masker: &Masker) {
    masker.mask_json(value);
    each_string(value, &|text| {
        if text.len() > STRING_MAX {
            let left_out = text.len() - STRING_MAX;
            let cut = text.floor_char_boundary(STRING_MAX);
            text.truncate(cut);
            text.push_str(&format!("… ({left_out} bytes left out)"));
        }
    });
}

fn each_string(value: &mut Value, act: &impl Fn(&mut String)) {
    match value {
        Value::String(text) => act(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_string(item, act)),
        Value::Object(fields) => fields.values_mut().for_each(|field| each_string(field, act)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
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
mod tests {
    use super::*;
    use crate::agent::prompt::Verdict;
    use serde_json::json;

    fn outbox(directory: &Path) -> Outbox {
        Outbox::open(directory, Masker::new(["hunter2-hunter2"])).unwrap()
    }

    fn id() -> PromptId {
        PromptId::new("p1").unwrap()
    }

    fn all(directory: &Path) -> Vec<Event> {
        read(&path_of(directory, &id()), 0, usize::MAX).unwrap()
    }

    #[test]
    fn text_is_joined_and_secrets_are_masked() {
        let directory = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut outbox = outbox(directory.path());
        outbox.begin(&id(), 1).unwrap();
        let texts = || {
            all(directory.path())
                .iter()
                .map(|event| event.data["text"].clone())
                .collect::<Vec<_>>()
        };
        outbox.record(now, &id(), Happening::Text("the first piece comes at once, ".into()));
        outbox.commit(now).unwrap();
        assert_eq!(texts().len(), 1);
        for piece in ["then ", "my ", "hunter2-", "hunter2 ", "is"] {
            outbox.record(now, &id(), Happening::Text(piece.into()));
            outbox.commit(now).unwrap();
        }
        assert_eq!(texts().len(), 1);
        outbox.commit(now + JOIN_TIME).unwrap();
        assert_eq!(texts()[1], "then my *** is");
        outbox.record(now, &id(), Happening::Message(json!({"deep": ["hunter2-hunter2"]})));
        outbox.commit(now).unwrap();
        let events = all(directory.path());
        assert_eq!(events[2].data, json!({"deep": ["***"]}));
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_secret_is_masked_wherever_its_pieces_come_apart() {
        for at in 1.."hunter2-hunter2".len() {
            let directory = tempfile::tempdir().unwrap();
            let now = Instant::now();
            let mut outbox = outbox(directory.path());
            outbox.begin(&id(), 1).unwrap();
            let (first, second) = "hunter2-hunter2".split_at(at);
            outbox.record(now, &id(), Happening::Text(format!("it is {first}")));
            outbox.commit(now).unwrap();
            assert!(outbox.next_deadline().is_none(), "what waits for more waits for nothing else");
            outbox.record(now, &id(), Happening::Text(second.into()));
            outbox.commit(now + JOIN_TIME).unwrap();
            outbox.record(now, &id(), Happening::Notice(json!(1)));
            outbox.commit(now).unwrap();
            let events = all(directory.path());
            let text: String = events.iter().filter_map(|event| event.data["text"].as_str()).collect();
            assert_eq!(text, "it is ***", "at {at}");
        }
    }

    #[test]
    fn a_torn_line_is_cut_off_and_the_sequence_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut first = outbox(directory.path());
        first.begin(&id(), 1).unwrap();
        first.record(now, &id(), Happening::Notice(json!(1)));
        first.commit(now).unwrap();
        drop(first);
        let path = path_of(directory.path(), &id());
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"seq\":2,\"at")
            .unwrap();
        let mut second = outbox(directory.path());
        assert_eq!(second.begin(&id(), 1).unwrap().last_seq, 1);
        let end = second
            .end(&id(), Outcome::without_claude(Verdict::Done, "completed", None))
            .unwrap();
        assert_eq!((end.last_seq, end.ended), (2, true));
        let again = second.end(&id(), Outcome::without_claude(Verdict::Failed, "late", None)).unwrap();
        assert_eq!(again.last_seq, 2);
        let events = all(directory.path());
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(events[1].data["status"], "done");
    }

    #[test]
    fn long_strings_and_events_are_shortened() {
        let directory = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut outbox = outbox(directory.path());
        outbox.begin(&id(), 1).unwrap();
        outbox.record(now, &id(), Happening::ToolResult(json!({"content": "é".repeat(STRING_MAX)})));
        outbox.record(now, &id(), Happening::ToolResult(json!(vec!["x".repeat(STRING_MAX); 8])));
        outbox.commit(now).unwrap();
        let events = all(directory.path());
        assert!(
            events[0].data["content"]
                .as_str()
                .unwrap()
                .ends_with(&format!("({STRING_MAX} bytes left out)"))
        );
        assert!(events[1].data["left_out_bytes"].as_u64().unwrap() > 400_000);
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut outbox = outbox(directory.path());
        outbox.begin(&id(), 5).unwrap();
        let mut reader = Reader::open(&path_of(directory.path(), &id())).unwrap();
        for round in 0..3u64 {
            outbox.record(now, &id(), Happening::Notice(json!(round)));
            outbox.commit(now).unwrap();
            assert_eq!(reader.next(10).unwrap().last().unwrap().seq, 5 + round);
        }
        assert_eq!(reader.next(10).unwrap(), []);
    }
}
