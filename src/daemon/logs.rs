//! The units' logs for the doors: the journal's reader in control's words.

use crate::control::{LogLine, LogPage, LogQuery, Logs, ReadLogsError, Time};
use crate::host::journal::{Cursor, Query, Reader};
use crate::unit::Name;
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
            unit: query.units.first().cloned().unwrap_or_else(|| "all units".to_owned()),
            source,
        };
        let mut units = Vec::new();
        for unit in &query.units {
            units.push(Name::new(unit).ok_or_else(|| ReadLogsError::NoSuchUnit(unit.clone()))?);
        }
        let after = match &query.after {
            None => None,
            Some(text) if text.is_empty() => None,
            Some(text) => Some(Cursor::new(text).ok_or_else(|| ReadLogsError::BadCursor(text.clone()))?),
        };
        let wanted = Query {
            units,
            lines: query.tail,
            since: query.since.map(|time| time.0),
            grep: query.grep.clone(),
            after,
            ..Query::default()
        };
        let mut lines = Vec::new();
        let mut more = false;
        for line in self.reader.lines(&wanted).map_err(failed)? {
            let line = line.map_err(failed)?;
            if lines.len() == query.limit {
                more = true;
                break;
            }
            lines.push(LogLine {
                unit: line.unit,
                at: Time(line.time),
                stream: line.stream.as_str().to_owned(),
                invocation: line.invocation,
                text: line.message,
                cursor: line.cursor.as_str().to_owned(),
            });
        }
        let cursor = lines.last().map_or_else(|| query.after.clone().unwrap_or_default(), |line| line.cursor.clone());
        Ok(LogPage { lines, cursor, more })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}
