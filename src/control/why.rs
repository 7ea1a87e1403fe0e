//! Why a unit is as it is: the chain of causes and what a person needs beside it.

use super::document::{LastExit, Port, Readiness, Time, UnitState};
use super::logs::LogLine;
use super::snapshot::{Goal, Snapshot, UnitSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A probe's last answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeAnswer {
    /// `startup`, `readiness` or `liveness`.
    pub kind: String,
    /// `passing`, `failing` or `unknown`.
    pub state: String,
    /// What it saw.
    pub message: String,
    /// When.
    pub at: Option<Time>,
}

/// A process that listens on a port that the unit is expected to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortHolder {
    /// The port.
    pub port: u16,
    /// The address.
    pub address: String,
    /// The process.
    pub pid: Option<i32>,
    /// Its command line, or how it came to be (`agent › bash › npm run dev`).
    pub command: String,
    /// The unit that it belongs to.
    pub unit: Option<String>,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// The unit.
    pub unit: String,
    /// Its state.
    pub state: UnitState,
    /// The finer one.
    pub sub_state: String,
    /// Why it is in it.
    pub reason: Option<String>,
    /// Since when.
    pub since: Option<Time>,
}

/// `GET /v1/units/{u}/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The unit.
    pub unit: String,
    /// In one word.
    pub readiness: Readiness,
    /// The chain of causes in one line: `failed ← install failed (exit code 1, 14:02:11)`.
    pub summary: String,
    /// This unit first, the root of it last.
    pub chain: Vec<Cause>,
    /// How its main process last ended.
    pub last_exit: Option<LastExit>,
    /// How often it was started again by itself.
    pub restarts: u64,
    /// What its probes last saw.
    pub probes: Vec<ProbeAnswer>,
    /// Where it listens.
    pub ports: Vec<Port>,
    /// Who holds the ports that it is expected to listen on.
    pub port_holders: Vec<PortHolder>,
    /// What it does without.
    pub warnings: Vec<String>,
    /// What would start it again, or make it ready.
    pub next: String,
    /// Its last lines, or those of the root of it.
    pub lines: Vec<LogLine>,
}

impl Why {
    /// Puts it together; `None` when there is no such unit.
    pub fn new(snapshot: &Snapshot, unit: &str, port_holders: Vec<PortHolder>, lines: Vec<LogLine>) -> Option<Self> {
        let chain = chain(snapshot, unit);
        let this = chain.first()?;
        Some(Self {
            unit: unit.to_owned(),
            readiness: this.readiness(),
            summary: summary(&chain),
            last_exit: this.status.last_exit.clone(),
            restarts: this.status.restarts,
            probes: this.answers.clone(),
            ports: this.status.ports.clone(),
            port_holders,
            warnings: this.warnings.clone(),
            next: next(&chain),
            lines,
            chain: chain.iter().map(|link| cause(link)).collect(),
        })
    }

    /// The unit whose last lines tell most: the root of the chain.
    pub fn root<'a>(snapshot: &'a Snapshot, unit: &'a str) -> &'a str {
        chain(snapshot, unit).last().map_or(unit, |root| &root.status.name)
    }
}

/// The unit and what it waits for or failed because of. Ends where there is no further cause; a ring cannot go round twice.
fn chain<'a>(snapshot: &'a Snapshot, unit: &str) -> Vec<&'a UnitSnapshot> {
    let mut chain: Vec<&UnitSnapshot> = Vec::new();
    let mut next = snapshot.unit(unit);
    while let Some(link) = next {
        if chain.iter().any(|seen| seen.status.name == link.status.name) {
            break;
        }
        chain.push(link);
        next = link.cause.as_deref().and_then(|cause| snapshot.unit(cause));
    }
    chain
}

fn cause(link: &UnitSnapshot) -> Cause {
    Cause {
        unit: link.status.name.clone(),
        state: link.status.state,
        sub_state: link.status.sub_state.clone(),
        reason: link.status.reason.clone(),
        since: link.status.since,
    }
}

fn summary(chain: &[&UnitSnapshot]) -> String {
    let links = chain.iter().enumerate().map(|(n, link)| {
        let word = word(link);
        let subject = if n == 0 {
            word.to_owned()
        } else {
            format!("{} {word}", link.status.name)
        };
        let clock = link.status.since.map(clock);
        // A link that has a cause of its own is explained by the next one.
        let reason = link.status.reason.clone().filter(|_| n + 1 == chain.len());
        let detail: Vec<String> = reason.into_iter().chain(clock).collect();
        if detail.is_empty() {
            subject
        } else {
            format!("{subject} ({})", detail.join(", "))
        }
    });
    links.collect::<Vec<_>>().join(" ← ")
}

