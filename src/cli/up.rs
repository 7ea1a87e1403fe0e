//! `sandkeep up`: runs the supervisor, or brings the one that runs up to date.

mod console;
mod detached;
mod foreground;

use super::connect::block_on;
use super::{CliError, Global, out};
use crate::control::client::{Client, ClientError};
use crate::control::{ReloadRequest, StatusDocument, params};
use crate::daemon::{Handover, Origin};
use crate::host::Environment;
use crate::host::image::Descriptor;
use crate::tasks;
use crate::unit::{Flags, Loaded, Source, load};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// For how long it has to stay ready.
const STABLE: Duration = Duration::from_millis(250);

/// Runs the supervisor.
///
/// In the foreground it shows progress and what the units write, until a signal ends it. With --detach it returns once every required
/// unit is ready (exit code 0), or one has failed or time is up (exit code 1). It may be called again at any time: with the same
/// configuration it waits, with another one it reloads, and after the machine came back without processes it starts.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration; without it ./sandkeep.toml, else what is found out about the project in this directory
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Return once the sandbox is ready, and leave the supervisor running
    #[arg(short, long)]
    pub detach: bool,
    /// How long --detach waits
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = params::duration)]
    pub wait: Duration,
    /// Stop everything again when it does not get ready (with --detach)
    #[arg(long, requires = "detach")]
    pub rollback: bool,
    /// Print the action and the status document (with --detach, or when one runs already)
    #[arg(long)]
    pub json: bool,
    /// Install command of the project; empty for none
    #[arg(long, value_name = "COMMAND")]
    pub install: Option<String>,
    /// Command of the dev server; empty for none
    #[arg(long, value_name = "COMMAND")]
    pub dev: Option<String>,
    /// Port of the dev server
    #[arg(long)]
    pub port: Option<u16>,
    /// Whose files these are
    #[arg(long, value_name = "ID")]
    pub project: Option<String>,
    /// The project's directory
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Address of the health endpoint, or `off`
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where the files are kept: `s3://bucket/prefix?endpoint=…` or `file:///dir`; empty for nowhere
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Start without restoring; uploads are held
    #[arg(long)]
    pub skip_restore: bool,
    /// Write down every event and decision; `sandkeep replay` runs them again
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Runs as the next image of a supervisor that is upgraded
    #[arg(long, hide = true, value_name = "DESCRIPTORS")]
    pub handover: Option<Handover>,
    /// Runs as the supervisor that --detach leaves behind
    #[arg(long, hide = true)]
    pub detached: bool,
}

impl Args {
    /// Where the configuration comes from.
    pub(super) fn origin(&self) -> Result<Origin, CliError> {
        let here = std::env::current_dir().map_err(|error| CliError::failed(format!("finding the current directory: {error}")))?;
        let source = match &self.config {
            Some(file) => Source::File(here.join(file)),
            None => Source::in_directory(&here),
        };
        let flags = Flags {
            install: self.install.clone(),
            dev: self.dev.clone(),
            port: self.port,
            project_id: self.project.clone(),
            root: self.root.as_ref().map(|root| here.join(root)),
            listen: self.listen.clone(),
            store: self.store.clone(),
            skip_restore: self.skip_restore,
            without_units: false,
        };
        Ok(Origin { source, flags })
    }
}

/// What `up` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Started,
    Running,
    Reloaded,
    Resumed,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Running => "running",
            Self::Reloaded => "reloaded",
            Self::Resumed => "resumed",
        }
    }
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    if let Some(handover) = args.handover {
        return foreground::take_over(handover, &args, global);
    }
    let origin = args.origin()?;
    let variables = Environment::new(std::env::vars_os(), &[]).text();
    let loaded = match load(&origin.source, &origin.flags, &variables) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return Err(CliError::usage(diagnostics.to_string())),
    };
    let client = Client::new(global.paths()?.control_socket());
    if !args.detached {
        tell(&loaded);
        if let Some(action) = bring_up_to_date(&client, &origin, &loaded)? {
            return wait_until_ready(&client, action, &args, global);
        }
    }
    if args.detach {
        let action = detached::start(&args, global, &client)?;
        return wait_until_ready(&client, action, &args, global);
    }
    foreground::run(&args, global, origin, loaded.into_config())
}

