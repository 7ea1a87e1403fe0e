//! The supervisor as a document, for the next image of the same process.
//!
//! Times are written relative to the moment of saving: an [`Instant`] means nothing to anybody else. Whoever reads a document brings its
//! own instant for that moment.
//!
//! A document is read by the version before and the one after. So unknown fields are passed over, and what a version adds to a type that
//! is saved gets `#[serde(default)]`; what it adds to a [`Unit`] or a [`Config`] has the default that its constructor gives it.

use super::graph::Graph;
use super::machine::{Shutdown, Supervisor};
use super::node::Node;
use super::requests::Pending;
use super::state::Hope;
use crate::unit::{Config, Name, Unit};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

thread_local! {
    // serde has no room for a context.
    static MOMENT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Runs something that writes or reads instants relative to this one.
pub fn relative_to<T>(moment: Instant, act: impl FnOnce() -> T) -> T {
    let before = MOMENT.replace(Some(moment));
    let done = act();
    MOMENT.set(before);
    done
}

/// A saved supervisor could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the supervisor's state: {0}")]
pub struct RestoreError(#[from] serde_json::Error);

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    #[serde(with = "some_config")]
    config: Option<Arc<Config>>,
    nodes: Vec<Node>,
    #[serde(default)]
    pending: Vec<Pending>,
    #[serde(default)]
    shutdown: Option<Shutdown>,
    #[serde(default)]
    retired: BTreeMap<Name, u64>,
    #[serde(default, with = "some_instant")]
    held_until: Option<Instant>,
    #[serde(default, with = "some_instant")]
    drain_by: Option<Instant>,
    #[serde(default)]
    hurry: bool,
    seed: u64,
    budget: Duration,
}

impl Supervisor {
    /// Everything it knows, between two steps.
    pub fn save(&self, now: Instant) -> Value {
        let saved = Saved {
            config: self.config.clone(),
            nodes: self.nodes.clone(),
            pending: self.pending.clone(),
            shutdown: self.shutdown.clone(),
            retired: self.retired.clone(),
            held_until: self.turn.held_until,
            drain_by: self.turn.drain_by,
            hurry: self.turn.hurry,
            seed: self.turn.seed,
            budget: self.budget,
        };
        relative_to(now, || serde_json::to_value(saved)).expect("every map's key is a string")
    }

    /// A supervisor that goes on where the saved one was at `moment`. Probes that were in flight are asked again.
    pub fn restore(document: Value, moment: Instant) -> Result<Self, RestoreError> {
        let saved: Saved = relative_to(moment, || serde_json::from_value(document))?;
        let mut supervisor = Self::new(moment, saved.seed).with_budget(saved.budget);
        supervisor.config = saved.config;
        supervisor.nodes = saved.nodes;
        supervisor.pending = saved.pending;
        supervisor.shutdown = saved.shutdown;
        supervisor.retired = saved.retired;
        supervisor.turn.held_until = saved.held_until;
        supervisor.turn.drain_by = saved.drain_by;
        supervisor.turn.hurry = saved.hurry;
        supervisor.graph = Graph::new(&supervisor.nodes);
        supervisor.armed = vec![None; supervisor.nodes.len()];
        supervisor.hopeless = supervisor.nodes.iter().filter(|node| node.face.hope != Hope::Some).count();
        for id in 0..supervisor.nodes.len() {
            if let Some(probes) = supervisor.nodes[id].state.probes_mut() {
                probes.ask_again(moment);
            }
            supervisor.look_around(id);
            supervisor.rearm(id);
            supervisor.dirty.insert(id);
        }
        Ok(supervisor)
    }
}

/// Nanoseconds from the moment of saving.
fn offset<E: serde::ser::Error>(at: Instant) -> Result<i64, E> {
    let moment = MOMENT
        .get()
        .ok_or_else(|| E::custom("an instant is only written relative to another"))?;
    let nanoseconds = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    Ok(match at.checked_duration_since(moment) {
        Some(after) => nanoseconds(after),
        None => -nanoseconds(moment.saturating_duration_since(at)),
    })
}

fn at<E: serde::de::Error>(offset: i64) -> Result<Instant, E> {
    let moment = MOMENT
        .get()
        .ok_or_else(|| E::custom("an instant is only read relative to another"))?;
    let span = Duration::from_nanos(offset.unsigned_abs());
    let at = if offset < 0 {
        moment.checked_sub(span)
    } else {
        moment.checked_add(span)
    };
    // Before the machine was booted: as long ago as can be told.
    Ok(at.unwrap_or(moment))
}

/// An instant.
pub(super) mod instant {
    use super::{Deserialize, Deserializer, Instant, Serialize, Serializer, at, offset};

    pub(in crate::supervisor) fn serialize<S: Serializer>(instant: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
        offset::<S::Error>(*instant)?.serialize(serializer)
    }

    pub(in crate::supervisor) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
        at(i64::deserialize(deserializer)?)
    }
}

