//! `sandkeep why`.

use super::connect::block_on;
use super::events::clock;
use super::out::{self, BAD, BOLD, BUSY, DIM, GOOD, paint};
use super::{CliError, Global};
use crate::control::Why;
use crate::control::document::{LastExit, Readiness};
use std::process::ExitCode;

/// Tells why a unit is as it is
///
/// The chain of causes, its last exit, what its probes saw, who holds its ports, its last lines, and what would start it again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The unit; every one that is not ready if none is named
    pub unit: Option<String>,
    /// Print a JSON document; without a unit, an array of them
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    if let Some(unit) = &args.unit {
        let why = block_on(async { Ok(client.why(unit).await?) })?;
        if args.json {
            out::print_json(&why)?;
        } else {
            out::print(&told(&why))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let all = block_on(async {
        let mut all = Vec::new();
        for unit in client.status().await?.units {
            if !unit.ready && unit.state != crate::control::document::UnitState::Skipped {
                all.push(client.why(&unit.name).await?);
            }
        }
        Ok(all)
    })?;
    if args.json {
        out::print_json(&all)?;
    } else if all.is_empty() {
        out::print("every unit is ready\n")?;
    } else {
        out::print(&all.iter().map(told).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// For a person, the most telling first.
pub(super) fn told(why: &Why) -> String {
    let style = match why.readiness {
        Readiness::Ready => GOOD,
        Readiness::Failed => BAD,
        Readiness::Waiting | Readiness::Starting | Readiness::Unready => BUSY,
        Readiness::Skipped | Readiness::Stopped => DIM,
    };
    let mut text = format!("{} {}\n", paint(BOLD, &why.unit), paint(style, &out::harmless(&why.summary)));
    let mut line = |title: &str, said: &str| {
        text.push_str(&format!("  {} {}\n", paint(DIM, &format!("{title:<10}")), out::harmless(said)));
    };
    for cause in why.chain.iter().skip(1) {
        let reason = cause.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        line(
            "because",
            &format!("{} is {} ({}){reason}", cause.unit, cause.state.as_str(), cause.sub_state),
        );
    }
    if let Some(exit) = &why.last_exit {
        line("last exit", &ended(exit));
        if let Some(message) = &exit.message {
            line("said", message);
        }
    }
    if why.restarts > 0 {
        line("restarts", &why.restarts.to_string());
    }
    for probe in &why.probes {
        line("probe", &format!("{} {}: {}", probe.kind, probe.state, probe.message));
    }
    for port in &why.ports {
        line("listens", &format!("{} port {}", port.address, port.port));
    }
    for holder in why
        .port_holders
        .iter()
        .filter(|holder| holder.unit.as_deref() != Some(why.unit.as_str()))
    {
        let pid = holder
            .pid
            .map_or_else(|| "a process of another user".to_owned(), |pid| format!("pid {pid}"));
        let of = holder.unit.as_ref().map_or_else(String::new, |unit| format!(" of unit {unit}"));
        line(
            "port taken",
            &format!("{} port {} by {pid}{of}: {}", holder.address, holder.port, holder.command),
        );
    }
    for warning in &why.warnings {
        line("without", warning);
    }
    line("next", &why.next);
    if !why.lines.is_empty() {
        let of = &why.lines[0].unit;
        text.push_str(&format!("\n  {}\n", paint(DIM, &format!("last lines of {of}"))));
        for line in &why.lines {
            text.push_str(&format!("  {} {}\n", clock(line.at), out::harmless(&line.text)));
        }
    }
    text
}

fn ended(exit: &LastExit) -> String {
    let how = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("signal {signal}{}", name(signal)),
        (Some(code), None) => format!("exit code {code}{}", meaning(code)),
        (None, None) => "nothing ran".to_owned(),
    };
    let reason = match exit.reason.as_str() {
        "success" | "exit-code" | "signal" | "" => String::new(),
        "oom-kill" => ", by the kernel: out of memory".to_owned(),
        other => format!(", {}", other.replace('-', " ")),
    };
    format!("{how}{reason}, {}", exit.at.0.strftime("%Y-%m-%d %H:%M:%S UTC"))
}

fn name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(|_| String::new(), |signal| format!(" ({})", signal.as_str()))
}

/// Codes that mean the same nearly everywhere.
fn meaning(code: u8) -> &'static str {
    match code {
        78 => " (its configuration is wrong: it is not started again by itself)",
        126 => " (the command is not executable)",
        127 => " (the command was not found)",
        130 => " (interrupted)",
        137 => " (SIGKILL inside a shell)",
        143 => " (SIGTERM inside a shell)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::{Port, Time, UnitState};
    use crate::control::why::{Cause, PortHolder, ProbeAnswer};

    #[test]
    fn a_person_is_told_what_matters() {
        let at = Time("2026-02-03T14:02:11Z".parse().unwrap());
        let why = Why {
            unit: "dev".into(),
            readiness: Readiness::Failed,
            summary: "failed (14:02:12) ← install failed (exit code 1, 14:02:11)".into(),
            chain: vec![
                Cause {
                    unit: "dev".into(),
                    state: UnitState::Failed,
                    sub_state: "dead".into(),
                    reason: Some("requires install, which failed".into()),
                    since: Some(at),
                },
                Cause {
                    unit: "install".into(),
                    state: UnitState::Failed,
                    sub_state: "dead".into(),
                    reason: Some("exit code 1".into()),
                    since: Some(at),
                },
            ],
            last_exit: Some(LastExit {
                code: None,
                signal: Some(9),
                reason: "oom-kill".into(),
                at,
                message: None,
            }),
            restarts: 4,
            probes: vec![ProbeAnswer {
                kind: "readiness".into(),
                state: "failing".into(),
                message: "connection refused".into(),
                at: Some(at),
            }],
            ports: vec![Port {
                port: 5174,
                address: "127.0.0.1".into(),
            }],
            port_holders: vec![PortHolder {
                port: 5173,
                address: "0.0.0.0".into(),
                pid: Some(812),
                command: "agent › bash › npm run dev".into(),
                unit: Some("agent".into()),
            }],
            warnings: vec![],
            next: "it comes back by itself when `install` is ready: `sandkeep start install`".into(),
            lines: vec![crate::control::LogLine {
                unit: "install".into(),
                at,
                stream: "stderr".into(),
                invocation: 1,
                text: "npm error code E404".into(),
                cursor: "x".into(),
            }],
        };
        let plain: String = anstream::adapter::strip_str(&told(&why)).collect();
        insta::assert_snapshot!(plain);
    }
}
