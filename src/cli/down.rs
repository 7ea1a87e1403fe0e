//! `sandkeep down`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Stops everything, drained, in reverse order.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep down` is not built yet"))
}
