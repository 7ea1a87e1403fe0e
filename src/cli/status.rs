//! `sandkeep status`.

use super::connect::block_on;
use super::out::{self, paint};
use super::{CliError, Global};
use crate::control::document::{StatusDocument, Time, UnitState, UnitStatus};
use std::process::ExitCode;
use std::time::Duration;

/// Shows what runs
///
/// Exits with 0, with 3 if no supervisor runs or a named unit is not active, with 4 if there is no such unit.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Units; all of them, and the sandbox as a whole, if none is named
    pub units: Vec<String>,
    /// Print the status document: with units named, an array of theirs
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    let document = block_on(async { Ok(client.status().await?) })?;
    let units = named(&document, &args.units)?;
    match (args.json, args.units.is_empty()) {
        (true, true) => out::print_json(&document)?,
        (true, false) => out::print_json(&units)?,
        (false, true) => out::print(&whole(&document, jiff::Timestamp::now()))?,
        (false, false) => out::print(&table(&units, jiff::Timestamp::now()))?,
    }
    let running = args.units.is_empty() || units.iter().all(|unit| is_up(unit));
    Ok(ExitCode::from(if running { 0 } else { 3 }))
}

fn named<'a>(document: &'a StatusDocument, names: &[String]) -> Result<Vec<&'a UnitStatus>, CliError> {
    if names.is_empty() {
        return Ok(document.units.iter().collect());
    }
    let find = |name: &String| {
        let unit = document.units.iter().find(|unit| unit.name == *name);
        unit.ok_or_else(|| {
            let known = document.units.iter().map(|unit| unit.name.as_str());
            CliError::from(crate::control::Problem::no_such_unit(name, known))
        })
    };
    names.iter().map(find).collect()
}

fn is_up(unit: &UnitStatus) -> bool {
    unit.ready || matches!(unit.state, UnitState::Active | UnitState::Reloading)
}

/// The sandbox as a whole, for people.
pub(super) fn whole(document: &StatusDocument, now: jiff::Timestamp) -> String {
    let units: Vec<&UnitStatus> = document.units.iter().collect();
    let mut text = headline(document, now);
    text.push_str(&parts(document));
    text.push('\n');
    text.push_str(&table(&units, now));
    text
}

fn headline(document: &StatusDocument, now: jiff::Timestamp) -> String {
    let status = document.status;
    let style = match status.as_str() {
        "ok" => out::GOOD,
        "failed" => out::BAD,
        _ => out::BUSY,
    };
    let ready = if document.ready { "ready" } else { "not ready" };
    let mut facts = vec![format!("{}, {ready}", paint(style, status.as_str()))];
    let named = [("sandbox", &document.sandbox), ("project", &document.project)];
    let named = named.iter().filter(|(_, name)| !name.is_empty());
    facts.extend(named.map(|(what, name)| format!("{what} {name}")));
    facts.push(format!("up {}", age(document.started_at, now)));
    if let Some(at) = document.expires_at {
        let left = at.0.duration_since(now);
        facts.push(match Duration::try_from(left) {
            Ok(left) => format!("ends in {}", out::span(left)),
            Err(_) => "past its end".to_owned(),
        });
    }
    facts.push(format!("pid {}", document.pid));
    facts.push(format!("sandkeep {}", document.version));
    format!("{}\n", facts.join(" · "))
}

fn parts(document: &StatusDocument) -> String {
    let mut facts = Vec::new();
    let StatusDocument {
        preview,
        sync,
        agent,
        machine,
        ..
    } = document;
    if preview.state != "off" {
        let port = preview.port.map_or_else(String::new, |port| format!(" on :{port}"));
        let reason = preview.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        facts.push(format!("preview {}{port}{reason}", preview.state.replace('_', " ")));
    }
    if sync.state != "off" {
        let pending = if sync.pending > 0 {
            format!(", {} pending", sync.pending)
        } else {
            String::new()
        };
        facts.push(format!("sync {}, {} files{pending}", sync.state, sync.files));
    }
    if agent.state != "off" {
        let queued = if agent.queued > 0 {
            format!(", {} queued", agent.queued)
        } else {
            String::new()
        };
        facts.push(format!("agent {}{queued}", agent.state.replace('_', " ")));
    }
    if machine.memory_total > 0 {
        let memory = format!("memory {} of {}", out::size(machine.memory_bytes), out::size(machine.memory_total));
        facts.push(format!("{memory}, {} of disk free", out::size(machine.disk_free)));
    }
    if facts.is_empty() {
        String::new()
    } else {
        format!("{}\n", facts.join(" · "))
    }
}

