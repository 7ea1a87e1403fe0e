//! The snapshot in numbers, in the OpenMetrics text format. Made anew at each scrape: nothing is counted twice, nothing can disagree
//! with the status document.

use super::snapshot::Snapshot;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

/// The content type of [`encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfUnit {
    unit: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfUnitAndState {
    unit: String,
    state: &'static str,
}

type Float = Gauge<f64, AtomicU64>;

/// The whole exposition.
pub fn encode(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix("sandkeep");
    supervisor(&mut registry, snapshot);
    units(&mut registry, snapshot);
    machine(&mut registry, snapshot);
    workers(&mut registry, snapshot);
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLane {
    lane: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDirection {
    direction: &'static str,
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn bytes(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register_with_unit(name, help, Unit::Bytes, gauge);
}

fn supervisor(registry: &mut Registry, snapshot: &Snapshot) {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let labels = vec![
        ("version".to_owned(), version),
        ("config_hash".to_owned(), snapshot.config_hash.clone()),
    ];
    registry.register("build", "The supervisor and the configuration that it runs", Info::new(labels));
    gauge(registry, "ready", "Whether every required unit is ready", snapshot.ready().into());
    let status = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
    status.get_or_create(&vec![("status", snapshot.status().as_str())]).set(1);
    registry.register("status", "How the sandbox does as a whole: 1 for the status that it has", status);
    let started = Float::default();
    started.set(seconds(snapshot.started_at.0));
    registry.register_with_unit("start_time", "When the supervisor started", Unit::Seconds, started);
}

fn seconds(at: jiff::Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

fn units(registry: &mut Registry, snapshot: &Snapshot) {
    let ready = Family::<OfUnit, Gauge>::default();
    let state = Family::<OfUnitAndState, Gauge>::default();
    let restarts = Family::<OfUnit, Counter>::default();
    let starts = Family::<OfUnit, Counter>::default();
    let since = Family::<OfUnit, Float>::default();
    let memory = Family::<OfUnit, Gauge>::default();
    let cpu = Family::<OfUnit, Counter<f64, AtomicU64>>::default();
    let oom_kills = Family::<OfUnit, Counter>::default();
    for unit in &snapshot.units {
        let unit = &unit.status;
        let label = OfUnit { unit: unit.name.clone() };
        let word = OfUnitAndState {
            unit: unit.name.clone(),
            state: unit.state.as_str(),
        };
        ready.get_or_create(&label).set(unit.ready.into());
        state.get_or_create(&word).set(1);
        restarts.get_or_create(&label).inc_by(unit.restarts);
        starts.get_or_create(&label).inc_by(unit.invocation);
        if let Some(at) = unit.since {
            since.get_or_create(&label).set(seconds(at.0));
        }
        if let Some(bytes) = unit.memory_bytes {
            memory.get_or_create(&label).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(usec) = unit.cpu_usec {
            cpu.get_or_create(&label)
                .inc_by(std::time::Duration::from_micros(usec).as_secs_f64());
        }
        if let Some(count) = unit.oom_kills {
            oom_kills.get_or_create(&label).inc_by(count);
        }
    }
    registry.register("unit_ready", "Whether the unit is ready", ready);
    registry.register("unit_state", "1 for the state that the unit has", state);
    registry.register("unit_restarts", "How often the unit was started again by itself", restarts);
    registry.register("unit_starts", "How often the unit was started", starts);
    registry.register_with_unit(
        "unit_state_since",
        "Since when the unit has been in its state",
        Unit::Seconds,
        since,
    );
    registry.register_with_unit("unit_memory", "Memory of all processes of the unit", Unit::Bytes, memory);
    registry.register_with_unit("unit_cpu", "CPU time of all processes of the unit", Unit::Seconds, cpu);
    registry.register(
        "unit_oom_kills",
        "Processes of the unit that the kernel's OOM killer ended",
        oom_kills,
    );
}

fn machine(registry: &mut Registry, snapshot: &Snapshot) {
    let machine = &snapshot.machine;
    bytes(registry, "box_memory", "Memory in use", machine.memory_bytes);
    bytes(
        registry,
        "box_memory_total",
        "Memory there is, or may be used",
        machine.memory_total,
    );
    bytes(registry, "box_disk_free", "Free space where the project is", machine.disk_free);
    counter(
        registry,
        "box_oom_kills",
        "Processes that the kernel's OOM killer ended",
        machine.oom_kills,
    );
}

fn workers(registry: &mut Registry, snapshot: &Snapshot) {
    let sync = &snapshot.sync;
    gauge(registry, "sync_pending", "Changes that are not in the store yet", sync.pending);
    let oldest = Float::default();
    oldest.set(std::time::Duration::from_millis(sync.oldest_unsynced_ms).as_secs_f64());
    registry.register_with_unit(
        "sync_oldest_unsynced",
        "The age of the oldest change that is not in the store",
        Unit::Seconds,
        oldest,
    );
    gauge(registry, "sync_generation", "Counts what was brought to the store", sync.generation);
    gauge(registry, "sync_files", "Files in the store", sync.files);
    bytes(registry, "sync_stored", "The size of the files in the store", sync.bytes);
    counter(registry, "sync_errors", "Errors of the sync worker", sync.errors);
    sync_details(registry, &sync.more);
    let agent = &snapshot.agent;
    gauge(registry, "agent_running", "Prompts that run", agent.running.len() as u64);
    gauge(registry, "agent_queued", "Prompts that wait", agent.queued);
    counter(registry, "agent_done", "Prompts that ended well", agent.done);
    counter(registry, "agent_failed", "Prompts that did not", agent.failed);
    let said = |name: &str| agent.more.get(name);
    let whole = |name: &str| said(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    counter(registry, "agent_cancelled", "Prompts that somebody ended", whole("cancelled"));
    counter(registry, "agent_turns", "Rounds with the model", whole("turns"));
    let cost = Counter::<f64, AtomicU64>::default();
    cost.inc_by(said("cost_usd").and_then(serde_json::Value::as_f64).unwrap_or(0.0).max(0.0));
    registry.register("agent_cost_usd", "What the prompts have cost, in US dollars", cost);
    let time = Counter::<f64, AtomicU64>::default();
    time.inc_by(std::time::Duration::from_millis(whole("duration_ms")).as_secs_f64());
    registry.register_with_unit("agent_prompts_time", "How long the prompts took", Unit::Seconds, time);
}

/// What the sync worker says beyond the document's own fields; 0 where it says nothing.
fn sync_details(registry: &mut Registry, more: &BTreeMap<String, serde_json::Value>) {
    let number = |name: &str| more.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let requests = more.get("requests");
    let of_requests = |name: &str| requests.and_then(|part| part.get(name)?.as_u64()).unwrap_or(0);
    let lanes = Family::<OfLane, Gauge>::default();
    for (lane, name) in [("fast", "pending_fast"), ("batch", "pending_batch")] {
        let value = i64::try_from(number(name)).unwrap_or(i64::MAX);
        lanes.get_or_create(&OfLane { lane }).set(value);
    }
    registry.register("sync_pending_in_lane", "Changes that are not in the store yet, by lane", lanes);
    let classes = Family::<OfClass, Counter>::default();
    for (class, name) in [("a", "writes"), ("b", "reads"), ("free", "free")] {
        classes.get_or_create(&OfClass { class }).inc_by(of_requests(name));
    }
    registry.register("sync_requests", "Requests to the store, by the class that is paid for", classes);
    counter(
        registry,
        "sync_retries",
        "Requests to the store that were repeated",
        of_requests("retries"),
    );
    let transferred = Family::<OfDirection, Counter>::default();
    for (direction, name) in [("up", "bytes_up"), ("down", "bytes_down")] {
        transferred.get_or_create(&OfDirection { direction }).inc_by(of_requests(name));
    }
    registry.register_with_unit(
        "sync_transferred",
        "Bytes sent to and received from the store",
        Unit::Bytes,
        transferred,
    );
    let cost = Float::default();
    cost.set(more.get("cost_per_hour").and_then(serde_json::Value::as_f64).unwrap_or(0.0));
    registry.register("sync_cost_dollars_per_hour", "What the requests cost at R2's price", cost);
    gauge(
        registry,
        "sync_held_deletes",
        "Vanished files that are held in the store",
        number("held_deletes"),
    );
    counter(
        registry,
        "sync_conflicts",
        "Versions that lost a conflict and are kept",
        number("conflicts"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::{Time, UnitState, UnitStatus};
    use crate::control::snapshot::UnitSnapshot;

    /// A family's samples come in any order.
    fn ordered(text: &str) -> String {
        let mut lines: Vec<_> = text.lines().collect();
        for samples in lines.chunk_by_mut(|a, b| !a.starts_with('#') && !b.starts_with('#')) {
            samples.sort_unstable();
        }
        lines.join("\n")
    }

    #[test]
    fn a_scrape_shows_the_snapshot() {
        let mut snapshot = Snapshot::empty(1, Time(jiff::Timestamp::from_second(1_700_000_000).unwrap()));
        let dev = UnitSnapshot {
            status: UnitStatus {
                name: "dev".into(),
                state: UnitState::Active,
                ready: true,
                required: true,
                restarts: 2,
                invocation: 3,
                memory_bytes: Some(4096),
                cpu_usec: Some(1_500_000),
                oom_kills: Some(1),
                ..UnitStatus::default()
            },
            ..UnitSnapshot::default()
        };
        snapshot.units.push(dev.into());
        let requests = serde_json::json!({"writes": 4, "reads": 3, "free": 2, "retries": 1, "bytes_up": 10, "bytes_down": 20});
        snapshot.sync.more.insert("requests".into(), requests);
        snapshot.sync.more.insert("pending_fast".into(), 1.into());
        snapshot.sync.more.insert("cost_per_hour".into(), 0.002.into());
        insta::assert_snapshot!(ordered(&encode(&snapshot)).replace(env!("CARGO_PKG_VERSION"), "[version]"));
    }
}
