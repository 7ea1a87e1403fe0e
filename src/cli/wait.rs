//! `sandkeep wait`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Waits until units are ready.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep wait` is not built yet"))
}
