//! `sandkeep status`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Shows what runs.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep status` is not built yet"))
}
