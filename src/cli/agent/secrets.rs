//! Getting secrets out of `/proc/<pid>/environ`, which shows a process's first environment for as long as it lives: they are put into a
//! pipe, and the process executes itself without them.

use crate::agent::run::Secrets;
use rustix::io::{FdFlags, fcntl_setfd};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

const VARIABLE: &str = "SANDKEEP_SECRETS_FD";

/// The secrets of this process. Where they are in the environment, this does not return: the process starts anew.
pub(super) fn take() -> io::Result<Secrets> {
    if let Some(number) = std::env::var_os(VARIABLE) {
        return receive(&number.to_string_lossy());
    }
    let mut secrets = Secrets::default();
    for name in Secrets::NAMES {
        if let Ok(value) = std::env::var(name) {
            secrets.values.insert(name.to_owned(), value);
        }
    }
    if secrets.values.is_empty() {
        return Ok(secrets);
    }
    Err(start_anew(&secrets)?)
}

fn receive(number: &str) -> io::Result<Secrets> {
    let mut text = Vec::new();
    // Opening it anew makes a second descriptor; the pipe is empty once it has been read.
    std::fs::File::open(PathBuf::from("/proc/self/fd").join(number))?.read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn start_anew(secrets: &Secrets) -> io::Result<io::Error> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(&serde_json::to_vec(secrets)?)?;
    drop(writer);
    fcntl_setfd(&reader, FdFlags::empty())?;
    let number = reader.as_raw_fd();
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env(VARIABLE, number.to_string());
    for name in Secrets::NAMES {
        command.env_remove(name);
    }
    let _ = reader.into_raw_fd();
    Ok(command.exec())
}
