//! A supervisor that stays when this command has returned.

use super::{Action, Args};
use crate::cli::connect::block_on;
use crate::cli::{CliError, Global};
use crate::control::client::{Client, ClientError};
use crate::host::runtime_dir::Places;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a supervisor may take until it answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Starts it and returns as soon as it answers.
pub(super) fn start(args: &Args, global: &Global, client: &Client) -> Result<Action, CliError> {
    let places = Places::of(&global.instance).and_then(|places| places.create().map(|()| places));
    let places = places.map_err(|error| place_error(&error))?;
    let action = if places.running_file().exists() {
        Action::Resumed
    } else {
        Action::Started
    };
    let output = places.state.join("supervisor.out");
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&output);
    let file = file.map_err(|error| CliError::failed(format!("opening {}: {error}", output.display())))?;
    let mut child = launch(args, global, file)?;
    let end = Instant::now() + ANSWERS_WITHIN;
    loop {
        match block_on(async { Ok(client.status().await) })? {
            Ok(_) => return Ok(action),
            Err(ClientError::NoSupervisor { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(failed(&output, status.code()));
        }
        if Instant::now() > end {
            let message = format!("the supervisor (pid {}) does not answer", child.id());
            return Err(CliError::failed(message).hint(format!("its output is in {}", output.display())));
        }
        std::thread::sleep(PAUSE);
    }
}

fn launch(args: &Args, global: &Global, output: File) -> Result<Child, CliError> {
    let failed = |error: std::io::Error| CliError::failed(format!("starting the supervisor: {error}"));
    let binary = std::env::current_exe().map_err(failed)?;
    let errors = output.try_clone().map_err(failed)?;
    let mut command = Command::new(binary);
    command.args(["up", "--detached", "--instance", &global.instance]);
    command.args(flags(args)).stdin(Stdio::null()).stdout(output).stderr(errors);
    command.spawn().map_err(failed)
}

/// The flags that make the configuration what it is.
fn flags(args: &Args) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    let mut add =
        |name: &str, value: Option<OsString>| flags.extend(value.map(|value| [OsString::from(name), value]).into_iter().flatten());
    add("--config", args.config.clone().map(Into::into));
    add("--install", args.install.clone().map(Into::into));
    add("--dev", args.dev.clone().map(Into::into));
    add("--port", args.port.map(|port| port.to_string().into()));
    add("--project", args.project.clone().map(Into::into));
    add("--root", args.root.clone().map(Into::into));
    add("--listen", args.listen.clone().map(Into::into));
    add("--store", args.store.clone().map(Into::into));
    add("--record", args.record.clone().map(Into::into));
    if args.skip_restore {
        flags.push("--skip-restore".into());
    }
    flags
}

/// What the supervisor said before it gave up: it says it as this command would.
fn failed(output: &std::path::Path, code: Option<i32>) -> CliError {
    let mut text = String::new();
    let _ = File::open(output).and_then(|mut file| file.read_to_string(&mut text));
    let text = text.trim();
    let message = match text.strip_prefix("error: ") {
        _ if text.is_empty() => "the supervisor ended before it answered".to_owned(),
        Some(_) | None => text.to_owned(),
    };
    let mut error = CliError::failed(message);
    error.code = code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1);
    error
}

/// A directory that cannot be used, with what to do.
pub(super) fn place_error(error: &crate::host::runtime_dir::PlaceError) -> CliError {
    let shown = CliError::failed(error.to_string());
    match error.hint() {
        Some(hint) => shown.hint(hint),
        None => shown,
    }
}
