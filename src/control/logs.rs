//! What the doors need of the units' logs.

use super::document::Time;
use crate::ordered::IntoMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio::sync::watch;
use utoipa::ToSchema;

/// A line that a unit wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Who wrote it.
    pub unit: String,
    /// When it was read.
    pub at: Time,
    /// `stdout` or `stderr`; `sandkeep` for what the supervisor says about the log itself (lines lost to a full disk).
    pub stream: String,
    /// The run that wrote it; 0 where it is not known.
    #[serde(default)]
    pub invocation: u64,
    /// The line, decoded and masked, without its end.
    pub text: String,
    /// Where to go on after it: `cursor=` of the same query.
    pub cursor: String,
}

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Of these units; of all if empty.
    pub units: Vec<String>,
    /// Units that there are, although they may not have written yet: asking for one of these is no error.
    pub known: Vec<String>,
    /// Not older than this.
    pub since: Option<Time>,
    /// Matching this, after masking: a pattern must not find out what a secret is.
    pub grep: Option<regex::Regex>,
    /// After the line of this cursor.
    pub after: Option<String>,
    /// The last so many of what is left; without it from the beginning.
    pub tail: Option<usize>,
    /// At most so many in this page.
    pub limit: usize,
    /// Whether more is to come: a line that has no end yet is held back for a while.
    pub follow: bool,
}

/// Some lines, by time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The lines.
    pub lines: Vec<LogLine>,
    /// Where to go on, also past lines that did not match.
    pub cursor: String,
    /// Whether there is more at once.
    pub more: bool,
}

/// Why logs could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogsError {
    /// There is no such unit, and no log of it.
    #[error("no unit `{0}`, and no log of one")]
    NoSuchUnit(String),
    /// The cursor is not one of ours.
    #[error("the cursor `{0}` is none that was given out")]
    BadCursor(String),
    /// The files could not be read.
    #[error("reading the log of `{unit}`: {source}")]
    Io {
        /// Whose log.
        unit: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The units' logs. Reading is done on a thread for blocking work, a page at a time: a slow client is one that asks for no next page,
/// and nothing is buffered for it.
pub trait Logs: Send + Sync + 'static {
    /// Reads a page. Text is masked.
    fn read(&self, query: &LogQuery) -> Result<LogPage, ReadLogsError>;

    /// The last lines of each of these units, as many as there are; a unit whose log cannot be read has none.
    fn last_of_each(&self, units: &[String], lines: usize) -> BTreeMap<String, Vec<LogLine>> {
        let last = |name: &String| {
            let query = LogQuery {
                units: vec![name.clone()],
                known: vec![name.clone()],
                tail: Some(lines),
                limit: lines,
                ..LogQuery::default()
            };
            Some((name.clone(), self.read(&query).ok()?.lines))
        };
        units.iter().filter_map(last).into_map()
    }

    /// Changes whenever lines were added: followers read on.
    fn changed(&self) -> watch::Receiver<u64>;
}
