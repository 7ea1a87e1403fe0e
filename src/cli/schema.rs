//! `sandkeep schema`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Prints the configuration's JSON Schema.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep schema` is not built yet"))
}
