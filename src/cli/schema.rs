//! `sandkeep schema`.

use super::{CliError, Global, out};
use std::process::ExitCode;

/// Prints the configuration's JSON Schema.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    out::print(crate::unit::schema())?;
    Ok(ExitCode::SUCCESS)
}
