//! `sandkeep schema`.

use super::{CliError, Global};
use std::io::Write as _;
use std::process::ExitCode;

/// Prints the configuration's JSON Schema.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    let text = format!("{:#}\n", crate::unit::schema());
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| CliError::failed(format!("writing the schema: {error}")))?;
    Ok(ExitCode::SUCCESS)
}