/// An instant or none.
pub(super) mod some_instant {
    use super::{Deserialize, Deserializer, Instant, Serialize, Serializer, at, offset};

    pub(in crate::supervisor) fn serialize<S: Serializer>(instant: &Option<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
        instant.map(offset::<S::Error>).transpose()?.serialize(serializer)
    }

    pub(in crate::supervisor) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Instant>, D::Error> {
        Option::<i64>::deserialize(deserializer)?.map(at).transpose()
    }
}

/// Instants in order.
pub(super) mod instants {
    use super::{Deserialize, Deserializer, Instant, Serializer, VecDeque, at, offset};

    pub(in crate::supervisor) fn serialize<S: Serializer>(instants: &VecDeque<Instant>, serializer: S) -> Result<S::Ok, S::Error> {
        let offsets = instants.iter().map(|instant| offset::<S::Error>(*instant));
        serializer.collect_seq(offsets.collect::<Result<Vec<_>, _>>()?)
    }

    pub(in crate::supervisor) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VecDeque<Instant>, D::Error> {
        Vec::<i64>::deserialize(deserializer)?.into_iter().map(at).collect()
    }
}

/// A word of ours, kept once.
pub(super) mod word {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    /// Every word for a state or for an end of a run.
    const WORDS: &[&str] = &[
        "inactive",
        "activating",
        "active",
        "reloading",
        "deactivating",
        "failed",
        "skipped",
        "waiting",
        "start-pre",
        "start",
        "ready-wait",
        "running",
        "exited",
        "stop-term",
        "stop-kill",
        "auto-restart",
        "dead",
        "success",
        "exit-code",
        "signal",
        "core-dump",
        "timeout",
        "watchdog",
        "oom-kill",
        "resources",
        "protocol",
        "liveness",
    ];

    pub(in crate::supervisor) fn serialize<S: Serializer>(word: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
        word.serialize(serializer)
    }

    pub(in crate::supervisor) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'static str, D::Error> {
        let word = String::deserialize(deserializer)?;
        let known = WORDS.iter().find(|known| **known == word);
        // One of a later version: the few there are stay for as long as the process.
        Ok(known.copied().unwrap_or_else(|| word.leak()))
    }
}

/// A unit's section.
pub(super) mod spec {
    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer, Unit, Value, unit};

    pub(in crate::supervisor) fn serialize<S: Serializer>(spec: &Arc<Unit>, serializer: S) -> Result<S::Ok, S::Error> {
        spec.serialize(serializer)
    }

    pub(in crate::supervisor) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Unit>, D::Error> {
        unit(Value::deserialize(deserializer)?).map(Arc::new)
    }
}

/// A unit's section or none.
pub(super) mod some_spec {
    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer, Unit, Value, unit};

    pub(in crate::supervisor) fn serialize<S: Serializer>(spec: &Option<Arc<Unit>>, serializer: S) -> Result<S::Ok, S::Error> {
        spec.serialize(serializer)
    }

    pub(in crate::supervisor) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Unit>>, D::Error> {
        let spec = Option::<Value>::deserialize(deserializer)?;
        spec.map(|value| unit(value).map(Arc::new)).transpose()
    }
}

/// A configuration or none.
pub(super) mod some_config {
    use super::{Arc, Config, Deserialize, Deserializer, Serialize, Serializer, Value, config};

    pub(in crate::supervisor) fn serialize<S: Serializer>(config: &Option<Arc<Config>>, serializer: S) -> Result<S::Ok, S::Error> {
        config.serialize(serializer)
    }

