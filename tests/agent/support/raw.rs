//! The CLI itself, without the agent: lines in, lines out.

use super::api::Api;
use super::{KEY, PATIENCE};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A home for one conversation, and the API that it speaks to.
pub(crate) struct Home {
    pub(crate) api: Api,
    folder: tempfile::TempDir,
    program: PathBuf,
    session: String,
}

impl Home {
    pub(crate) fn of(program: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("project")).unwrap();
        Self {
            api: Api::start(),
            folder,
            program,
            session: uuid(),
        }
    }

    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("project").join(name)).unwrap_or_default()
    }

    /// Starts the CLI: with the session new, or going on.
    pub(crate) fn start(&self, resume: bool, flags: &[&str], more: &[(&str, &str)]) -> Raw {
        let home = self.folder.path();
        let mut command = Command::new(&self.program);
        command.args([
            "-p",
            "--output-format=stream-json",
            "--input-format=stream-json",
            "--verbose",
            "--session-mirror",
        ]);
        command.arg("--permission-mode=bypassPermissions").args(flags);
        let flag = if resume { "--resume" } else { "--session-id" };
        command.arg(format!("{flag}={}", self.session));
        command.current_dir(home.join("project")).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let home_text = home.display().to_string();
        let fixed = [
            ("HOME", home_text.as_str()),
            ("ANTHROPIC_BASE_URL", &self.api.url),
            ("ANTHROPIC_API_KEY", KEY),
            ("IS_SANDBOX", "1"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
        ];
        command.envs(fixed).envs(more.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        Raw {
            stdin: child.stdin.take().unwrap(),
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The lines of the transcript.
    pub(crate) fn transcript(&self) -> Vec<Value> {
        transcript_below(&self.folder.path().join(".claude/projects"))
    }

    /// How often a message of the user stands in the transcript.
    pub(crate) fn asked(&self, id: &str) -> usize {
        let entries = self.transcript();
        entries
            .iter()
            .filter(|entry| entry["uuid"] == id && entry["type"] == "user")
            .count()
    }
}

/// The transcripts in a folder and in those below it.
pub(crate) fn transcripts_below(folder: &Path) -> Vec<PathBuf> {
    let paths = || std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    let below = paths().filter(|path| path.is_dir()).flat_map(|path| transcripts_below(&path));
    let here = paths().filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    here.chain(below).collect()
}

/// The transcript of the only session below a folder.
pub(crate) fn transcript_below(projects: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(&transcripts_below(projects)[0]).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

pub(crate) fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A running CLI. Dropped: killed.
pub(crate) struct Raw {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Value>,
    pub(crate) seen: Vec<Value>,
}

impl Raw {
    pub(crate) fn send(&mut self, id: &str, text: &str) {
        let message = json!({
            "type": "user", "uuid": id, "session_id": "", "parent_tool_use_id": null, "message": {"role": "user", "content": text},
        });
        writeln!(self.stdin, "{message}").unwrap();
    }

    /// Reads until a line fits.
    pub(crate) fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("no {what} ({error}) after {:#?}", self.seen));
            self.seen.push(line.clone());
            if fits(&line) {
                return line;
            }
        }
    }

    pub(crate) fn result(&mut self) -> Value {
        self.until("result", |line| line["type"] == "result")
    }

    /// claude has nothing more to do.
    pub(crate) fn idle(&mut self) {
        self.until("idle", |line| line["subtype"] == "session_state_changed" && line["state"] == "idle");
    }

    pub(crate) fn results(&self) -> usize {
        self.seen.iter().filter(|line| line["type"] == "result").count()
    }

    /// `kill -9`, with what its tools left.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
