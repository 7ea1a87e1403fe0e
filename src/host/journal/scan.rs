//! Turns a unit's files back into lines: the index says which bytes are of which source, and each source's bytes are put together.
//!
//! Lines come in the order in which they ended. A scanner can start anywhere: what the lines that end after that place began with is
//! looked for before it.

use super::files::{self, Generation};
use super::format::{ALL_ENDED, After, ENDED, Entry, OTHERS_PENDING, Position, Stream};
use crate::host::mask::{MIN_LEN, Masker};
use crate::ordered::IntoMap;
use crate::unit::Name;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Longer lines come in pieces.
pub(super) const LONGEST: usize = 64 * 1024;
/// The most that is read at once.
const READ: u64 = 64 * 1024;
/// How far back the beginnings of lines are looked for.
const LOOK_BACK_BYTES: u64 = 1024 * 1024;
const LOOK_BACK_ENTRIES: usize = 512;

/// A line as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RawLine {
    pub(super) bytes: Vec<u8>,
    /// Where it ended.
    pub(super) end: Position,
    pub(super) wall: i64,
    pub(super) stream: Stream,
    pub(super) invocation: u64,
    /// More of it follows, or may follow.
    pub(super) partial: bool,
}

/// The beginning of a line.
#[derive(Clone, Debug)]
struct Pending {
    bytes: Vec<u8>,
    wall: i64,
    stream: Stream,
    invocation: u64,
}

