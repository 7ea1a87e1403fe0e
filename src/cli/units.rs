//! `sandkeep start`, `stop`, `restart`, `reload`, `kill`.

use super::{CliError, Global};
use std::process::ExitCode;

/// The units to act on.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Units
    pub units: Vec<String>,
}

/// Which verb.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Start,
    Stop,
    Restart,
    Reload,
}

/// Sends a signal.
#[derive(clap::Args, Debug)]
pub(super) struct KillArgs {
    /// Signal: a name or a number
    #[arg(short, long, default_value = "TERM")]
    pub signal: String,
    /// Units
    pub units: Vec<String>,
}

pub(super) fn run(_act: Act, _args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("not built yet"))
}

pub(super) fn kill(_args: KillArgs, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("not built yet"))
}
