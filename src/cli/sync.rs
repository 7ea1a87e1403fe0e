//! `sandkeep sync`.

mod archive;
mod ask;
mod restore;
mod show;

use super::{CliError, Global};
use crate::ordered::IntoMap;
use crate::sync::error::SyncError;
use crate::sync::project::Project;
use crate::sync::worker;
use crate::tasks;
use crate::unit::{Flags, Source, WorkerConfig, load};
use std::path::PathBuf;
use std::process::ExitCode;

/// EX_CONFIG: no later attempt can succeed without a person.
const FINAL: u8 = 78;

/// The sync worker, also by hand.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Keeps the project's files in the store until it is told to stop
    Run(Run),
    /// Sends everything now and says which generation has it
    Flush(ask::Flush),
    /// Brings in what was changed in the store
    Pull(ask::Json),
    /// Brings the project's files back from the store
    Restore(restore::Args),
    /// Shows what is kept, what waits, and why a file is or is not kept
    Status(ask::Status),
    /// Shows what differs between the tree and the store
    Diff(archive::Plain),
    /// Compares the store with its manifest
    Verify(archive::Verify),
    /// Shows the generations that one can go back to
    History(archive::History),
    /// Shows the versions that lost where both sides had changed a file, and gives one back
    Conflicts(archive::Conflicts),
    /// Removes from the store what is no longer needed
    Gc(archive::Gc),
    /// Removes all of the project from the store
    Purge(archive::Purge),
}

/// Where the project is described.
#[derive(Clone, Debug, Default, clap::Args)]
struct Place {
    /// The configuration; without it sandkeep.toml here
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The project's directory
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Whose files these are
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// The store: s3://bucket/prefix?endpoint=… or file:///directory
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

impl Place {
    /// Whether it says anything: then it need not be the project that a worker here keeps.
    fn is_given(&self) -> bool {
        self.config.is_some() || self.root.is_some() || self.project.is_some() || self.store.is_some()
    }
}

#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    place: Place,
    /// Sends nothing until a restore has completed
    #[arg(long)]
    hold: bool,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    trace();
    match args.verb {
        Verb::Run(args) => keep(args, global),
        Verb::Flush(args) => ask::flush(args, global),
        Verb::Pull(args) => ask::pull(args, global),
        Verb::Restore(args) => restore::run(args, global),
        Verb::Status(args) => ask::status(args, global),
        Verb::Diff(args) => archive::diff(args, global),
        Verb::Verify(args) => archive::verify(args, global),
        Verb::History(args) => archive::history(args, global),
        Verb::Conflicts(args) => archive::conflicts(args, global),
        Verb::Gc(args) => archive::gc(args, global),
        Verb::Purge(args) => archive::purge(args, global),
    }
}

fn keep(args: Run, global: &Global) -> Result<ExitCode, CliError> {
    crate::host::become_private();
    let config = configuration(&args.place, global)?;
    let hold = args.hold || config.sync.hold;
    let Some(project) = open(&config)? else {
        return Err(no_store());
    };
    let options = worker::Options {
        socket: Some(socket(global)?),
        hold,
        ..worker::Options::default()
    };
    // The door, and the asking for more time, go on while the worker reads or packs.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(no_runtime)?;
    tasks::block_on(&runtime, worker::run(project, options)).map_err(failure)?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration: from the supervisor, or read here.
fn configuration(place: &Place, global: &Global) -> Result<WorkerConfig, CliError> {
    if !place.is_given()
        && let Ok(json) = std::env::var(WorkerConfig::VARIABLE)
    {
        return WorkerConfig::from_json(&json).map_err(|error| CliError {
            code: FINAL,
            ..CliError::usage(format!("reading {}: {error}", WorkerConfig::VARIABLE))
        });
    }
    let directory = place.root.clone().unwrap_or_else(|| PathBuf::from("."));
    let source = match &place.config {
        Some(file) => Source::File(file.clone()),
        None => Source::in_directory(&directory),
    };
    let flags = Flags {
        project_id: place.project.clone(),
        root: place.root.clone(),
        store: place.store.clone(),
        ..Flags::default()
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .into_map();
    let loaded = load(&source, &flags, &environment).map_err(|diagnostics| CliError::usage(diagnostics.to_string()))?;
    let paths = global.paths()?;
    Ok(WorkerConfig::new(&loaded.config, &paths.state))
}

fn open(config: &WorkerConfig) -> Result<Option<Project>, CliError> {
    Project::open(config, |name| std::env::var(name).ok()).map_err(failure)
}

fn no_store() -> CliError {
    CliError {
        code: FINAL,
        ..CliError::failed("there is no store: nothing is kept")
    }
    .hint("set R2_ENDPOINT, R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and R2_BUCKET_NAME, or [sync] store")
}

/// The worker's door: beside the supervisor's socket.
fn socket(global: &Global) -> Result<PathBuf, CliError> {
    if let Some(control) = std::env::var_os("SANDKEEP_SOCKET") {
        return Ok(PathBuf::from(control).with_file_name(crate::sync::door::SOCKET));
    }
    let paths = global.paths()?;
    paths.create()?;
    Ok(paths.runtime.join(crate::sync::door::SOCKET))
}

fn failure(error: SyncError) -> CliError {
    let hint = error.hint();
    let code = if error.is_final() { FINAL } else { 1 };
    let error = CliError {
        code,
        ..CliError::failed(error.to_string())
    };
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// For what is done once: one thread, which costs the least CPU.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(no_runtime)
}

fn no_runtime(error: std::io::Error) -> CliError {
    CliError::failed(format!("starting the worker: {error}"))
}

/// Lines for the unit's log: no time, the journal has it.
fn trace() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .with_ansi(false);
    // Another verb of this process may have set one.
    let _ = subscriber.try_init();
}
