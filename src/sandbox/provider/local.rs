//! A directory on this machine: the provider that needs no account.
//!
//! A sandbox is `<root>/<name>/` with the project and our own files in it. Commands run as the caller, with an environment that holds
//! nothing but what programs need to work at all. Nothing is isolated: it is for trying out, for tests, and for a machine of one's own.

use super::process::{self, Input, LAUNCH, blocking, launched};
use super::{Answer, Body, Command, Exit, Fault, Heard, Output, Provider, Reach, Sandbox, Settings, State, Stream, Upload, Wake, Wanted};
use crate::ordered::Order;
use crate::sandbox::fault::Code;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The file of a sandbox.
const ABOUT: &str = ".sandbox.json";
/// How long a supervisor may take to end, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(30);

/// What a command gets of the caller's environment: what programs need to work at all, and no secrets.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TERM",
    "XDG_*",
    "LC_*",
    "SANDKEEP_RUNTIME_DIR",
    "SANDKEEP_STATE_DIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "npm_config_cache",
    "npm_config_registry",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// What is known of a sandbox, in its own directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct About {
    id: String,
    /// Grows whenever it is woken.
    life: u32,
    stopped: bool,
    /// Processes that were launched: pid, and when the kernel started it.
    launched: Vec<(i32, u64)>,
}

