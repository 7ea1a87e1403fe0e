//! The supervisor in this very process, with a console beside it.

use super::detached::place_error;
use super::{Args, console};
use crate::cli::{CliError, Global};
use crate::daemon::{self, Origin, Settings};
use crate::host::Environment;
use crate::host::runtime_dir::Places;
use crate::unit::Loaded;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// How long the console gets for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Args, global: &Global, origin: Origin, loaded: Loaded) -> Result<ExitCode, CliError> {
    let failed = |act: &str, error: &dyn std::fmt::Display| CliError::failed(format!("{act}: {error}"));
    if args.detached {
        let _ = nix::unistd::setsid();
    }
    let places = Places::of(&global.instance).and_then(|places| places.create().map(|()| places));
    let places = places.map_err(|error| place_error(&error))?;
    let lock = places.lock().map_err(|error| place_error(&error))?;
    let binary = std::env::current_exe().map_err(|error| failed("finding this program", &error))?;
    log_to_stderr();
    let environment = Environment::take(&loaded.config.secret_names);
    let settings = Settings {
        places: places.clone(),
        lock,
        environment,
        config: loaded.config,
        origin,
        binary,
    };
    let _ = std::fs::write(places.running_file(), std::process::id().to_string());
    let (finished, console_finished) = mpsc::channel::<()>();
    let quiet = args.detached;
    let instance = global.clone();
    let result = daemon::run(settings, move |handle| {
        if !quiet {
            console::attach(handle, instance, finished);
        }
    });
    if !quiet && result.is_ok() {
        // Ends with the sender, which the console's thread drops.
        let _ = console_finished.recv_timeout(LAST_LINES);
    }
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