/// Says whether this program could take over the supervisor whose state is on standard input.
pub(super) fn rehearse_stdin() -> Result<ExitCode, CliError> {
    let state = Descriptor::parse("0").ok_or_else(|| CliError::failed("there is no standard input"))?;
    foreground::rehearse(state)
}

/// Says on stderr what was found out, and warns.
fn tell(loaded: &Loaded) {
    use std::io::Write;
    let mut stderr = anstream::stderr();
    for line in &loaded.detected {
        let _ = writeln!(stderr, "{} {}", out::paint(out::DIM, "detected:"), out::harmless(line));
    }
    if !loaded.warnings.is_empty() {
        let _ = write!(stderr, "{}", loaded.warnings);
    }
}

/// Asks once more when the answer breaks off: a supervisor that is just dying is none.
async fn status_of(client: &Client) -> Result<StatusDocument, ClientError> {
    for _ in 0..20 {
        match client.status().await {
            Err(ClientError::Broken(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            answer => return answer,
        }
    }
    client.status().await
}

/// `None` when no supervisor runs.
fn bring_up_to_date(client: &Client, origin: &Origin, loaded: &Loaded) -> Result<Option<Action>, CliError> {
    block_on(async {
        let status = match status_of(client).await {
            Ok(status) => status,
            Err(ClientError::NoSupervisor { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if status.config_hash == loaded.config.hash {
            return Ok(Some(Action::Running));
        }
        let path = |path: &Path| Some(path.to_string_lossy().into_owned());
        let mut request = ReloadRequest {
            flags: Some(origin.flags.clone()),
            ..ReloadRequest::default()
        };
        match &origin.source {
            Source::File(file) => request.file = path(file),
            Source::Detect(directory) => request.directory = path(directory),
        }
        client.reload(&request).await?;
        Ok(Some(Action::Reloaded))
    })
}

/// Waits for what `up` promises, and says it.
fn wait_until_ready(client: &Client, action: Action, args: &Args, global: &Global) -> Result<ExitCode, CliError> {
    let waited = block_on(async {
        let progress = tasks::spawn(console::progress(client.clone()));
        let waited = wait_until_stable(client, args.wait).await;
        progress.abort();
        Ok(waited)
    })?;
    match waited {
        Ok(status) if !status.ready => not_ready(client, action, args, CliError::failed("the sandbox is not ready")),
        Ok(status) => {
            if args.json {
                out::print_json(&document(action, &status)?)?;
            } else {
                out::print(&console::summary(action.word(), &status, global))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => not_ready(client, action, args, error.into()),
    }
}

/// A unit without a probe is ready as soon as it is executed, also one that ends at once: ready is what stays so for a moment.
async fn wait_until_stable(client: &Client, limit: Duration) -> Result<StatusDocument, ClientError> {
    let end = Instant::now() + limit;
    loop {
        client.wait(&[], Some(end.saturating_duration_since(Instant::now()))).await?;
        tokio::time::sleep(STABLE).await;
        let status = client.status().await?;
        if status.ready || Instant::now() >= end {
            return Ok(status);
        }
    }
}

fn not_ready(client: &Client, action: Action, args: &Args, mut error: CliError) -> Result<ExitCode, CliError> {
    let status = block_on(async { Ok(client.status().await.ok()) })?;
    if args.json
        && let Some(status) = &status
    {
        out::print_json(&document(action, status)?)?;
    }
    error.code = 1;
    let unready: Vec<String> = status.iter().flat_map(console::unready).collect();
    if !unready.is_empty() {
        error.message = format!("the sandbox is not ready: {}", unready.join("; "));
    }
    if args.rollback {
        block_on(async { Ok(client.shutdown(None).await?) })?;
        return Err(error.hint("everything was stopped again (--rollback)"));
    }
    let culprit = status.as_ref().and_then(console::culprit);
    Err(match culprit {
        Some(unit) => error.hint(format!(
            "the supervisor stays up: `sandkeep why {unit}` tells more, `sandkeep down` stops everything"
        )),
        None => error,
    })
}

/// The status document with what `up` did.
fn document(action: Action, status: &StatusDocument) -> Result<serde_json::Value, CliError> {
    let mut value = serde_json::to_value(status).map_err(|error| CliError::failed(format!("writing JSON: {error}")))?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("action".to_owned(), action.word().into());
    }
    Ok(value)
}