impl Pending {
    fn of(entry: &Entry, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            wall: entry.wall,
            stream: entry.stream,
            invocation: entry.invocation,
        }
    }

    fn into_line(self, end: Position, partial: bool) -> RawLine {
        RawLine {
            bytes: self.bytes,
            end,
            wall: self.wall,
            stream: self.stream,
            invocation: self.invocation,
            partial,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    End,
}

/// Reads one unit's lines from a position on.
#[derive(Debug)]
pub(super) struct Scanner {
    dir: Arc<Path>,
    unit: Name,
    masker: Masker,
    at: Position,
    generation: Option<Generation>,
    /// The index entry that covers the position.
    entry: usize,
    /// Whether that entry's flags were looked at.
    entered: bool,
    pending: BTreeMap<u32, Pending>,
    lines: VecDeque<RawLine>,
    /// Where sources ended last, and how many lines without a newline that made.
    ended: (u64, u32),
    /// So many of them were given out before.
    given: u32,
    buffer: Vec<u8>,
}

impl Scanner {
    /// Starts at a position; when that is gone, at the oldest after it.
    pub(super) fn seek(dir: Arc<Path>, unit: Name, masker: Masker, at: Position) -> io::Result<Self> {
        let mut scanner = Self {
            dir,
            unit,
            masker,
            at,
            generation: None,
            entry: 0,
            entered: false,
            pending: BTreeMap::new(),
            lines: VecDeque::new(),
            ended: (at.offset, 0),
            given: 0,
            buffer: Vec::new(),
        };
        scanner.open(at.generation)?;
        if scanner.at.generation == at.generation {
            if let After::Ended(given) = at.after {
                scanner.given = given;
            }
            scanner.find_entry()?;
            scanner.look_back()?;
        }
        Ok(scanner)
    }

    /// The next line that has ended; `None` when there is none so far.
    pub(super) fn next(&mut self) -> io::Result<Option<RawLine>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            if self.fill()? == Progress::End {
                return Ok(None);
            }
        }
    }

    /// Lets go of the files until the next read.
    pub(super) fn park(&mut self) {
        if self.lines.is_empty() {
            self.generation = None;
            self.buffer = Vec::new();
        }
    }

    /// What has begun and not ended, as partial lines. What follows comes as lines of its own.
    pub(super) fn take_partial(&mut self) -> Vec<RawLine> {
        let end = Position {
            after: After::Cut,
            ..self.at
        };
        let pending = std::mem::take(&mut self.pending).into_values();
        pending.filter(|p| !p.bytes.is_empty()).map(|p| p.into_line(end, true)).collect()
    }

    /// As `take_partial`, but what came in the last so many nanoseconds is waited for, and so is what may be the beginning of a secret.
    pub(super) fn take_aged_partial(&mut self, age: i64) -> Vec<RawLine> {
        if self.pending.is_empty() {
            return Vec::new();
        }
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let masker = &self.masker;
        let told = |p: &Pending| p.wall <= now - age && p.bytes.len() - masker.open_end(&p.bytes) < MIN_LEN / 2;
        if self.pending.values().all(told) {
            self.take_partial()
        } else {
            Vec::new()
        }
    }

    fn open(&mut self, id: u64) -> io::Result<Progress> {
        self.generation = Generation::at_or_after(&self.dir, &self.unit, id)?;
        let Some(generation) = &self.generation else {
            return Ok(Progress::End);
        };
        if generation.id != self.at.generation {
            self.at = Position {
                generation: generation.id,
                ..Position::default()
            };
            self.entry = 0;
            self.entered = false;
        }
        Ok(Progress::More)
    }

    /// Reads a piece.
    fn fill(&mut self) -> io::Result<Progress> {
        if self.generation.is_none() && self.open(self.at.generation)? == Progress::End {
            return Ok(Progress::End);
        }
        let mut generation = self.generation.take().expect("opened above");
        let progress = self.fill_from(&mut generation);
        self.generation.get_or_insert(generation);
        progress
    }

    fn fill_from(&mut self, generation: &mut Generation) -> io::Result<Progress> {
        let extent = generation.extent()?;
        // Someone may have cut the file.
        self.at.offset = self.at.offset.min(extent.size);
        loop {
            let entry = generation.entry(self.entry)?;
            if !self.entered && self.entry < extent.entries {
                self.entered = true;
                self.enter(&entry);
                if !self.lines.is_empty() {
                    return Ok(Progress::More);
                }
            }
            let has_next = self.entry + 1 < extent.entries;
            let end = if has_next {
                generation.entry(self.entry + 1)?.offset.min(extent.size)
            } else {
                extent.size
            };
            if self.at.offset < end {
                let length = usize::try_from((end - self.at.offset).min(READ)).expect("at most READ");
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(length, 0);
                let length = files::read_at_most(&generation.log, &mut buffer, self.at.offset)?;
                self.feed(&entry, &buffer[..length]);
                self.buffer = buffer;
                return Ok(if length == 0 { Progress::End } else { Progress::More });
            }
            if !has_next {
                return self.turn_over(generation, extent);
            }
            self.entry += 1;
            self.entered = false;
        }
    }

    /// At the end of a file: goes on to the next one, if this one was rotated away and nothing was added meanwhile.
    fn turn_over(&mut self, generation: &mut Generation, seen: files::Extent) -> io::Result<Progress> {
        if generation.is_current(&self.dir, &self.unit)? {
            return Ok(Progress::End);
        }
        let again = generation.extent()?;
        if (again.size, again.entries) != (seen.size, seen.entries) {
            return Ok(Progress::More);
        }
        let Some(next) = Generation::at_or_after(&self.dir, &self.unit, self.at.generation + 1)? else {
            return Ok(Progress::End);
        };
        self.at = Position {
            generation: next.id,
            ..Position::default()
        };
        self.generation = Some(next);
        self.entry = 0;
        self.entered = false;
        self.ended = (0, 0);
        self.given = 0;
        Ok(Progress::More)
    }

    /// Looks at an entry's flags: sources that ended leave lines without a newline.
    fn enter(&mut self, entry: &Entry) {
        let ended: Vec<u32> = match (entry.has(ALL_ENDED), entry.has(ENDED)) {
            (true, _) => self.pending.keys().copied().collect(),
            (false, true) => vec![entry.source],
            (false, false) => return,
        };
        if self.ended.0 != entry.offset {
            self.ended = (entry.offset, 0);
            self.given = 0;
        }
        for source in ended {
            let Some(mut pending) = self.pending.remove(&source).filter(|p| !p.bytes.is_empty()) else {
                continue;
            };
            // Where the supervisor was killed, nobody saw the end: the last bytes' time is the best there is.
            if !entry.has(ALL_ENDED) {
                pending.wall = entry.wall;
            }
            self.ended.1 += 1;
            if self.ended.1 > self.given {
                let end = Position {
                    generation: self.at.generation,
                    offset: entry.offset,
                    after: After::Ended(self.ended.1),
                };
                self.lines.push_back(pending.into_line(end, false));
            }
        }
    }

    /// Takes bytes of one source.
    fn feed(&mut self, entry: &Entry, bytes: &[u8]) {
        let base = self.at.offset;
        let end_at = |offset: usize, after| Position {
            generation: self.at.generation,
            offset: base + offset as u64,
            after,
        };
        let mut start = 0;
        for newline in memchr::memchr_iter(b'\n', bytes) {
            let text = &bytes[start..newline];
            let mut line = match self.pending.remove(&entry.source) {
                None => Pending::of(entry, text.to_vec()),
                Some(mut pending) => {
                    pending.bytes.extend_from_slice(text);
                    pending
                }
            };
            start = newline + 1;
            line.wall = entry.wall;
            // The journal's own lines begin with a newline where someone else's line has none.
            if entry.stream != Stream::Journal || !line.bytes.is_empty() {
                self.lines.push_back(line.into_line(end_at(start, After::Line), false));
            }
        }
        let rest = &bytes[start..];
        if !rest.is_empty() {
            let pending = self.pending.entry(entry.source).or_insert_with(|| Pending::of(entry, Vec::new()));
            let mut before = pending.bytes.len();
            pending.bytes.extend_from_slice(rest);
            pending.wall = entry.wall;
            loop {
                let at = before.max(LONGEST);
                if pending.bytes.len() <= at + self.masker.longest() {
                    break;
                }
                let at = self.masker.cut(&pending.bytes, at);
                let left = pending.bytes.split_off(at);
                let piece = Pending {
                    bytes: std::mem::replace(&mut pending.bytes, left),
                    ..*pending
                };
                let end = end_at(bytes.len() - pending.bytes.len(), After::Cut);
                self.lines.push_back(piece.into_line(end, true));
                before = 0;
            }
        }
        self.at.offset += bytes.len() as u64;
        self.at.after = After::Line;
    }

    /// Finds the entry that covers the byte before the position.
    fn find_entry(&mut self) -> io::Result<()> {
        let at = self.at;
        let Some(generation) = &mut self.generation else { return Ok(()) };
        let extent = generation.extent()?;
        let covering = generation.partition(extent, |e| e.offset < at.offset)?;
        self.entry = covering.saturating_sub(1);
        self.entered = covering > 0;
        Ok(())
    }

    /// Fills `pending` with the beginnings of lines that end after the position.
    fn look_back(&mut self) -> io::Result<()> {
        let Some(here) = &mut self.generation else { return Ok(()) };
        let extent = here.extent()?;
        let mut search = Search::default();
        let others = |e: &Entry, offset: u64| e.has(OTHERS_PENDING) && e.offset <= offset;
        let next = if self.entered { self.entry + 1 } else { 0 };
        search.others = next < extent.entries && others(&here.entry(next)?, self.at.offset);
        if self.entered {
            let entry = here.entry(self.entry)?;
            search.begin(&entry);
            if self.at.after == After::Cut {
                search.resolved.insert(entry.source);
            }
            if search.walk(here, self.entry, self.at.offset)? {
                self.pending = search.into_pending();
                return Ok(());
            }
        }
        // Lines may have begun in files that were rotated away since.
        let mut id = here.id;
        while let Some(before) = id.checked_sub(1)
            && let Some(mut generation) = Generation::rotated(&self.dir, &self.unit, before)?
        {
            id = before;
            let extent = generation.extent()?;
            let Some(last) = extent.entries.checked_sub(1) else { break };
            search.begin(&generation.entry(last)?);
            if search.walk(&mut generation, last, extent.size)? {
                break;
            }
        }
        self.pending = search.into_pending();
        Ok(())
    }
}

