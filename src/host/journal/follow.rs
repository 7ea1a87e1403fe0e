//! Waits for lines that are still to come.

use super::Changes;
use super::format::Position;
use super::read::{Line, Merge, Query, Reader, Unended};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// From one look at the files to the next, at least.
const PACE: Duration = Duration::from_millis(20);
/// From one look to the next where no journal says that something was written.
const LOOK: Duration = Duration::from_millis(250);
/// For how long the end of a line is waited for: prompts have none.
const PATIENCE: Duration = Duration::from_millis(500);
/// Lines in a row before others get their turn.
const BURST: u32 = 256;

/// The lines of a query as they come. Nothing is lost or repeated when files are rotated, as long as the reader keeps up with `keep`.
#[derive(Debug)]
pub struct Follow {
    reader: Reader,
    query: Query,
    merge: Merge,
    ready: VecDeque<Line>,
    known: usize,
    changes: Option<watch::Receiver<Changes>>,
    burst: u32,
    ended: bool,
}

impl Follow {
    pub(super) fn new(
        reader: Reader,
        query: Query,
        merge: Merge,
        ready: VecDeque<Line>,
        known: usize,
        changes: Option<watch::Receiver<Changes>>,
    ) -> Self {
        Self {
            reader,
            query,
            merge,
            ready,
            known,
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

    /// Waits until something was written, or an unended line has waited long enough; false when nothing will be written any more.
    async fn wait(&mut self) -> bool {
        let partial = self.merge.has_partial();
        let Some(changes) = &mut self.changes else {
            tokio::time::sleep(LOOK).await;
            return true;
        };
        let changed = async {
            let open = changes.changed().await.is_ok();
            if open {
                tokio::time::sleep(PACE).await;
                changes.borrow_and_update();
            }
            open
        };
        if !partial {
            return changed.await;
        }
        match tokio::time::timeout(PATIENCE, changed).await {
            Ok(open) => open,
            Err(_) => {
                self.merge.tell_partial();
                true
            }
        }
    }

    /// Looks for new lines and new units.
    fn look(&mut self) -> io::Result<()> {
        let units = self.changes.as_ref().map(|c| c.borrow().units);
        if units.is_none_or(|units| units != self.known) {
            for unit in self.reader.listing()?.into_keys() {
                let asked = self.query.units.is_empty() || self.query.units.contains(&unit);
                if asked && !self.merge.has(&unit) {
                    self.merge
                        .add(&Arc::clone(&self.reader.dir), unit, &self.reader.masker, Position::default())?;
                }
            }
            self.known = units.unwrap_or_default();
        }
        self.merge.poll()
    }
}
