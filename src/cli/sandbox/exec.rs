//! `sandkeep sandbox exec`.

use super::show::{exit_code, pass_on};
use super::{failure, open, unless_interrupted};
use crate::cli::CliError;
use crate::control::params;
use crate::sandbox::exec as execute;
use crate::sandbox::provider::{Command, Secret};
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

/// Runs a command in a sandbox, in the project's directory
///
/// Exits as the command does.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The sandbox
    name: String,
    /// Give it what is on standard input, to its end
    #[arg(short, long)]
    interactive: bool,
    /// Another directory
    #[arg(long, value_name = "DIR")]
    directory: Option<String>,
    /// How long it may take
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = params::duration)]
    timeout: Duration,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, CliError> {
    let mut command = Command::new(args.command).within(args.timeout).once();
    command.directory = args.directory;
    if args.interactive {
        let mut input = Vec::new();
        let read = std::io::stdin().read_to_end(&mut input);
        read.map_err(|error| CliError::failed(format!("reading standard input: {error}")))?;
        command = command.with_stdin(Secret::new(input));
    }
    let exit = unless_interrupted(async {
        let (record, provider) = open(&args.name)?;
        execute(&record, provider.as_ref(), command, &mut pass_on).await
    })?;
    match exit {
        Ok(exit) => Ok(exit_code(exit.0)),
        Err(fault) => Err(failure(&fault, false)),
    }
}
