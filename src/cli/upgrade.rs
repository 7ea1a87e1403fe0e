//! `sandkeep upgrade`.

use super::connect::block_on;
use super::out;
use super::{CliError, Global};
use std::path::PathBuf;
use std::process::ExitCode;

/// Executes a new binary in place
///
/// The supervisor becomes the new binary: its units keep running and keep their pids, no line is lost, and whoever asks meanwhile waits
/// for a moment. First the new binary is tried; where it cannot take over, or does not come up, nothing has changed and the exit code
/// is 1.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The new binary; without it the path that the supervisor was started from
    #[arg(value_name = "BINARY")]
    binary: Option<PathBuf>,
    /// Restart the workers (agent, then sync) onto the new binary, each drained first
    #[arg(long)]
    workers: bool,
    /// Print what has become of it as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let binary = args.binary.map(std::path::absolute).transpose();
    let binary = binary.map_err(|error| CliError::failed(format!("finding the binary: {error}")))?;
    let client = global.client()?;
    let upgraded = block_on(async { Ok(client.upgrade(binary.as_deref(), args.workers).await?) })?;
    if args.json {
        out::print_json(&upgraded)?;
    } else if let Some(upgrade) = &upgraded.upgrade {
        let sha256 = upgrade.sha256.get(..12).unwrap_or_default();
        out::print(&format!(
            "{} upgraded from {} to {}: {} (sha256 {sha256})\n",
            out::paint(out::GOOD, "✓ sandkeep"),
            upgrade.from,
            upgrade.to,
            out::harmless(&upgrade.binary)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
