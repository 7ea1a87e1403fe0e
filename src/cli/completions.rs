//! `sandkeep completions`.

use super::{Cli, CliError, Global, out};
use clap::CommandFactory;
use std::process::ExitCode;

/// Prints a shell's completions
///
/// bash: `sandkeep completions bash > /etc/bash_completion.d/sandkeep`. zsh: into a file `_sandkeep` in a directory of `$fpath`.
/// fish: `sandkeep completions fish > ~/.config/fish/completions/sandkeep.fish`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

pub(super) fn run(args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sandkeep", &mut text);
    out::print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}
