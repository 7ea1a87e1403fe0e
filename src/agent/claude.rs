//! The claude process: how it is started, fed, heard and ended. Decides nothing.

use super::children::{Known, Leaders, Ticks};
use super::protocol::{self, LINE_MAX, Line};
use super::settings::{Launch, Settings};
use super::transcript::Begun;
use super::{leader, tree};
use crate::ordered::IntoMap;
use crate::tasks;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

/// Variables of the agent's own that claude gets as well; everything else stays out.
const PASSED: [&str; 24] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TERM",
    "TZ",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "ANTHROPIC_BASE_URL",
    "ANTHROPIC_MODEL",
    "SANDKEEP_UNIT",
    "SANDKEEP_INVOCATION_ID",
    "SANDKEEP_SOCKET",
];

/// Set unless the config says otherwise. Without these the CLI looks for updates, reports telemetry, refuses to work as root, and
/// tries a refused key for three minutes.
const FIXED: [(&str, &str); 6] = [
    ("IS_SANDBOX", "1"),
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("DISABLE_AUTOUPDATER", "1"),
    ("DISABLE_TELEMETRY", "1"),
    ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
    ("CLAUDE_CODE_MAX_RETRIES", "4"),
];

/// How claude proves who pays. Handed over through an inherited descriptor: neither its tools nor `/proc/*/environ` show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Key {
    /// `ANTHROPIC_API_KEY`.
    Api(String),
    /// `CLAUDE_CODE_OAUTH_TOKEN`.
    OAuth(String),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What is the same for every claude of this agent.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The executable.
    pub program: PathBuf,
    /// The project's root, where it works.
    pub root: PathBuf,
    /// Its configuration directory.
    pub config_dir: PathBuf,
    /// This very binary.
    pub own_binary: PathBuf,
    /// The agent's own environment, without secrets.
    pub environment: BTreeMap<OsString, OsString>,
    /// The key; `None` = a gateway or the platform has it.
    pub key: Option<Key>,
}

/// What comes out of a process.
#[derive(Debug)]
pub enum Output {
    /// A line.
    Line(Line),
    /// It ended: how, for people, with the end of what it wrote to stderr.
    Exited(String),
}

/// A running claude.
#[derive(Debug)]
pub struct Claude {
    /// Its process id, which is its session's id too.
    pub pid: i32,
    /// The mark of what it starts.
    pub mark: String,
    /// When it was started.
    pub since: Ticks,
    input: mpsc::UnboundedSender<String>,
    handle: Option<OwnedFd>,
}

impl Claude {
    /// Writes a line to its input.
    pub fn write(&self, line: String) {
        // A closed channel is a claude that has ended; its exit is on its way.
        let _ = self.input.send(line);
    }

    /// SIGTERM to it alone.
    pub fn terminate(&self) {
        if let Some(handle) = &self.handle
            && let Err(error) = pidfd_send_signal(handle, Signal::TERM)
        {
            tracing::debug!("terminating claude: {error}");
        }
    }
}

