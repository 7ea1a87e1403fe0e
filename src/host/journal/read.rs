//! Reads lines: of one unit or of several, merged by time.
//!
//! Works on the files alone, so it does not matter whether a supervisor lives. Everything that a reader gives out is masked first and
//! decoded afterwards; `grep` sees what the reader of the lines sees, so it cannot be used to guess a secret.

use super::files::{self, Generation};
use super::follow::Follow;
use super::format::{After, Position, Stream};
use super::scan::{RawLine, Scanner};
use super::{Changes, text};
use crate::host::mask::Masker;
use crate::unit::Name;
use jiff::Timestamp;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

/// Of more units than this a cursor names its own alone, and the time for the others.
const CURSOR_UNITS: usize = 32;
/// More units than this are not kept open all at once.
const OPEN_UNITS: usize = 64;

/// What a unit wrote, one line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Line {
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Who wrote it.
    pub unit: String,
    /// To which stream.
    pub stream: Stream,
    /// In which run; 0 = the journal itself.
    pub invocation: u64,
    /// What; without the newline.
    pub message: String,
    /// Where to resume: give it to the same query.
    pub cursor: Cursor,
    /// It is the part of a longer line that came so far; what follows comes as a line of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// A place in the output of the units of a query. Opaque; it stays valid when files are rotated.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// Takes what a line's `cursor` said; `None` for anything else.
    pub fn new(text: &str) -> Option<Self> {
        let cursor = Self(text.to_owned());
        cursor.places().map(|_| cursor)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn places(&self) -> Option<(Option<i64>, BTreeMap<Name, Position>)> {
        let (time, places) = match self.0.strip_prefix('@') {
            None => (None, self.0.as_str()),
            Some(rest) => {
                let (time, places) = rest.split_once(',')?;
                (Some(time.parse().ok()?), places)
            }
        };
        let place = |text: &str| {
            let (unit, position) = text.split_once(':')?;
            Some((Name::new(unit)?, Position::parse(position)?))
        };
        Some((time, places.split(',').map(place).collect::<Option<_>>()?))
    }
}

/// Whether escape sequences stay in the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ansi {
    /// Taken out.
    #[default]
    Strip,
    /// As they came.
    Keep,
}

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Of these units; of all if empty.
    pub units: Vec<Name>,
    /// The last so many of those that fit the rest.
    pub lines: Option<usize>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Up to this time.
    pub until: Option<Timestamp>,
    /// That match.
    pub grep: Option<Regex>,
    /// Of this run.
    pub invocation: Option<u64>,
    /// After this place.
    pub after: Option<Cursor>,
    /// With colours or without.
    pub ansi: Ansi,
}

/// Reads the files in a directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) dir: Arc<Path>,
    pub(super) masker: Masker,
    pub(super) changes: Option<watch::Receiver<Changes>>,
}

impl Reader {
    /// Reads without a journal: following looks four times a second.
    pub fn new(dir: PathBuf, masker: Masker) -> Self {
        Self {
            dir: dir.into(),
            masker,
            changes: None,
        }
    }

    /// The units that have written something.
    pub fn units(&self) -> io::Result<Vec<Name>> {
        Ok(self.listing()?.into_keys().collect())
    }

    /// The lines of a query, oldest first. Reads as it goes; with `lines` it holds so many, otherwise one of each unit.
    pub fn lines(&self, query: &Query) -> io::Result<Lines> {
        let (mut merge, _) = self.merge(query)?;
        let tail = match query.lines {
            None => None,
            Some(n) => Some(merge.last(n)?),
        };
        Ok(Lines { merge, tail })
    }

    /// The lines of a query, all at once.
    pub fn read(&self, query: &Query) -> io::Result<Vec<Line>> {
        self.lines(query)?.collect()
    }

    /// The lines of a query, then those that come. The beginning is read here, so this blocks as `lines` does.
    pub fn follow(&self, query: &Query) -> io::Result<Follow> {
        // Looked at before the files: what is written meanwhile is another change.
        let changes = self.changes.clone().map(|mut changes| {
            changes.borrow_and_update();
            changes
        });
        let (mut merge, known) = self.merge(query)?;
        let mut first = Vec::new();
        let last = query.lines.unwrap_or(usize::MAX);
        merge.unended = Unended::Wait;
        if last == 0 {
            merge.last(0)?;
        } else if query.lines.is_some() {
            first.extend(merge.last(last)?);
        }
        Ok(Follow::new(self.clone(), query.clone(), merge, first.into(), known, changes))
    }

    pub(super) fn listing(&self) -> io::Result<BTreeMap<Name, Vec<u64>>> {
        match files::units(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            other => other,
        }
    }

