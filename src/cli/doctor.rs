//! `sandkeep doctor`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Looks for what is wrong with this sandbox
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep doctor` is not built yet"))
}
