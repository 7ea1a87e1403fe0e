//! Where sandboxes come from: one small trait, and what implements it.
//!
//! The primitive is "upload one file, run one command, environment on standard input"; everything else in [`Provider`] is about the box
//! itself: making, finding, listing, stopping it, its ports and its deadline. Every implementation passes the suite in
//! `tests/sandbox/contract.rs`.

pub mod exec;
pub mod local;
mod process;
pub mod vercel;

use super::fault::Fault;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a provider answers, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Fault>>;

/// Bytes that appear in no log, no record, no argument list.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// Hides these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for whom they are meant.
    pub fn reveal(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name: letters, digits, `_`, `.`, `-`, at most 64. What it is found by again.
    pub name: String,
    /// The ports that should be reachable from outside.
    pub ports: Vec<u16>,
    /// How long it should live; `None` for what the provider gives.
    pub timeout: Option<Duration>,
}

/// How a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Commands can be run in it.
    Running,
    /// It stands still; [`Provider::find`] with [`Wake::Yes`] brings it back, with its files and without processes.
    Stopped,
    /// It is over and does not come back.
    Ended,
}

/// A sandbox as its provider sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// What the provider calls it: `SANDBOX_ID` inside. Stays when it is stopped and woken.
    pub id: String,
    /// Another one whenever the machine behind it is another, or came back without processes.
    pub session: String,
    /// How it is.
    pub state: State,
    /// Where commands start, and the project goes; `None` for the user's home.
    pub directory: Option<String>,
    /// When the provider ends it.
    pub expires_at: Option<jiff::Timestamp>,
    /// Where its ports are reachable.
    pub urls: BTreeMap<u16, String>,
}

/// Whether a sandbox that stands still is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Yes, and awaited until commands can be run.
    Yes,
    /// Only looked at.
    No,
}

/// Whether a command may be run a second time when nobody knows how the first run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The second run does no harm.
    Harmless,
    /// Rather [`Code::Lost`] than twice.
    Never,
}

/// A command for the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments. Everybody in the sandbox can read them: no secrets.
    pub argv: Vec<String>,
    /// The working directory; `None` for the sandbox's own.
    pub directory: Option<String>,
    /// What it reads on standard input, and then the end of it; secrets belong here. A provider without standard input hands it over in
    /// a 0600 file that is removed when it is open. `None` is an empty input.
    pub stdin: Option<Secret>,
    /// After this long it is ended and the answer is [`Code::CommandFailed`].
    pub limit: Duration,
    /// Whether it may be run twice.
    pub repeat: Repeat,
}

impl Command {
    /// A script for `/bin/sh`, harmless to repeat, with two minutes.
    pub fn shell(script: impl Into<String>) -> Self {
        Self::new(["/bin/sh".to_owned(), "-c".to_owned(), script.into()])
    }

    /// A program and its arguments, harmless to repeat, with two minutes.
    pub fn new(argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            directory: None,
            stdin: None,
            limit: Duration::from_secs(120),
            repeat: Repeat::Harmless,
        }
    }

    /// Adds an argument; for a script `$0`, `$1`, ….
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// In this directory.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<String>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// With this on standard input.
    #[must_use]
    pub fn with_stdin(mut self, stdin: Secret) -> Self {
        self.stdin = Some(stdin);
        self
    }

    /// For this long at most.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Not to be repeated blindly.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.repeat = Repeat::Never;
        self
    }
}

/// Where a chunk of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what a command writes, in chunks as they come, not in lines.
pub type Output<'a> = &'a mut (dyn FnMut(Stream, &[u8]) + Send);

/// The most of standard output that is kept; what is more is no answer to us.
const STDOUT_KEPT: usize = 16 << 20;
/// The most of standard error that is kept: its end.
const STDERR_KEPT: usize = 64 << 10;

/// What a command wrote, kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Standard output, from its beginning.
    pub stdout: Vec<u8>,
    /// Standard error, its end.
    pub stderr: Vec<u8>,
}

impl Heard {
    /// Takes a chunk.
    pub fn take(&mut self, stream: Stream, chunk: &[u8]) {
        match stream {
            Stream::Stdout => {
                let room = STDOUT_KEPT.saturating_sub(self.stdout.len());
                self.stdout.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            Stream::Stderr => {
                self.stderr.extend_from_slice(chunk);
                if self.stderr.len() > 2 * STDERR_KEPT {
                    self.stderr.drain(..self.stderr.len() - STDERR_KEPT);
                }
            }
        }
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both as text, what went wrong first.
    pub fn both(&self) -> String {
        let (errors, text) = (String::from_utf8_lossy(&self.stderr), String::from_utf8_lossy(&self.stdout));
        format!("{}\n{}", errors.trim_end(), text.trim_end()).trim().to_owned()
    }
}

/// Runs a command and keeps what it writes.
///
/// # Errors
/// As [`Provider::run`]; an exit code is no error.
pub async fn hear(provider: &dyn Provider, sandbox: &Sandbox, command: &Command) -> Result<(Exit, Heard), Fault> {
    let mut heard = Heard::default();
    let mut take = |stream: Stream, chunk: &[u8]| heard.take(stream, chunk);
    let exit = provider.run(sandbox, command, &mut take).await?;
    Ok((exit, heard))
}

/// How a command ended: its exit code, or 128 and the signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub i32);

impl Exit {
    /// Whether it is 0.
    pub fn is_success(self) -> bool {
        self.0 == 0
    }
}

/// What is to be a file in the sandbox.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Bytes(Secret),
    /// A file here.
    File(PathBuf),
}

/// A file for the sandbox.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Where to, absolute. Missing directories above it are made. What is there is replaced at once or not at all, also when it is a
    /// program that runs.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub body: Body,
}

