//! The way in: a file, or a directory to look into, and flags become a checked configuration.

use super::check::{self, Surroundings};
use super::config::Config;
use super::detect::{self, Detected};
use super::diagnostic::Diagnostics;
use super::expand::{SecretNames, Variables};
use super::faults::{At, Faults};
use super::file::{File, Project};
use super::reader::Reader;
use super::{expanded, project};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// This file; it must be there.
    File(PathBuf),
    /// No file: what is found in this directory (lock file, framework), and the flags.
    Detect(PathBuf),
}

impl Source {
    /// The name of the file that is looked for.
    pub const FILE_NAME: &str = "sandkeep.toml";

    /// The file of that directory if there is one, else what is found in it. What plain `up` does in `.`.
    pub fn in_directory(directory: &Path) -> Self {
        let file = directory.join(Self::FILE_NAME);
        let file = file.strip_prefix(".").map(Path::to_owned).unwrap_or(file);
        if file.symlink_metadata().is_ok() {
            Self::File(file)
        } else {
            Self::Detect(directory.to_owned())
        }
    }
}

/// What the command line says; each wins over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flags {
    /// `--install`: the install command; empty = none.
    pub install: Option<String>,
    /// `--dev`: the command of the dev server; empty = none.
    pub dev: Option<String>,
    /// `--port`: the dev server's port.
    pub port: Option<u16>,
    /// `--project`: whose files these are.
    pub project_id: Option<String>,
    /// `--root`: the project's directory, relative to the current one.
    pub root: Option<PathBuf>,
    /// `--listen`: address of the health endpoint, or `off`.
    pub listen: Option<String>,
    /// `--store`: the store's URL; empty = none.
    pub store: Option<String>,
    /// `--skip-restore`: nothing is restored, and uploads are held.
    pub skip_restore: bool,
    /// No flag: a configuration with nothing to run will do, since a worker is run by hand.
    pub without_units: bool,
}

/// A configuration and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to run.
    pub config: Config,
    /// What was found out and because of what, one line each; empty when nothing had to be.
    pub detected: Vec<String>,
    /// Warnings.
    pub warnings: Diagnostics,
    /// The whole of it as TOML: valid input again, secrets by name.
    pub expanded: String,
}

impl Loaded {
    /// The configuration alone; what else was there to say is let go of.
    pub fn into_config(self) -> Config {
        self.config
    }
}

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;

/// Reads, expands and checks a configuration.
///
/// `environment` is the supervisor's, from before it scrubs the secrets.
///
/// # Errors
/// Everything that is wrong, at once. Exit code 2.
pub fn load(source: &Source, flags: &Flags, environment: &BTreeMap<String, String>) -> Result<Loaded, Diagnostics> {
    match source {
        Source::File(path) => {
            let text = read(path)?;
            let absolute = std::path::absolute(path).map_err(|error| Diagnostics::error(format!("{}: {error}", path.display())))?;
            let base = absolute.parent().unwrap_or(Path::new("/"));
            let mut loaded = load_text(&text, &path.display().to_string(), base, flags, environment)?;
            loaded.config.file = Some(absolute);
            Ok(loaded)
        }
        Source::Detect(directory) => {
            let base = std::path::absolute(directory).map_err(|error| Diagnostics::error(format!("{}: {error}", directory.display())))?;
            load_text("", Source::FILE_NAME, &base, flags, environment)
        }
    }
}

fn read(path: &Path) -> Result<String, Diagnostics> {
    let shown = path.display();
    let fail = |why: String, hint: &str| {
        Err(Diagnostics(vec![
            super::Diagnostic::error(format!("reading `{shown}`: {why}")).hint(hint),
        ]))
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return fail(
                "no such file".to_owned(),
                "write one, or run `sandkeep up` without `-c` in the project's directory",
            );
        }
        Err(error) => return fail(error.to_string(), "let the user that runs sandkeep read it"),
    };
    if !metadata.is_file() {
        return fail("it is not a file".to_owned(), "give the file itself, not the directory it is in");
    }
    if metadata.len() > LARGEST {
        return fail("it is larger than 1 MiB".to_owned(), "is it a configuration?");
    }
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(_)) => fail("it is not UTF-8".to_owned(), "save it as UTF-8"),
        Err(error) => fail(error.to_string(), "let the user that runs sandkeep read it"),
    }
}

