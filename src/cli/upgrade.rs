//! `sandkeep upgrade`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Executes a new binary in place.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep upgrade` is not built yet"))
}
