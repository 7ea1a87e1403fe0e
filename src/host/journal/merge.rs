//! Lines of several units put in order, filtered, masked, decoded.

use super::files::{self, Generation};
use super::format::{self, After, Position};
use super::read::{Ansi, Cursor, Line, Query};
use super::scan::{RawLine, Scanner};
use super::text;
use crate::host::mask::Masker;
use crate::unit::Name;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// For how long the end of a line is waited for, nanoseconds: prompts have none.
pub(super) const PATIENCE: i64 = 500_000_000;
/// Of more units than this a line's cursor names its own alone, and the time for the others.
const CURSOR_UNITS: usize = 64;
/// Lines that are looked at for a page.
const BUDGET: usize = 200_000;
/// More units than this are not kept open all at once.
const OPEN_UNITS: usize = 64;

/// What is left of the lines, and how they look.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) masker: Masker,
    pub(super) query: Query,
}

impl Filter {
    /// Whether neither this line nor a later one of the unit is asked for.
    pub(super) fn is_past(&self, line: &RawLine) -> bool {
        self.query.until.is_some_and(|until| line.wall > nanoseconds(until))
    }

    /// The line as it is given out, if it is asked for; its cursor is not filled in.
    pub(super) fn take(&self, unit: &Name, raw: RawLine) -> Option<Line> {
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
            cursor: Cursor::default(),
            partial: raw.partial,
        })
    }
}

/// What a step came to.
#[derive(Debug)]
enum Step {
    /// A line that is asked for.
    Line(Line),
    /// One that is not.
    Other,
    /// No more.
    End,
}

/// What becomes of lines that have begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unended {
    /// They are told as partial ones.
    Tell,
    /// They are when they have been waited for long enough; a page may be read at any moment.
    Aged,
}

/// How much of what comes while it is read is still read for the last lines.
const SLACK: u64 = 64 * 1024;

/// Whether a place is so far behind what was the end that whoever looks for the end would never find it.
pub(super) fn is_beyond(place: Position, end: Position) -> bool {
    match place.generation.checked_sub(end.generation) {
        None => false,
        Some(0) => place.offset > end.offset.saturating_add(SLACK),
        Some(1) => place.offset > SLACK,
        Some(_) => true,
    }
}

/// Lines of several units by time.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) filter: Filter,
    units: Vec<(Name, Scanner, VecDeque<RawLine>)>,
    /// Where each unit's output ended when the query began; a following one has no end.
    ends: Vec<Option<Position>>,
    /// The next line of each unit that has one: time and number of the unit.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    /// Up to where each unit's lines were given out.
    places: BTreeMap<Name, Position>,
    pub(super) unended: Unended,
}

impl Merge {
    pub(super) fn new(masker: Masker, query: Query, unended: Unended) -> Self {
        Self {
            filter: Filter { masker, query },
            units: Vec::new(),
            ends: Vec::new(),
            heads: BinaryHeap::new(),
            places: BTreeMap::new(),
            unended,
        }
    }

    /// Adds a unit that is read from there on.
    pub(super) fn add(&mut self, dir: &Arc<Path>, unit: Name, from: Position, end: Option<Position>) -> io::Result<()> {
        let scanner = Scanner::seek(Arc::clone(dir), unit.clone(), self.filter.masker.clone(), from)?;
        self.places.insert(unit.clone(), from);
        self.units.push((unit, scanner, VecDeque::new()));
        self.ends.push(end);
        self.advance(self.units.len() - 1)
    }

    /// Whether it has this unit.
    pub(super) fn has(&self, unit: &Name) -> bool {
        self.places.contains_key(unit)
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

    /// Gives out lines until `limit` of them, or very many that were not asked for.
    pub(super) fn some(&mut self, limit: usize) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        let mut budget = BUDGET;
        while lines.len() < limit && budget > 0 {
            budget -= 1;
            match self.step()? {
                Step::Line(line) => lines.push(line),
                Step::Other => {}
                Step::End => break,
            }
        }
        Ok(lines)
    }

