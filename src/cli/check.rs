//! `sandkeep check`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Checks a configuration.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep check` is not built yet"))
}
