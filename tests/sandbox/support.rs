//! A machine side of its own for each test: its state, a repository, the real command, and a look at what is left.

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The one deadline that a wait has; generous, since it is only reached when something is wrong.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:#?}"))
    }

    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

pub(crate) struct Home {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sk-").tempdir().unwrap();
        Self {
            dir,
            environment: Vec::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.path().join("state/.sandboxes/records")
    }

    pub(crate) fn local(&self) -> PathBuf {
        self.path().join("state/.sandboxes/local")
    }

    pub(crate) fn record(&self, name: &str) -> String {
        fs::read_to_string(self.records().join(format!("{name}.json"))).unwrap()
    }

    /// `sandkeep sandbox …`, without the settings of whoever runs the tests.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandkeep"));
        command
            .arg("sandbox")
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .current_dir(self.path());
        for name in ["PATH", "HOME", "LANG", "TMPDIR", "npm_config_cache", "NODE_EXTRA_CA_CERTS"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("SANDKEEP_RUNTIME_DIR", self.path().join("run"))
            .env("SANDKEEP_STATE_DIR", self.path().join("state"))
            .env("SANDKEEP_TEST_DIR", self.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Answer {
        let output = self.command(arguments).output().unwrap();
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a project that has nothing to install, and says as JSON what it came to.
    pub(crate) fn start(&self, url: &str, dev: &str, port: u16, more: &[&str]) -> Value {
        self.try_start(url, dev, port, more).expect(0).json()
    }

    pub(crate) fn try_start(&self, url: &str, dev: &str, port: u16, more: &[&str]) -> Answer {
        let port = port.to_string();
        let start = [
            "start",
            "--repo",
            url,
            "--install",
            "",
            "--dev",
            dev,
            "--port",
            &port,
            "--no-claude",
            "--json",
        ];
        self.run(&[&start[..], more].concat())
    }

    /// Starts, and kills the command with SIGKILL as soon as it says that this step is done. Answers whether it got that far.
    pub(crate) fn start_and_kill_after(&self, step: &str, arguments: &[&str]) -> bool {
        let mut child = self
            .command(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines.map_while(Result::ok).any(|line| line.starts_with(step));
        child.kill().unwrap();
        child.wait().unwrap();
        said
    }

    /// A repository with these files in one commit; its address.
    pub(crate) fn repository(&self, name: &str, files: &[(&str, &str)]) -> String {
        let repo = self.path().join("repos").join(name);
        for (file, text) in files {
            let path = repo.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        commit_all(&repo);
        format!("file://{}", repo.display())
    }

    /// Command lines of processes that know this test's directory.
    pub(crate) fn left(&self) -> Vec<(i32, String)> {
        let needle = self.path().to_str().unwrap().to_owned();
        let own = i32::try_from(std::process::id()).unwrap();
        processes()
            .into_iter()
            .filter(|(pid, line)| {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                *pid != own && (line.contains(&needle) || String::from_utf8_lossy(&environment).contains(&needle))
            })
            .collect()
    }

    pub(crate) fn nothing_is_left(&self) {
        eventually("nothing of the sandbox runs", || self.left().is_empty());
        let in_local = fs::read_dir(self.local()).map_or(0, Iterator::count);
        assert_eq!(in_local, 0, "no directory is left");
        let records = fs::read_dir(self.records()).into_iter().flatten().flatten();
        let records: Vec<_> = records
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().ends_with(".json"))
            .collect();
        assert!(records.is_empty(), "no record is left: {records:?}");
    }

    /// Files below the state directory that hold this text.
    pub(crate) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        search(&self.path().join("state"), text.as_bytes(), &mut found);
        found
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for (pid, _) in self.left() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn search(path: &Path, needle: &[u8], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            search(&path, needle, found);
        } else if kind.is_file() && path.file_name() != Some("sandkeep".as_ref()) {
            let text = fs::read(&path).unwrap_or_default();
            if text.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
}

pub(crate) fn commit_all(repo: &Path) {
    let script = "git init -q -b main && git add -A && git -c user.name=t -c user.email=t@example.com commit -q -m one";
    let output = Command::new("/bin/sh").args(["-c", script]).current_dir(repo).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Every process that can be seen: pid and command line.
pub(crate) fn processes() -> Vec<(i32, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let line = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    };
    pids.map(|pid| (pid, line(pid))).filter(|(_, line)| !line.is_empty()).collect()
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The body of a GET; empty when there is no answer.
pub(crate) fn get(url: &str) -> String {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap_or((&url[7..], ""));
    let Ok(mut stream) = TcpStream::connect(address) else {
        return String::new();
    };
    let request = format!("GET /{path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let mut text = Vec::new();
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
}

/// A dev server that needs nothing but Python.
pub(crate) fn served(port: u16) -> String {
    format!("exec python3 -m http.server {port} --bind 0.0.0.0")
}