    /// The next line of the query.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            match self.step()? {
                Step::Line(line) => return Ok(Some(line)),
                Step::Other => {}
                Step::End => return Ok(None),
            }
        }
    }

    fn step(&mut self) -> io::Result<Step> {
        let Some(Reverse((_, n))) = self.heads.pop() else {
            return Ok(Step::End);
        };
        let (unit, _, lines) = &mut self.units[n];
        let Some(raw) = lines.pop_front().filter(|raw| !self.filter.is_past(raw)) else {
            return Ok(Step::Other);
        };
        let (unit, end, wall) = (unit.clone(), raw.end, raw.wall);
        let line = self.filter.take(&unit, raw);
        self.places.insert(unit.clone(), end);
        self.advance(n)?;
        Ok(match line {
            None => Step::Other,
            Some(mut line) => {
                line.cursor = self.cursor(&unit, wall);
                Step::Line(line)
            }
        })
    }

    /// The last `n` lines of the query. Of a unit that writes faster than it is read, the last when the query began.
    pub(super) fn last(&mut self, n: usize) -> io::Result<VecDeque<Line>> {
        let (mut last, mut later) = (VecDeque::new(), Vec::new());
        while let Some(Reverse((wall, unit))) = self.heads.peek().copied() {
            let line = self.units[unit].2.front();
            if let (Some(line), Some(end)) = (line, self.ends[unit])
                && is_beyond(line.end, end)
            {
                self.heads.pop();
                later.push(Reverse((wall, unit)));
                continue;
            }
            if let Step::Line(line) = self.step()? {
                last.push_back(line);
                if last.len() > n {
                    last.pop_front();
                }
            }
        }
        let outrun = !later.is_empty();
        self.heads.extend(later);
        // Where it began may be rotated away by now: then what comes next is the best there is.
        let mut budget = BUDGET;
        while outrun && last.len() < n && budget > 0 {
            budget -= 1;
            match self.step()? {
                Step::Line(line) => last.push_back(line),
                Step::Other => {}
                Step::End => break,
            }
        }
        Ok(last)
    }

    /// Reads the next line of a unit that has none waiting.
    fn advance(&mut self, n: usize) -> io::Result<()> {
        let many = self.units.len() > OPEN_UNITS;
        let (_, scanner, lines) = &mut self.units[n];
        if lines.is_empty() {
            match scanner.next()? {
                Some(line) => lines.push_back(line),
                None => match self.unended {
                    Unended::Tell => lines.extend(scanner.take_partial()),
                    Unended::Aged => lines.extend(scanner.take_aged_partial(PATIENCE)),
                },
            }
            if many {
                scanner.park();
            }
        }
        if let Some(line) = lines.front() {
            self.heads.push(Reverse((line.wall, n)));
        }
        Ok(())
    }

    /// Whether lines wait to be given out.
    pub(super) fn has_more(&self) -> bool {
        !self.heads.is_empty()
    }

    /// Where everything goes on that was not given out.
    pub(super) fn place(&self) -> Cursor {
        Cursor::of(&self.places)
    }

    fn cursor(&self, own: &Name, wall: i64) -> Cursor {
        if self.places.len() > CURSOR_UNITS {
            Cursor::at(wall, own, &self.places[own])
        } else {
            self.place()
        }
    }
}

/// The files of a unit and how long they are, oldest first.
#[derive(Debug)]
pub(super) struct Files(Vec<(u64, u64)>);

impl Files {
    pub(super) fn look(dir: &Path, unit: &Name, rotated: &[u64]) -> io::Result<Self> {
        let current = Generation::current(dir, unit, rotated)?;
        let mut files = Vec::new();
        for id in files::all(dir, unit, rotated, current.as_ref().map(|c| c.id)) {
            if current.as_ref().is_none_or(|c| id < c.id)
                && let Ok(metadata) = std::fs::metadata(dir.join(format::log_name(unit, Some(id))))
            {
                files.push((id, metadata.len()));
            }
        }
        if let Some(current) = current {
            files.push((current.id, current.log.metadata()?.len()));
        }
        Ok(Self(files))
    }

    pub(super) fn start(&self) -> Position {
        self.0.first().map_or(Position::default(), |(id, _)| at(*id, 0))
    }

    pub(super) fn end(&self) -> Position {
        self.0.last().map_or(Position::default(), |(id, size)| at(*id, *size))
    }

    /// So many bytes before a position.
    pub(super) fn before(&self, end: Position, mut window: u64) -> Position {
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
    pub(super) fn position(&self, dir: &Path, unit: &Name, before: impl Fn(i64) -> bool) -> io::Result<Position> {
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

pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(if time > Timestamp::UNIX_EPOCH { i64::MAX } else { i64::MIN })
}
