//! The past and the end: `history`, `conflicts`, `diff`, `verify`, `gc`, `purge`.

use super::ask::{self, Json};
use super::{Place, configuration, failure, no_store, open, runtime, show};
use crate::cli::{CliError, Global};
use crate::sync::gc::Collected;
use crate::sync::project::Project;
use crate::sync::{archive, conflicts, gc};
use crate::tasks;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Plain {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    #[command(flatten)]
    plain: Plain,
    /// Reads every object and compares its content
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct History {
    #[command(flatten)]
    plain: Plain,
    /// How many
    #[arg(short, long, value_name = "N", default_value_t = 20)]
    number: usize,
}

#[derive(Debug, clap::Args)]
pub(super) struct Gc {
    #[command(flatten)]
    plain: Plain,
    /// How many generations stay
    #[arg(long, value_name = "N", default_value_t = gc::KEEP_GENERATIONS)]
    keep: usize,
}

#[derive(Debug, clap::Args)]
pub(super) struct Conflicts {
    #[command(flatten)]
    plain: Plain,
    /// Writes the kept content of this one to stdout
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Purge {
    #[command(flatten)]
    plain: Plain,
    /// Means it: nothing of it comes back
    #[arg(long)]
    yes: bool,
}

fn project(plain: &Plain, global: &Global) -> Result<Project, CliError> {
    open(&configuration(&plain.place, global)?)?.ok_or_else(no_store)
}

pub(super) fn diff(args: Plain, global: &Global) -> Result<ExitCode, CliError> {
    let difference = tasks::block_on(&runtime()?, archive::diff(project(&args, global)?)).map_err(failure)?;
    if args.json.json {
        show::json(&difference);
        return Ok(ExitCode::SUCCESS);
    }
    for (sign, paths) in [("+", &difference.added), ("~", &difference.changed), ("-", &difference.missing)] {
        paths.iter().for_each(|path| show::line(&format!("{sign} {path}")));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn verify(args: Verify, global: &Global) -> Result<ExitCode, CliError> {
    let verified = tasks::block_on(&runtime()?, archive::verify(project(&args.plain, global)?, args.deep)).map_err(failure)?;
    if args.plain.json.json {
        show::json(&verified);
    } else {
        show::line(&format!("{} objects are what the manifest says", verified.good));
        verified
            .foreign
            .iter()
            .for_each(|key| show::line(&format!("written by somebody else: `{key}`")));
        verified.missing.iter().for_each(|path| show::line(&format!("missing: `{path}`")));
        verified.damaged.iter().for_each(|path| show::line(&format!("damaged: `{path}`")));
    }
    let good = verified.missing.is_empty() && verified.damaged.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn history(args: History, global: &Global) -> Result<ExitCode, CliError> {
    let project = project(&args.plain, global)?;
    let generations = tasks::block_on(&runtime()?, archive::history(&project, args.number)).map_err(failure)?;
    if args.plain.json.json {
        show::json(&generations);
        return Ok(ExitCode::SUCCESS);
    }
    for one in &generations {
        let size = show::bytes(one.bytes);
        show::line(&format!(
            "{:>8}  {}  {:>6} files  {size:>10}  {}",
            one.generation, one.created, one.files, one.sandbox
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// A worker that runs here does it itself, since it is the one that puts things there.
pub(super) fn gc(args: Gc, global: &Global) -> Result<ExitCode, CliError> {
    let asked = if args.plain.place.is_given() {
        None
    } else {
        ask::ask::<Collected>(global, ask::Method::Post, &format!("/v1/sync/gc?keep={}", args.keep))?
    };
    let collected = match asked {
        Some(collected) => collected,
        None => {
            let project = project(&args.plain, global)?;
            tasks::block_on(&runtime()?, gc::collect(&project, args.keep)).map_err(failure)?
        }
    };
    if args.plain.json.json {
        show::json(&collected);
    } else {
        show::line(&format!(
            "removed {} generations, {} contents from the trash, {} conflicts, {} packs and bundles, {} postmortems: {}",
            collected.generations,
            collected.trash,
            collected.conflicts,
            collected.packs,
            collected.postmortems,
            show::bytes(collected.bytes)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn conflicts(args: Conflicts, global: &Global) -> Result<ExitCode, CliError> {
    let project = project(&args.plain, global)?;
    if let Some(name) = &args.name {
        let found = tasks::block_on(&runtime()?, conflicts::conflict(&project, name)).map_err(failure)?;
        let bytes = found.ok_or_else(|| {
            CliError::failed(format!("no conflict has the name `{name}`")).hint("`sandkeep sync conflicts` shows their names")
        })?;
        return show::raw(&bytes);
    }
    let kept = tasks::block_on(&runtime()?, conflicts::conflicts(&project)).map_err(failure)?;
    if args.plain.json.json {
        show::json(&kept);
        return Ok(ExitCode::SUCCESS);
    }
    for one in &kept {
        let size = show::bytes(one.size);
        show::line(&format!("{}  {size:>10}  {}", one.at, one.name));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn purge(args: Purge, global: &Global) -> Result<ExitCode, CliError> {
    let project = project(&args.plain, global)?;
    if !args.yes {
        let what = format!("this removes all of `{}` from {}", project.id, project.store.name());
        return Err(CliError::usage(what).hint("say --yes if you mean it"));
    }
    let removed = tasks::block_on(&runtime()?, archive::purge(&project)).map_err(failure)?;
    if args.plain.json.json {
        show::json(&serde_json::json!({ "removed": removed }));
    } else {
        show::line(&format!("{removed} objects removed"));
    }
    Ok(ExitCode::SUCCESS)
}
