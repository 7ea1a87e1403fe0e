//! Brings the events of one prompt from the outbox to Convex, and its end.
//!
//! One call at a time, the next batch gathers meanwhile. A batch names the number of its first event, so that sending it twice is
//! harmless. Where much is still to be sent when a prompt is over, or sending fails, its end is told first: nobody waits on a prompt
//! that is over.

use super::http::{Api, CallError};
use crate::agent::outbox::{self, Event, Progress};
use crate::agent::prompt::PromptId;
use crate::agent::transcript::replace;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;

/// A batch is at most about so large, and waits at most so long for more.
const BATCH_BYTES: usize = 256 << 10;
const GATHER: Duration = Duration::from_millis(500);
/// Events that may still be sent before the end is told.
const FEW: u64 = 64;

/// What is remembered of a claim, on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The attempt.
    pub attempt: u32,
    /// The last event that Convex has.
    pub acknowledged: u64,
    /// The end: status, result; told or not.
    #[serde(default)]
    pub end: Option<End>,
}

/// An end that is to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// `done failed cancelled`.
    pub status: String,
    /// The outcome, as JSON.
    pub result: String,
    /// The number of the terminal event.
    pub last_seq: u64,
    /// Whether Convex knows.
    #[serde(default)]
    pub told: bool,
}

/// Where claims are kept.
pub fn path_of(directory: &Path, id: &PromptId) -> PathBuf {
    directory.join(format!("{id}.json"))
}

/// Reads a claim.
pub fn load(directory: &Path, id: &PromptId) -> Option<Claim> {
    serde_json::from_slice(&std::fs::read(path_of(directory, id)).ok()?).ok()
}

/// Keeps a claim.
pub fn keep(directory: &Path, id: &PromptId, claim: &Claim) {
    if let Err(error) = replace(&path_of(directory, id), &serde_json::to_vec(claim).unwrap_or_default()) {
        tracing::warn!("keeping the claim of prompt {id}: {error}");
    }
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Convex has everything.
    Everything,
    /// Another attempt counts: what is left is void.
    LeaseLost,
    /// The agent ends first.
    Interrupted,
}

/// One prompt's way to Convex.
#[derive(Debug)]
pub struct Delivery {
    /// The API.
    pub api: Api,
    /// The prompt.
    pub id: PromptId,
    /// This agent.
    pub worker: String,
    /// Where claims are kept.
    pub directory: PathBuf,
    /// The prompt's events.
    pub events: PathBuf,
    /// How far they have come.
    pub progress: watch::Receiver<Progress>,
    /// The end, once it is there.
    pub end: watch::Receiver<Option<End>>,
    /// What is known so far.
    pub claim: Claim,
    /// Whether the last batch did not arrive.
    pub troubled: bool,
}

impl Delivery {
    /// Delivers until everything has arrived.
    pub async fn run(mut self) -> Delivered {
        let mut pause = Duration::from_millis(250);
        loop {
            match self.advance().await {
                Ok(Some(delivered)) => {
                    let _ = std::fs::remove_file(path_of(&self.directory, &self.id));
                    return delivered;
                }
                Ok(None) => pause = Duration::from_millis(250),
                Err(error) if error.is_lease_lost() => {
                    let _ = std::fs::remove_file(path_of(&self.directory, &self.id));
                    return Delivered::LeaseLost;
                }
                Err(error) => {
                    tracing::debug!("delivering prompt {}: {error}", self.id);
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(Duration::from_secs(15));
                }
            }
            if self.progress.has_changed().is_err() && self.end.has_changed().is_err() && self.claim.end.is_none() {
                return Delivered::Interrupted;
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<Delivered>, CallError> {
        let progress = *self.progress.borrow_and_update();
        if self.claim.end.is_none() {
            self.claim.end = self.end.borrow_and_update().clone();
            if self.claim.end.is_some() {
                keep(&self.directory, &self.id, &self.claim);
            }
        }
        let last = self.claim.end.as_ref().map_or(progress.last_seq, |end| end.last_seq);
        let waiting = last.saturating_sub(self.claim.acknowledged);
        let told = self.claim.end.as_ref().map(|end| end.told);
        match (told, waiting) {
            (Some(true), 0) => Ok(Some(Delivered::Everything)),
            (Some(false), 0) => self.tell_end().await.map(|()| None),
            (Some(false), FEW..) => self.tell_end().await.map(|()| None),
            (Some(false), _) if self.troubled => self.tell_end().await.map(|()| None),
            (None, 0) => {
                self.wait().await;
                Ok(None)
            }
            _ => {
                let sent = self.send().await;
                self.troubled = sent.is_err();
                sent.map(|()| None)
            }
        }
    }

    /// Until there is something to send, and a little longer unless it is urgent.
    async fn wait(&mut self) {
        tokio::select! {
            changed = self.progress.changed() => if changed.is_err() {
                // The file is closed: its end is about to be told, or the claim is lost.
                let _ = self.end.changed().await;
                return;
            },
            _ = self.end.changed() => return,
        }
        if !self.progress.borrow().ended && self.end.borrow().is_none() {
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                _ = self.end.changed() => {}
            }
        }
    }

    async fn send(&mut self) -> Result<(), CallError> {
        let from = self.claim.acknowledged + 1;
        let events = read(&self.events, from).await;
        let events = events.map_err(|error| CallError::Unavailable(format!("reading the outbox: {error}")))?;
        let Some(first) = events.first() else {
            // The file is behind its progress only if somebody took it away: nothing more will come of it.
            self.claim.acknowledged = self.claim.end.as_ref().map_or(self.claim.acknowledged, |end| end.last_seq);
            return Ok(());
        };
        let from = first.seq;
        let texts: Vec<String> = events
            .iter()
            .map(|event| serde_json::to_string(event).unwrap_or_default())
            .collect();
        let answer = self
            .api
            .mutation("agent:append", self.args(json!({"from": from, "events": texts})))
            .await?;
        let next = whole(&answer["next"]).unwrap_or(from);
        self.claim.acknowledged = next.saturating_sub(1);
        keep(&self.directory, &self.id, &self.claim);
        Ok(())
    }

    async fn tell_end(&mut self) -> Result<(), CallError> {
        let Some(end) = self.claim.end.clone() else { return Ok(()) };
        let args = json!({"status": end.status, "result": end.result, "lastSeq": end.last_seq});
        self.api.mutation("agent:complete", self.args(args)).await?;
        if let Some(end) = self.claim.end.as_mut() {
            end.told = true;
        }
        keep(&self.directory, &self.id, &self.claim);
        Ok(())
    }

    fn args(&self, mut args: Value) -> Value {
        args["id"] = json!(self.id);
        args["workerId"] = json!(self.worker);
        args["attempt"] = json!(self.claim.attempt);
        args
    }
}

/// The next batch, on the disk before it is sent anywhere.
async fn read(path: &Path, from: u64) -> std::io::Result<Vec<Event>> {
    let events = outbox::read(path, from, BATCH_BYTES)?;
    outbox::on_disk(path.to_owned()).await?;
    Ok(events)
}

/// A number of Convex's, which are all floats.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a whole number in range"
)]
pub fn whole(value: &Value) -> Option<u64> {
    let number = value.as_u64().map(|number| number as f64).or(value.as_f64())?;
    (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
}
