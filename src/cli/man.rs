//! `sandkeep man`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Prints the manual pages.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep man` is not built yet"))
}
