//! `sandkeep agent`.

use super::{CliError, Global};
use std::process::ExitCode;

/// The agent worker, also by hand.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep agent` is not built yet"))
}