/// The units, for people; under those that are not ready the reason.
pub(super) fn table(units: &[&UnitStatus], now: jiff::Timestamp) -> String {
    let head = ["  UNIT", "STATE", "FOR", "RESTARTS", "PID", "PORTS", "MEMORY"];
    let mut rows = vec![head.map(|cell| paint(out::DIM, cell)).to_vec()];
    rows.extend(units.iter().map(|unit| row(unit, now)));
    let lines = out::table(&rows);
    let mut text = String::new();
    let mut lines = lines.lines();
    text.extend(lines.next().map(|head| format!("{head}\n")));
    for (line, unit) in lines.zip(units) {
        text.push_str(line);
        text.push('\n');
        for remark in remarks(unit) {
            text.push_str(&paint(out::DIM, &format!("    {}", out::harmless(&remark))));
            text.push('\n');
        }
    }
    text
}

fn row(unit: &UnitStatus, now: jiff::Timestamp) -> Vec<String> {
    let (mark, style) = mark(unit);
    let dash = || "-".to_owned();
    let ports: Vec<String> = unit.ports.iter().map(|port| address(&port.address, port.port)).collect();
    let optional = if unit.required { "" } else { ", optional" };
    vec![
        format!("{} {}", paint(style, mark), unit.name),
        format!("{} ({}){optional}", paint(style, unit.state.as_str()), unit.sub_state),
        unit.since.map_or_else(dash, |since| age(since, now)),
        unit.restarts.to_string(),
        unit.pid.map_or_else(dash, |pid| pid.to_string()),
        if ports.is_empty() { dash() } else { ports.join(" ") },
        unit.memory_bytes.map_or_else(dash, out::size),
    ]
}

/// A mark that tells without colour.
pub(super) fn mark(unit: &UnitStatus) -> (&'static str, anstyle::Style) {
    match unit.state {
        UnitState::Failed => ("✗", out::BAD),
        _ if unit.ready => ("●", out::GOOD),
        UnitState::Skipped => ("-", out::DIM),
        UnitState::Inactive if unit.sub_state != "waiting" => ("○", out::DIM),
        _ => ("◌", out::BUSY),
    }
}

fn remarks(unit: &UnitStatus) -> Vec<String> {
    let reason = unit.reason.as_deref().filter(|reason| !unit.ready && !reason.is_empty());
    let exit = unit.last_exit.as_ref().filter(|_| !unit.ready);
    let message = exit.and_then(|exit| exit.message.as_deref());
    let said = unit.status_text.as_deref().filter(|said| !said.is_empty());
    let lacks = unit.warnings.iter().map(String::as_str);
    let remarks = reason.into_iter().chain(message).chain(said).chain(lacks);
    remarks.map(ToOwned::to_owned).collect()
}

fn address(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn age(since: Time, now: jiff::Timestamp) -> String {
    // Clocks may be set back: nothing is younger than nothing.
    out::span(Duration::try_from(now.duration_since(since.0)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::{LastExit, Port};
    use crate::control::{Snapshot, UnitSnapshot};

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).collect()
    }

    #[test]
    fn the_table_tells_without_colour() {
        let start = Time("2026-02-03T14:00:00Z".parse().unwrap());
        let mut snapshot = Snapshot::empty(7, start);
        snapshot.sandbox = "sb_1".into();
        snapshot.project = "p_1".into();
        snapshot.preview.state = "loopback_only".into();
        snapshot.preview.port = Some(5173);
        snapshot.preview.reason = Some("dev listens on [::1]:5173 alone: add --host 0.0.0.0".into());
        snapshot.sync.state = "uploading".into();
        snapshot.sync.pending = 3;
        snapshot.machine.memory_total = 2 << 30;
        snapshot.machine.memory_bytes = 300 << 20;
        snapshot.machine.disk_free = 5 << 30;
        let unit = |name: &str, state, sub_state: &str, ready| UnitSnapshot {
            status: UnitStatus {
                name: name.into(),
                state,
                sub_state: sub_state.into(),
                ready,
                required: true,
                since: Some(start),
                ..UnitStatus::default()
            },
            ..UnitSnapshot::default()
        };
        let mut units = vec![
            unit("install", UnitState::Active, "exited", true),
            unit("dev", UnitState::Active, "running", true),
            unit("agent", UnitState::Failed, "dead", false),
            unit("docs", UnitState::Skipped, "dead", false),
        ];
        let dev = &mut units[1].status;
        dev.pid = Some(41);
        dev.restarts = 2;
        dev.memory_bytes = Some(91_234_304);
        dev.ports = vec![Port {
            port: 5173,
            address: "::1".into(),
        }];
        let agent = &mut units[2].status;
        agent.required = false;
        agent.reason = Some("exit code 78\u{1b}[2J (the configuration is wrong)".into());
        agent.last_exit = Some(LastExit {
            code: Some(78),
            signal: None,
            reason: "exit-code".into(),
            at: start,
            message: Some("error: the agent needs Claude Code".into()),
        });
        snapshot.units = units.into_iter().map(Into::into).collect();
        let mut document = snapshot.document();
        document.version = "0.0.0".into();
        insta::assert_snapshot!(plain(&whole(&document, "2026-02-03T15:02:05Z".parse().unwrap())));
    }
}
