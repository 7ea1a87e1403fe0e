//! What is no longer needed in the store: old generations, and what no kept generation needs.
//!
//! The worker collects by itself once it has run for a while and has nothing else to do; `sync gc` does it by hand.

use super::archive::read_manifest;
use super::beside::POSTMORTEMS;
use super::conflicts::{CONFLICTS, STAMP};
use super::engine::{Engine, TRASH};
use super::error::SyncError;
use super::keep_git::BUNDLES;
use super::lease::{Claim, check_owner};
use super::manifest::{GENERATIONS, KEY};
use super::pack::PACKS;
use super::project::Project;
use super::store::{Listed, Store, list_all};
use crate::ordered::Order;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Generations that are kept.
pub const KEEP_GENERATIONS: usize = 50;
/// For how long losers of conflicts and postmortems are kept.
const KEEP_DAYS: i64 = 30;
/// Packs and bundles younger than this may be on their way into a manifest.
const YOUNG_S: i64 = 3600;
/// Requests at once.
const AT_ONCE: usize = 4;

/// What was no longer needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Old generations.
    pub generations: u64,
    /// Contents in the trash that no kept generation has.
    pub trash: u64,
    /// Losers of old conflicts.
    pub conflicts: u64,
    /// Packs and bundles that no kept generation names.
    pub packs: u64,
    /// Old postmortems.
    pub postmortems: u64,
    /// Bytes of all these.
    pub bytes: u64,
}

/// Removes what is no longer needed. Removes nothing that a kept generation or the current manifest needs.
pub async fn collect(project: &Project, keep: usize) -> Result<Collected, SyncError> {
    check_owner(&*project.store, &project.id, Claim::No).await?;
    collect_from(&*project.store, keep).await
}

impl Engine {
    /// The same, as long as this box may write.
    pub async fn collect(&mut self, keep: usize) -> Result<Collected, SyncError> {
        self.check_lease().await?;
        let collected = collect_from(&*self.project.store, keep).await?;
        // What was put there earlier may be gone.
        self.trashed.clear();
        Ok(collected)
    }
}

async fn collect_from(store: &dyn Store, keep: usize) -> Result<Collected, SyncError> {
    let ours = list_all(store, ".sandkeep/").await?;
    let mut generations: Vec<_> = ours
        .iter()
        .map(|object| object.key.as_str())
        .filter(|key| key.starts_with(GENERATIONS))
        .collect();
    generations.order_by(|a, b| b.cmp(a));
    let old: BTreeSet<_> = generations.split_off(keep.min(generations.len())).into_iter().collect();
    let needed = needed(store, generations).await?;
    // The store's own time, as far as it shows; this box's clock may be wrong.
    let newest = ours.iter().map(|object| object.modified_s).max().unwrap_or(0);
    let long_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * KEEP_DAYS);
    let long_ago_stamp = long_ago.strftime(STAMP).to_string();
    let mut collected = Collected::default();
    let mut doomed = Vec::new();
    for Listed { key, size, modified_s, .. } in &ours {
        let kind = |prefix: &str| key.starts_with(prefix);
        let count = if old.contains(key.as_str()) {
            &mut collected.generations
        } else if kind(TRASH) && !needed.contains(key) {
            &mut collected.trash
        } else if (kind(PACKS) || kind(BUNDLES)) && !needed.contains(key) && newest - modified_s >= YOUNG_S {
            &mut collected.packs
        } else if key.strip_prefix(CONFLICTS).is_some_and(|stamp| stamp < long_ago_stamp.as_str()) {
            &mut collected.conflicts
        } else if kind(POSTMORTEMS) && *modified_s < long_ago.as_second() {
            &mut collected.postmortems
        } else {
            continue;
        };
        *count += 1;
        collected.bytes += size;
        doomed.push(key.clone());
    }
    store.delete(&doomed).await?;
    Ok(collected)
}

/// The keys that the current manifest and the kept generations need.
async fn needed(store: &dyn Store, kept: Vec<&str>) -> Result<BTreeSet<String>, SyncError> {
    let mut needed = BTreeSet::new();
    let mut manifests = futures_util::stream::iter(kept.into_iter().chain([KEY]))
        .map(|key| read_manifest(store, key))
        .buffer_unordered(AT_ONCE);
    while let Some(manifest) = manifests.next().await {
        let Some(manifest) = manifest? else { continue };
        needed.extend(manifest.files.values().map(|entry| format!("{TRASH}{}", entry.content.sha256)));
        needed.extend(manifest.pack.map(|pack| pack.key));
        needed.extend(manifest.git.and_then(|git| git.bundle).map(|bundle| bundle.key));
    }
    Ok(needed)
}
