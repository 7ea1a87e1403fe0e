//! Reads lines: of one unit or of several, merged by time.
//!
//! Works on the files alone, so it does not matter whether a supervisor lives. Everything that a reader gives out is masked first and
//! decoded afterwards; `grep` sees what the reader of the lines sees, so it cannot be used to guess a secret.

use super::files;
use super::follow::Follow;
use super::format::{Position, Stream};
use super::merge::{Files, Merge, Unended, is_beyond, nanoseconds};
use super::scan::Scanner;
use crate::host::mask::Masker;
use crate::ordered::{IntoMap, TryIntoMap};
use crate::unit::Name;
use jiff::Timestamp;
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
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

    /// All of these.
    pub(super) fn of(places: &BTreeMap<Name, Position>) -> Self {
        let mut text = String::new();
        for (unit, place) in places {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{unit}:{place}");
        }
        // Nobody has written anything.
        Self(if text.is_empty() { "@0".to_owned() } else { text })
    }

    /// This one, and the others after this time.
    pub(super) fn at(wall: i64, unit: &Name, place: &Position) -> Self {
        Self(format!("@{wall},{unit}:{place}"))
    }

    fn places(&self) -> Option<(Option<i64>, BTreeMap<Name, Position>)> {
        let (time, places) = match self.0.strip_prefix('@') {
            None => (None, self.0.as_str()),
            Some(rest) => {
                let (time, places) = rest.split_once(',').unwrap_or((rest, ""));
                (Some(time.parse().ok()?), places)
            }
        };
        let mut found = BTreeMap::new();
        for place in places.split(',').filter(|text| time.is_none() || !text.is_empty()) {
            let (unit, position) = place.split_once(':')?;
            found.insert(Name::new(unit)?, Position::parse(position)?);
        }
        Some((time, found))
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

/// Some lines of a query.
#[derive(Clone, Debug)]
pub struct Page {
    /// The lines.
    pub lines: Vec<Line>,
    /// Where to go on, also past lines that were not asked for.
    pub cursor: Cursor,
    /// Whether there is more at once.
    pub more: bool,
}

/// Reads the files in a directory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) dir: Arc<Path>,
    pub(super) masker: Masker,
    pub(super) changes: Option<watch::Receiver<u64>>,
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

    /// Changes when something was written, and when a line without an end has been waited for long enough; at most a hundred times a
    /// second. `None` without a journal.
    pub fn changed(&self) -> Option<watch::Receiver<u64>> {
        self.changes.clone()
    }

    /// The lines of a query, oldest first. Reads as it goes; with `lines` it holds so many, otherwise one of each unit.
    pub fn lines(&self, query: &Query) -> io::Result<Lines> {
        let mut merge = self.merge(query, Unended::Tell)?;
        let tail = query.lines.map(|n| merge.last(n)).transpose()?;
        Ok(Lines { merge, tail })
    }

    /// The lines of a query, all at once.
    pub fn read(&self, query: &Query) -> io::Result<Vec<Line>> {
        self.lines(query)?.collect()
    }

    /// At most `limit` lines of a query (all of them where it asks for the last so many). A line without an end is told once it has
    /// been waited for half a second, so that pages can be read again and again while a unit writes.
    pub fn page(&self, query: &Query, limit: usize) -> io::Result<Page> {
        let mut merge = self.merge(query, Unended::Aged)?;
        let lines = match query.lines {
            Some(n) => merge.last(n)?.into(),
            None => merge.some(limit)?,
        };
        Ok(Page {
            lines,
            cursor: merge.place(),
            more: merge.has_more(),
        })
    }

    /// The lines of a query, then those that come. The beginning is read here, so this blocks as `lines` does.
    pub fn follow(&self, query: &Query) -> io::Result<Follow> {
        // Looked at before the files: what is written meanwhile is another change.
        let changes = self.changes.clone().map(|mut changes| {
            changes.borrow_and_update();
            changes
        });
        let changed = files::changed(&self.dir);
        let mut merge = self.merge(query, Unended::Aged)?;
        let first = query.lines.map(|n| merge.last(n)).transpose()?;
        Ok(Follow::new(
            self.clone(),
            query.clone(),
            merge,
            first.unwrap_or_default(),
            changed,
            changes,
        ))
    }

    pub(super) fn listing(&self) -> io::Result<BTreeMap<Name, Vec<u64>>> {
        match files::units(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            other => other,
        }
    }

    /// The last lines of each of these units. Looks into the directory once, however many they are.
    pub fn last_of_each(&self, units: &[Name], lines: usize) -> io::Result<BTreeMap<Name, Vec<Line>>> {
        let mut listing = self.listing()?;
        let listed = units.iter().filter_map(|unit| listing.remove_entry(unit));
        let last = listed.map(|(unit, rotated)| {
            let query = Query {
                lines: Some(lines),
                ..Query::default()
            };
            let mut merge = self.merge_these(&query, Unended::Tell, [(unit.clone(), rotated)].into_iter().into_map())?;
            Ok((unit, merge.last(lines)?.into()))
        });
        last.try_into_map()
    }

    fn merge(&self, query: &Query, unended: Unended) -> io::Result<Merge> {
        self.merge_these(query, unended, self.listing()?)
    }

    fn merge_these(&self, query: &Query, unended: Unended, mut listing: BTreeMap<Name, Vec<u64>>) -> io::Result<Merge> {
        if !query.units.is_empty() {
            listing.retain(|unit, _| query.units.contains(unit));
        }
        let mut merge = Merge::new(self.masker.clone(), query.clone(), unended);
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
                from = self.tail(&unit, &files, &merge, n, from)?;
            }
            merge.add(&self.dir, unit, from, Some(files.end()))?;
        }
        Ok(merge)
    }

    /// A position, not before `from`, after which at least `n` lines fit the query.
    fn tail(&self, unit: &Name, files: &Files, merge: &Merge, n: usize, from: Position) -> io::Result<Position> {
        let filter = &merge.filter;
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
            while count < n
                && let Some(line) = scanner.next()?
            {
                if filter.is_past(&line) || is_beyond(line.end, end) {
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