/// As `load`, for a text that is at hand; `name` is what diagnostics call it, `base` what relative paths are relative to, absolute.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load_text(
    text: &str,
    name: &str,
    base: &Path,
    flags: &Flags,
    environment: &BTreeMap<String, String>,
) -> Result<Loaded, Diagnostics> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut faults = Faults::new(name, text);
    let document = parse(text, &mut faults);
    let Some(document) = document else { return Err(faults.finish().0) };
    let secret_names = secret_names(&document);
    let variables = Variables {
        environment,
        secret_names: &secret_names,
    };
    let mut file: File = Reader::new(&mut faults, variables, true).section(&document);
    let sync_written = file.sync.is_some();
    project::apply_flags(&mut file, flags);
    let detected = fill_in(&mut file, base, flags, &faults);
    let mut file = project::over_defaults(file, &mut faults, variables);
    project::expand(&mut file, &mut faults, variables);
    project::prune(&mut file, &mut faults);
    if !flags.without_units {
        something_to_run(&file, base, name, text, &mut faults);
    }
    let around = Surroundings {
        base,
        flags,
        environment,
        sync_written,
    };
    let mut config = check::check(&file, &around, &mut faults);
    let (errors, warnings) = faults.finish();
    if errors.has_errors() {
        return Err(Diagnostics([errors.0, warnings.0].concat()));
    }
    settle(&mut file, &config);
    config.hash = config.digest();
    Ok(Loaded {
        config,
        detected,
        warnings,
        expanded: expanded::print(&file),
    })
}

fn parse<'t>(text: &'t str, faults: &mut Faults<'_>) -> Option<DeTable<'t>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let end = text.trim_end().len();
        let span = error.span().unwrap_or(end..end);
        faults.error(
            &Some(span),
            "",
            format!("this is not TOML: {}", error.message().replace('\n', ", ")),
            None,
        );
    }
    errors.is_empty().then(|| document.into_inner())
}

/// Which variables are secret has to be known before any is used.
fn secret_names(document: &DeTable<'_>) -> SecretNames {
    let written = document.get("secrets").and_then(|secrets| secrets.get_ref().get("names"));
    match written.and_then(|names| names.get_ref().as_array()) {
        Some(names) => SecretNames(names.iter().filter_map(|name| name.get_ref().as_str().map(str::to_owned)).collect()),
        None => SecretNames(Config::SECRET_NAMES.map(str::to_owned).to_vec()),
    }
}

/// Where neither the file nor the flags say what runs, what the directory holds does.
fn fill_in(file: &mut File, base: &Path, flags: &Flags, faults: &Faults<'_>) -> Vec<String> {
    let has_units = file.unit.as_ref().is_some_and(|units| !units.value.0.is_empty());
    let project = file.project.get_or_insert_with(|| At::nowhere(Project::default()));
    let faulty = ["project", "project.install", "project.dev", "unit"]
        .iter()
        .any(|key| faults.about(key));
    let written = |command: &Option<At<super::values::Exec>>| command.as_ref().is_some_and(|at| at.span.is_some());
    if has_units || faulty || written(&project.value.install) || written(&project.value.dev) {
        return Vec::new();
    }
    let directory = match (&flags.root, &project.value.root) {
        (Some(root), _) => root.clone(),
        (None, Some(root)) => base.join(root.value.as_str()),
        (None, None) => base.to_owned(),
    };
    let wanted_port = project.value.port.as_ref().map(|at| at.value.to());
    let Detected {
        install,
        dev,
        port,
        mut lines,
    } = detect::detect(&directory, wanted_port);
    let mut used = Vec::new();
    if let (None, Some(install)) = (&flags.install, install) {
        project.value.install = project::command(&install);
        used.push("install");
    }
    if let (None, Some(dev)) = (&flags.dev, dev) {
        project.value.dev = project::command(&dev);
        used.push("dev");
        if let (None, Some(port)) = (wanted_port, port) {
            project.value.port = Some(At::nowhere(super::values::Whole(i64::from(port))));
            used.push("port");
        }
    }
    lines.retain(|line| used.contains(&line.key));
    lines.into_iter().map(|line| line.to_string()).collect()
}

fn something_to_run(file: &File, base: &Path, name: &str, text: &str, faults: &mut Faults<'_>) {
    let written = file
        .unit
        .as_ref()
        .is_some_and(|units| !units.value.0.is_empty() || units.span.is_some());
    if written || !faults.none() {
        return;
    }
    let hint = "give `--dev COMMAND`, or write a `sandkeep.toml` with `[project]` and `dev = \"…\"`".to_owned();
    let message = if text.is_empty() {
        format!(
            "there is nothing to run: no `{name}` in `{}`, and no kind of project that is known",
            base.display()
        )
    } else {
        format!(
            "there is nothing to run: `{name}` has no unit, and `{}` holds no kind of project that is known",
            base.display()
        )
    };
    faults.error(&None, "", message, Some(hint));
}

/// What the check worked out is written as it was found: the printed file means the same wherever it lies.
fn settle(file: &mut File, config: &Config) {
    if let Some(project) = &mut file.project {
        let root = super::values::Text::literal(&config.root.display().to_string());
        project.value.root = Some(At::nowhere(root));
    }
}
