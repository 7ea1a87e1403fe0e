//! The command line: one file a verb, and the only place that prints.

#[cfg(feature = "agent")]
mod agent;
mod check;
mod completions;
mod connect;
mod doctor;
mod down;
mod events;
mod logs;
mod man;
#[cfg(feature = "agent")]
mod mcp;
mod out;
mod replay;
#[cfg(feature = "sandbox")]
mod sandbox;
mod schema;
#[cfg(feature = "sandbox")]
mod serve;
mod status;
#[cfg(feature = "sync")]
mod sync;
mod units;
mod up;
mod upgrade;
mod version;
mod wait;
mod why;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// Keeps a sandbox alive: supervises its processes, keeps its files, runs its agent.
#[derive(Debug, clap::Parser)]
#[command(name = "sandkeep", version, about, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Which supervisor on this machine
    #[arg(
        long,
        global = true,
        env = "SANDKEEP_INSTANCE",
        hide_env_values = true,
        default_value = "default",
        value_name = "NAME",
        help_heading = "Options of every verb"
    )]
    pub instance: String,
    /// When output is coloured: auto, always, never
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true,
        help_heading = "Options of every verb"
    )]
    pub color: out::Color,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Runs the supervisor
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    /// Starts units and waits until they are ready
    Start(units::Args),
    /// Stops units and what requires them
    Stop(units::Args),
    /// Restarts units
    Restart(units::Args),
    /// Makes units, or with none named the configuration, read anew
    Reload(units::Args),
    Kill(units::KillArgs),
    Wait(wait::Args),
    Why(why::Args),
    Logs(logs::Args),
    Events(events::Args),
    Doctor(doctor::Args),
    /// Checks a configuration
    Check(check::Args),
    /// Prints the configuration's JSON Schema
    Schema(schema::Args),
    Upgrade(upgrade::Args),
    Replay(replay::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[cfg(feature = "sync")]
    /// The sync worker, also by hand
    Sync(sync::Args),
    #[cfg(feature = "agent")]
    /// The agent worker, also by hand
    Agent(agent::Args),
    #[cfg(feature = "agent")]
    /// Serves MCP to the agent over stdio
    Mcp(mcp::Args),
    #[cfg(feature = "sandbox")]
    /// Puts sandkeep into a sandbox and looks after it
    Sandbox(sandbox::Args),
    #[cfg(feature = "sandbox")]
    /// Serves the app's actions over HTTP
    Serve(serve::Args),
}

/// What went wrong, said once, and the exit code: 1 failed, 2 usage or invalid config, 3 no supervisor, 4 no such unit.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// After `error:`; lower case, no full stop.
    pub message: String,
    /// What to do, after `hint:`.
    pub hint: Option<String>,
    /// The exit code.
    pub code: u8,
}

impl CliError {
    /// An error of exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code: 1,
        }
    }

    /// An error of exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code: 2,
        }
    }

    /// Nothing to say but an exit code.
    pub(crate) fn quiet(code: u8) -> Self {
        Self {
            message: String::new(),
            hint: None,
            code,
        }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    if version::answered(std::env::args_os()) {
        return ExitCode::SUCCESS;
    }
    let cli = Cli::parse();
    cli.global.color.apply();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(error.code)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, CliError> {
    match cli.verb {
        Verb::Up(args) => up::run(args, &cli.global),
        Verb::Down(args) => down::run(args, &cli.global),
        Verb::Status(args) => status::run(args, &cli.global),
        Verb::Start(args) => units::run(units::Act::Start, args, &cli.global),
        Verb::Stop(args) => units::run(units::Act::Stop, args, &cli.global),
        Verb::Restart(args) => units::run(units::Act::Restart, args, &cli.global),
        Verb::Reload(args) => units::run(units::Act::Reload, args, &cli.global),
        Verb::Kill(args) => units::kill(args, &cli.global),
        Verb::Wait(args) => wait::run(args, &cli.global),
        Verb::Why(args) => why::run(args, &cli.global),
        Verb::Logs(args) => logs::run(args, &cli.global),
        Verb::Events(args) => events::run(args, &cli.global),
        Verb::Doctor(args) => doctor::run(args, &cli.global),
        Verb::Check(args) => check::run(args, &cli.global),
        Verb::Schema(args) => schema::run(args, &cli.global),
        Verb::Upgrade(args) => upgrade::run(args, &cli.global),
        Verb::Replay(args) => replay::run(args, &cli.global),
        Verb::Completions(args) => completions::run(args, &cli.global),
        Verb::Man(args) => man::run(args, &cli.global),
        #[cfg(feature = "sync")]
        Verb::Sync(args) => sync::run(args, &cli.global),
        #[cfg(feature = "agent")]
        Verb::Agent(args) => agent::run(args, &cli.global),
        #[cfg(feature = "agent")]
        Verb::Mcp(args) => mcp::run(args, &cli.global),
        #[cfg(feature = "sandbox")]
        Verb::Sandbox(args) => sandbox::run(args, &cli.global),
        #[cfg(feature = "sandbox")]
        Verb::Serve(args) => serve::run(args, &cli.global),
    }
}

fn report(error: &CliError) {
    if error.message.is_empty() {
        return;
    }
    let mut stderr = anstream::stderr();
    // Diagnostics have their `error:` and `hint:` already, one for each thing to mend. With stderr closed nobody can be told.
    let _ = if error.message.starts_with("error: ") {
        writeln!(stderr, "{}", error.message.trim_end())
    } else {
        writeln!(stderr, "{} {}", out::paint(out::BAD, "error:"), out::harmless(&error.message))
    };
    if let Some(hint) = &error.hint {
        let _ = writeln!(stderr, "{} {}", out::paint(out::BOLD, "hint:"), out::harmless(hint));
    }
}
