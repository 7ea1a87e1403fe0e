//! `sandkeep sync`.

use super::{CliError, Global};
use std::process::ExitCode;

/// The sync worker, also by hand.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep sync` is not built yet"))
}
