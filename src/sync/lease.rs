//! Whose files these are, and which box may write them.
//!
//! The owner record says which project a prefix belongs to; it is checked before anything else is read or written. The lease says which
//! box of the project writes: each takes it with an epoch one higher than the last, by a conditional write, and the highest wins. Before
//! it writes a box looks whether the lease is still its own, unless it looked moments ago by a clock that goes on while the machine is
//! paused. So a box that was paused and resumed, or cloned, finds out before it overwrites anything.

use super::error::SyncError;
use super::store::{Body, Condition, Etag, Info, Store, StoreError, read_small};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where the lease is.
pub const LEASE: &str = ".sandkeep/lease";
/// Where the owner record is.
pub const OWNER: &str = ".sandkeep/owner";
/// For how long a look counts,
const FRESH: Duration = Duration::from_secs(5);
/// and for how long while one batch follows the other, each write of which is conditional on what this box knows to be there.
const FRESH_AT_WORK: Duration = Duration::from_secs(30);
const MOST: u64 = 64 << 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Owner {
    project: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    project: String,
    sandbox: String,
    epoch: u64,
    /// Tells one's own write from another's.
    nonce: u64,
}

/// The right to write, as long as it is the newest.
#[derive(Debug)]
pub struct Lease {
    /// One higher than the last.
    pub epoch: u64,
    nonce: u64,
    looked_at: Duration,
    /// When it was last asked for, by a look or without.
    asked_at: Duration,
}

/// What may be done where nobody owns the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The project claims it.
    Yes,
    /// It stays nobody's.
    No,
}

/// Who has been here before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// This project, or nobody who left a record.
    Perhaps,
    /// No box of any project: the record was written just now.
    Nobody,
}

/// Checks whose files the store has; claims them where nobody has.
pub async fn check_owner(store: &dyn Store, project: &str, claim: Claim) -> Result<Before, SyncError> {
    for _ in 0..3 {
        if let Some((_, bytes)) = read_small(store, OWNER, MOST).await? {
            let owner: Owner = parse(&bytes, "owner record")?;
            return if owner.project == project {
                Ok(Before::Perhaps)
            } else {
                Err(SyncError::Owner {
                    store: store.name(),
                    owner: owner.project,
                    project: project.to_owned(),
                })
            };
        }
        if claim == Claim::No {
            return Ok(Before::Perhaps);
        }
        let record = Owner {
            project: project.to_owned(),
        };
        match put(store, OWNER, &record, Condition::Absent).await {
            Ok(_) => return Ok(Before::Nobody),
            // Somebody was quicker, or it was this write's own echo: look again.
            Err(StoreError::Precondition) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Unavailable("the owner record keeps changing".into()).into())
}

impl Lease {
    /// Takes the lease from whoever has it.
    pub async fn take(store: &dyn Store, project: &str, sandbox: &str, before: Before) -> Result<Self, SyncError> {
        for attempt in 0..5 {
            let current = match (before, attempt) {
                (Before::Nobody, 0) => None,
                (Before::Nobody | Before::Perhaps, _) => read_small(store, LEASE, MOST).await?,
            };
            let (last, condition) = match &current {
                Some((head, bytes)) => (parse::<Record>(bytes, "lease")?.epoch, Condition::Matches(head.etag.clone())),
                None => (0, Condition::Absent),
            };
            let record = Record {
                project: project.to_owned(),
                sandbox: sandbox.to_owned(),
                epoch: last + 1,
                nonce: fastrand::u64(..),
            };
            match put(store, LEASE, &record, condition).await {
                Ok(_) => {}
                // The echo of a write whose answer was lost shows when it is read back.
                Err(StoreError::Precondition) => match read_small(store, LEASE, MOST).await? {
                    Some((_, bytes)) if parse::<Record>(&bytes, "lease")?.nonce == record.nonce => {}
                    _ => continue,
                },
                Err(error) => return Err(error.into()),
            }
            return Ok(Self {
                epoch: record.epoch,
                nonce: record.nonce,
                looked_at: boot_time(),
                asked_at: boot_time(),
            });
        }
        Err(StoreError::Unavailable("other boxes keep taking the lease".into()).into())
    }

    /// Looks whether the lease is still this one, for the next of many conditional writes: seldom, unless there was a pause.
    pub async fn check_at_work(&mut self, store: &dyn Store) -> Result<(), SyncError> {
        let now = boot_time();
        let was_paused = now.saturating_sub(std::mem::replace(&mut self.asked_at, now)) >= FRESH;
        if !was_paused && now.saturating_sub(self.looked_at) < FRESH_AT_WORK {
            return Ok(());
        }
        self.check(store).await
    }

    /// Looks whether the lease is still this one.
    pub async fn check(&mut self, store: &dyn Store) -> Result<(), SyncError> {
        if boot_time().saturating_sub(self.looked_at) < FRESH {
            return Ok(());
        }
        let looked_at = boot_time();
        self.asked_at = looked_at;
        match read_small(store, LEASE, MOST).await? {
            Some((_, bytes)) => {
                let record: Record = parse(&bytes, "lease")?;
                if record.nonce != self.nonce {
                    return Err(SyncError::Fenced(record.sandbox));
                }
            }
            // Purged under us: whoever did that does not want it to be written again.
            None => return Err(SyncError::Fenced("nobody; the project was removed from the store".into())),
        }
        self.looked_at = looked_at;
        Ok(())
    }
}

async fn put<T: Serialize>(store: &dyn Store, key: &str, record: &T, condition: Condition) -> Result<Etag, StoreError> {
    let json = serde_json::to_vec(record).expect("a plain record is JSON");
    let info = Info {
        content_type: "application/json".into(),
        ..Info::default()
    };
    store.put(key, Body::Bytes(json.into()), info, condition).await
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, SyncError> {
    serde_json::from_slice(bytes).map_err(|error| SyncError::Form(format!("the {what} in the store is not readable: {error}")))
}

/// Time since the machine started, pauses included.
fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
