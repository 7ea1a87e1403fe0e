//! Appends one unit's output to its files: the index, rotation, and what a full disk costs.
//!
//! A write that fails never stops the reading of a pipe, so a child is never held up by a full disk: what could not be written is
//! counted, and a line in the log says so as soon as there is room again.

use super::format::{self, ALL_ENDED, ENDED, ENTRY_LEN, Entry, OTHERS_PENDING, Stream};
use super::{Limits, Loss};
use crate::ordered::Order;
use crate::unit::Name;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads of one source share an index entry this long, nanoseconds.
pub(super) const COALESCE: i64 = 1_000_000;
/// How far over the limit a file may grow when no line ends.
const SLACK: u64 = 64 * 1024;
/// From one attempt to write after a failure to the next, nanoseconds.
const RETRY: u64 = 200_000_000;

/// What time it is, twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Nanoseconds since the epoch.
    pub(super) wall: i64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub(super) monotonic: u64,
}

/// Where bytes come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub(super) source: u32,
    pub(super) stream: Stream,
    pub(super) invocation: u64,
}

/// The journal itself as a source.
pub(super) const JOURNAL: Tag = Tag {
    source: 0,
    stream: Stream::Journal,
    invocation: 0,
};

/// One unit's files, seen from the side that writes.
#[derive(Debug)]
pub(super) struct UnitLog {
    unit: Name,
    dir: Arc<Path>,
    max_size: u64,
    keep: u32,
    /// What all units' logs together may take.
    most: u64,
    generation: u64,
    rotated: VecDeque<u64>,
    open: Option<Open>,
    /// Length of the current log.
    size: u64,
    last: Option<Entry>,
    /// Sources whose last written byte is no newline.
    pending: Vec<u32>,
    /// Nothing was written by this process so far: earlier sources have ended.
    fresh: bool,
    /// Since the last marker.
    losing: Option<Losing>,
    /// Sources of which the rest of a line is dropped, since its beginning was.
    torn: Vec<u32>,
    /// All that was ever lost.
    pub(super) lost: Loss,
}

#[derive(Debug)]
struct Open {
    log: File,
    index: File,
}

#[derive(Debug)]
struct Losing {
    bytes: u64,
    lines: u64,
    retry_at: u64,
}

impl UnitLog {
    /// The files of this unit in `dir`; `rotated` are the generations that are there, in order. Opens nothing.
    pub(super) fn new(unit: Name, dir: Arc<Path>, rotated: VecDeque<u64>, limits: Limits) -> Self {
        let Limits { max_size, keep, most } = limits;
        Self {
            unit,
            dir,
            max_size: max_size.max(1),
            keep,
            most,
            generation: 0,
            rotated,
            open: None,
            size: 0,
            last: None,
            pending: Vec::new(),
            fresh: true,
            losing: None,
            torn: Vec::new(),
            lost: Loss::default(),
        }
    }

    /// Takes over sources of the supervisor before this one: they have not ended, and these have an unterminated line.
    pub(super) fn inherit(&mut self, pending: Option<u32>) {
        self.fresh = false;
        self.pending.extend(pending);
    }

    /// Whether this source's last line is unterminated in the file.
    pub(super) fn is_pending(&self, source: u32) -> bool {
        self.pending.contains(&source)
    }

    /// New limits, from the next write on.
    pub(super) fn limit(&mut self, limits: Limits) {
        let Limits { max_size, keep, most } = limits;
        self.max_size = max_size.max(1);
        self.keep = keep;
        self.most = most;
    }

    /// Closes the files until the next write.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Whether files are open.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// When a marker of what was lost is due to be tried again, CLOCK_MONOTONIC.
    pub(super) fn retry_at(&self) -> Option<u64> {
        self.losing.as_ref().map(|l| l.retry_at)
    }

    /// What was ever lost.
    pub(super) fn loss(&self) -> Loss {
        Loss {
            ongoing: self.losing.is_some(),
            ..self.lost.clone()
        }
    }

    /// Appends, or counts as lost.
    pub(super) fn append(&mut self, tag: Tag, mut bytes: &[u8], now: Now) {
        if self.torn.contains(&tag.source) {
            let dropped = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
            self.lose(tag, &bytes[..dropped], now, None);
            bytes = &bytes[dropped..];
        }
        if bytes.is_empty() {
            return;
        }
        if self.losing.is_some() && !self.recover(now) {
            self.lose(tag, bytes, now, None);
            return;
        }
        if let Err((written, error)) = self.write_all(tag, bytes, now) {
            self.lose(tag, &bytes[written..], now, Some(&error));
        }
    }

