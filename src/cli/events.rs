//! `sandkeep events`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Shows transitions.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep events` is not built yet"))
}
