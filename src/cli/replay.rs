//! `sandkeep replay`.

use super::{CliError, Global, out};
use crate::supervisor::{Entry, Replay, Replayed};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Runs a recording of `up --record` again
///
/// Gives the core the events of the recording at their times and compares what it decides with what it decided then. Prints every step
/// with its actions; a difference is exit code 1.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print only where it decides otherwise
    #[arg(short, long)]
    quiet: bool,
}

pub(super) fn run(args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    let failed = |act: &str, error: &dyn std::fmt::Display| CliError::failed(format!("{act} {}: {error}", args.file.display()));
    let file = File::open(&args.file).map_err(|error| failed("opening", &error))?;
    let mut replay = Replay::new(Instant::now());
    let (mut steps, mut different) = (0_usize, 0_usize);
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.map_err(|error| failed("reading", &error))?;
        let at = format!("reading line {number} of");
        // By way of a value, as a supervisor that is upgraded reads these types: their code is in the binary once.
        let value: serde_json::Value = serde_json::from_str(&line).map_err(|error| failed(&at, &error))?;
        let entry: Entry = serde_json::from_value(value).map_err(|error| failed(&at, &error))?;
        let Some(step) = replay.take(entry).map_err(|error| failed(&at, &error))? else {
            continue;
        };
        steps += 1;
        different += usize::from(!step.is_same());
        if !args.quiet || !step.is_same() {
            out::print(&told(&step))?;
        }
    }
    if different > 0 {
        return Err(CliError::failed(format!(
            "{different} of {steps} steps are decided otherwise than when they were recorded"
        )));
    }
    out::print(&format!("{steps} steps, all decided as when they were recorded\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn told(step: &Replayed) -> String {
    let mut text = format!("{:>12.6} {}\n", step.at.as_secs_f64(), event(step));
    let mark = if step.is_same() { ' ' } else { '+' };
    for action in &step.actions {
        text.push_str(&format!("           {mark} {action}\n"));
    }
    if !step.is_same() {
        for action in &step.recorded {
            text.push_str(&format!("           - {action}\n"));
        }
    }
    text
}

/// A configuration is long: its hash will do.
fn event(step: &Replayed) -> String {
    match &step.event {
        crate::supervisor::Event::Configure { config, .. } => format!("configure {}", config.hash),
        event => serde_json::to_string(event).unwrap_or_default(),
    }
}
