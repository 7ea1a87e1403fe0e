//! The fleet in numbers, in the OpenMetrics text format: sums over all sandboxes, so that their number does not make the number of series.

use super::state::{Fleet, Presence};
use crate::control::document::Status;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

type Labels = Vec<(&'static str, String)>;
/// How many versions are told apart.
const VERSIONS: usize = 20;

type Float = Gauge<f64, AtomicU64>;

/// Puts the fleet's numbers into a registry.
pub fn register(registry: &mut Registry, fleet: &Fleet, now: Instant) {
    presence_and_status(registry, fleet);
    sums(registry, fleet);
    traffic(registry, fleet, now);
}

fn presence_and_status(registry: &mut Registry, fleet: &Fleet) {
    let presence = Family::<Labels, Gauge>::default();
    let status = Family::<Labels, Gauge>::default();
    let version = Family::<Labels, Gauge>::default();
    let mut versions = BTreeSet::new();
    for word in Presence::ALL {
        presence.get_or_create(&vec![("presence", word.as_str().to_owned())]).set(0);
    }
    for word in [Status::Ok, Status::Starting, Status::Degraded, Status::Failed, Status::Stopping] {
        status.get_or_create(&vec![("status", word.as_str().to_owned())]).set(0);
    }
    for entry in fleet.sandboxes.values() {
        let is = entry.presence(&fleet.policy);
        presence.get_or_create(&vec![("presence", is.as_str().to_owned())]).inc();
        let Some(what) = Fleet::current(entry, is) else { continue };
        status.get_or_create(&vec![("status", what.status().as_str().to_owned())]).inc();
        if let Some(document) = what.document() {
            let known = versions.len() < VERSIONS || versions.contains(&document.version);
            let word = if known && is_version(&document.version) {
                document.version.as_str()
            } else {
                "other"
            };
            versions.insert(word.to_owned());
            version.get_or_create(&vec![("version", word.to_owned())]).inc();
        }
    }
    registry.register("fleet_sandboxes", "Sandboxes by how they are, seen from here", presence);
    registry.register("fleet_status", "Sandboxes by what they say of themselves", status);
    registry.register("fleet_version", "Sandboxes by the version of their supervisor", version);
}

/// A sandbox may say anything: the number of series stays what it is.
fn is_version(text: &str) -> bool {
    text.len() <= 32
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+'))
}

fn sums(registry: &mut Registry, fleet: &Fleet) {
    let mut sums: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut oldest = 0;
    for entry in fleet.sandboxes.values() {
        let Some(document) = Fleet::current(entry, entry.presence(&fleet.policy)).and_then(|what| what.document()) else {
            continue;
        };
        let mut add = |name, value: u64| {
            let sum = sums.entry(name).or_default();
            *sum = sum.saturating_add(value);
        };
        add("memory", document.machine.memory_bytes);
        add("oom_kills", document.machine.oom_kills);
        add("restarts", document.units.iter().map(|unit| unit.restarts).sum());
        add("sync_pending", document.sync.pending);
        add("sync_errors", document.sync.errors);
        add("agent_running", document.agent.running.len() as u64);
        add("agent_queued", document.agent.queued);
        oldest = oldest.max(document.sync.oldest_unsynced_ms);
    }
    let sum = |name| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(sums.get(name).copied().unwrap_or(0)).unwrap_or(i64::MAX));
        gauge
    };
    // Gauges all: a sandbox that goes takes its part of the sum with it.
    registry.register_with_unit("fleet_memory", "Memory in use in all sandboxes", Unit::Bytes, sum("memory"));
    registry.register("fleet_oom_kills", "OOM kills in the sandboxes there are", sum("oom_kills"));
    registry.register(
        "fleet_unit_restarts",
        "Restarts of units in the sandboxes there are",
        sum("restarts"),
    );
    registry.register("fleet_sync_pending", "Changes that are in no store yet", sum("sync_pending"));
    registry.register("fleet_sync_errors", "Errors of the sync workers", sum("sync_errors"));
    registry.register("fleet_agent_running", "Prompts that run", sum("agent_running"));
    registry.register("fleet_agent_queued", "Prompts that wait", sum("agent_queued"));
    let lag = Float::default();
    lag.set(std::time::Duration::from_millis(oldest).as_secs_f64());
    let help = "The age of the oldest change that is in no store";
    registry.register_with_unit("fleet_sync_oldest_unsynced", help, Unit::Seconds, lag);
}

fn traffic(registry: &mut Registry, fleet: &Fleet, now: Instant) {
    let counts = fleet.counts();
    let polls = Family::<Labels, Counter>::default();
    polls.get_or_create(&vec![("outcome", "answered".into())]).inc_by(counts.answered);
    polls
        .get_or_create(&vec![("outcome", "unanswered".into())])
        .inc_by(counts.unanswered);
    registry.register("fleet_polls", "Polls of sandboxes", polls);
    let reports = Family::<Labels, Counter>::default();
    reports.get_or_create(&vec![("outcome", "taken".into())]).inc_by(counts.reports);
    reports.get_or_create(&vec![("outcome", "late".into())]).inc_by(counts.reports_late);
    registry.register("fleet_reports", "Reports that sandboxes pushed", reports);
    let asked: Gauge = Gauge::default();
    asked.set(i64::try_from(fleet.asked()).unwrap_or(i64::MAX));
    registry.register("fleet_polls_under_way", "Polls that are under way", asked);
    let silent = fleet.sandboxes.values().filter_map(|entry| {
        Fleet::current(entry, entry.presence(&fleet.policy))?;
        entry.last.as_ref().map(|last| now.saturating_duration_since(last.at))
    });
    let longest = Float::default();
    longest.set(silent.max().unwrap_or_default().as_secs_f64());
    let help = "Since when the longest silent of the reachable sandboxes was not heard";
    registry.register_with_unit("fleet_longest_silence", help, Unit::Seconds, longest);
}

#[cfg(test)]
mod tests {
    use super::super::heard::tests::document;
    use super::super::{Heard, Policy};
    use super::*;
    use prometheus_client::encoding::text;

    #[test]
    fn a_scrape_sums_the_fleet() {
        let (mut fleet, now) = (Fleet::new(Policy::default(), 1), Instant::now());
        for n in 0..3 {
            fleet.reported(now, &format!("s{n}"), Heard::Document(document(Status::Ok, true, 1)));
        }
        fleet.stopped("s2");
        let mut registry = Registry::with_prefix("sandkeep");
        register(&mut registry, &fleet, now);
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            "sandkeep_fleet_sandboxes{presence=\"ready\"} 2",
            "sandkeep_fleet_sandboxes{presence=\"stopped\"} 1",
            "sandkeep_fleet_status{status=\"ok\"} 2",
            "sandkeep_fleet_version{version=\"0.1.0\"} 2",
            "sandkeep_fleet_memory_bytes 2097152",
            "sandkeep_fleet_agent_queued 6",
            "sandkeep_fleet_reports_total{outcome=\"taken\"} 3",
        ] {
            assert!(out.lines().any(|found| found == line), "{line}\n{out}");
        }
    }
}