/// Makes sandboxes in a directory.
#[derive(Clone, Debug)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    /// Below this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn directory(&self, name: &str) -> Result<PathBuf, Fault> {
        crate::sandbox::record::check_name(name)?;
        Ok(self.root.join(name))
    }

    fn sandbox(&self, name: &str, about: &About) -> Sandbox {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Sandbox {
            name: name.to_owned(),
            id: about.id.clone(),
            session: format!("{}-{}", boot.trim(), about.life),
            state: if about.stopped { State::Stopped } else { State::Running },
            directory: Some(self.root.join(name).to_string_lossy().into_owned()),
            expires_at: None,
            urls: BTreeMap::new(),
        }
    }

    fn about(&self, name: &str) -> Result<Option<About>, Fault> {
        let path = self.directory(name)?.join(ABOUT);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                Fault::new(Code::ProviderFailed, format!("reading `{}`: {error}", path.display()))
                    .hint(format!("remove `{}`", self.root.join(name).display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading", &path, &error)),
        }
    }

    fn write(&self, name: &str, about: &About) -> Result<(), Fault> {
        let path = self.directory(name)?.join(ABOUT);
        let text = serde_json::to_vec(about).map_err(|error| Fault::new(Code::ProviderFailed, error.to_string()))?;
        replace(&path, 0o600, |file| file.write_all(&text)).map_err(|error| failed("writing", &path, &error))
    }

    fn make(&self, wanted: &Wanted) -> Result<Sandbox, Fault> {
        let directory = self.directory(&wanted.name)?;
        if let Some(found) = self.look(&wanted.name, Wake::Yes)? {
            return Ok(found);
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| failed("making", &directory, &error))?;
        let random = uuid::Uuid::new_v4().simple().to_string();
        let about = About {
            id: format!("local-{}", &random[..12]),
            life: 1,
            stopped: false,
            launched: Vec::new(),
        };
        self.write(&wanted.name, &about)?;
        Ok(self.sandbox(&wanted.name, &about))
    }

    fn look(&self, name: &str, wake: Wake) -> Result<Option<Sandbox>, Fault> {
        let Some(mut about) = self.about(name)? else { return Ok(None) };
        if about.stopped && wake == Wake::Yes {
            about.stopped = false;
            about.life += 1;
            self.write(name, &about)?;
        }
        Ok(Some(self.sandbox(name, &about)))
    }

    fn end(&self, name: &str) -> Result<(), Fault> {
        let Some(mut about) = self.about(name)? else { return Ok(()) };
        let living = |about: &About| -> Vec<i32> {
            let alive = about.launched.iter().filter(|(pid, since)| started_at(*pid) == Some(*since));
            alive.map(|(pid, _)| *pid).collect()
        };
        let end = Instant::now() + END_WITHIN;
        let mut signal = Signal::SIGTERM;
        loop {
            let alive = living(&about);
            if alive.is_empty() {
                break;
            }
            if signal == Signal::SIGTERM || Instant::now() > end {
                for pid in &alive {
                    let _ = kill(Pid::from_raw(*pid), signal);
                }
                signal = Signal::SIGKILL;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        about.launched.clear();
        about.stopped = true;
        self.write(name, &about)
    }

    fn remember(&self, name: &str, pid: &str) -> Result<(), Fault> {
        let Some(mut about) = self.about(name)? else { return Ok(()) };
        if let Some((pid, since)) = pid.parse().ok().and_then(|pid| Some((pid, started_at(pid)?))) {
            about.launched.retain(|(pid, since)| started_at(*pid) == Some(*since));
            about.launched.push((pid, since));
            self.write(name, &about)?;
        }
        Ok(())
    }

    fn process(&self, sandbox: &Sandbox, directory: Option<&str>, argv: &[String]) -> Result<tokio::process::Command, Fault> {
        let (program, arguments) = argv
            .split_first()
            .ok_or_else(|| Fault::new(Code::BadRequest, "there is no command"))?;
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env_clear().envs(environment());
        match directory {
            Some(directory) => command.current_dir(directory),
            None => command.current_dir(self.directory(&sandbox.name)?),
        };
        Ok(command)
    }
}

impl Provider for Local {
    fn settings(&self) -> Settings {
        Settings::Local { root: self.root.clone() }
    }

    fn reach(&self) -> Reach {
        Reach::Loopback
    }

    fn place(&self, sandbox: &Sandbox) -> Option<String> {
        Some(self.root.join(&sandbox.name).join(".sandkeep").to_string_lossy().into_owned())
    }

    fn create<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Sandbox> {
        let (local, wanted) = (self.clone(), wanted.clone());
        Box::pin(blocking(move || local.make(&wanted)))
    }

    fn find<'a>(&'a self, name: &'a str, wake: Wake) -> Answer<'a, Option<Sandbox>> {
        let (local, name) = (self.clone(), name.to_owned());
        Box::pin(blocking(move || local.look(&name, wake)))
    }

    fn list(&self) -> Answer<'_, Vec<Sandbox>> {
        let local = self.clone();
        Box::pin(blocking(move || {
            let entries = match fs::read_dir(&local.root) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(failed("reading", &local.root, &error)),
            };
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            let mut found: Vec<Sandbox> = names.filter_map(|name| local.look(&name, Wake::No).ok()?).collect();
            found.order_by(|a, b| a.name.cmp(&b.name));
            Ok(found)
        }))
    }

    fn run<'a>(&'a self, sandbox: &'a Sandbox, command: &'a Command, output: Output<'a>) -> Answer<'a, Exit> {
        Box::pin(async move {
            let process = self.process(sandbox, command.directory.as_deref(), &command.argv)?;
            process::run(process, command.stdin.as_ref().into(), command.limit, output).await
        })
    }

    fn launch<'a>(&'a self, sandbox: &'a Sandbox, command: &'a Command, log: &'a str) -> Answer<'a, String> {
        Box::pin(async move {
            let directory = command.directory.clone().unwrap_or_default();
            let head = ["/bin/sh", "-c", LAUNCH, "launch", log, &directory];
            let argv: Vec<String> = head.into_iter().map(str::to_owned).chain(command.argv.iter().cloned()).collect();
            let process = self.process(sandbox, None, &argv)?;
            let stdin = command.stdin.clone().unwrap_or_default();
            let mut heard = Heard::default();
            let mut take = |stream: Stream, chunk: &[u8]| heard.take(stream, chunk);
            let exit = process::run(process, Input::Bytes(&stdin), command.limit, &mut take).await?;
            let pid = launched(exit, &heard)?;
            let (local, name, id) = (self.clone(), sandbox.name.clone(), pid.clone());
            blocking(move || local.remember(&name, &id)).await?;
            Ok(pid)
        })
    }

    fn upload<'a>(&'a self, _sandbox: &'a Sandbox, file: &'a Upload) -> Answer<'a, u64> {
        let file = file.clone();
        Box::pin(blocking(move || {
            let path = Path::new(&file.path);
            let write = || -> io::Result<u64> {
                if let Some(parent) = path.parent() {
                    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
                }
                match &file.body {
                    Body::Bytes(bytes) => {
                        replace(path, file.mode, |to| to.write_all(bytes.reveal()))?;
                        Ok(bytes.reveal().len() as u64)
                    }
                    Body::File(source) => {
                        let mut from = fs::File::open(source)?;
                        let mut sent = 0;
                        replace(path, file.mode, |to| {
                            sent = io::copy(&mut from, to)?;
                            Ok(())
                        })?;
                        Ok(sent)
                    }
                }
            };
            write().map_err(|error| Fault::new(Code::UploadFailed, format!("writing `{}`: {error}", file.path)))
        }))
    }

    fn expose<'a>(&'a self, _sandbox: &'a Sandbox, port: u16) -> Answer<'a, Option<String>> {
        Box::pin(async move { Ok(Some(format!("http://127.0.0.1:{port}"))) })
    }

    fn extend<'a>(&'a self, _sandbox: &'a Sandbox, until: jiff::Timestamp) -> Answer<'a, Option<jiff::Timestamp>> {
        // Nobody ends it but its user, and the user says when.
        Box::pin(async move { Ok(Some(until)) })
    }

    fn stop<'a>(&'a self, sandbox: &'a Sandbox) -> Answer<'a, ()> {
        let (local, name) = (self.clone(), sandbox.name.clone());
        Box::pin(blocking(move || local.end(&name)))
    }

    fn remove<'a>(&'a self, sandbox: &'a Sandbox) -> Answer<'a, ()> {
        let (local, name) = (self.clone(), sandbox.name.clone());
        Box::pin(blocking(move || {
            local.end(&name)?;
            let directory = local.directory(&name)?;
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", &directory, &error)),
                _ => Ok(()),
            }
        }))
    }
}

fn failed(act: &str, path: &Path, error: &io::Error) -> Fault {
    Fault::new(Code::ProviderFailed, format!("{act} `{}`: {error}", path.display()))
}

/// Writes a file beside its place and moves it there.
fn replace(path: &Path, mode: u32, fill: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", uuid::Uuid::new_v4().simple()));
    let new = PathBuf::from(name);
    let write = || {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
        fill(&mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        drop(file);
        fs::rename(&new, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// What commands get of this process's environment.
fn environment() -> Vec<(OsString, OsString)> {
    let kept = |name: &str| {
        KEPT.iter().any(|kept| match kept.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *kept,
        })
    };
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(kept)).collect()
}

/// When the kernel started a process that is alive: with the pid it is one process for ever. Field 22 of proc(5)'s stat.
fn started_at(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
