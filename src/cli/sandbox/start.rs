//! `sandkeep sandbox start`.

use super::live::Live;
use super::{failure, local_root, records, unless_interrupted, variable};
use crate::cli::CliError;
use crate::cli::out::{self, paint};
use crate::control::params;
use crate::sandbox::environment::parse_file;
use crate::sandbox::provider::{Secret, Settings, vercel};
use crate::sandbox::start::{Claude, OnFailure, Repo};
use crate::sandbox::{StartRequest, Started, start};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Puts a project into a sandbox and waits until it is ready
///
/// Makes the sandbox if there is none of this name, clones the repository, brings in this very binary, starts the supervisor with the
/// environment handed over on standard input, and waits for install and dev. Safe to call at any time: it creates, resumes, reloads or
/// just answers, and says which; cut off anywhere, the same command goes on where it was.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The sandbox's name; without it the repository's
    #[arg(long)]
    name: Option<String>,
    /// The project's Git repository
    #[arg(long, value_name = "URL")]
    repo: Option<String>,
    /// Its branch or tag
    #[arg(long, requires = "repo")]
    branch: Option<String>,
    /// How many commits of history; without it all
    #[arg(long, value_name = "N", requires = "repo", value_parser = clap::value_parser!(u32).range(1..))]
    depth: Option<u32>,
    /// The variable with the token of a private repository
    #[arg(long, value_name = "NAME", requires = "repo")]
    repo_token_env: Option<String>,
    /// Where the project is, or goes, in the sandbox
    #[arg(long, value_name = "DIR")]
    directory: Option<String>,
    /// Install command of the project; empty for none
    #[arg(long, value_name = "COMMAND")]
    install: Option<String>,
    /// Command of the dev server; empty for none
    #[arg(long, value_name = "COMMAND")]
    dev: Option<String>,
    /// Port of the dev server
    #[arg(long)]
    port: Option<u16>,
    /// Whose files these are
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    #[command(flatten)]
    provider: ProviderArgs,
    /// Variables for the supervisor, `NAME=value` a line; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    env_file: Vec<PathBuf>,
    /// A variable of this environment for the supervisor; may be given several times
    #[arg(long, value_name = "NAME", help_heading = "Environment")]
    env: Vec<String>,
    /// How long the sandbox should live, from now on
    #[arg(long, value_name = "TIME", value_parser = params::duration)]
    timeout: Option<Duration>,
    /// How long the project may take to get ready
    #[arg(long, value_name = "TIME", default_value = "15min", value_parser = params::duration)]
    wait: Duration,
    /// A sandkeep for the sandbox's machine, instead of this very one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Do without Claude Code
    #[arg(long)]
    no_claude: bool,
    /// Port of the health endpoint
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,
    /// Leave what was made when it fails
    #[arg(long)]
    keep: bool,
    /// Print what it came to as JSON
    #[arg(long)]
    json: bool,
}

/// Where sandboxes come from.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::cli) struct ProviderArgs {
    /// A directory on this machine, Vercel Sandbox, or any box that a command reaches (with --via)
    #[arg(help_heading = "Provider", long, value_enum, value_name = "NAME")]
    provider: Option<Kind>,
    /// The command that reaches the box: `docker exec -i box`, `ssh host`
    #[arg(help_heading = "Provider", long, value_name = "COMMAND")]
    via: Option<String>,
    /// Where the box's ports are reachable, with `{port}` in it (with --via)
    #[arg(help_heading = "Provider", long, value_name = "URL", requires = "via")]
    url: Option<String>,
    /// Vercel's team
    #[arg(help_heading = "Provider", long, value_name = "ID", env = "VERCEL_TEAM_ID", hide_env_values = true)]
    vercel_team: Option<String>,
    /// Vercel's project
    #[arg(
        help_heading = "Provider",
        long,
        value_name = "ID",
        env = "VERCEL_PROJECT_ID",
        hide_env_values = true
    )]
    vercel_project: Option<String>,
    /// The file with Vercel's OIDC token that `vercel env pull` writes; read again whenever the token is used
    #[arg(help_heading = "Provider", long, value_name = "FILE", env = "VERCEL_OIDC_TOKEN_FILE")]
    vercel_token_file: Option<PathBuf>,
    /// A runtime of Vercel's second generation, such as `node24`, instead of the default image
    #[arg(help_heading = "Provider", long, value_name = "NAME")]
    vercel_runtime: Option<String>,
}

/// The providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Local,
    Vercel,
    Exec,
}

impl ProviderArgs {
    /// A variable of this process, or what a flag says instead.
    pub(in crate::cli) fn variable(&self, name: &str) -> Option<String> {
        match (&self.vercel_token_file, name) {
            (Some(file), "VERCEL_OIDC_TOKEN_FILE") => file.to_str().map(str::to_owned),
            _ => variable(name),
        }
    }

