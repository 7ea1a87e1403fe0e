//! `sandkeep sandbox inside`: what the binary in a sandbox is asked by the one outside. `crate::sandbox::inside` has the answers' form.

use crate::cli::connect::block_on;
use crate::cli::{CliError, Global, out, up};
use crate::control::client::{Client, ClientError, LinesWanted};
use crate::control::document::{Readiness, StatusDocument, UnitState};
use crate::control::{ReloadRequest, params};
use crate::host::Environment;
use crate::sandbox::inside::{Awaited, Checked, Reloaded, Reported};
use crate::sandbox::look::Unsaved;
use crate::sandbox::verdict::{Failed, Until, Verdict, judge, late, restarts};
use crate::unit::{Source, duration, load};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long it has to stay ready.
const STABLE: Duration = Duration::from_millis(250);
/// A unit's last lines that are shown with its failure.
const LAST_LINES: usize = 40;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Checks the configuration of these arguments of `up`
    Check(Up),
    /// Has the supervisor read the configuration of these arguments of `up`
    Reload {
        /// When the sandbox ends
        #[arg(long)]
        expires_at: Option<jiff::Timestamp>,
        #[command(flatten)]
        up: Up,
    },
    /// Waits until the project is installed, or ready
    Await {
        until: UntilWord,
        #[arg(long, value_parser = params::duration)]
        timeout: Duration,
    },
    /// Tells how the supervisor does, and what would be lost
    Report {
        #[arg(long)]
        directory: PathBuf,
    },
    /// Tells the supervisor when the sandbox ends
    Deadline { at: jiff::Timestamp },
}