fn word(link: &UnitSnapshot) -> &'static str {
    match (link.status.sub_state.as_str(), link.readiness()) {
        ("auto-restart", _) => "restarting",
        ("stop-term" | "stop-kill", _) => "stopping",
        (_, readiness) => readiness.as_str(),
    }
}

fn clock(time: Time) -> String {
    time.0.strftime("%H:%M:%S").to_string()
}

fn next(chain: &[&UnitSnapshot]) -> String {
    let this = chain[0];
    let name = &this.status.name;
    if let [_, .., root] = chain {
        let root_name = &root.status.name;
        return match root.readiness() {
            Readiness::Failed => format!("it comes back by itself when `{root_name}` is ready: {}", alone(root)),
            Readiness::Stopped => format!("`sandkeep start {root_name}`"),
            _ => format!("it goes on by itself when `{root_name}` is ready"),
        };
    }
    match this.readiness() {
        Readiness::Ready => format!("nothing to do; `sandkeep restart {name}` starts it anew"),
        Readiness::Skipped => format!("its condition is met and `sandkeep start {name}`"),
        _ => alone(this),
    }
}

/// What would bring this unit up, its causes left aside.
fn alone(unit: &UnitSnapshot) -> String {
    let name = &unit.status.name;
    match (unit.readiness(), unit.next_start_at) {
        (_, Some(at)) => format!(
            "it starts again by itself at {}; `sandkeep start {name}` does so at once",
            clock(at)
        ),
        (Readiness::Failed, None) if !unit.retry_on_change.is_empty() => {
            let globs = unit.retry_on_change.join(", ");
            format!("`sandkeep start {name}`, or a change of a file that matches {globs}")
        }
        (Readiness::Failed | Readiness::Stopped, None) => format!("`sandkeep start {name}`"),
        (Readiness::Unready, None) => "it is ready again when its readiness probe passes".to_owned(),
        _ if unit.goal == Goal::Down => format!("`sandkeep start {name}`"),
        _ => "it is on its way: nothing to do but wait".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::UnitStatus;

    fn unit(name: &str, state: UnitState, sub_state: &str, cause: Option<&str>, reason: &str) -> UnitSnapshot {
        UnitSnapshot {
            status: UnitStatus {
                name: name.into(),
                state,
                sub_state: sub_state.into(),
                reason: Some(reason.into()),
                required: true,
                since: Some(Time("2026-02-03T14:02:11Z".parse().unwrap())),
                ..UnitStatus::default()
            },
            cause: cause.map(Into::into),
            ..UnitSnapshot::default()
        }
    }

    fn snapshot(units: Vec<UnitSnapshot>) -> Snapshot {
        let mut snapshot = Snapshot::empty(7, Time(jiff::Timestamp::UNIX_EPOCH));
        snapshot.units = units.into_iter().map(Into::into).collect();
        snapshot
    }

    #[test]
    fn the_chain_ends_at_the_root() {
        let snapshot = snapshot(vec![
            unit("install", UnitState::Failed, "dead", None, "exit code 1"),
            unit("dev", UnitState::Failed, "dead", Some("install"), "requires install, which failed"),
        ]);
        let why = Why::new(&snapshot, "dev", vec![], vec![]).unwrap();
        assert_eq!(why.summary, "failed (14:02:11) ← install failed (exit code 1, 14:02:11)");
        assert_eq!(
            why.next,
            "it comes back by itself when `install` is ready: `sandkeep start install`"
        );
        assert_eq!(Why::root(&snapshot, "dev"), "install");
        assert_eq!(why.chain.len(), 2);
        assert!(Why::new(&snapshot, "web", vec![], vec![]).is_none());
    }

    #[test]
    fn causes_in_a_ring_end() {
        let snapshot = snapshot(vec![
            unit("a", UnitState::Activating, "waiting", Some("b"), "waits for b"),
            unit("b", UnitState::Activating, "waiting", Some("a"), "waits for a"),
        ]);
        assert_eq!(Why::new(&snapshot, "a", vec![], vec![]).unwrap().chain.len(), 2);
    }

    #[test]
    fn what_starts_it_again() {
        let mut backoff = unit("dev", UnitState::Activating, "auto-restart", None, "exit code 1");
        backoff.next_start_at = Some(Time("2026-02-03T14:02:19Z".parse().unwrap()));
        let text = |unit| Why::new(&snapshot(vec![unit]), "dev", vec![], vec![]).unwrap().next;
        assert_eq!(
            text(backoff),
            "it starts again by itself at 14:02:19; `sandkeep start dev` does so at once"
        );
        let mut failed = unit("dev", UnitState::Failed, "dead", None, "exit code 78");
        assert_eq!(text(failed.clone()), "`sandkeep start dev`");
        failed.retry_on_change = vec!["**".into()];
        assert_eq!(text(failed), "`sandkeep start dev`, or a change of a file that matches **");
    }
}