/// Starts claude. What it says goes to `output`, from tasks of its own.
pub fn start(
    surroundings: &Surroundings,
    settings: &Settings,
    launch: &Launch,
    session: &SessionStart<'_>,
    leaders: &Leaders,
    output: impl Fn(Output) + Send + Clone + 'static,
) -> io::Result<Claude> {
    let since = Ticks::now();
    let mark = uuid::Uuid::new_v4().to_string();
    let mut command = Command::new(&surroundings.own_binary);
    command
        .args(leader::VERB)
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(&surroundings.program);
    command.args(arguments(surroundings, settings, launch, session));
    command.current_dir(&surroundings.root);
    command.env_clear().envs(environment(surroundings, settings)).env(tree::MARK, &mark);
    command.env("CLAUDE_CONFIG_DIR", &surroundings.config_dir);
    if session.begun == Begun::Message {
        command.env("CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "1");
    }
    if let Some(reason) = session.resume_reason {
        command.env("CLAUDE_CODE_RESUME_REASON", reason);
    }
    // Held until the process is started: it inherits the descriptor.
    let _key = surroundings.key.as_ref().map(|key| hand_over(key, &mut command)).transpose()?;
    let (stdin, writer) = io::pipe()?;
    // It holds the other end of its input itself. Else, when the agent is killed, it might find its input closed before it is killed as
    // well, take that for a refusal of whatever waits for a person, and tell the model.
    let held = writer.try_clone()?;
    fcntl_setfd(&held, FdFlags::empty())?;
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let known = leaders.add(pid, &mark);
    drop((command, held));
    let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let (input, lines) = mpsc::unbounded_channel();
    tasks::spawn(feed(pipe::Sender::from_owned_fd(writer.into())?, lines));
    tasks::spawn(hear(child, known, output));
    Ok(Claude {
        pid,
        mark,
        since,
        input,
        handle,
    })
}

/// Which conversation a process works on.
#[derive(Clone, Copy, Debug)]
pub struct SessionStart<'a> {
    /// claude's id of it.
    pub id: &'a str,
    /// What claude has of it. A turn that was cut is run again only if it is that of the prompt it is started for: another one's
    /// would be answered in its place.
    pub begun: Begun,
    /// Why a turn was cut, where one was.
    pub resume_reason: Option<&'static str>,
}

/// Lists go in one argument with their flag, since the CLI takes any word after them for a part of the list.
fn arguments(surroundings: &Surroundings, settings: &Settings, launch: &Launch, session: &SessionStart<'_>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "-p",
        "--output-format=stream-json",
        "--input-format=stream-json",
        "--verbose",
        "--session-mirror",
        "--permission-prompt-tool=stdio",
    ]
    .map(Into::into)
    .into();
    let mut push = |argument: String| arguments.push(argument.into());
    push(format!("--permission-mode={}", launch.permission_mode));
    push(match session.begun {
        Begun::Session | Begun::Message => format!("--resume={}", session.id),
        Begun::Nothing => format!("--session-id={}", session.id),
    });
    if settings.partial_messages {
        push("--include-partial-messages".into());
    }
    for (flag, value) in [
        ("model", &launch.model),
        ("fallback-model", &settings.fallback_model),
        ("system-prompt", &launch.system_prompt),
        ("append-system-prompt", &launch.append_system_prompt),
        ("setting-sources", &settings.setting_sources),
    ] {
        if let Some(value) = value {
            push(format!("--{flag}={value}"));
        }
    }
    let mut allowed = launch.allowed_tools.clone();
    let mut servers = launch.mcp_config.clone();
    if settings.mcp && surroundings.environment.contains_key(&OsString::from("SANDKEEP_SOCKET")) {
        let server = json!({"command": surroundings.own_binary.to_string_lossy(), "args": ["mcp"]});
        servers.push(json!({"mcpServers": {"sandkeep": server}}).to_string());
        allowed.push("mcp__sandkeep".into());
    }
    for (flag, list) in [
        ("allowedTools", &allowed),
        ("disallowedTools", &launch.disallowed_tools),
        ("tools", &settings.tools),
    ] {
        if !list.is_empty() {
            push(format!("--{flag}={}", list.join(",")));
        }
    }
    if launch.max_turns > 0 {
        push(format!("--max-turns={}", launch.max_turns));
    }
    if launch.max_budget_usd > 0.0 {
        push(format!("--max-budget-usd={}", launch.max_budget_usd));
    }
    if !servers.is_empty() {
        push("--mcp-config".into());
        servers.into_iter().for_each(push);
    }
    arguments
}

fn environment(surroundings: &Surroundings, settings: &Settings) -> BTreeMap<OsString, OsString> {
    let mut environment: BTreeMap<OsString, OsString> = FIXED.into_iter().map(|(name, value)| (name.into(), value.into())).into_map();
    let passed = settings.pass_environment.iter().map(String::as_str).chain(PASSED);
    for name in passed.map(OsString::from) {
        if let Some(value) = surroundings.environment.get(&name) {
            environment.insert(name, value.clone());
        }
    }
    environment.extend(settings.env.iter().map(|(name, value)| (name.into(), value.into())));
    environment
}