#[derive(clap::Args, Debug)]
struct Up {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum UntilWord {
    Installed,
    Ready,
}

/// The arguments of `up`, read as `up` reads them.
#[derive(Debug, clap::Parser)]
#[command(name = "up", no_binary_name = true)]
struct UpArguments {
    #[command(flatten)]
    up: up::Args,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    let client = Client::new(global.paths()?.control_socket());
    match args.verb {
        Verb::Check(up) => check(&up),
        Verb::Reload { expires_at, up } => reload(&up, expires_at, &client),
        Verb::Await { until, timeout } => block_on(wait(&client, until.into(), timeout)),
        Verb::Report { directory } => block_on(report(&client, &directory)),
        Verb::Deadline { at } => block_on(async {
            deadline(&client, at).await?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

async fn deadline(client: &Client, at: jiff::Timestamp) -> Result<(), CliError> {
    let request = ReloadRequest {
        expires_at: Some(at),
        ..ReloadRequest::default()
    };
    client.reload(&request).await?;
    Ok(())
}

impl From<UntilWord> for Until {
    fn from(word: UntilWord) -> Self {
        match word {
            UntilWord::Installed => Self::Installed,
            UntilWord::Ready => Self::Ready,
        }
    }
}

impl Up {
    fn origin(&self) -> Result<crate::daemon::Origin, CliError> {
        use clap::Parser;
        let parsed = UpArguments::try_parse_from(&self.arguments).map_err(|error| CliError::usage(error.to_string()))?;
        parsed.up.origin()
    }
}

fn check(up: &Up) -> Result<ExitCode, CliError> {
    let origin = up.origin()?;
    let variables = Environment::new(std::env::vars_os(), &[]).text();
    let loaded = load(&origin.source, &origin.flags, &variables).map_err(|diagnostics| CliError::usage(diagnostics.to_string()))?;
    let warnings = loaded.warnings.0.iter().map(|warning| warning.message.clone());
    let checked = Checked {
        port: loaded.config.port,
        units: loaded.config.units.iter().map(|unit| unit.name.as_str().to_owned()).collect(),
        notes: loaded
            .detected
            .iter()
            .map(|line| format!("detected {line}"))
            .chain(warnings)
            .collect(),
    };
    out::print_json(&checked)?;
    Ok(ExitCode::SUCCESS)
}

fn reload(up: &Up, expires_at: Option<jiff::Timestamp>, client: &Client) -> Result<ExitCode, CliError> {
    let origin = up.origin()?;
    let path = |path: &Path| Some(path.to_string_lossy().into_owned());
    let mut request = ReloadRequest {
        flags: Some(origin.flags.clone()),
        ..ReloadRequest::default()
    };
    match &origin.source {
        Source::File(file) => request.file = path(file),
        Source::Detect(directory) => request.directory = path(directory),
    }
    let reloaded = block_on(async {
        let reloaded = client.reload(&request).await?;
        if let Some(at) = expires_at {
            // Afterwards: a later end alone is no other configuration.
            deadline(client, at).await?;
        }
        Ok(reloaded)
    })?;
    out::print_json(&Reloaded { changed: reloaded.changed })?;
    Ok(ExitCode::SUCCESS)
}

async fn wait(client: &Client, until: Until, limit: Duration) -> Result<ExitCode, CliError> {
    let end = Instant::now() + limit;
    let mut status = client.status().await?;
    let before = restarts(&status);
    let mut said: BTreeMap<String, Readiness> = BTreeMap::new();
    let mut since: Option<Instant> = None;
    loop {
        tell_changes(&status, &mut said)?;
        match judge(&status, until, &before) {
            Verdict::There if until == Until::Installed || since.is_some_and(|since| since.elapsed() >= STABLE) => {
                out::print_json(&Awaited::There { status: Box::new(status) })?;
                return Ok(ExitCode::SUCCESS);
            }
            Verdict::There => {
                since.get_or_insert_with(Instant::now);
            }
            Verdict::Wait => since = None,
            Verdict::Never(failed) => return never(client, failed, status).await,
        }
        if Instant::now() >= end {
            let failed = late(&status, until, &duration::format(limit));
            return never(client, failed, status).await;
        }
        tokio::time::sleep(PAUSE).await;
        status = match client.status().await {
            Ok(status) => status,
            Err(ClientError::Broken(_)) => continue_with(client).await?,
            Err(error) => return Err(error.into()),
        };
    }
}

/// Asks once more when an answer breaks off.
async fn continue_with(client: &Client) -> Result<StatusDocument, CliError> {
    tokio::time::sleep(PAUSE).await;
    Ok(client.status().await?)
}

fn tell_changes(status: &StatusDocument, said: &mut BTreeMap<String, Readiness>) -> Result<(), CliError> {
    for unit in status.units.iter().filter(|unit| unit.required) {
        let word = match unit.state {
            UnitState::Failed => Readiness::Failed,
            UnitState::Skipped => Readiness::Skipped,
            _ if unit.ready => Readiness::Ready,
            UnitState::Inactive => Readiness::Waiting,
            UnitState::Activating | UnitState::Active | UnitState::Reloading | UnitState::Deactivating => Readiness::Starting,
        };
        if said.insert(unit.name.clone(), word) != Some(word) {
            let line = format!("{} is {}", unit.name, word.as_str());
            out::print_json(&Awaited::Note { line })?;
        }
    }
    Ok(())
}

async fn never(client: &Client, failed: Failed, status: StatusDocument) -> Result<ExitCode, CliError> {
    let mut fault = failed.fault;
    if let Some(unit) = failed.unit {
        fault = fault.output(last_lines(client, unit).await);
    }
    out::print_json(&Awaited::Never {
        fault,
        status: Some(Box::new(status)),
    })?;
    Ok(ExitCode::FAILURE)
}

/// What a unit wrote last; secrets are masked by the supervisor.
async fn last_lines(client: &Client, unit: String) -> String {
    let wanted = LinesWanted {
        units: vec![unit],
        lines: Some(LAST_LINES),
        ..LinesWanted::default()
    };
    let mut text = String::new();
    if let Ok(mut lines) = client.logs(&wanted).await {
        while let Ok(Some(line)) = lines.next().await {
            text.push_str(&line.text);
            text.push('\n');
        }
    }
    text
}

async fn report(client: &Client, directory: &Path) -> Result<ExitCode, CliError> {
    let status = match client.status().await {
        Ok(status) => Some(status),
        Err(ClientError::NoSupervisor { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let unsynced = status
        .as_ref()
        .filter(|status| status.sync.state != "off")
        .map(|status| status.sync.pending);
    let unsaved = unpushed(directory).map(|(unpushed_commits, changed_files)| Unsaved {
        unpushed_commits,
        changed_files,
        unsynced_files: unsynced,
    });
    out::print_json(&Reported { status, unsaved })?;
    Ok(ExitCode::SUCCESS)
}

/// Commits of local branches that no remote has, and files that differ from the last commit; `None` where there is no checkout.
fn unpushed(directory: &Path) -> Option<(u64, u64)> {
    let lines = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(directory)
            .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let count = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        output.status.success().then_some(count as u64)
    };
    let commits = lines(&["rev-list", "--branches", "HEAD", "--not", "--remotes"]);
    let files = lines(&["status", "--porcelain", "--untracked-files=all"])?;
    Some((commits.unwrap_or(0), files))
}
