//! `sandkeep why`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Tells why a unit is as it is.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep why` is not built yet"))
}
