//! `sandkeep serve`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Serves the app's actions over HTTP.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep serve` is not built yet"))
}
