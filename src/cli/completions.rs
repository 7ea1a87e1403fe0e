//! `sandkeep completions`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Prints a shell's completions.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep completions` is not built yet"))
}