    /// What they say.
    pub(in crate::cli) fn settings(&self) -> Result<Settings, CliError> {
        let kind = self.provider.unwrap_or(if self.via.is_some() { Kind::Exec } else { Kind::Local });
        match (kind, &self.via) {
            (Kind::Exec, Some(via)) => Ok(Settings::Exec {
                via: via.clone(),
                url: self.url.clone(),
            }),
            (Kind::Exec, None) => Err(CliError::usage("the provider `exec` needs the command that reaches the box")
                .hint("such as `--via 'docker exec -i box'` or `--via 'ssh host'`")),
            (_, Some(_)) => Err(CliError::usage("`--via` belongs to the provider `exec`")),
            (Kind::Local, None) => Ok(Settings::Local { root: local_root()? }),
            (Kind::Vercel, None) => Ok(Settings::Vercel(vercel::Settings {
                team: self.vercel_team.clone(),
                project: self.vercel_project.clone(),
                api: variable("SANDKEEP_VERCEL_API"),
                runtime: self.vercel_runtime.clone(),
            })),
        }
    }
}

impl Args {
    fn request(&self) -> Result<StartRequest, CliError> {
        let mut request = StartRequest::new(self.name()?);
        request.repo = match &self.repo {
            Some(url) => Some(Repo {
                url: url.clone(),
                branch: self.branch.clone(),
                token: repo_token(self.repo_token_env.as_deref())?,
                depth: self.depth,
            }),
            None => None,
        };
        request.directory.clone_from(&self.directory);
        request.install.clone_from(&self.install);
        request.dev.clone_from(&self.dev);
        request.port = self.port;
        request.project_id.clone_from(&self.project);
        request.environment = environment(&self.env_file, &self.env)?;
        request.timeout = self.timeout;
        request.wait = self.wait;
        request.binary.clone_from(&self.binary);
        request.claude = if self.no_claude { Claude::LeaveOut } else { Claude::Install };
        request.on_failure = if self.keep { OnFailure::Keep } else { OnFailure::CleanUp };
        request.health_port = self.health_port;
        Ok(request)
    }

    fn name(&self) -> Result<String, CliError> {
        match (&self.name, &self.repo) {
            (Some(name), _) => Ok(name.clone()),
            (None, Some(repo)) => Ok(crate::sandbox::name_of(repo)?),
            (None, None) => {
                Err(CliError::usage("the sandbox has no name").hint("give `--name NAME`, or `--repo URL` to be called after it"))
            }
        }
    }
}

/// The token of private repositories, out of the variable of this name.
pub(in crate::cli) fn repo_token(variable_name: Option<&str>) -> Result<Option<Secret>, CliError> {
    let Some(name) = variable_name else { return Ok(None) };
    let token = variable(name).ok_or_else(|| {
        CliError::usage(format!("the variable `{name}` is not set")).hint("`--repo-token-env` names the variable that holds the token")
    })?;
    if token.contains(['\n', '\r']) {
        return Err(CliError::usage(format!("the token in `{name}` goes over several lines")));
    }
    Ok(Some(Secret::new(token)))
}

/// What `--env-file` and `--env` say.
pub(in crate::cli) fn environment(files: &[PathBuf], names: &[String]) -> Result<Vec<(String, Secret)>, CliError> {
    let mut variables = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .map_err(|error| CliError::usage(format!("reading the environment file `{}`: {error}", file.display())))?;
        let read = parse_file(&text);
        variables.extend(read.map_err(|mut fault| {
            fault.message = format!("`{}`: {}", file.display(), fault.message);
            CliError::from(fault)
        })?);
    }
    for name in names {
        use std::os::unix::ffi::OsStringExt;
        let value = std::env::var_os(name).ok_or_else(|| CliError::usage(format!("the variable `{name}` is not set")))?;
        variables.push((name.clone(), Secret::new(value.into_vec())));
    }
    Ok(variables)
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CliError> {
    let request = args.request()?;
    let settings = args.provider.settings()?;
    let (live, screen) = Live::new(args.json);
    let records = records()?;
    let started = unless_interrupted(async {
        let provider = settings.open(&|name: &str| args.provider.variable(name))?;
        tokio::select! {
            started = start(&request, provider.as_ref(), &records, &live) => started,
            never = screen.keep_drawn() => match never {},
        }
    });
    screen.clear();
    match started? {
        Ok(started) if args.json => out::print_json(&started)?,
        Ok(started) => out::print(&summary(&started))?,
        Err(fault) => {
            if let Some(output) = &fault.output {
                screen.output(output);
            }
            return Err(failure(&fault, args.json));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(started: &Started) -> String {
    let mut text = format!(
        "{} {} · {} · {} in {}\n",
        paint(out::GOOD, started.action.as_str()),
        paint(out::BOLD, &started.name),
        started.sandbox_id,
        started.user,
        started.directory
    );
    let lines = [("preview", &started.url), ("health", &started.health_url)];
    for (what, url) in lines {
        if let Some(url) = url {
            text.push_str(&format!("{what:8} {url}\n"));
        }
    }
    if let Some(at) = started.expires_at {
        text.push_str(&format!("{:8} {at:.0}\n", "ends"));
    }
    text
}
