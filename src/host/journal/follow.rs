//! Waits for lines that are still to come.

use super::files;
use super::format::Position;
use super::merge::{Merge, Unended};
use super::read::{Line, Query, Reader};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;
use tokio::sync::watch;

/// From one look to the next where no journal says that something was written.
const LOOK: Duration = Duration::from_millis(250);
/// Lines in a row before others get their turn.
const BURST: u32 = 256;

/// The lines of a query as they come. Nothing is lost or repeated when files are rotated, as long as the reader keeps up with `keep`.
#[derive(Debug)]
pub struct Follow {
    reader: Reader,
    query: Query,
    merge: Merge,
    ready: VecDeque<Line>,
    /// When the directory was last looked through.
    changed: Option<(i64, i64)>,
    changes: Option<watch::Receiver<u64>>,
    burst: u32,
    ended: bool,
}

impl Follow {
    pub(super) fn new(
        reader: Reader,
        query: Query,
        merge: Merge,
        ready: VecDeque<Line>,
        changed: Option<(i64, i64)>,
        changes: Option<watch::Receiver<u64>>,
    ) -> Self {
        Self {
            reader,
            query,
            merge,
            ready,
            changed,
            changes,
            burst: 0,
            ended: false,
        }
    }

    /// The next line; `None` when the journal was closed and everything was given out. Cancel safe.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.take()? {
                self.burst += 1;
                if self.burst.is_multiple_of(BURST) {
                    self.ready.push_front(line);
                    tokio::task::yield_now().await;
                    continue;
                }
                return Ok(Some(line));
            }
            // Looking before every wait, so that a wait that was given up costs no line.
            self.look()?;
            if let Some(line) = self.take()? {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            if !self.wait().await {
                self.ended = true;
                self.merge.unended = Unended::Tell;
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Line>> {
        match self.ready.pop_front() {
            Some(line) => Ok(Some(line)),
            None => self.merge.next(),
        }
    }

    /// The lines as a stream; it ends with the journal or with an error.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = io::Result<Line>> + Send {
        futures_util::stream::unfold(Some(self), |state| async {
            let mut follow = state?;
            match follow.next().await {
                Ok(Some(line)) => Some((Ok(line), Some(follow))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Waits until something was written; false when nothing will be written any more.
    async fn wait(&mut self) -> bool {
        match &mut self.changes {
            Some(changes) => changes.changed().await.is_ok(),
            None => {
                tokio::time::sleep(LOOK).await;
                true
            }
        }
    }

    /// Looks for new lines and new units.
    fn look(&mut self) -> io::Result<()> {
        let changed = files::changed(&self.reader.dir);
        if changed.is_none() || self.changed != changed {
            for unit in self.reader.listing()?.into_keys() {
                let asked = self.query.units.is_empty() || self.query.units.contains(&unit);
                if asked && !self.merge.has(&unit) {
                    self.merge.add(&self.reader.dir, unit, Position::default(), None)?;
                }
            }
            self.changed = changed;
        }
        self.merge.poll()
    }
}
