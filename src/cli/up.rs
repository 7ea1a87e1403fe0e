//! `sandkeep up`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Runs the supervisor.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep up` is not built yet"))
}
