//! `sandkeep check`.

use super::{CliError, Global, out, up};
use crate::ordered::IntoMap;
use crate::unit::{Diagnostics, Flags, Loaded, Paint, Source, load};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks a configuration.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration; without one `sandkeep.toml` here, or what is found out about this directory
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print everything that it stands for, as TOML
    #[arg(long)]
    expanded: bool,
    /// Say whether this program could take over the supervisor whose state is on standard input
    #[arg(long, hide = true, exclusive = true)]
    handover: bool,
    /// Print what was found as JSON
    #[arg(long, conflicts_with = "expanded")]
    json: bool,
}

pub(super) fn run(args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    if args.handover {
        return up::rehearse_stdin();
    }
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .into_map();
    let source = args.file.clone().map_or_else(|| Source::in_directory(Path::new(".")), Source::File);
    let result = load(&source, &Flags::default(), &environment);
    let code = if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(2) };
    if args.json {
        out::print(&format!("{:#}\n", json(&source, &result)))?;
    } else {
        tell(&args, &source, &result)?;
    }
    Ok(code)
}

fn tell(args: &Args, source: &Source, result: &Result<Loaded, Diagnostics>) -> Result<(), CliError> {
    match result {
        Ok(loaded) => {
            warn(&loaded.warnings);
            without_effect(loaded);
            let text = if args.expanded {
                loaded.expanded.clone()
            } else {
                summary(source, loaded)
            };
            out::print(&text)
        }
        Err(diagnostics) => {
            warn(diagnostics);
            Ok(())
        }
    }
}

/// Limits that this machine cannot enforce. The sandbox may be another one: so they are no diagnostics of the file.
fn without_effect(loaded: &Loaded) {
    let rung = crate::host::look_at_cgroups();
    for unit in &loaded.config.units {
        for message in rung.missing(&unit.limits) {
            let _ = writeln!(anstream::stderr(), "note: on this machine, unit `{}`: {message}", unit.name);
        }
    }
}

fn summary(source: &Source, loaded: &Loaded) -> String {
    let mut out = String::new();
    for line in &loaded.detected {
        out.push_str(&format!("detected {line}\n"));
    }
    let names: Vec<&str> = loaded.config.units.iter().map(|unit| unit.name.as_str()).collect();
    let count = match names.len() {
        1 => "1 unit".to_owned(),
        count => format!("{count} units"),
    };
    let list = if names.is_empty() {
        String::new()
    } else {
        format!(": {}", names.join(", "))
    };
    out.push_str(&format!("{} is valid, {count}{list}\n", shown(source)));
    out
}

fn shown(source: &Source) -> String {
    match source {
        Source::File(path) => path.display().to_string(),
        Source::Detect(_) => "what was detected".to_owned(),
    }
}

fn json(source: &Source, result: &Result<Loaded, Diagnostics>) -> serde_json::Value {
    let file = match source {
        Source::File(path) => Some(path.display().to_string()),
        Source::Detect(_) => None,
    };
    match result {
        Ok(loaded) => serde_json::json!({
            "valid": true,
            "file": file,
            "config_hash": loaded.config.hash,
            "units": loaded.config.units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>(),
            "detected": loaded.detected,
            "diagnostics": loaded.warnings,
        }),
        Err(diagnostics) => serde_json::json!({
            "valid": false,
            "file": file,
            "config_hash": null,
            "units": [],
            "detected": [],
            "diagnostics": diagnostics,
        }),
    }
}

/// Writes diagnostics to stderr; with that closed nobody can be told.
fn warn(diagnostics: &Diagnostics) {
    let _ = anstream::stderr().write_all(diagnostics.render(Paint::Ansi).as_bytes());
}
