//! `sandkeep start`, `stop`, `restart`, `reload`, `kill`.

use super::connect::block_on;
use super::out::{self, paint};
use super::status::mark;
use super::{CliError, Global};
use crate::control::client::Wait;
use crate::control::{Done, ReloadRequest, params};
use std::process::ExitCode;
use std::time::Duration;

/// The units to act on.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Units
    pub units: Vec<String>,
    /// Do not wait for the outcome
    #[arg(long)]
    pub no_block: bool,
    /// Wait for so long at most, such as `30s`; it goes on afterwards
    #[arg(long, value_name = "TIME", value_parser = params::duration, conflicts_with = "no_block")]
    pub timeout: Option<Duration>,
    /// Print the units' status as JSON
    #[arg(long)]
    pub json: bool,
}

/// Which verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Start,
    Stop,
    Restart,
    Reload,
}

impl Act {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
        }
    }
}

/// Sends a signal to all processes of units
#[derive(clap::Args, Debug)]
pub(super) struct KillArgs {
    /// Signal: a name or a number
    #[arg(short, long, default_value = "TERM", value_name = "SIGNAL")]
    pub signal: String,
    /// Units
    #[arg(required = true)]
    pub units: Vec<String>,
}

pub(super) fn run(act: Act, args: Args, global: &Global) -> Result<ExitCode, CliError> {
    if args.units.is_empty() {
        return without_units(act, &args, global);
    }
    let wait = match args.timeout {
        _ if args.no_block => Wait::Not,
        Some(limit) => Wait::AtMost(limit),
        None => Wait::Done,
    };
    let client = global.client()?;
    let done = block_on(async { Ok(client.command(act.as_str(), &args.units, wait).await?) })?;
    if args.json {
        out::print_json(&done)?;
    } else if !args.no_block {
        out::print(&told(&done))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn without_units(act: Act, args: &Args, global: &Global) -> Result<ExitCode, CliError> {
    if act != Act::Reload {
        return Err(CliError::usage("no unit is named").hint("`sandkeep status` lists them"));
    }
    let client = global.client()?;
    let reloaded = block_on(async { Ok(client.reload(&ReloadRequest::default()).await?) })?;
    if args.json {
        out::print_json(&reloaded)?;
    } else if reloaded.changed {
        out::print("the configuration was read again and is being applied\n")?;
    } else {
        out::print("the configuration was read again: nothing differs\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(done: &Done) -> String {
    let line = |unit: &crate::control::UnitStatus| {
        let (mark, style) = mark(unit);
        let ready = if unit.ready { ", ready" } else { "" };
        format!(
            "{} {}: {} ({}){ready}\n",
            paint(style, mark),
            unit.name,
            unit.state.as_str(),
            unit.sub_state
        )
    };
    done.units.iter().map(line).collect()
}

pub(super) fn kill(args: KillArgs, global: &Global) -> Result<ExitCode, CliError> {
    params::signal(&args.signal).map_err(CliError::usage)?;
    let client = global.client()?;
    block_on(async { Ok(client.kill(&args.units, &args.signal).await?) })?;
    Ok(ExitCode::SUCCESS)
}
