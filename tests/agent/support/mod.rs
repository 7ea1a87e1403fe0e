//! A sandbox for one test: a state directory, a project, the loopback API, the agent worker with the real CLI.

pub(crate) mod api;
pub(crate) mod convex;
pub(crate) mod raw;

use api::Api;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const KEY: &str = "sk-ant-test-0123456789abcdef";

fn installed(packages: &str) -> PathBuf {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let packages = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/agent/node_modules")
        .join(packages);
    packages.join(format!("@anthropic-ai/claude-code-linux-{architecture}/claude"))
}

/// An older CLI, which does not say which message a result answers.
pub(crate) fn claude_without_lifecycle() -> PathBuf {
    let path = installed("claude-code-without-lifecycle/node_modules");
    assert!(path.exists(), "no {}: run tests/agent/setup", path.display());
    path
}

/// The real CLI: what `tests/agent/setup` installs, else what is on PATH.
pub(crate) fn claude() -> PathBuf {
    let installed = installed("");
    if installed.exists() {
        return installed;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join("claude"))
        .find(|path| path.exists());
    found.expect("no claude: run tests/agent/setup")
}

/// The binary that `benches/agent/run` was told to measure, else the one that cargo has built.
fn measured_binary() -> PathBuf {
    let told = std::env::var_os("SANDKEEP_BINARY").filter(|path| !path.is_empty());
    told.map_or_else(|| env!("CARGO_BIN_EXE_sandkeep").into(), PathBuf::from)
}

pub(crate) struct Sandbox {
    pub(crate) api: Api,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) settings: Value,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) key: Option<String>,
    pub(crate) id: String,
    /// The ordinary user that the worker runs as; root else, where the tests do.
    pub(crate) user: Option<u32>,
    /// sandkeep.
    pub(crate) binary: PathBuf,
    worker: Option<Child>,
}

impl Sandbox {
    /// A sandbox with the worker running.
    pub(crate) fn start() -> Self {
        Self::with(json!({}))
    }

    pub(crate) fn with(settings: Value) -> Self {
        let mut sandbox = Self::prepare(settings);
        sandbox.up();
        sandbox
    }

