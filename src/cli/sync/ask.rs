//! What is asked of the running worker; where none runs, `flush` does the work itself.

use super::{Place, configuration, failure, no_store, open, runtime, show, socket};
use crate::cli::{CliError, Global};
use crate::control::client::{Client, ClientError};
use crate::sync::arrive::Arrived;
use crate::sync::once;
use crate::sync::path::TreePath;
use crate::sync::status::{Flushed, Part};
use crate::sync::walk::explain;
use crate::tasks;
use serde::de::DeserializeOwned;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Json {
    /// Prints JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Flush {
    #[command(flatten)]
    place: Place,
    /// Also removes from the store what was held because much vanished at once
    #[arg(long)]
    confirm_deletes: bool,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    place: Place,
    /// Says which rule decides on a file, relative to the project
    #[arg(long, value_name = "PATH")]
    explain: Option<String>,
    #[command(flatten)]
    json: Json,
}

/// Asks the worker; `None` when none runs.
pub(super) fn ask<T: DeserializeOwned>(global: &Global, method: Method, path: &str) -> Result<Option<T>, CliError> {
    let client = Client::new(socket(global)?);
    let answer = tasks::block_on(&runtime()?, async {
        match method {
            Method::Get => client.get(path).await,
            Method::Post => client.post::<(), _>(path, None).await,
        }
    });
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::NoSupervisor { .. }) => Ok(None),
        Err(error) => Err(CliError::failed(error.to_string())),
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Get,
    Post,
}

pub(super) fn flush(args: Flush, global: &Global) -> Result<ExitCode, CliError> {
    let path = if args.confirm_deletes {
        "/v1/sync/flush?confirm_deletes=true"
    } else {
        "/v1/sync/flush"
    };
    let asked = if args.place.is_given() {
        None
    } else {
        ask::<Flushed>(global, Method::Post, path)?
    };
    let flushed = match asked {
        Some(flushed) => flushed,
        None => {
            let project = open(&configuration(&args.place, global)?)?.ok_or_else(no_store)?;
            tasks::block_on(&runtime()?, once::flush(project, args.confirm_deletes)).map_err(failure)?
        }
    };
    if args.json.json {
        show::json(&flushed);
    } else {
        show::flushed(&flushed);
    }
    match flushed.error {
        _ if flushed.durable => Ok(ExitCode::SUCCESS),
        Some(error) => Err(CliError::failed(error)),
        None => Ok(ExitCode::FAILURE),
    }
}

pub(super) fn pull(args: Json, global: &Global) -> Result<ExitCode, CliError> {
    let arrived = ask::<Arrived>(global, Method::Post, "/v1/sync/pull")?;
    let Some(arrived) = arrived else {
        return Err(no_worker().hint("`sandkeep sync restore` brings the files without one"));
    };
    if args.json {
        show::json(&arrived);
    } else {
        show::arrived(&arrived);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(args: Status, global: &Global) -> Result<ExitCode, CliError> {
    if let Some(path) = &args.explain {
        return explain_path(&args, path, global);
    }
    let Some(part) = ask::<Part>(global, Method::Get, "/v1/sync/status")? else {
        return Err(no_worker());
    };
    if args.json.json {
        show::json(&part);
    } else {
        show::part(&part);
    }
    Ok(ExitCode::SUCCESS)
}

fn explain_path(args: &Status, path: &str, global: &Global) -> Result<ExitCode, CliError> {
    let path = TreePath::parse(path.trim_start_matches("./")).map_err(|fault| CliError::usage(format!("`{path}`: {fault}")))?;
    let project = open(&configuration(&args.place, global)?)?.ok_or_else(no_store)?;
    let verdict = explain(&project.root, &project.rules, &path);
    if args.json.json {
        show::json(&serde_json::json!({ "path": path, "kept": verdict.kept, "rule": verdict.rule.to_string() }));
    } else {
        let kept = if verdict.kept { "kept" } else { "left out" };
        show::line(&format!("{path}: {kept} ({})", verdict.rule));
    }
    Ok(ExitCode::SUCCESS)
}

fn no_worker() -> CliError {
    CliError {
        code: 3,
        ..CliError::failed("no sync worker runs here")
    }
}