    pub(in crate::supervisor) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Config>>, D::Error> {
        let document = Option::<Value>::deserialize(deserializer)?;
        document.map(|value| config(value).map(Arc::new)).transpose()
    }
}

/// A unit as another version wrote it.
pub fn saved_unit(document: Value) -> Result<Unit, RestoreError> {
    Ok(unit::<serde_json::Error>(document)?)
}

/// A unit as another version wrote it: what that did not know has its default.
fn unit<E: serde::de::Error>(mut document: Value) -> Result<Unit, E> {
    let field = |name: &str| document.get(name).cloned().unwrap_or_default();
    let name = serde_json::from_value(field("name")).map_err(E::custom)?;
    let main = serde_json::from_value(field("main")).map_err(E::custom)?;
    complete(&mut document, &Unit::new(name, main)).map_err(E::custom)?;
    serde_json::from_value(document).map_err(E::custom)
}

/// A configuration as another version wrote it.
fn config<E: serde::de::Error>(mut document: Value) -> Result<Config, E> {
    let mut default = Config::of_units(Vec::new());
    default.hash.clear();
    complete(&mut document, &default).map_err(E::custom)?;
    let units = document.get_mut("units").map(Value::take).unwrap_or_default();
    let mut config: Config = serde_json::from_value(document_without_units(document)).map_err(E::custom)?;
    let Value::Array(units) = units else {
        return Err(E::custom("the configuration has no list of units"));
    };
    config.units = units
        .into_iter()
        .map(|section| unit(section).map(Arc::new))
        .collect::<Result<_, E>>()?;
    Ok(config)
}

fn document_without_units(mut document: Value) -> Value {
    if let Some(units) = document.get_mut("units") {
        *units = Value::Array(Vec::new());
    }
    document
}

