//! `sandkeep wait`.

use super::connect::block_on;
use super::out;
use super::{CliError, Global};
use crate::control::params;
use std::process::ExitCode;
use std::time::Duration;

/// Waits until units are ready
///
/// Exits with 0 when they are, with 1 as soon as one has failed or when time is up.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Units; every required one if none is named
    pub units: Vec<String>,
    /// For so long at most, such as `60s`
    #[arg(long, value_name = "TIME", value_parser = params::duration)]
    pub timeout: Option<Duration>,
    /// Print the status document
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = global.client()?;
    let document = block_on(async { Ok(client.wait(&args.units, args.timeout).await?) })?;
    if args.json {
        out::print_json(&document)?;
    }
    Ok(ExitCode::SUCCESS)
}