    fn merge(&self, query: &Query) -> io::Result<(Merge, usize)> {
        let mut listing = self.listing()?;
        let known = listing.len();
        if !query.units.is_empty() {
            listing.retain(|unit, _| query.units.contains(unit));
        }
        let mut merge = Merge {
            filter: Filter {
                masker: self.masker.clone(),
                query: query.clone(),
            },
            units: Vec::new(),
            heads: BinaryHeap::new(),
            places: BTreeMap::new(),
            unended: Unended::Tell,
            park: listing.len() > OPEN_UNITS,
        };
        let after = query.after.as_ref().and_then(Cursor::places);
        for (unit, rotated) in listing {
            let files = Files::look(&self.dir, &unit, &rotated)?;
            let mut from = files.start();
            if let Some(since) = query.since {
                from = from.max(files.position(&self.dir, &unit, |wall| wall < nanoseconds(since))?);
            }
            if let Some((time, places)) = &after {
                match (places.get(&unit), time) {
                    (Some(place), _) => from = from.max(*place),
                    (None, Some(time)) => from = from.max(files.position(&self.dir, &unit, |wall| wall <= *time)?),
                    (None, None) => {}
                }
            }
            if let Some(n) = query.lines {
                from = self.tail(&unit, &files, &merge.filter, n, from)?;
            }
            merge.add(&self.dir, unit, &self.masker, from)?;
        }
        Ok((merge, known))
    }

    /// A position, not before `from`, after which at least `n` lines fit the query.
    fn tail(&self, unit: &Name, files: &Files, filter: &Filter, n: usize, from: Position) -> io::Result<Position> {
        let end = match filter.query.until {
            None => files.end(),
            Some(until) => files.position(&self.dir, unit, |wall| wall <= nanoseconds(until))?,
        };
        let mut window = (n as u64).saturating_mul(160).saturating_add(4096);
        loop {
            let start = files.before(end, window);
            if start <= from {
                return Ok(from);
            }
            let mut scanner = Scanner::seek(Arc::clone(&self.dir), unit.clone(), self.masker.clone(), start)?;
            let mut count = 0;
            while let Some(line) = scanner.next()? {
                if filter.is_past(&line) {
                    break;
                }
                count += usize::from(filter.take(unit, line).is_some());
            }
            if count >= n {
                return Ok(start);
            }
            window = window.saturating_mul(4);
        }
    }
}

/// The lines of a query.
#[derive(Debug)]
pub struct Lines {
    merge: Merge,
    tail: Option<VecDeque<Line>>,
}

impl Iterator for Lines {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.tail {
            Some(tail) => tail.pop_front().map(Ok),
            None => self.merge.next().transpose(),
        }
    }
}

/// What is left of the lines, and how they look.
#[derive(Debug)]
struct Filter {
    masker: Masker,
    query: Query,
}

impl Filter {
    /// Whether neither this line nor a later one of the unit is asked for.
    fn is_past(&self, line: &RawLine) -> bool {
        self.query.until.is_some_and(|until| line.wall > nanoseconds(until))
    }

    /// The line as it is given out, if it is asked for; its cursor is not filled in.
    fn take(&self, unit: &Name, raw: RawLine) -> Option<Line> {
        let early = self.query.since.is_some_and(|since| raw.wall < nanoseconds(since));
        if early || self.query.invocation.is_some_and(|i| i != raw.invocation) {
            return None;
        }
        let masked = self.masker.mask_bytes(&raw.bytes);
        let mut message = String::from_utf8_lossy(&masked).into_owned();
        if self.query.ansi == Ansi::Strip
            && let plain = text::strip_ansi(&message)
            && plain.len() != message.len()
        {
            // A secret may have been hidden by the sequences in it.
            message = self.masker.mask(&plain).into_owned();
        }
        if self.query.grep.as_ref().is_some_and(|grep| !grep.is_match(&message)) {
            return None;
        }
        Some(Line {
            time: Timestamp::from_nanosecond(i128::from(raw.wall)).unwrap_or_default(),
            unit: unit.to_string(),
            stream: raw.stream,
            invocation: raw.invocation,
            message,
            cursor: Cursor(String::new()),
            partial: raw.partial,
        })
    }
}

/// What becomes of lines that have begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unended {
    /// They are told as partial ones.
    Tell,
    /// They are waited for.
    Wait,
}

/// Lines of several units by time.
#[derive(Debug)]
pub(super) struct Merge {
    filter: Filter,
    units: Vec<(Name, Scanner, VecDeque<RawLine>)>,
    /// The next line of each unit that has one: time and number of the unit.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    /// Up to where each unit's lines were given out.
    places: BTreeMap<Name, Position>,
    pub(super) unended: Unended,
    park: bool,
}

impl Merge {
    /// Adds a unit that is read from there on.
    pub(super) fn add(&mut self, dir: &Arc<Path>, unit: Name, masker: &Masker, from: Position) -> io::Result<()> {
        let scanner = Scanner::seek(Arc::clone(dir), unit.clone(), masker.clone(), from)?;
        self.places.insert(unit.clone(), from);
        self.units.push((unit, scanner, VecDeque::new()));
        self.advance(self.units.len() - 1)
    }

    /// Whether it has this unit.
    pub(super) fn has(&self, unit: &Name) -> bool {
        self.places.contains_key(unit)
    }

