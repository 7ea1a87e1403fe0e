//! What the sync worker says of itself: its part of the status document.

use serde::{Deserialize, Serialize};

/// What it is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There is no store.
    Off,
    /// Files are being brought here.
    Restoring,
    /// Everything that is due has been sent.
    #[default]
    Idle,
    /// Files are being sent.
    Uploading,
    /// Nothing is sent: there was no restore.
    Held,
    /// A newer box has taken over: nothing is written.
    Fenced,
    /// The store cannot be reached; it is tried again.
    Offline,
}

/// The part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What it is doing.
    pub state: State,
    /// The generation of the last manifest.
    pub generation: u64,
    /// Changed files that are not in the store yet.
    pub pending: u64,
    /// Of these, configuration and lock files.
    pub pending_fast: u64,
    /// Of these, the rest.
    pub pending_batch: u64,
    /// For how long the oldest of them has waited.
    pub oldest_unsynced_ms: u64,
    /// Files that changed and are left out by a rule.
    pub excluded_changed: u64,
    /// When something was last sent; RFC 3339.
    pub last_upload_at: Option<String>,
    /// Files in step.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Attempts that failed since the start.
    pub errors: u64,
    /// The last of them.
    pub last_error: Option<String>,
    /// Files that vanished here and are held in the store.
    pub held_deletes: u64,
    /// Why.
    pub held_because: Option<String>,
    /// Losers of conflicts that were kept.
    pub conflicts: u64,
    /// Files that cannot be kept, with the reason; at most twenty of them.
    pub odd: std::collections::BTreeMap<String, String>,
    /// `inotify`, or why the tree is polled.
    pub watching: String,
    /// Requests to the store since the start.
    pub requests: Requests,
    /// What they cost in an hour, US dollars at R2's price.
    pub cost_per_hour: f64,
}

/// Requests by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Class A.
    pub writes: u64,
    /// Class B.
    pub reads: u64,
    /// Deletes.
    pub free: u64,
    /// Repeated ones.
    pub retries: u64,
    /// Bytes sent.
    pub bytes_up: u64,
    /// Bytes received.
    pub bytes_down: u64,
}

impl From<super::store::Requests> for Requests {
    fn from(requests: super::store::Requests) -> Self {
        let super::store::Requests {
            writes,
            reads,
            free,
            retries,
            bytes_up,
            bytes_down,
        } = requests;
        Self {
            writes,
            reads,
            free,
            retries,
            bytes_up,
            bytes_down,
        }
    }
}

/// What a flush answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// The generation that has everything.
    pub generation: u64,
    /// Whether everything that was there when it began is in the store.
    pub durable: bool,
    /// Files that are not.
    pub pending: u64,
    /// Vanished files that are held in the store.
    pub held_deletes: u64,
    /// What stands in the way.
    pub error: Option<String>,
}
