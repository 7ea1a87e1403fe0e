//! `sandkeep sandbox`: the orchestrator's side, by hand.

mod exec;
mod inside;
mod live;
mod show;
pub(super) mod start;
mod stop;
mod upgrade;

use super::connect::block_on;
use super::{CliError, Global, out};
use crate::host::runtime_dir::Places;
use crate::sandbox::provider::Provider;
use crate::sandbox::record::Record;
use crate::sandbox::{Code, Fault, Records};
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Puts sandkeep into a sandbox and looks after it
///
/// A sandbox has a name, and the same name is the same sandbox. What was started from here is written down in the state directory, so that
/// every verb needs the name alone.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Start(Box<start::Args>),
    Status(show::StatusArgs),
    Logs(show::LogsArgs),
    Exec(exec::Args),
    Stop(stop::Args),
    Upgrade(upgrade::Args),
    List(show::ListArgs),
    /// What the binary in a sandbox is asked by the one outside
    #[command(hide = true)]
    Inside(inside::Args),
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    match args.verb {
        Verb::Start(args) => start::run(&args),
        Verb::Status(args) => show::status(args),
        Verb::Logs(args) => show::logs(args),
        Verb::Exec(args) => exec::run(args),
        Verb::Stop(args) => stop::run(args),
        Verb::Upgrade(args) => upgrade::run(args),
        Verb::List(args) => show::list(args),
        Verb::Inside(args) => inside::run(args, global),
    }
}

/// Where this side keeps what it knows. No instance has such a name.
pub(super) fn state_directory() -> Result<PathBuf, CliError> {
    let mut state = Places::of("default")?.state;
    state.pop();
    Ok(state.join(".sandboxes"))
}

/// The records.
pub(super) fn records() -> Result<Records, CliError> {
    Ok(Records::new(state_directory()?.join("records")))
}

/// Where `local` makes its sandboxes.
pub(super) fn local_root() -> Result<PathBuf, CliError> {
    Ok(state_directory()?.join("local"))
}

/// A variable of this process.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The record of a name, and its provider.
fn open(name: &str) -> Result<(Record, Arc<dyn Provider>), Fault> {
    let records = records().map_err(|error| Fault::new(Code::Record, error.message))?;
    let record = records.known(name)?;
    let provider = record.provider.open(&variable)?;
    Ok((record, provider))
}

/// Runs to its end, or until somebody presses Ctrl-C.
fn unless_interrupted<T>(future: impl Future<Output = Result<T, Fault>>) -> Result<Result<T, Fault>, CliError> {
    block_on(async {
        tokio::select! {
            result = future => Ok(result),
            _ = tokio::signal::ctrl_c() => Err(CliError {
                message: "interrupted".to_owned(),
                hint: Some("nothing is lost: the same command goes on where this one was".to_owned()),
                code: 130,
            }),
        }
    })
}

/// How a fault leaves: as JSON for programs, and for people in any case.
fn failure(fault: &Fault, json: bool) -> CliError {
    if json {
        let _ = out::print_json(&serde_json::json!({ "error": fault }));
    }
    let mut error = CliError::failed(fault.message.clone());
    if let Some(step) = fault.step {
        error.message = format!("{step}: {}", error.message);
    }
    error.hint.clone_from(&fault.hint);
    error.code = match fault.code {
        Code::NoSuchSandbox => 4,
        Code::SandboxGone => 5,
        Code::NoSupervisor => 3,
        Code::BadRequest | Code::InvalidConfig => 2,
        _ => 1,
    };
    error
}

impl From<Fault> for CliError {
    fn from(fault: Fault) -> Self {
        failure(&fault, false)
    }
}
