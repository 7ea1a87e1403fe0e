//! `sandkeep sandbox stop`.

use super::{failure, open, records, unless_interrupted};
use crate::cli::CliError;
use crate::cli::out::{self, paint};
use crate::control::params;
use crate::sandbox::stop::{Files, StopRequest, Stopped, stop};
use std::process::ExitCode;
use std::time::Duration;

/// Stops a sandbox, drained: files are brought to the store first
///
/// Warns of what is in it and nowhere else: commits that were not pushed, files that are not in the store. Stopped already is fine.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The sandbox
    name: String,
    /// How long it may drain
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = params::duration)]
    drain: Duration,
    /// Remove it too, with what we made in it, and forget it
    #[arg(long)]
    remove: bool,
    /// Print what it came to as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, CliError> {
    let request = StopRequest {
        drain: args.drain,
        files: if args.remove { Files::Remove } else { Files::Keep },
    };
    let records = records()?;
    let stopped = unless_interrupted(async {
        let (record, provider) = open(&args.name)?;
        stop(&record.name, request, provider.as_ref(), &records).await
    })?;
    let stopped = match stopped {
        Ok(stopped) => stopped,
        Err(fault) => return Err(failure(&fault, args.json)),
    };
    if args.json {
        out::print_json(&stopped)?;
    } else {
        out::print(&told(&stopped, args.remove))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(stopped: &Stopped, removed: bool) -> String {
    let mut text = String::new();
    for warning in &stopped.warnings {
        text.push_str(&format!("{} {warning}\n", paint(out::BUSY, "warning:")));
    }
    let what = match (stopped.drained, stopped.already) {
        (true, _) => "drained and stopped",
        (false, true) => "was stopped already",
        (false, false) => "stopped",
    };
    let removed = if removed { ", and removed" } else { "" };
    text.push_str(&format!("{} {what}{removed}\n", paint(out::BOLD, &stopped.name)));
    text
}
