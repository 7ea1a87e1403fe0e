//! The units' logs for the doors: the journal's reader in control's words.

use crate::control::{LogLine, LogPage, LogQuery, Logs, ReadLogsError, Time};
use crate::host::journal::{Cursor, Line, Query, Reader};
use crate::ordered::IntoMap;
use crate::unit::Name;
use std::collections::BTreeMap;
use std::io;
use tokio::sync::watch;

/// The journal as the doors read it.
#[derive(Debug)]
pub struct JournalLogs {
    reader: Reader,
    changed: watch::Receiver<u64>,
}

impl JournalLogs {
    /// Reads with this reader; `changed` counts what was written.
    pub fn new(reader: Reader, changed: watch::Receiver<u64>) -> Self {
        Self { reader, changed }
    }
}

impl Logs for JournalLogs {
    fn read(&self, query: &LogQuery) -> Result<LogPage, ReadLogsError> {
        let failed = |source| ReadLogsError::Io {
            unit: query.units.first().cloned().unwrap_or_else(|| "*".to_owned()),
            source,
        };
        let wanted = wanted(query)?;
        if let Some(name) = missing(&self.reader, &wanted, &query.known).map_err(failed)? {
            return Err(ReadLogsError::NoSuchUnit(name));
        }
        if query.follow {
            // Who follows gets a line without an end once it has been waited for long enough.
            let page = self.reader.page(&wanted, query.limit).map_err(failed)?;
            return Ok(LogPage {
                cursor: page.cursor.as_str().to_owned(),
                lines: page.lines.into_iter().map(shown).collect(),
                more: page.more,
            });
        }
        let lines = self.reader.lines(&wanted).map_err(failed)?;
        page(lines, query).map_err(failed)
    }

    fn last_of_each(&self, units: &[String], lines: usize) -> BTreeMap<String, Vec<LogLine>> {
        let names: Vec<Name> = units.iter().filter_map(|unit| Name::new(unit)).collect();
        let last = self.reader.last_of_each(&names, lines).unwrap_or_default().into_iter();
        last.map(|(unit, lines)| (unit.as_str().to_owned(), lines.into_iter().map(shown).collect()))
            .into_map()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

fn wanted(query: &LogQuery) -> Result<Query, ReadLogsError> {
    let name = |unit: &String| Name::new(unit).ok_or_else(|| ReadLogsError::NoSuchUnit(unit.clone()));
    let cursor = |text: &String| Cursor::new(text).ok_or_else(|| ReadLogsError::BadCursor(text.clone()));
    Ok(Query {
        units: query.units.iter().map(name).collect::<Result<_, _>>()?,
        lines: query.tail,
        since: query.since.map(|time| time.0),
        grep: query.grep.clone(),
        after: query.after.as_ref().filter(|text| !text.is_empty()).map(cursor).transpose()?,
        ..Query::default()
    })
}

/// A unit that is asked for, that has never written anything, and that is not known otherwise.
fn missing(reader: &Reader, query: &Query, also_known: &[String]) -> io::Result<Option<String>> {
    let doubtful = |unit: &&Name| !also_known.iter().any(|name| name == unit.as_str());
    let mut doubtful = query.units.iter().filter(doubtful).peekable();
    if doubtful.peek().is_none() {
        return Ok(None);
    }
    let known = reader.units()?;
    Ok(doubtful.find(|unit| !known.contains(unit)).map(|unit| unit.as_str().to_owned()))
}

fn page(lines: impl Iterator<Item = io::Result<Line>>, query: &LogQuery) -> io::Result<LogPage> {
    let mut page = LogPage {
        cursor: query.after.clone().unwrap_or_default(),
        ..LogPage::default()
    };
    for line in lines {
        let line = line?;
        if page.lines.len() == query.limit {
            page.more = true;
            break;
        }
        line.cursor.as_str().clone_into(&mut page.cursor);
        page.lines.push(shown(line));
    }
    Ok(page)
}

fn shown(line: Line) -> LogLine {
    LogLine {
        unit: line.unit,
        at: Time(line.time),
        stream: line.stream.as_str().to_owned(),
        invocation: line.invocation,
        text: line.message,
        cursor: line.cursor.as_str().to_owned(),
    }
}
