//! `sandkeep serve`.

use super::{CliError, Global};
use crate::control::params;
use crate::control::token::Token;
use crate::host::runtime_dir::Places;
use crate::sandbox::fleet::poll::HttpPolls;
use crate::sandbox::fleet::{Policy, Target};
use crate::sandbox::provider::{Secret, Settings, vercel};
use crate::sandbox::record::Records;
use crate::sandbox::serve::desk::DeskPolicy;
use crate::sandbox::serve::keys::Keys;
use crate::sandbox::serve::order::Environment;
use crate::sandbox::serve::through::{Asking, Given, Through, Variable};
use crate::sandbox::serve::{self, Parts, door};
use crate::sandbox::start::Claude;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Serves the app's actions over HTTP
///
/// `POST /v1/sandboxes` starts a sandbox with its worker, `GET /v1/sandboxes/{id}/worker` says how the worker does,
/// `POST /v1/sandboxes/{id}/worker/stop` stops it; `GET /openapi.json` describes the rest. Everything but `/livez` wants the bearer
/// token of SANDKEEP_SERVE_TOKEN; without one a random token is made, and only the loopback is served.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7879")]
    listen: SocketAddr,
    /// Where sandboxes reach this server with their reports: `https://keep.example.com`; without it they are asked
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Where sandboxes are made: local, vercel
    #[arg(long, value_enum, default_value_t, value_name = "PROVIDER", hide_possible_values = true)]
    provider: Kind,
    /// Variables of this environment that every sandbox gets
    #[arg(long = "env", value_name = "NAME", value_delimiter = ',')]
    variables: Vec<String>,
    /// A file of `NAME=value` lines that every sandbox gets
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The variable that holds a token for private repositories
    #[arg(long, value_name = "NAME")]
    repo_token_env: Option<String>,
    /// How long a sandbox should live
    #[arg(long, value_name = "TIME", value_parser = params::duration)]
    timeout: Option<Duration>,
    /// How long to wait for a project to be ready
    #[arg(long, value_name = "TIME", value_parser = params::duration, default_value = "15min")]
    wait: Duration,
    /// The binary to bring in, for sandboxes of another architecture
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Do not install Claude Code
    #[arg(long)]
    no_claude: bool,
    /// Starts at once; the others wait for their turn
    #[arg(long, value_name = "N", default_value_t = 16)]
    starts: usize,
    /// Print the OpenAPI document and exit
    #[arg(long)]
    openapi: bool,
}

/// Where sandboxes are made.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Kind {
    /// On this machine.
    #[default]
    Local,
    /// At Vercel.
    Vercel,
}

pub(super) fn run(args: Args, global: &Global) -> Result<ExitCode, CliError> {
    if args.openapi {
        super::out::print_json(&serve::openapi::document())?;
        return Ok(ExitCode::SUCCESS);
    }
    let paths = global.paths()?;
    let (keys, token_file) = keys(&args, &paths)?;
    let given = given(&args, &paths)?;
    tracing_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("starting the I/O runtime: {error}")))?;
    let served = runtime.block_on(serve_until_told(&args, given, keys, token_file, &paths.state.join("serve")));
    // What is under way is on disk, and goes on with the next server.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served?;
    Ok(ExitCode::SUCCESS)
}

/// The token of the environment; on the loopback alone a random one otherwise, and the file that holds it.
fn keys(args: &Args, paths: &Places) -> Result<(Keys, Option<PathBuf>), CliError> {
    if let Some(token) = std::env::var("SANDKEEP_SERVE_TOKEN").ok().filter(|token| !token.is_empty()) {
        return Ok((Keys::new(&token), None));
    }
    if !args.listen.ip().is_loopback() {
        let message = format!("serving on {} needs a token: others can reach it", args.listen);
        return Err(CliError::usage(message).hint("set SANDKEEP_SERVE_TOKEN to a long random text: `openssl rand -hex 32` makes one"));
    }
    paths.create()?;
    let file = paths.state.join("serve.token");
    let failed = |error: std::io::Error| CliError::failed(format!("making the token `{}`: {error}", file.display()));
    Token::in_file(&file).map_err(failed)?;
    let token = std::fs::read_to_string(&file).map_err(failed)?;
    Ok((Keys::new(token.trim()), Some(file.clone())))
}

