//! `sandkeep doctor`.

mod cgroups;
mod machine;
mod network;
mod project;
mod store;
mod supervisor;

use super::connect::block_on;
use super::out::{self, paint};
use super::{CliError, Global};
use crate::control::StatusDocument;
use crate::ordered::IntoMap;
use crate::unit::{Config, Diagnostics, Flags, Loaded, Source, load};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Looks for what is wrong with this sandbox
///
/// Each line is ok (✓), a warning (!) or a failure (✗), and says what to do. Exits with 1 if anything failed.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration to go by, instead of `sandkeep.toml` here or what is found out about this directory
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do not try to reach anything outside of this machine
    #[arg(long)]
    pub offline: bool,
    /// Print a JSON document
    #[arg(long)]
    pub json: bool,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    about: String,
    level: Level,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn new(level: Level, about: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            about: about.into(),
            level,
            message: message.into(),
            hint: None,
        }
    }

    fn ok(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, about, message)
    }

    fn warn(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Warn, about, message)
    }

    fn fail(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Fail, about, message)
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What the checks go by.
struct Patient {
    environment: BTreeMap<String, String>,
    config: Option<Config>,
    status: Option<StatusDocument>,
    places: crate::host::runtime_dir::Places,
}

impl Patient {
    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The project's directory.
    fn root(&self) -> PathBuf {
        self.config
            .as_ref()
            .map_or_else(|| PathBuf::from("."), |config| config.root.clone())
    }
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .into_map();
    let source = args
        .config
        .clone()
        .map_or_else(|| Source::in_directory(Path::new(".")), Source::File);
    let loaded = load(&source, &Flags::default(), &environment);
    let places = global.paths()?;
    let client = global.client()?;
    let findings = block_on(async {
        let asked = client.status().await;
        let mut findings = vec![configuration(&source, &loaded), supervisor::runs(&asked)];
        let patient = Patient {
            environment,
            config: loaded.ok().map(|loaded| loaded.config),
            status: asked.ok(),
            places,
        };
        findings.extend(supervisor::findings(&patient));
        findings.extend(cgroups::findings(&patient));
        findings.extend(project::findings(&patient).await);
        findings.extend(machine::findings(&patient));
        if !args.offline {
            findings.extend(store::findings(&patient).await);
            findings.extend(network::findings(&patient).await);
        }
        Ok(findings)
    })?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    if args.json {
        out::print_json(&serde_json::json!({ "ok": !failed, "findings": findings }))?;
    } else {
        out::print(&told(&findings))?;
    }
    Ok(ExitCode::from(u8::from(failed)))
}

fn configuration(source: &Source, loaded: &Result<Loaded, Diagnostics>) -> Finding {
    let about = "configuration";
    let name = match source {
        Source::File(path) => path.display().to_string(),
        Source::Detect(_) => "what was found here".to_owned(),
    };
    match loaded {
        Ok(loaded) => {
            let units: Vec<&str> = loaded.config.units.iter().map(|unit| unit.name.as_str()).collect();
            Finding::ok(about, format!("{name}: {}", units.join(", ")))
        }
        Err(diagnostics) => {
            let first = diagnostics.0.first().map_or("", |diagnostic| diagnostic.message.as_str());
            let check = if matches!(source, Source::File(_)) {
                format!("`sandkeep check {name}`")
            } else {
                "`sandkeep check`".to_owned()
            };
            Finding::fail(about, format!("{name}: {first}")).hint(format!("{check} shows all of it"))
        }
    }
}

fn told(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.about.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding {
        about,
        level,
        message,
        hint,
    } in findings
    {
        let (mark, style) = match level {
            Level::Ok => ("✓", out::GOOD),
            Level::Warn => ("!", out::BUSY),
            Level::Fail => ("✗", out::BAD),
        };
        text.push_str(&format!("{} {about:width$}  {}\n", paint(style, mark), out::harmless(message)));
        if let Some(hint) = hint {
            text.push_str(&format!(
                "  {:width$}  {}\n",
                "",
                paint(out::DIM, &format!("→ {}", out::harmless(hint)))
            ));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let summary = match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => "nothing is wrong".to_owned(),
        (failed, warned) => format!("{failed} failed, {warned} to look at"),
    };
    text.push_str(&format!("{summary}\n"));
    text
}

/// The executable that a name stands for on a `PATH`.
fn find_executable(name: &str, path: &str) -> Option<PathBuf> {
    let is_executable = |path: &PathBuf| path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok();
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(is_executable);
    }
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| Path::new(dir).join(name))
        .find(is_executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_tell_what_to_do() {
        let findings = [
            Finding::ok("configuration", "sandkeep.toml: dev"),
            Finding::warn("memory", "120 MiB are left").hint("use a larger box"),
            Finding::fail("git", "no such command"),
        ];
        let plain: String = anstream::adapter::strip_str(&told(&findings)).collect();
        insta::assert_snapshot!(plain, @r"
        ✓ configuration  sandkeep.toml: dev
        ! memory         120 MiB are left
                         → use a larger box
        ✗ git            no such command
        1 failed, 1 to look at
        ");
    }

    #[test]
    fn executables_are_found_on_a_path() {
        let path = std::env::var("PATH").unwrap();
        assert!(find_executable("sh", &path).is_some());
        assert!(find_executable("/bin/sh", "").is_some());
        assert_eq!(find_executable("no-such-command-here", &path), None);
        assert_eq!(find_executable("/", &path), None);
    }
}