/// Fills in the fields that a document lacks.
fn complete(document: &mut Value, default: &impl Serialize) -> Result<(), serde_json::Error> {
    let default = serde_json::to_value(default)?;
    let (Value::Object(fields), Value::Object(defaults)) = (document, default) else {
        return Err(serde_json::Error::custom("not a section"));
    };
    let missing: Map<String, Value> = defaults.into_iter().filter(|(name, _)| !fields.contains_key(name)).collect();
    fields.extend(missing);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::event::{Event, ExitStatus, Stage};
    use crate::supervisor::{Action, Request, Verb};
    use crate::unit::{Command, Main, Probe, ProbeCheck, ProbeKind, Restart};

    fn config() -> Config {
        let unit = |name: &str| {
            let name = Name::new(name).expect("a name");
            Unit::new(name, Main::Exec(Command::Argv(vec!["x".into()])))
        };
        let restarting = Unit {
            restart: Restart::Always,
            restart_delay: Duration::from_secs(3),
            ..unit("backs")
        };
        let probed = Unit {
            probes: [(ProbeKind::Readiness, Probe::new(ProbeCheck::Listen(None)))].into(),
            ..unit("probed")
        };
        Config::of_units(vec![restarting, probed, unit("stops")])
    }

    fn name(name: &str) -> Name {
        Name::new(name).expect("a name")
    }

    /// One unit waits for its restart, one is asked whether it is ready, one is being stopped, and somebody waits for that.
    fn busy(now: Instant) -> Supervisor {
        let mut supervisor = Supervisor::new(now, 7);
        let config = Arc::new(config());
        let mut step = |event| supervisor.step(now, event);
        step(Event::Configure { config, request: 0 });
        for (unit, pid) in [("backs", 11), ("probed", 12), ("stops", 13)] {
            step(Event::Spawned {
                unit: name(unit),
                invocation: 1,
                stage: Stage::Main,
                pid,
                warnings: Vec::new(),
            });
        }
        step(Event::Deadline);
        step(Event::Exited {
            unit: name("backs"),
            invocation: 1,
            stage: Stage::Main,
            pid: 11,
            status: ExitStatus::Code(3),
            oom: false,
        });
        step(Event::Emptied {
            unit: name("backs"),
            invocation: 1,
            left: Vec::new(),
        });
        let verb = Verb::Stop(vec!["stops".into()]);
        step(Event::Request(Request { id: 5, verb }));
        supervisor
    }

    fn faces(supervisor: &mut Supervisor, moment: Instant) -> Vec<String> {
        let status = supervisor.status();
        let shown = status.units.iter().map(|unit| {
            let wait = unit.restart_at.map(|at| at.saturating_duration_since(moment));
            format!(
                "{} {} {} {:?} {} {wait:?} {:?}",
                unit.spec.name,
                unit.state,
                unit.sub_state,
                unit.pid,
                unit.restarts,
                unit.last_exit.as_ref().map(|exit| exit.reason)
            )
        });
        shown.collect()
    }

    fn restored(document: &Value, moment: Instant) -> Supervisor {
        let text = document.to_string();
        Supervisor::restore(serde_json::from_str(&text).unwrap(), moment).unwrap()
    }

    #[test]
    fn the_restored_one_goes_on_where_the_saved_one_was() {
        let begun = Instant::now();
        let saved = begun + Duration::from_secs(1);
        let mut before = busy(begun);
        let moment = begun + Duration::from_secs(3600);
        let mut after = restored(&before.save(saved), moment);
        assert_eq!(faces(&mut before, saved), faces(&mut after, moment));
        let actions = after.step(moment, Event::Deadline);
        assert!(
            matches!(&actions[..], [Action::Probe { .. }]),
            "what was in flight is asked again, and nothing is announced: {actions:?}"
        );
        let actions = after.step(
            moment,
            Event::Emptied {
                unit: name("stops"),
                invocation: 1,
                left: Vec::new(),
            },
        );
        let answered = actions.iter().any(|action| matches!(action, Action::Reply { request: 5, .. }));
        assert!(answered, "who waits is known: {actions:?}");
        let restarts = |supervisor: &mut Supervisor, at: Instant| {
            let actions = supervisor.step(at, Event::Deadline);
            let started = |action: &Action| matches!(action, Action::Spawn { unit, invocation: 2, .. } if unit.as_str() == "backs");
            actions.iter().any(started)
        };
        let (due, _, _) = before.next_deadline().unwrap();
        let wait = before.status().unit("backs").unwrap().restart_at.unwrap() - saved;
        assert!(due > begun && wait >= Duration::from_secs(2));
        let just_before = wait.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(!restarts(&mut after, moment + just_before));
        assert!(restarts(&mut after, moment + wait));
    }

    #[test]
    fn a_later_version_may_say_more_and_an_earlier_one_less() {
        let begun = Instant::now();
        let mut before = busy(begun);
        let document = before.save(begun);
        let mut newer = document.clone();
        let add = |value: &mut Value| {
            let fields = value.as_object_mut().unwrap();
            fields.insert("from_the_future".into(), serde_json::json!({ "a": [1] }));
        };
        let mut older = document;
        let strip = |value: &mut Value, keys: &[&str]| {
            let fields = value.as_object_mut().unwrap();
            keys.iter().for_each(|key| assert!(fields.remove(*key).is_some(), "{key}"));
        };
        add(&mut newer);
        add(&mut newer["config"]);
        strip(&mut older, &["retired", "hurry", "held_until"]);
        strip(&mut older["config"], &["report_url", "expires_at", "journal_keep"]);
        for at in 0..3 {
            add(&mut newer["config"]["units"][at]);
            add(&mut newer["nodes"][at]);
            add(&mut newer["nodes"][at]["spec"]);
            add(&mut newer["nodes"][at]["face"]);
            let of_unit = ["nice", "limits", "kill_mode", "condition_path_exists"];
            strip(&mut older["config"]["units"][at], &of_unit);
            strip(&mut older["nodes"][at]["spec"], &of_unit);
        }
        newer["nodes"][0]["last_exit"]["reason"] = "eaten".into();
        for document in [&newer, &older] {
            let mut after = restored(document, begun);
            let shown: Vec<String> = faces(&mut after, begun)
                .into_iter()
                .map(|line| line.replace("eaten", "exit-code"))
                .collect();
            assert_eq!(shown, faces(&mut before, begun));
            assert_eq!(after.config().unwrap().journal_keep, before.config().unwrap().journal_keep);
        }
    }

    #[test]
    fn an_instant_is_nothing_by_itself() {
        assert!(serde_json::to_value(busy(Instant::now()).nodes).is_err());
    }
}
