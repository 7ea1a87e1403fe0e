//! What one image of the supervisor's process hands to the next: the document, written in sealed memory.
//!
//! Read by the version before and the one after: unknown fields are passed over, and a field that a version adds has a default. A change
//! that cannot be told in that way gets the next format number.

use super::clock::HandedClock;
use super::publish::HandedPublisher;
use super::recorder::HandedRecorder;
use super::requests::{HandedRequests, Origin};
use crate::control::document::Upgrade;
use crate::control::event_log::HandedEvents;
use crate::control::token::Token;
use crate::host::HandedHost;
use crate::host::image::{Descriptor, Kept};
use crate::host::journal::{Handed, Stream};
use crate::host::runtime_dir::Places;
use crate::supervisor::{Invocation, RequestId, Supervisor};
use crate::unit::{Config, Name, Unit};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The format that is written, and those that are read.
const FORMAT: u32 = 1;
const READS: std::ops::RangeInclusive<u32> = 0..=2;

/// Everything that the next image needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    pub(super) format: u32,
    /// Who wrote it.
    pub(super) version: String,
    /// CLOCK_MONOTONIC at that moment, nanoseconds.
    pub(super) monotonic: u64,
    pub(super) kept: Kept,
    pub(super) unix: Descriptor,
    #[serde(default)]
    pub(super) tcp: Option<(SocketAddr, Descriptor)>,
    pub(super) lock: Descriptor,
    /// Not read again: its file may have gone meanwhile.
    pub(super) token: Token,
    pub(super) runtime: PathBuf,
    pub(super) state: PathBuf,
    /// Secrets too: which is why nobody else may read this.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The binary that is left, and how the upgrade looks that is going on.
    pub(super) old_binary: PathBuf,
    pub(super) upgrade: Upgrade,
    /// Who waits for the upgrade; 0 = nobody.
    #[serde(default)]
    pub(super) request: RequestId,
    /// Workers that are to be restarted then, in this order.
    #[serde(default)]
    pub(super) restart: Vec<Name>,
    pub(super) supervisor: Value,
    pub(super) host: HandedHost,
    #[serde(default)]
    pub(super) pipes: Vec<HandedPipe>,
    #[serde(default)]
    pub(super) next_source: u32,
    #[serde(default)]
    pub(super) clock: HandedClock,
    pub(super) hands: HandedHands,
    pub(super) publisher: HandedPublisher,
    pub(super) events: HandedEvents,
    #[serde(default)]
    pub(super) requests: HandedRequests,
    #[serde(default)]
    pub(super) recorder: Option<HandedRecorder>,
}

/// What the hands know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandedHands {
    pub(super) origin: Origin,
    /// The sections that runs were started from.
    #[serde(default)]
    pub(super) running: Vec<(Name, Invocation, Value)>,
    #[serde(default)]
    pub(super) retrying: BTreeSet<Name>,
}

/// A pipe from a unit's process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandedPipe {
    unit: Name,
    invocation: Invocation,
    stream: Stream,
    source: u32,
    pending: bool,
    pipe: Descriptor,
}

/// Why a document cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It could not be read at all.
    #[error("reading the handover: {0}")]
    Io(#[from] std::io::Error),
    /// It is not what it should be.
    #[error("reading the handover: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of a version that is too old or too new.
    #[error("the handover has format {found}, and version {} reads {} to {}", env!("CARGO_PKG_VERSION"), READS.start(), READS.end())]
    Format {
        /// The one it has.
        found: u64,
    },
    /// The supervisor's part is not what it should be.
    #[error("{0}")]
    Supervisor(#[from] crate::supervisor::RestoreError),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Document {
    pub(super) const FORMAT: u32 = FORMAT;

    /// Reads one, whichever version wrote it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, HandoverError> {
        let document: Value = serde_json::from_slice(text)?;
        let format = document.get("format").and_then(Value::as_u64);
        let found = format.ok_or_else(|| HandoverError::Other("reading the handover: it has no format".to_owned()))?;
        if !u32::try_from(found).is_ok_and(|format| READS.contains(&format)) {
            return Err(HandoverError::Format { found });
        }
        Ok(serde_json::from_value(document)?)
    }

    /// The instant at which it was written.
    pub(super) fn moment(&self) -> Instant {
        let (now, clock) = (Instant::now(), monotonic());
        let ago = Duration::from_nanos(clock.saturating_sub(self.monotonic));
        now.checked_sub(ago).unwrap_or(now)
    }

    pub(super) fn places(&self) -> Places {
        Places {
            runtime: self.runtime.clone(),
            state: self.state.clone(),
        }
    }

    /// The supervisor as it was, and the configuration in force.
    pub(super) fn supervisor(&mut self, moment: Instant) -> Result<(Supervisor, std::sync::Arc<Config>), HandoverError> {
        let supervisor = Supervisor::restore(self.supervisor.take(), moment)?;
        let config = supervisor.config().cloned();
        let config = config.ok_or_else(|| HandoverError::Other("reading the handover: it has no configuration".to_owned()))?;
        Ok((supervisor, config))
    }
}

impl HandedHands {
    /// The sections that runs were started from.
    pub(super) fn running(&mut self) -> Result<Vec<(Name, Invocation, Unit)>, HandoverError> {
        let running = std::mem::take(&mut self.running).into_iter();
        let read = running.map(|(name, invocation, unit)| Ok((name, invocation, crate::supervisor::saved_unit(unit)?)));
        read.collect()
    }
}

impl HandedPipe {
    pub(super) fn new(handed: &Handed, kept: &mut Kept) -> Self {
        Self {
            unit: handed.unit.clone(),
            invocation: handed.invocation,
            stream: handed.stream,
            source: handed.source,
            pending: handed.pending,
            pipe: kept.keep(&handed.pipe),
        }
    }

    pub(super) fn open(self) -> std::io::Result<Handed> {
        Ok(Handed {
            pipe: self.pipe.duplicate()?,
            unit: self.unit,
            invocation: self.invocation,
            stream: self.stream,
            source: self.source,
            pending: self.pending,
        })
    }
}

/// CLOCK_MONOTONIC, nanoseconds: the same in all images of a process.
pub(super) fn monotonic() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_formats_are_read() {
        let said = |text: &str| Document::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(said("{}"), "reading the handover: it has no format");
        let (lowest, highest) = (READS.start(), READS.end());
        let expected = format!(
            "the handover has format 99, and version {} reads {lowest} to {highest}",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(said(r#"{"format":99}"#), expected);
        assert!(said("nonsense").starts_with("reading the handover: expected"));
        assert!(
            said(r#"{"format":0}"#).contains("missing field"),
            "an earlier format is read, as far as it goes"
        );
    }

    #[test]
    fn flags_of_a_later_version_are_passed_over() {
        let text = r#"{"source":{"file":"/a"},"flags":{"dev":"x","brighter":true}}"#;
        let origin: Origin = serde_json::from_str(text).unwrap();
        assert_eq!(origin.flags.dev.as_deref(), Some("x"));
    }
}
