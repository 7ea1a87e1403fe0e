//! `sandkeep logs`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Shows what units wrote.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep logs` is not built yet"))
}
