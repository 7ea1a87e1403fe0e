//! `sandkeep man`.

use super::{Cli, CliError, Global, out};
use clap::CommandFactory;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Prints the manual pages, or writes them into a directory
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The verb whose page is printed, such as `logs` or `sync flush`; sandkeep(1) if none is named
    #[arg(conflicts_with = "directory")]
    pub verb: Vec<String>,
    /// Write all of them into this directory: `sandkeep.1`, `sandkeep-up.1`, …
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

pub(super) fn run(args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    let mut command = Cli::command();
    command.build();
    if let Some(directory) = &args.directory {
        write(directory, command)?;
    } else {
        let command = find(command, &args.verb)?;
        out::print(&page(command)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find(command: clap::Command, verbs: &[String]) -> Result<clap::Command, CliError> {
    let mut command = command;
    for verb in verbs {
        let found = command.find_subcommand(verb).cloned();
        command = found.ok_or_else(|| CliError::usage(format!("no verb has the name `{verb}`")).hint("`sandkeep --help` lists them"))?;
    }
    Ok(command)
}

fn page(command: clap::Command) -> Result<String, CliError> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(command.name(name).version(env!("CARGO_PKG_VERSION"))).render(&mut text);
    rendered.map_err(|error| CliError::failed(format!("writing a manual page: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn write(directory: &Path, command: clap::Command) -> Result<(), CliError> {
    let failed = |error| CliError::failed(format!("writing manual pages into {}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(command, directory).map_err(failed)
}