/// Collects the beginnings of lines, backwards.
#[derive(Debug, Default)]
struct Search {
    /// The source of the byte before the position.
    own: Option<u32>,
    /// Whether sources beside it have to be looked for.
    others: bool,
    resolved: BTreeSet<u32>,
    found: BTreeMap<u32, (Entry, Vec<Vec<u8>>)>,
    bytes: u64,
    entries: usize,
}

impl Search {
    /// Takes the entry that covers the byte before the position.
    fn begin(&mut self, entry: &Entry) {
        if self.own.is_none() {
            self.own = Some(entry.source);
            self.others |= entry.has(OTHERS_PENDING);
        }
    }

    /// Walks back from an entry whose bytes end at `until`; true when nothing more is to be found.
    fn walk(&mut self, generation: &mut Generation, from: usize, mut until: u64) -> io::Result<bool> {
        for n in (0..=from).rev() {
            let entry = generation.entry(n)?;
            self.entries += 1;
            let done = self.look(generation, &entry, until)?;
            if done || self.entries > LOOK_BACK_ENTRIES || self.bytes > LOOK_BACK_BYTES {
                return Ok(true);
            }
            until = until.min(entry.offset);
        }
        Ok(false)
    }

    fn look(&mut self, generation: &Generation, entry: &Entry, until: u64) -> io::Result<bool> {
        if !self.resolved.contains(&entry.source) {
            if until > entry.offset {
                self.gather(generation, entry, until)?;
            }
            if entry.has(ENDED) {
                self.resolved.insert(entry.source);
            }
        }
        let own = self.own.is_none_or(|own| self.resolved.contains(&own));
        Ok(entry.has(ALL_ENDED) || (own && !self.others))
    }

    /// Adds what follows the last newline in this entry's bytes.
    fn gather(&mut self, generation: &Generation, entry: &Entry, until: u64) -> io::Result<()> {
        let length = (until - entry.offset).min(LOOK_BACK_BYTES);
        let mut bytes = vec![0; usize::try_from(length).expect("at most LOOK_BACK_BYTES")];
        let read = files::read_at_most(&generation.log, &mut bytes, until - length)?;
        bytes.truncate(read);
        self.bytes += length;
        if let Some(newline) = memchr::memrchr(b'\n', &bytes) {
            bytes.drain(..=newline);
            self.resolved.insert(entry.source);
        }
        if !bytes.is_empty() {
            self.found.entry(entry.source).or_insert_with(|| (*entry, Vec::new())).1.push(bytes);
        }
        Ok(())
    }

    fn into_pending(self) -> BTreeMap<u32, Pending> {
        let found = self.found.into_iter();
        found
            .map(|(source, (entry, mut pieces))| {
                pieces.reverse();
                (source, Pending::of(&entry, pieces.concat()))
            })
            .into_map()
    }
}
