//! What people read.

#![expect(clippy::print_stdout, reason = "the command line is what prints")]

use crate::cli::CliError;
use crate::sync::arrive::Arrived;
use crate::sync::status::{Flushed, Part, State};
use serde::Serialize;
use std::process::ExitCode;

pub(super) fn json<T: Serialize>(value: &T) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(error) => println!("{{\"error\":\"{error}\"}}"),
    }
}

pub(super) fn line(text: &str) {
    println!("{text}");
}

/// Bytes as they are.
pub(super) fn raw(bytes: &[u8]) -> Result<ExitCode, CliError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.map_err(|error| CliError::failed(format!("writing to stdout: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn flushed(flushed: &Flushed) {
    if flushed.durable {
        println!("generation {} has everything", flushed.generation);
    } else {
        println!("generation {}; {} files are not in the store", flushed.generation, flushed.pending);
    }
    if flushed.held_deletes > 0 {
        println!(
            "{} vanished files are held in the store (--confirm-deletes removes them)",
            flushed.held_deletes
        );
    }
}

pub(super) fn arrived(arrived: &Arrived) {
    println!(
        "generation {}: {} files brought ({}), {} removed, {} as they were, {} of yours kept",
        arrived.generation,
        arrived.downloaded,
        bytes(arrived.bytes),
        arrived.removed,
        arrived.unchanged,
        arrived.kept
    );
    if arrived.conflicts > 0 {
        println!(
            "{} were changed on both sides: `sandkeep sync conflicts` shows the other versions",
            arrived.conflicts
        );
    }
    for (path, why) in &arrived.refused {
        println!("not restored: `{path}`: {why}");
    }
}

pub(super) fn part(part: &Part) {
    let state = match part.state {
        State::Off => "off",
        State::Restoring => "restoring",
        State::Idle => "idle",
        State::Uploading => "uploading",
        State::Held => "held: nothing is sent, there was no restore",
        State::Fenced => "fenced: a newer box of this project has taken over",
        State::Offline => "offline: the store cannot be reached",
    };
    println!("state       {state}");
    println!("generation  {}", part.generation);
    println!("files       {} ({})", part.files, bytes(part.bytes));
    println!(
        "pending     {} (configuration {}, the rest {})",
        part.pending, part.pending_fast, part.pending_batch
    );
    if part.oldest_unsynced_ms > 0 {
        println!("oldest      {:.1} s", seconds(part.oldest_unsynced_ms));
    }
    if let Some(at) = &part.last_upload_at {
        println!("last sent   {at}");
    }
    if let Some(why) = &part.held_because {
        println!("held        {} vanished files: {why}", part.held_deletes);
    }
    if part.conflicts > 0 {
        println!("conflicts   {}", part.conflicts);
    }
    println!("left out    {} changed files that a rule leaves out", part.excluded_changed);
    println!("watching    {}", part.watching);
    let requests = &part.requests;
    println!(
        "requests    {} writes, {} reads, {} deletes, {} repeated (${:.4} an hour)",
        requests.writes, requests.reads, requests.free, requests.retries, part.cost_per_hour
    );
    if let Some(error) = &part.last_error {
        println!("last error  {error} ({} in all)", part.errors);
    }
    for (path, why) in &part.odd {
        println!("not kept    `{path}`: {why}");
    }
}

/// A size for people.
#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is rounded anyway")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
