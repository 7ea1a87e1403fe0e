//! `sandkeep mcp`.

use super::{CliError, Global};
use crate::control::client::Client;
use crate::mcp;
use crate::tasks;
use std::process::ExitCode;

/// Serves MCP to the agent over stdio.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = match Client::of_parent() {
        Some(client) => client,
        None => {
            let paths = global.paths()?;
            Client::new(paths.control_socket())
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("starting the runtime: {error}")))?;
    let served = tasks::block_on(&runtime, mcp::serve(client));
    // Reading standard input blocks a thread that cannot be ended.
    runtime.shutdown_background();
    served
        .map(|()| ExitCode::SUCCESS)
        .map_err(|error| CliError::failed(error.to_string()))
}
