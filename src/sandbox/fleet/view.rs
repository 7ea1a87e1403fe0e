//! The fleet as others see it.

use super::state::{By, Entry, Fleet, Presence};
use crate::control::document::{Status, StatusDocument, Time};
use crate::ordered::IntoMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use utoipa::ToSchema;

/// The fleet in numbers, and what needs a look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetView {
    /// How many sandboxes there are.
    pub total: usize,
    /// `unknown ready not-ready unreachable stopped` → how many.
    pub presence: BTreeMap<String, usize>,
    /// `ok starting degraded failed stopping` → how many, of those last heard so and neither stopped nor unreachable.
    pub status: BTreeMap<String, usize>,
    /// Memory in use in all of them.
    pub memory_bytes: u64,
    /// Changes that are in no store yet.
    pub sync_pending: u64,
    /// Prompts that run.
    pub agent_running: u64,
    /// Prompts that wait.
    pub agent_queued: u64,
    /// Sandboxes that are unreachable, failed or degraded, at most 100.
    pub attention: Vec<FleetRow>,
}

/// A sandbox of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetRow {
    /// Its SANDBOX_ID.
    pub sandbox_id: String,
    /// How it is, seen from here.
    pub presence: Presence,
    /// What it last said of itself.
    pub status: Option<Status>,
    /// When it was last heard.
    pub heard_at: Option<Time>,
    /// How.
    pub heard_by: Option<By>,
    /// Polls in vain since.
    pub failures: u32,
    /// Why the last one was.
    pub fault: Option<String>,
    /// The version of its supervisor.
    pub version: Option<String>,
    /// When the sandbox ends.
    pub expires_at: Option<Time>,
    /// The preview's state.
    pub preview: Option<String>,
    /// The sync worker's state.
    pub sync: Option<String>,
    /// The agent worker's state.
    pub agent: Option<String>,
}

/// How many rows need attention at most before the rest is only counted.
const ATTENTION: usize = 100;

impl Fleet {
    /// The sandboxes by id. `now` and `wall` are the same moment on two clocks.
    pub fn rows(&self, now: Instant, wall: jiff::Timestamp) -> Vec<FleetRow> {
        let rows = self.sandboxes.iter();
        rows.map(|(id, entry)| self.row_of(id, entry, now, wall)).collect()
    }

    /// One of them.
    pub fn row(&self, sandbox: &str, now: Instant, wall: jiff::Timestamp) -> Option<FleetRow> {
        let entry = self.sandboxes.get(sandbox)?;
        Some(self.row_of(sandbox, entry, now, wall))
    }

    /// What a sandbox last said, if it was a whole document.
    pub fn document(&self, sandbox: &str) -> Option<Arc<StatusDocument>> {
        self.sandboxes.get(sandbox)?.last.as_ref()?.what.document().cloned()
    }

    /// All of them in numbers.
    pub fn view(&self, now: Instant, wall: jiff::Timestamp) -> FleetView {
        let mut view = FleetView {
            total: self.len(),
            presence: Presence::ALL.iter().map(|presence| (presence.as_str().to_owned(), 0)).into_map(),
            ..FleetView::default()
        };
        for (id, entry) in &self.sandboxes {
            self.count(&mut view, entry);
            if view.attention.len() < ATTENTION && self.needs_attention(entry) {
                view.attention.push(self.row_of(id, entry, now, wall));
            }
        }
        view
    }

    fn count(&self, view: &mut FleetView, entry: &Entry) {
        let presence = entry.presence(&self.policy);
        *view.presence.entry(presence.as_str().to_owned()).or_default() += 1;
        let Some(what) = Self::current(entry, presence) else { return };
        *view.status.entry(what.status().as_str().to_owned()).or_default() += 1;
        if let Some(document) = what.document() {
            view.memory_bytes = view.memory_bytes.saturating_add(document.machine.memory_bytes);
            view.sync_pending = view.sync_pending.saturating_add(document.sync.pending);
            view.agent_running = view.agent_running.saturating_add(document.agent.running.len() as u64);
            view.agent_queued = view.agent_queued.saturating_add(document.agent.queued);
        }
    }

    /// What a sandbox says, as long as it is there.
    pub(super) fn current(entry: &Entry, presence: Presence) -> Option<&super::Heard> {
        match presence {
            Presence::Ready | Presence::NotReady => entry.last.as_ref().map(|last| &last.what),
            Presence::Unknown | Presence::Unreachable | Presence::Stopped => None,
        }
    }

    fn needs_attention(&self, entry: &Entry) -> bool {
        let presence = entry.presence(&self.policy);
        let bad = Self::current(entry, presence).is_some_and(|what| matches!(what.status(), Status::Failed | Status::Degraded));
        bad || presence == Presence::Unreachable
    }

    fn row_of(&self, id: &str, entry: &Entry, now: Instant, wall: jiff::Timestamp) -> FleetRow {
        let last = entry.last.as_ref();
        let document = last.and_then(|last| last.what.document());
        let at = |heard: Instant| {
            let ago = jiff::SignedDuration::try_from(now.saturating_duration_since(heard)).unwrap_or(jiff::SignedDuration::MAX);
            wall.checked_sub(ago).ok().map(Time)
        };
        FleetRow {
            sandbox_id: id.to_owned(),
            presence: entry.presence(&self.policy),
            status: last.map(|last| last.what.status()),
            heard_at: last.and_then(|last| at(last.at)),
            heard_by: last.map(|last| last.by),
            failures: entry.failures,
            fault: entry.fault.clone(),
            version: document.map(|document| document.version.clone()),
            expires_at: document.and_then(|document| document.expires_at),
            preview: document.map(|document| document.preview.state.clone()),
            sync: document.map(|document| document.sync.state.clone()),
            agent: document.map(|document| document.agent.state.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::heard::tests::document;
    use super::super::{Heard, Policy};
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_view_counts_and_points_at_what_is_wrong() {
        let (mut fleet, now) = (Fleet::new(Policy::default(), 1), Instant::now());
        let wall: jiff::Timestamp = "2026-02-03T10:00:00Z".parse().unwrap();
        fleet.add(now, "new", true);
        fleet.reported(now, "good", Heard::Document(document(Status::Ok, true, 1)));
        fleet.reported(now, "bad", Heard::Document(document(Status::Failed, false, 1)));
        fleet.reported(now, "over", Heard::Document(document(Status::Ok, true, 1)));
        fleet.stopped("over");
        let later = now + Duration::from_secs(5);
        let view = fleet.view(later, wall);
        assert_eq!(view.total, 4);
        let counts: Vec<_> = Presence::ALL.iter().map(|presence| view.presence[presence.as_str()]).collect();
        assert_eq!(counts, [1, 1, 1, 0, 1]);
        assert_eq!(view.status, [("failed".to_owned(), 1), ("ok".to_owned(), 1)].into());
        assert_eq!((view.memory_bytes, view.sync_pending, view.agent_queued), (2 << 20, 4, 6));
        let attention: Vec<_> = view.attention.iter().map(|row| row.sandbox_id.as_str()).collect();
        assert_eq!(attention, ["bad"]);
        let row = fleet.row("good", later, wall).unwrap();
        assert_eq!(row.heard_at.unwrap().to_string(), "2026-02-03T09:59:55.000Z");
        assert_eq!(row.heard_by, Some(By::Report));
    }
}