    /// Whether lines have begun and not ended.
    pub(super) fn has_partial(&self) -> bool {
        self.units.iter().any(|(_, scanner, _)| scanner.has_partial())
    }

    /// Looks for new lines of those that had none.
    pub(super) fn poll(&mut self) -> io::Result<()> {
        for n in 0..self.units.len() {
            if self.units[n].2.is_empty() {
                self.advance(n)?;
            }
        }
        Ok(())
    }

    /// Makes lines of what has begun and not ended, as far as that gives no secret away.
    pub(super) fn tell_partial(&mut self) {
        for (n, (_, scanner, lines)) in self.units.iter_mut().enumerate() {
            if lines.is_empty() {
                lines.extend(scanner.take_safe_partial());
                if let Some(line) = lines.front() {
                    self.heads.push(Reverse((line.wall, n)));
                }
            }
        }
    }

    /// The next line of the query.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        while let Some(Reverse((_, n))) = self.heads.pop() {
            let (unit, _, lines) = &mut self.units[n];
            let Some(raw) = lines.pop_front() else { continue };
            if self.filter.is_past(&raw) {
                continue;
            }
            let (unit, end, wall) = (unit.clone(), raw.end, raw.wall);
            let line = self.filter.take(&unit, raw);
            self.places.insert(unit.clone(), end);
            self.advance(n)?;
            if let Some(mut line) = line {
                line.cursor = self.cursor(&unit, wall);
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    /// The last `n` lines of the query.
    pub(super) fn last(&mut self, n: usize) -> io::Result<VecDeque<Line>> {
        let mut last = VecDeque::new();
        while let Some(line) = self.next()? {
            last.push_back(line);
            if last.len() > n {
                last.pop_front();
            }
        }
        Ok(last)
    }

    /// Reads the next line of a unit that has none waiting.
    fn advance(&mut self, n: usize) -> io::Result<()> {
        let (_, scanner, lines) = &mut self.units[n];
        if lines.is_empty() {
            match scanner.next()? {
                Some(line) => lines.push_back(line),
                None if self.unended == Unended::Tell => lines.extend(scanner.take_partial()),
                None => {}
            }
            if self.park {
                scanner.park();
            }
        }
        if let Some(line) = lines.front() {
            self.heads.push(Reverse((line.wall, n)));
        }
        Ok(())
    }

    fn cursor(&self, own: &Name, wall: i64) -> Cursor {
        let mut text = String::new();
        if self.places.len() > CURSOR_UNITS {
            let _ = write!(text, "@{wall},{own}:{}", self.places[own]);
        } else {
            for (unit, place) in &self.places {
                let comma = if text.is_empty() { "" } else { "," };
                let _ = write!(text, "{comma}{unit}:{place}");
            }
        }
        Cursor(text)
    }
}

/// The files of a unit and how long they are, oldest first.
#[derive(Debug)]
struct Files(Vec<(u64, u64)>);

impl Files {
    fn look(dir: &Path, unit: &Name, rotated: &[u64]) -> io::Result<Self> {
        let mut files = Vec::new();
        for id in rotated {
            if let Ok(metadata) = std::fs::metadata(dir.join(super::format::log_name(unit, Some(*id)))) {
                files.push((*id, metadata.len()));
            }
        }
        if let Some(current) = Generation::current(dir, unit, rotated)? {
            files.push((current.id, current.log.metadata()?.len()));
        }
        Ok(Self(files))
    }

    fn start(&self) -> Position {
        self.0.first().map_or(Position::default(), |(id, _)| at(*id, 0))
    }

    fn end(&self) -> Position {
        self.0.last().map_or(Position::default(), |(id, size)| at(*id, *size))
    }

    /// So many bytes before a position.
    fn before(&self, end: Position, mut window: u64) -> Position {
        for (id, size) in self.0.iter().rev().filter(|(id, _)| *id <= end.generation) {
            let size = if *id == end.generation { end.offset } else { *size };
            if window <= size {
                return at(*id, size - window);
            }
            window -= size;
        }
        self.start()
    }

    /// The first place for whose time `before` does not hold.
    fn position(&self, dir: &Path, unit: &Name, before: impl Fn(i64) -> bool) -> io::Result<Position> {
        for (id, size) in self.0.iter().rev() {
            let Some(mut generation) = Generation::at_or_after(dir, unit, *id)? else {
                continue;
            };
            if generation.id != *id {
                continue;
            }
            let extent = generation.extent()?;
            let n = generation.partition(extent, |e| before(e.wall))?;
            if n > 0 {
                let offset = if n < extent.entries { generation.entry(n)?.offset } else { *size };
                return Ok(at(*id, offset));
            }
        }
        Ok(self.start())
    }
}

fn at(generation: u64, offset: u64) -> Position {
    Position {
        generation,
        offset,
        after: After::Line,
    }
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time > Timestamp::UNIX_EPOCH { i64::MAX } else { i64::MIN })
}