fn given(args: &Args, paths: &Places) -> Result<Given, CliError> {
    let provider = match args.provider {
        Kind::Local => Settings::Local {
            root: paths.state.join("sandboxes"),
        },
        Kind::Vercel => Settings::Vercel(vercel::Settings {
            team: variable("VERCEL_TEAM_ID"),
            project: variable("VERCEL_PROJECT_ID"),
            ..vercel::Settings::default()
        }),
    };
    let repo_token = match &args.repo_token_env {
        None => None,
        Some(name) => {
            let missing = || CliError::usage(format!("--repo-token-env: the variable `{name}` is not set"));
            Some(Secret::new(variable(name).ok_or_else(missing)?))
        }
    };
    // A sandbox on this machine reaches the loopback.
    let local = matches!(args.provider, Kind::Local).then(|| format!("http://{}", reachable(args.listen)));
    let public = args.public_url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
    Ok(Given {
        provider,
        records: Records::new(paths.state.join("sandbox")),
        environment: environment(args)?,
        repo_token,
        timeout: args.timeout,
        wait: args.wait,
        binary: args.binary.clone(),
        claude: if args.no_claude { Claude::LeaveOut } else { Claude::Install },
        reports_to: public.or(local),
    })
}

/// Where an address that listens can be reached from the same machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn environment(args: &Args) -> Result<Environment, CliError> {
    let mut environment = Vec::new();
    if let Some(path) = &args.env_file {
        environment = read_env_file(path)?;
    }
    for name in &args.variables {
        let missing = || CliError::usage(format!("--env: the variable `{name}` is not set"));
        environment.push((name.clone(), Secret::new(variable(name).ok_or_else(missing)?)));
    }
    Ok(environment)
}

/// `NAME=value` lines; `#` begins a comment, quotes around a value go.
fn read_env_file(path: &Path) -> Result<Environment, CliError> {
    let failed = |why: String| CliError::usage(format!("reading `{}`: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let mut environment = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        // The line itself may be a secret.
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| failed(format!("line {} is no `NAME=value`", number + 1)))?;
        let value = value.trim();
        let quoted = |quote| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        environment.push((name.trim().to_owned(), Secret::new(value.to_owned())));
    }
    Ok(environment)
}

fn tracing_to_stderr() {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).finish();
    // Set once, by the verb that runs.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

async fn serve_until_told(
    args: &Args,
    mut given: Given,
    keys: Keys,
    token_file: Option<PathBuf>,
    directory: &Path,
) -> Result<(), CliError> {
    let failed = |act: &str, error: &dyn std::fmt::Display| CliError::failed(format!("{act}: {error}"));
    let listener = tokio::net::TcpListener::bind(args.listen).await;
    let listener = listener.map_err(|error| failed(&format!("listening on {}", args.listen), &error))?;
    let address = listener.local_addr().map_err(|error| failed("listening", &error))?;
    if args.public_url.is_none() && given.reports_to.is_some() {
        // Port 0 has become a real one.
        given.reports_to = Some(format!("http://{}", reachable(address)));
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("watching for signals", &error))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| failed("watching for signals", &error))?;
    let keys = Arc::new(keys);
    let variable: Variable = Arc::new(variable);
    let through = Through::new(given, keys.clone(), variable)?;
    let http = HttpPolls::new().map_err(|error| failed("setting TLS up", &error))?;
    let of = through.clone();
    let parts = Parts {
        prober: Arc::new(Asking {
            http,
            through: through.clone(),
        }),
        sandboxes: Arc::new(through),
        target: Arc::new(move |sandbox: &str, url: Option<&str>| -> Target { of.target(sandbox, url) }),
        keys,
        desk: DeskPolicy {
            starts_at_once: args.starts,
            ..DeskPolicy::default()
        },
        fleet: Policy::default(),
    };
    let router = serve::assemble(directory, parts)
        .await
        .map_err(|error| CliError::failed(error.to_string()))?;
    tracing::info!("serving on http://{address}");
    if let Some(file) = token_file {
        tracing::info!("the bearer token is in {}", file.display());
    }
    tokio::select! {
        () = door::serve(listener, router) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending; starts that are under way go on with the next server");
    Ok(())
}
