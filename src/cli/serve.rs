//! `sandkeep serve`.

use super::sandbox::start::{ProviderArgs, environment, repo_token};
use super::sandbox::{records, state_directory, variable};
use super::{CliError, Global};
use crate::control::params;
use crate::control::token::Token;
use crate::sandbox::fleet::poll::HttpPolls;
use crate::sandbox::fleet::{Policy, Target};
use crate::sandbox::provider::Settings;
use crate::sandbox::serve::deadlines::DeadlinePolicy;
use crate::sandbox::serve::desk::DeskPolicy;
use crate::sandbox::serve::keys::Keys;
use crate::sandbox::serve::through::{Asking, Given, Through, Variable};
use crate::sandbox::serve::{self, Parts, door};
use crate::sandbox::start::Claude;
use crate::tasks;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What every caller has to know.
const TOKEN_HELP: &str = "Everything but /livez wants the bearer token of SANDKEEP_SERVE_TOKEN. Without one a random token is made, \
                          and the loopback alone is served.";

/// Serves the app's actions over HTTP
///
/// `POST /v1/sandboxes` starts a sandbox with its worker, `GET /v1/sandboxes/{id}/worker` says how the worker does,
/// `POST /v1/sandboxes/{id}/worker/stop` stops it; `GET /openapi.json` describes the rest. Everything but `/livez` wants the bearer
/// token of SANDKEEP_SERVE_TOKEN; without one a random token is made, and only the loopback is served.
#[derive(clap::Args, Debug)]
#[command(after_help = TOKEN_HELP)]
pub(super) struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7879")]
    listen: SocketAddr,
    /// Where sandboxes reach this server with their reports: `https://keep.example.com`; without it they are asked
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// The variable with the token of private repositories
    #[arg(long, value_name = "NAME")]
    repo_token_env: Option<String>,
    /// How long a sandbox should live, from its start on
    #[arg(long, value_name = "TIME", value_parser = params::duration)]
    timeout: Option<Duration>,
    /// For how long after its last use (a start, a question about its worker, a prompt) a sandbox is given more time before its
    /// provider ends it; 0 for never
    #[arg(long, value_name = "TIME", value_parser = params::duration, default_value = "15min")]
    idle: Duration,
    /// How long a project may take to get ready
    #[arg(long, value_name = "TIME", value_parser = params::duration, default_value = "15min")]
    wait: Duration,
    /// A sandkeep for the sandboxes' machines, instead of this very one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Do without Claude Code
    #[arg(long)]
    no_claude: bool,
    /// Port of the sandboxes' health endpoints; without it one that suits the provider
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,
    /// Starts at once; the others wait for their turn
    #[arg(long, value_name = "N", default_value_t = 16)]
    starts: usize,
    /// Print the OpenAPI document and exit
    #[arg(long)]
    openapi: bool,
    #[command(flatten)]
    provider: ProviderArgs,
    /// Variables that every sandbox gets, `NAME=value` a line; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    env_file: Vec<PathBuf>,
    /// Variables of this environment that every sandbox gets; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',', help_heading = "Environment")]
    env: Vec<String>,
}

pub(super) fn run(args: Args, _global: &Global) -> Result<ExitCode, CliError> {
    if args.openapi {
        super::out::print(serve::openapi::document())?;
        return Ok(ExitCode::SUCCESS);
    }
    let directory = state_directory()?.join("serve");
    let (keys, token_file) = keys(&args, &directory)?;
    let given = given(&args)?;
    tracing_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| CliError::failed(format!("starting the I/O runtime: {error}")))?;
    let served = tasks::block_on(&runtime, serve_until_told(&args, given, keys, token_file, &directory));
    // What is under way is on disk, and goes on with the next server.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served?;
    Ok(ExitCode::SUCCESS)
}

/// The token of the environment; on the loopback alone a random one otherwise, and the file that holds it.
fn keys(args: &Args, directory: &Path) -> Result<(Keys, Option<PathBuf>), CliError> {
    if let Some(token) = variable("SANDKEEP_SERVE_TOKEN") {
        return Ok((Keys::new(&token), None));
    }
    if !args.listen.ip().is_loopback() {
        let message = format!("serving on {} needs a token: others can reach it", args.listen);
        return Err(CliError::usage(message).hint("set SANDKEEP_SERVE_TOKEN to a long random text: `openssl rand -hex 32` makes one"));
    }
    let file = directory.join("token");
    let failed = |error: std::io::Error| CliError::failed(format!("making the token `{}`: {error}", file.display()));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed)?;
    Token::in_file(&file).map_err(failed)?;
    let token = std::fs::read_to_string(&file).map_err(failed)?;
    Ok((Keys::new(token.trim()), Some(file.clone())))
}

fn given(args: &Args) -> Result<Given, CliError> {
    let provider = args.provider.settings()?;
    // A sandbox on this machine reaches the loopback.
    let local = matches!(provider, Settings::Local { .. }).then(|| format!("http://{}", reachable(args.listen)));
    let public = args.public_url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
    Ok(Given {
        provider,
        records: records()?,
        environment: environment(&args.env_file, &args.env)?,
        repo_token: repo_token(args.repo_token_env.as_deref())?,
        timeout: args.timeout,
        wait: args.wait,
        binary: args.binary.clone(),
        claude: if args.no_claude { Claude::LeaveOut } else { Claude::Install },
        health_port: args.health_port,
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
    let provider = args.provider.clone();
    let variable: Variable = Arc::new(move |name: &str| provider.variable(name));
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
        deadlines: DeadlinePolicy {
            idle: args.idle,
            ..DeadlinePolicy::default()
        },
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