    /// A sandbox without a worker yet.
    pub(crate) fn prepare(settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["project", "home", "run/default", "state"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        Self {
            api: Api::start(),
            folder,
            settings,
            environment: Vec::new(),
            key: Some(KEY.into()),
            id: "sb1".into(),
            user: None,
            binary: measured_binary(),
            worker: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What a file of the project holds; empty when it is not there.
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.path("project").join(name)).unwrap_or_default()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        if let Some(user) = self.user {
            std::os::unix::process::CommandExt::uid(&mut command, user);
        }
        let mut agent = self.settings.clone();
        if agent["command"].is_null() {
            agent["command"] = json!(claude());
        }
        let config = json!({
            "project_id": "p", "root": self.path("project"), "sandbox_id": self.id, "expires_at": null, "port": null, "state_dir": self.path("state"),
            "sync": {"batch_files": 10, "batch_interval": "30s", "include": [], "exclude": [], "env_files": false}, "agent": agent,
        });
        command.args(arguments).env_clear();
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"));
        command
            .env("SANDKEEP_RUNTIME_DIR", self.path("run"))
            .env("SANDKEEP_STATE_DIR", self.path("state"));
        command
            .env("SANDKEEP_CONFIG_JSON", config.to_string())
            .env("ANTHROPIC_BASE_URL", &self.api.url);
        command.env("SANDKEEP_UNIT", "agent").env("SANDKEEP_INVOCATION_ID", "i-test");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the worker and waits until it listens.
    pub(crate) fn up(&mut self) {
        let mut command = self.command(&["agent", "run"]);
        if let Some(key) = &self.key {
            command.env("ANTHROPIC_API_KEY", key);
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("worker.log"))
            .unwrap();
        let _ = std::fs::remove_file(self.socket());
        self.worker = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        until("the worker listens", || UnixStream::connect(self.socket()).is_ok());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.worker.as_ref().unwrap().id()
    }

    /// `kill -9` of the worker.
    pub(crate) fn kill(&mut self) {
        let mut worker = self.worker.take().unwrap();
        worker.kill().unwrap();
        worker.wait().unwrap();
    }

    /// SIGTERM, and whether it ended well.
    pub(crate) fn down(&mut self) -> bool {
        let mut worker = self.worker.take().unwrap();
        signal(worker.id(), "TERM");
        worker.wait().unwrap().success()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/default/agent.sock")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.request("POST", path, &body.to_string())
    }

    pub(crate) fn fetch(&self, path: &str) -> (u16, Value) {
        self.request("GET", path, "")
    }

    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        // In one piece: who is answered before the body is asked for finds the connection closed.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        (status, serde_json::from_str(body).unwrap_or(Value::String(body.into())))
    }

    /// Sends a prompt and returns its id.
    pub(crate) fn send(&self, text: &str) -> String {
        self.submit(json!({"text": text}))
    }

    pub(crate) fn submit(&self, body: Value) -> String {
        let (status, answer) = self.post("/v1/agent/prompts", &body);
        assert!(matches!(status, 200 | 202), "{status} {answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Sends a prompt and waits for its end.
    pub(crate) fn ask(&self, text: &str) -> Value {
        let id = self.send(text);
        self.end_of(&id)
    }

    /// Waits for a prompt that ends well with this text, and returns its terminal event.
    pub(crate) fn done(&self, id: &str, text: &str) -> Value {
        let end = self.end_of(id);
        assert_eq!((end["status"].as_str(), end["text"].as_str()), (Some("done"), Some(text)), "{end}");
        end
    }

    /// How often a prompt stands in the transcript of the only session.
    pub(crate) fn asked(&self, id: &str) -> usize {
        let entries = raw::transcript_below(&self.path("home/.claude/projects"));
        entries
            .iter()
            .filter(|entry| entry["uuid"] == id && entry["type"] == "user")
            .count()
    }

    /// How often a tool ran that notes it in `ran.txt`.
    pub(crate) fn runs(&self) -> usize {
        self.file("ran.txt").lines().count()
    }

    /// Whether the terminal event is there: the last line of the file.
    pub(crate) fn ended(&self, id: &str) -> bool {
        use std::io::{Seek, SeekFrom};
        let path = self.path("state/agent/outbox").join(format!("{id}.ndjson"));
        let Ok(mut file) = std::fs::File::open(path) else { return false };
        let length = file.metadata().map_or(0, |found| found.len());
        let mut end = Vec::new();
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(512 << 10)));
        let _ = file.read_to_end(&mut end);
        let text = String::from_utf8_lossy(&end);
        text.ends_with('\n') && text.lines().last().is_some_and(|line| line.contains("\"type\":\"end\""))
    }

    /// Waits until claude has this in its transcript, which it writes a moment after it says it.
    pub(crate) fn until_written(&self, what: &str) {
        until("it is in the transcript", || {
            let files = std::fs::read_dir(self.path("state/transcripts")).into_iter().flatten().flatten();
            let mut texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
            texts.any(|text| text.contains(what))
        });
    }

    pub(crate) fn wait_for_end(&self, id: &str) {
        until(&format!("prompt {id} ends\n{}", self.log()), || self.ended(id));
    }

    /// The data of a prompt's terminal event.
    pub(crate) fn end_of(&self, id: &str) -> Value {
        self.wait_for_end(id);
        let events = self.events(id);
        for (at, event) in events.iter().enumerate() {
            assert_eq!(event["seq"], at + 1, "the sequence has no gap and no duplicate");
        }
        let ends: Vec<&Value> = events.iter().filter(|event| event["type"] == "end").collect();
        assert_eq!(ends.len(), 1, "one terminal event");
        assert_eq!(events.last().unwrap()["type"], "end", "and it is the last");
        ends[0]["data"].clone()
    }

    /// The events on disk.
    pub(crate) fn events(&self, id: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("state/agent/outbox").join(format!("{id}.ndjson"))).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event that fits, and returns it.
    pub(crate) fn event(&self, id: &str, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let find = || {
            self.events(id)
                .into_iter()
                .find(|event| event["type"] == kind && fits(&event["data"]))
        };
        until(&format!("a `{kind}` of {id}\n{}", self.log()), || find().is_some());
        find().unwrap()
    }

    /// The events as the door streams them, after a number, until the terminal one.
    pub(crate) fn stream(&self, id: &str, after: u64) -> Vec<Value> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "GET /v1/agent/prompts/{id}/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\nlast-event-id: {after}\r\n\r\n"
        )
        .unwrap();
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        lines
            .filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok())
            .collect()
    }

    pub(crate) fn status(&self) -> Value {
        self.fetch("/v1/agent/status").1
    }

    /// Waits until a file of the project holds the text.
    pub(crate) fn file_has(&self, name: &str, text: &str) {
        until(&format!("{name} holds {text:?}\n{}", self.log()), || self.file(name).contains(text));
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("worker.log")).unwrap_or_default()
    }

    /// Processes that work in this sandbox, by what they are: those with its folder in their environment, but not the worker.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let home = format!("HOME={}", self.path("home").display());
        let own = self.worker.as_ref().map(Child::id);
        let ours = pids().filter(|pid| Some(*pid) != own).filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == home.as_bytes())
        });
        let named = ours.filter_map(|pid| {
            Some((
                pid,
                std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?.replace('\0', " "),
            ))
        });
        named.filter(|(_, command)| !command.is_empty()).collect()
    }

    /// Nothing that was a child of the worker waits to be reaped.
    pub(crate) fn until_all_are_reaped(&self) {
        let worker = self.pid().to_string();
        let zombie = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&worker)
        };
        until("no zombie is left", || !pids().any(zombie));
    }

    /// The running claude.
    pub(crate) fn claude_pid(&self) -> u32 {
        let find = || {
            self.processes()
                .into_iter()
                .find(|(_, command)| command.contains("--input-format") && !command.contains("agent lead"))
        };
        until("claude runs", || find().is_some());
        find().unwrap().0
    }

    /// Nothing is left but what matches.
    pub(crate) fn nothing_left_but(&self, allowed: &str) {
        let left = || -> Vec<(u32, String)> {
            self.processes()
                .into_iter()
                .filter(|(_, command)| allowed.is_empty() || !command.contains(allowed))
                .collect()
        };
        let begun = Instant::now();
        while !left().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "left behind: {:?}", left());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.as_mut() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
        for (pid, _) in self.processes() {
            signal(pid, "KILL");
        }
        if std::thread::panicking() {
            if let Ok(to) = std::env::var("SANDKEEP_TEST_KEEP") {
                let _ = Command::new("cp").arg("-r").arg(self.folder.path()).arg(to).status();
            }
            eprintln!("worker.log:\n{}", self.log());
        }
    }
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
}

/// Living processes, wherever they are, with this in their command line, but no shell that has it in its script.
pub(crate) fn processes_named(text: &str) -> impl Iterator<Item = u32> {
    pids().filter(move |pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split(|byte| *byte == 0).any(|argument| argument == text.as_bytes())
    })
}

pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

/// Waits for a condition.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
