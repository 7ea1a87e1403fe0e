//! `sandkeep mcp`.

use super::{CliError, Global};
use std::process::ExitCode;

/// Serves MCP to the agent over stdio.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    Err(CliError::failed("`sandkeep mcp` is not built yet"))
}