fn hand_over(key: &Key, command: &mut Command) -> io::Result<io::PipeReader> {
    let (name, text) = match key {
        Key::Api(text) => ("CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR", text),
        Key::OAuth(text) => ("CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR", text),
    };
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(text.as_bytes())?;
    fcntl_setfd(&reader, FdFlags::empty())?;
    command.env(name, reader.as_raw_fd().to_string());
    Ok(reader)
}

async fn feed(mut stdin: pipe::Sender, mut lines: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = lines.recv().await {
        if let Err(error) = stdin.write_all(line.as_bytes()).await {
            tracing::debug!("writing to claude: {error}");
            return;
        }
    }
}

async fn hear(mut child: Child, known: Known, output: impl Fn(Output) + Send + Clone + 'static) {
    let tail = Arc::new(Mutex::new(Vec::new()));
    let stderr = child.stderr.take();
    let complaints = tasks::spawn({
        let tail = tail.clone();
        async move {
            if let Some(stderr) = stderr {
                keep_tail(stderr, &tail).await;
            }
        }
    });
    let heard = child.stdout.take().map(|stdout| tasks::spawn(listen(stdout, output.clone())));
    let status = child.wait().await;
    drop(known);
    // A grandchild may hold the pipes for ever: what claude itself wrote is there at once.
    let settled = std::time::Duration::from_millis(300);
    if let Some(mut heard) = heard
        && tokio::time::timeout(settled, &mut heard).await.is_err()
    {
        heard.abort();
    }
    let _ = tokio::time::timeout(settled, complaints).await;
    let tail = tail
        .lock()
        .map(|tail| String::from_utf8_lossy(&tail).trim().to_owned())
        .unwrap_or_default();
    let how = match status {
        Ok(status) => format!("claude ended with {status}"),
        Err(error) => format!("waiting for claude: {error}"),
    };
    output(Output::Exited(if tail.is_empty() { how } else { format!("{how}: {tail}") }));
}

async fn listen(stdout: ChildStdout, output: impl Fn(Output)) {
    let mut reader = BufReader::with_capacity(64 << 10, stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        if line.capacity() > 1 << 20 {
            line.shrink_to(64 << 10);
        }
        match read_line(&mut reader, &mut line).await {
            Ok(0) => return,
            Ok(length) if length > line.len() => output(Output::Line(Line::Malformed {
                bytes: length,
                error: format!("longer than {LINE_MAX} bytes"),
            })),
            Ok(_) => {
                let text = line.trim_ascii();
                if !text.is_empty() {
                    output(Output::Line(protocol::parse(text)));
                }
            }
            Err(error) => {
                tracing::warn!("reading from claude: {error}");
                return;
            }
        }
    }
}

/// Reads a line, of which it keeps [`LINE_MAX`] bytes. Returns its whole length; 0 = the end.
async fn read_line(reader: &mut BufReader<ChildStdout>, line: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(length);
        }
        let (taken, whole) = match chunk.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (chunk.len(), false),
        };
        let room = (LINE_MAX + 1).saturating_sub(line.len()).min(taken);
        line.extend_from_slice(&chunk[..room]);
        length += taken;
        reader.consume(taken);
        if whole {
            return Ok(length);
        }
    }
}

async fn keep_tail(mut stderr: impl tokio::io::AsyncRead + Unpin, tail: &Mutex<Vec<u8>>) {
    const KEPT: usize = 2048;
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
        if let Ok(mut tail) = tail.lock() {
            tail.extend_from_slice(&chunk[..length]);
            let over = tail.len().saturating_sub(KEPT);
            tail.drain(..over);
        }
    }
}

/// Looks for the executable as the shell would.
pub fn find_program(command: &str, path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let executable = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if command.contains('/') {
        let path = PathBuf::from(command);
        return executable(&path).then(|| std::path::absolute(&path).unwrap_or(path));
    }
    let directories = std::env::split_paths(path?);
    directories.map(|directory| directory.join(command)).find(|path| executable(path))
}
