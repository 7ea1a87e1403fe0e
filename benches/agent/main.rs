//! What the agent worker adds, measured: `benches/agent/run`.
//!
//! `ours` measures the worker with a script in claude's place that answers at once, so that all the time is the worker's own. `beside`
//! sends the same prompts to the real CLI three ways on one loopback API: alone, under sandkeep, under `@sandbox-agent/cli`; what a way
//! takes longer than the CLI alone is what it adds.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a program for people at a terminal"
)]

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/agent/support/mod.rs"]
mod support;

mod beside;
mod ours;
mod peer;

use std::time::Duration;

/// How much is done of each thing.
pub(crate) struct Amount {
    pub(crate) prompts: usize,
    pub(crate) events: usize,
    pub(crate) seconds: u64,
}

/// A line of the table: what, how much, and the aim.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) aim: Option<f64>,
}

impl Row {
    fn print(&self) {
        let Self { what, value, unit, aim } = self;
        let judged = match aim {
            Some(aim) if value < aim => format!("under {aim} {unit} | met"),
            Some(aim) => format!("under {aim} {unit} | missed"),
            None => "| ".into(),
        };
        println!("| {what} | {value:.2} {unit} | {judged} |");
    }
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let amount = if quick {
        Amount {
            prompts: 5,
            events: 20_000,
            seconds: 2,
        }
    } else {
        Amount {
            prompts: 50,
            events: 200_000,
            seconds: 20,
        }
    };
    let mut rows = ours::measure(&amount);
    rows.extend(beside::measure(&amount));
    println!("\n| measured | here | aim | |\n| --- | --- | --- | --- |");
    for row in rows {
        row.print();
    }
}

/// The middle one, in milliseconds; all of them go to the raw output.
pub(crate) fn median(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort();
    let ms: Vec<String> = times.iter().map(|time| format!("{:.2}", time.as_secs_f64() * 1000.0)).collect();
    println!("{what}, ms: {}", ms.join(" "));
    times[times.len() / 2].as_secs_f64() * 1000.0
}

/// What a process holds, in MB, the pages of its program that are shared with other processes included.
pub(crate) fn rss(pid: u32) -> f64 {
    held(pid, "VmRSS")
}

/// A line of a process's memory, in MB.
pub(crate) fn held(pid: u32, what: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    value
        .unwrap_or_default()
        .trim()
        .trim_end_matches(" kB")
        .parse::<f64>()
        .unwrap_or(0.0)
        / 1024.0
}
