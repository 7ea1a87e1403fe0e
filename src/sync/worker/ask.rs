//! What is asked of the worker: to send everything, to bring in what changed in the store, to end.

use super::{Lane, Worker};
use crate::sd_notify;
use crate::sync::arrive::{Arrived, Silent};
use crate::sync::door::Command;
use crate::sync::error::SyncError;
use crate::sync::gc::Collected;
use crate::sync::pack::Allowed;
use crate::sync::status::{Flushed, State};
use crate::tasks;
use std::sync::Arc;
use std::time::Duration;

/// How much more time is asked for while requests go on.
const EXTEND_BY: Duration = Duration::from_secs(10);
const EXTEND_EVERY: Duration = Duration::from_secs(2);
/// How often a drain tries again while the store cannot be reached.
const DRAIN_TRIES: u32 = 20;

impl Worker {
    pub(super) async fn obey(&mut self, command: Command) -> Result<(), SyncError> {
        match command {
            Command::Flush { confirm_deletes, reply } => {
                if confirm_deletes {
                    self.deletes.confirm();
                }
                let (flushed, result) = self.flush().await;
                let _ = reply.send(flushed);
                result
            }
            Command::Pull { reply } => {
                let (answer, result) = told(self.pull().await);
                let _ = reply.send(answer);
                self.judge_result(result, Vec::new())
            }
            Command::Collect { keep, reply } => {
                let (answer, result) = told(self.collect(keep).await);
                let _ = reply.send(answer);
                self.judge_result(result, Vec::new())
            }
            Command::Deadline(at) => {
                tracing::info!("the time at which the box is taken away is now {at:?}");
                self.expires_at = at;
                Ok(())
            }
        }
    }

    /// Sends everything that is there now.
    async fn flush(&mut self) -> (Flushed, Result<(), SyncError>) {
        if !self.may_write() {
            return (self.flushed(false, Some(self.why_not().into())), Ok(()));
        }
        self.meet();
        self.walk();
        let mut error = None;
        let mut result = Ok(());
        // A file that changes while it is read is read again, a few times.
        for _ in 0..5 {
            let due = self.lanes.take_all();
            match self.send(&due, true).await {
                Ok(_) => {
                    result = self.judge_result(Ok(()), Vec::new());
                    if self.lanes.oldest().is_none() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(failed) => {
                    error = Some(failed.to_string());
                    result = self.judge_result(Err(failed), due);
                    break;
                }
            }
        }
        let durable = error.is_none() && self.lanes.oldest().is_none();
        (self.flushed(durable, error), result)
    }

    fn why_not(&self) -> &'static str {
        match self.resting {
            State::Held => "uploads are held: there was no restore",
            _ => "a newer box of this project has taken over",
        }
    }

    fn flushed(&self, durable: bool, error: Option<String>) -> Flushed {
        Flushed {
            generation: self.engine.manifest.generation,
            durable,
            pending: (self.lanes.pending(Lane::Fast) + self.lanes.pending(Lane::Batch)) as u64,
            held_deletes: self.deletes.pending() as u64,
            error,
        }
    }

    async fn pull(&mut self) -> Result<Arrived, SyncError> {
        self.show(State::Restoring);
        self.engine.reload_manifest().await?;
        let arrived = self.engine.arrive(&Silent).await?;
        self.engine.adopt_index();
        self.walk();
        if self.resting == State::Held {
            self.resting = State::Idle;
        }
        Ok(arrived)
    }

    pub(super) async fn collect(&mut self, keep: usize) -> Result<Collected, SyncError> {
        let collected = self.engine.collect(keep).await?;
        if collected != Collected::default() {
            tracing::info!("what is no longer needed was removed from the store: {collected:?}");
        }
        Ok(collected)
    }

    /// Sends everything, telling the supervisor for as long as it goes on; then the pack, so that the next box starts fast.
    pub(super) async fn drain(&mut self) -> Result<(), SyncError> {
        let store = Arc::clone(&self.engine.project.store);
        let extending = tasks::spawn(async move {
            let mut before = None;
            loop {
                let now = store.requests();
                if before != Some(now) {
                    sd_notify::extend_timeout(EXTEND_BY);
                }
                before = Some(now);
                tokio::time::sleep(EXTEND_EVERY).await;
            }
        });
        let result = self.drain_all().await;
        extending.abort();
        result
    }

    async fn drain_all(&mut self) -> Result<(), SyncError> {
        for attempt in 0..DRAIN_TRIES {
            let (flushed, result) = self.flush().await;
            result?;
            let later = flushed.error.is_some() && self.resting == State::Offline;
            if flushed.durable || !later {
                let everything = if flushed.durable { "everything" } else { "not everything yet" };
                tracing::info!("generation {} has {everything}", flushed.generation);
                break;
            }
            tokio::time::sleep(Duration::from_millis(200 << attempt.min(4))).await;
        }
        if self.may_write() && self.resting != State::Offline {
            self.pack_at = None;
            let packed = self.engine.keep_pack(Allowed::Few).await;
            self.judge_result(packed, Vec::new())?;
        }
        Ok(())
    }
}

/// An answer for who asked, and the result for the worker itself.
fn told<T>(result: Result<T, SyncError>) -> (Result<T, String>, Result<(), SyncError>) {
    match result {
        Ok(done) => (Ok(done), Ok(())),
        Err(error) => (Err(error.to_string()), Err(error)),
    }
}
