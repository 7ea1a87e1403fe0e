//! `sandkeep sandbox upgrade`.

use super::{failure, open, records, unless_interrupted};
use crate::cli::CliError;
use crate::cli::out::{self, paint};
use crate::sandbox::upgrade;
use std::path::PathBuf;
use std::process::ExitCode;

/// Brings another sandkeep into a sandbox that runs
///
/// Its processes stay and keep their pids. When the new one does not take over, the old one goes on.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The sandbox
    name: String,
    /// A sandkeep for the sandbox's machine, instead of this very one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Restart the workers afterwards, one by one
    #[arg(long)]
    workers: bool,
    /// Print what it came to as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, CliError> {
    let records = records()?;
    let upgraded = unless_interrupted(async {
        let (record, provider) = open(&args.name)?;
        upgrade(&record.name, args.binary.as_deref(), args.workers, provider.as_ref(), &records).await
    })?;
    let upgraded = match upgraded {
        Ok(upgraded) => upgraded,
        Err(fault) => return Err(failure(&fault, args.json)),
    };
    if args.json {
        out::print_json(&upgraded)?;
    } else {
        let name = paint(out::BOLD, &upgraded.name);
        let text = if upgraded.changed {
            format!("{name} upgraded from {} to {}\n", upgraded.from, upgraded.to)
        } else {
            format!("{name} runs this very sandkeep already ({})\n", upgraded.to)
        };
        out::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
