//! The supervisor in this very process, with a console beside it.

use super::detached::place_error;
use super::{Args, console};
use crate::cli::{CliError, Global, out};
use crate::daemon::{self, DaemonError, Handover, Origin, Settings};
use crate::host::Environment;
use crate::host::image::Descriptor;
use crate::host::runtime_dir::Places;
use crate::unit::Config;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// How long the console gets for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Args, global: &Global, origin: Origin, config: Config) -> Result<ExitCode, CliError> {
    let failed = |act: &str, error: &dyn std::fmt::Display| CliError::failed(format!("{act}: {error}"));
    if args.detached {
        let _ = nix::unistd::setsid();
    }
    let places = Places::of(&global.instance).and_then(|places| places.create().map(|()| places));
    let places = places.map_err(|error| place_error(&error))?;
    let lock = places.lock().map_err(|error| place_error(&error))?;
    let binary = std::env::current_exe().map_err(|error| failed("finding this program", &error))?;
    log_to_stderr();
    let environment = Environment::take(&config.secret_names);
    let settings = Settings {
        places: places.clone(),
        lock,
        environment,
        config,
        origin,
        binary,
        arguments: arguments(args, global),
        record: args
            .record
            .as_ref()
            .map(std::path::absolute)
            .transpose()
            .map_err(|error| failed("finding the recording's place", &error))?,
    };
    let _ = std::fs::write(places.running_file(), std::process::id().to_string());
    let (finished, console_finished) = mpsc::channel::<()>();
    let quiet = args.detached;
    let instance = global.clone();
    let result = daemon::run(settings, move |handle| {
        if !quiet {
            console::attach(handle, instance, finished, console::From::Beginning);
        }
    });
    if !quiet && result.is_ok() {
        // Ends with the sender, which the console's thread drops.
        let _ = console_finished.recv_timeout(LAST_LINES);
    }
    ended(&places, result)
}

/// The words with which another image of this program takes over.
fn arguments(args: &Args, global: &Global) -> Vec<OsString> {
    let mut words: Vec<OsString> = ["up", "--instance", &global.instance].map(OsString::from).to_vec();
    if args.detached {
        words.push("--detached".into());
    }
    words
}

/// The supervisor of the image before this one, in this one.
pub(super) fn take_over(handover: Handover, args: &Args, global: &Global) -> Result<ExitCode, CliError> {
    if handover.back.is_none() {
        return rehearse(handover.state);
    }
    log_to_stderr();
    let places = global.paths()?;
    let (finished, console_finished) = mpsc::channel::<()>();
    let quiet = args.detached;
    let instance = global.clone();
    let result = daemon::resume(handover, arguments(args, global), move |handle| {
        if !quiet {
            console::attach(handle, instance, finished, console::From::Now);
        }
    });
    if !quiet && result.is_ok() {
        let _ = console_finished.recv_timeout(LAST_LINES);
    }
    ended(&places, result)
}

/// Says whether this program could take over what the state says.
pub(super) fn rehearse(state: Descriptor) -> Result<ExitCode, CliError> {
    daemon::rehearse(state).map_err(|error| CliError::failed(error.to_string()))?;
    out::print(&format!(
        "{}\n",
        serde_json::json!({ "handover": daemon::READY, "version": env!("CARGO_PKG_VERSION") })
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn ended(places: &Places, result: Result<u8, DaemonError>) -> Result<ExitCode, CliError> {
    let _ = std::fs::remove_file(places.running_file());
    match result {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            let shown = CliError::failed(error.to_string());
            Err(match error.hint() {
                Some(hint) => shown.hint(hint),
                None => shown,
            })
        }
    }
}

/// The supervisor's own warnings; what it decides is in its log.
fn log_to_stderr() {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing::Level::WARN);
    // Where one is set already there is nothing to do.
    let _ = subscriber.without_time().with_target(false).try_init();
}