    /// Notes that a source will send nothing more.
    pub(super) fn ended(&mut self, tag: Tag, now: Now) {
        self.torn.retain(|s| *s != tag.source);
        if self.is_pending(tag.source) {
            self.pending.retain(|s| *s != tag.source);
            if self.ensure_open(now).is_ok() {
                // Without the entry the line still shows, as unterminated.
                let _ = self.mark(tag, ENDED | self.others(tag.source), now);
            }
        }
    }

    /// Tries to say what was lost, when that is due. True when nothing is left to say.
    pub(super) fn recover(&mut self, now: Now) -> bool {
        let Some(losing) = &self.losing else { return true };
        if now.monotonic < losing.retry_at {
            return false;
        }
        let text = format!(
            "[sandkeep: {} lines, {} bytes lost: {}]\n",
            losing.lines, losing.bytes, self.lost.error
        );
        if self.write_marker(&text, now).is_ok() {
            self.losing = None;
            return true;
        }
        if let Some(losing) = &mut self.losing {
            losing.retry_at = now.monotonic + RETRY;
        }
        false
    }

    fn write_marker(&mut self, text: &str, now: Now) -> io::Result<()> {
        self.ensure_open(now)?;
        for source in self.torn.clone() {
            if self.is_pending(source) {
                self.mark(Tag { source, ..JOURNAL }, ENDED | self.others(source), now)?;
                self.pending.retain(|s| *s != source);
            }
        }
        let text = if self.ends_a_line() { text.to_owned() } else { format!("\n{text}") };
        self.write_all(JOURNAL, text.as_bytes(), now).map_err(|(_, error)| error)
    }

    fn ends_a_line(&self) -> bool {
        let mut byte = [b'\n'];
        match (&self.open, self.size.checked_sub(1)) {
            (Some(open), Some(at)) => open.log.read_exact_at(&mut byte, at).is_ok() && byte == *b"\n",
            _ => true,
        }
    }

    fn lose(&mut self, tag: Tag, bytes: &[u8], now: Now, error: Option<&io::Error>) {
        let Some(end) = bytes.last() else { return };
        let lines = memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.lost.bytes += bytes.len() as u64;
        self.lost.lines += lines;
        if let Some(error) = error {
            self.lost.error = error.to_string();
        }
        let losing = self.losing.get_or_insert(Losing {
            bytes: 0,
            lines: 0,
            retry_at: now.monotonic + RETRY,
        });
        losing.bytes += bytes.len() as u64;
        losing.lines += lines;
        self.torn.retain(|s| *s != tag.source);
        if *end != b'\n' {
            self.torn.push(tag.source);
        }
    }

