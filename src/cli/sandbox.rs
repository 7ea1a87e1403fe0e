//! `sandkeep sandbox`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Puts sandkeep into a sandbox and looks after it.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep sandbox` is not built yet"))
}