/// Which ports can be reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of them, on this machine's loopback: every sandbox needs a free one of its own.
    Loopback,
    /// Those that were exposed, at a URL, if the program listens on 0.0.0.0.
    Exposed,
    /// None that we know of.
    Nothing,
}

/// Makes sandboxes and runs commands in them.
///
/// Calls are idempotent where their names allow it, may be made from many tasks at once, and may be dropped at any time. Retrying what is
/// safe to retry (also a `Retry-After` of reasonable length) is the implementation's own business.
pub trait Provider: Send + Sync + fmt::Debug {
    /// What it takes to open the same provider again. No secrets.
    fn settings(&self) -> Settings;

    /// How ports are reached.
    fn reach(&self) -> Reach;

    /// Where our own directory goes in this sandbox; `None` for a place in the user's home.
    fn place(&self, _sandbox: &Sandbox) -> Option<String> {
        None
    }

    /// The supervisor's `--instance`: another one for every sandbox, unless the whole machine is the sandbox.
    fn instance(&self, sandbox: &Sandbox) -> String {
        sandbox.name.clone()
    }

    /// Makes a sandbox, and waits until commands can be run in it. One of this name that is there already, made by whomever, is the
    /// answer too.
    fn create<'a>(&'a self, wanted: &'a Wanted) -> Answer<'a, Sandbox>;

    /// Looks for a sandbox by name; `None` if there is none.
    fn find<'a>(&'a self, name: &'a str, wake: Wake) -> Answer<'a, Option<Sandbox>>;

    /// All sandboxes that it knows.
    fn list(&self) -> Answer<'_, Vec<Sandbox>>;

    /// Runs a command to its end, handing over its output as it comes. Dropped, it ends the command where it can.
    fn run<'a>(&'a self, sandbox: &'a Sandbox, command: &'a Command, output: Output<'a>) -> Answer<'a, Exit>;

    /// Starts a command that goes on when nobody looks, with its output in `log` (a file in the sandbox, made anew). Answers when it was
    /// started, with what the provider calls it. The command's `limit` does not count.
    fn launch<'a>(&'a self, sandbox: &'a Sandbox, command: &'a Command, log: &'a str) -> Answer<'a, String>;

    /// Brings a file in; answers how many bytes were sent.
    fn upload<'a>(&'a self, sandbox: &'a Sandbox, file: &'a Upload) -> Answer<'a, u64>;

    /// Makes a port reachable, if it is not, and says where; `None` where the provider knows no way.
    fn expose<'a>(&'a self, sandbox: &'a Sandbox, port: u16) -> Answer<'a, Option<String>>;

    /// Has it live until then at least, as far as the provider allows; answers its deadline as it is afterwards.
    fn extend<'a>(&'a self, sandbox: &'a Sandbox, until: jiff::Timestamp) -> Answer<'a, Option<jiff::Timestamp>>;

    /// Ends all processes of a sandbox, and it with them as far as the provider can; its files may stay. Stopped already is fine.
    fn stop<'a>(&'a self, sandbox: &'a Sandbox) -> Answer<'a, ()>;

    /// Removes a sandbox with everything in it, if [`Provider::create`] can make them; gone already is fine.
    fn remove<'a>(&'a self, sandbox: &'a Sandbox) -> Answer<'a, ()>;
}

/// Which provider, and what it has to know: kept in the record, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Settings {
    /// A directory and a detached supervisor on this machine.
    Local {
        /// Where the directories of the sandboxes are.
        root: PathBuf,
    },
    /// A box that a command reaches.
    Exec {
        /// That command: `docker exec -i X`, `ssh host`.
        via: String,
        /// Where its ports are reachable, with `{port}` in it.
        url: Option<String>,
    },
    /// Vercel Sandbox.
    Vercel(vercel::Settings),
}

impl Settings {
    /// The word for people and in JSON: `local`, `exec`, `vercel`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Exec { .. } => "exec",
            Self::Vercel(_) => "vercel",
        }
    }

    /// Whether it ends sandboxes by itself, and gives them more time when it is asked: not where only the user knows when they end.
    pub fn ends_sandboxes(&self) -> bool {
        match self {
            Self::Local { .. } | Self::Exec { .. } => false,
            Self::Vercel(_) => true,
        }
    }

    /// Opens the provider. `variable` finds an environment variable, for credentials.
    ///
    /// # Errors
    /// Missing or malformed credentials, settings that make no sense.
    pub fn open(&self, variable: &dyn Fn(&str) -> Option<String>) -> Result<Arc<dyn Provider>, Fault> {
        match self {
            Self::Local { root } => Ok(Arc::new(local::Local::new(root))),
            Self::Exec { via, url } => Ok(Arc::new(exec::Exec::new(via, url.as_deref())?)),
            Self::Vercel(settings) => vercel::open(settings, variable),
        }
    }
}
