//! One prompt's file while it is open: numbers events, joins text, masks, writes.

use super::*;
use std::io::Write;

/// The longest string that an event carries, and the longest event; the rest is said to be left out.
pub(super) const STRING_MAX: usize = 64 << 10;
const EVENT_MAX: usize = 256 << 10;
/// Text that is joined into one event: until so much of it, or so long after its first piece. The first piece of all is not held back.
const JOIN_BYTES: usize = 4 << 10;
pub(super) const JOIN_TIME: Duration = Duration::from_millis(200);

pub(super) struct Log {
    pub(super) path: PathBuf,
    pub(super) file: File,
    unwritten: Vec<u8>,
    next_seq: u64,
    joined: Option<Joined>,
    pub(super) progress: watch::Sender<Progress>,
}

/// A run of text, of which this has not become an event yet.
struct Joined {
    thinking: bool,
    text: String,
    /// None = it waits for more: there is nothing, or what may be the beginning of a secret.
    due: Option<Instant>,
}

impl Log {
    /// Opens a file, which is made when there is none. `first_seq`: the number of its first event, where this box begins it.
    pub(super) fn open(path: PathBuf, first_seq: u64) -> Result<Self, OutboxError> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(failed("opening", &path))?;
        let progress = read::mend(&mut file).map_err(failed("reading", &path))?;
        Ok(Self {
            path,
            file,
            unwritten: Vec::new(),
            next_seq: (progress.last_seq + 1).max(first_seq),
            joined: None,
            progress: watch::Sender::new(progress),
        })
    }

    /// When joined text is to be written at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        self.joined.as_ref().and_then(|joined| joined.due)
    }

    pub(super) fn join(&mut self, now: Instant, thinking: bool, text: &str, masker: &Masker) {
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
    pub(super) fn part(&mut self, masker: &Masker) {
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
    pub(super) fn end_text(&mut self, masker: &Masker) {
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

    pub(super) fn append(&mut self, happening: Happening, masker: &Masker) {
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

    pub(super) fn write(&mut self) -> Result<(), OutboxError> {
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