    /// Writes everything, or says how much it wrote.
    fn write_all(&mut self, tag: Tag, bytes: &[u8], now: Now) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            self.ensure_open(now).map_err(|e| (done, e))?;
            let take = self.portion(rest);
            if take == 0 {
                self.rotate().map_err(|e| (done, e))?;
                continue;
            }
            self.entry(tag, now).map_err(|e| (done, e))?;
            let open = self.open.as_mut().expect("opened above");
            let written = match open.log.write(&rest[..take]) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other,
            }
            .map_err(|e| (done, e))?;
            self.size += written as u64;
            self.set_pending(tag.source, rest[written - 1] != b'\n');
            done += written;
        }
        Ok(())
    }

    fn set_pending(&mut self, source: u32, pending: bool) {
        if self.is_pending(source) == pending {
            return;
        }
        if pending {
            self.pending.push(source);
        } else {
            self.pending.retain(|s| *s != source);
        }
    }

    /// How much of `rest` goes into the current file; 0 = rotate first. A file ends with a line unless a line is longer than the limit.
    fn portion(&self, rest: &[u8]) -> usize {
        let room = usize::try_from(self.max_size.saturating_sub(self.size)).unwrap_or(usize::MAX);
        if rest.len() <= room {
            return rest.len();
        }
        if let Some(at) = memchr::memrchr(b'\n', &rest[..room]) {
            return at + 1;
        }
        let hard = self.max_size.saturating_add(SLACK).saturating_sub(self.size);
        if self.size > 0 && (self.pending.is_empty() || hard == 0) {
            return 0;
        }
        let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        line.min(usize::try_from(hard).unwrap_or(usize::MAX))
    }

    fn others(&self, source: u32) -> u8 {
        if self.pending.iter().any(|s| *s != source) {
            OTHERS_PENDING
        } else {
            0
        }
    }

    /// Writes an index entry for what comes next, unless the last one covers it.
    fn entry(&mut self, tag: Tag, now: Now) -> io::Result<()> {
        let flags = self.others(tag.source);
        if let Some(last) = &self.last
            && last.source == tag.source
            && last.flags == flags
            && (0..COALESCE).contains(&now.wall.saturating_sub(last.wall))
        {
            return Ok(());
        }
        if self.replaced() {
            self.rotate()?;
            self.ensure_open(now)?;
        }
        self.mark(tag, flags, now)
    }

    fn mark(&mut self, tag: Tag, flags: u8, now: Now) -> io::Result<()> {
        let entry = Entry {
            offset: self.size,
            wall: now.wall,
            monotonic: now.monotonic,
            invocation: tag.invocation,
            source: tag.source,
            stream: tag.stream,
            flags,
        };
        let open = self.open.as_mut().ok_or(io::ErrorKind::NotFound)?;
        write_entry(&mut open.index, &entry.encode())?;
        self.last = Some(entry);
        Ok(())
    }

    /// Whether someone else removed or cut the file. What follows then goes into a new generation.
    fn replaced(&self) -> bool {
        let Some(open) = &self.open else { return false };
        open.log.metadata().is_ok_and(|m| m.nlink() == 0 || m.len() != self.size)
    }

    /// Renames the current files away and forgets the oldest. The next write opens new ones.
    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        self.last = None;
        let (log, index) = self.path(None);
        let (old_log, old_index) = self.path(Some(self.generation));
        match std::fs::rename(&log, &old_log) {
            Ok(()) => {
                // Without its index a file is still read, only without times.
                let _ = std::fs::rename(&index, &old_index);
                self.rotated.push_back(self.generation);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let _ = std::fs::remove_file(&index);
            }
            Err(e) => return Err(e),
        }
        self.generation += 1;
        self.size = 0;
        prune(&self.dir, self.most);
        while self.rotated.len() > self.keep as usize {
            if let Some(oldest) = self.rotated.pop_front() {
                let (log, index) = self.path(Some(oldest));
                let _ = std::fs::remove_file(log);
                let _ = std::fs::remove_file(index);
            }
        }
        Ok(())
    }

    fn path(&self, rotated: Option<u64>) -> (PathBuf, PathBuf) {
        (
            self.dir.join(format::log_name(&self.unit, rotated)),
            self.dir.join(format::index_name(&self.unit, rotated)),
        )
    }

    fn ensure_open(&mut self, now: Now) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let next = self.generation.max(self.rotated.back().map_or(1, |g| g + 1));
        let (log_path, index_path) = self.path(None);
        let mut index = open_append(&index_path)?;
        let log = open_append(&log_path)?;
        self.size = log.metadata()?.len();
        let known = known_generation(&index, self.size);
        self.generation = match known {
            Ok(generation) => generation.max(next),
            Err(named) => next.max(named + 1),
        };
        if known != Ok(self.generation) {
            index.set_len(0)?;
            write_entry(&mut index, &format::encode_header(self.generation))?;
        }
        self.open = Some(Open { log, index });
        self.last = None;
        if self.fresh && (self.size > 0 || !self.rotated.is_empty()) {
            self.mark(JOURNAL, ALL_ENDED, now)?;
        }
        self.fresh = false;
        Ok(())
    }
}

/// Removes the oldest rotated files of all units while all logs together are larger than this. What is being written stays.
fn prune(dir: &Path, most: u64) {
    let Ok(units) = super::files::units(dir) else { return };
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    let mut all = 0;
    let mut rotated = Vec::new();
    for (unit, generations) in &units {
        all += size(&dir.join(format::log_name(unit, None)));
        for generation in generations {
            let log = dir.join(format::log_name(unit, Some(*generation)));
            let Ok(found) = std::fs::metadata(&log) else { continue };
            all += found.len();
            rotated.push((
                found.modified().ok(),
                log,
                dir.join(format::index_name(unit, Some(*generation))),
                found.len(),
            ));
        }
    }
    rotated.order();
    for (_, log, index, size) in rotated {
        if all <= most {
            return;
        }
        let _ = std::fs::remove_file(log);
        let _ = std::fs::remove_file(index);
        all -= size;
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// The generation that an index names; as an error when it does not go with a log of this size, since someone removed or cut that.
fn known_generation(index: &File, size: u64) -> Result<u64, u64> {
    let mut bytes = [0; ENTRY_LEN];
    let header = index.read_exact_at(&mut bytes, 0).ok().and_then(|()| format::decode_header(&bytes));
    let generation = header.ok_or(0u64)?;
    let length = index.metadata().map_or(0, |m| m.len());
    let last = (length / ENTRY_LEN as u64).saturating_sub(1) * ENTRY_LEN as u64;
    if last > 0 && index.read_exact_at(&mut bytes, last).is_ok() && Entry::decode(&bytes).offset > size {
        return Err(generation);
    }
    Ok(generation)
}

/// Writes a whole entry or none of it.
fn write_entry(index: &mut File, bytes: &[u8; ENTRY_LEN]) -> io::Result<()> {
    let result = index.write_all(bytes);
    if result.is_err() {
        let length = index.metadata()?.len();
        index.set_len(length - length % ENTRY_LEN as u64)?;
    }
    result
}
