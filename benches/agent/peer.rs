//! `@sandbox-agent/cli`: an HTTP server in Rust that drives the real CLI through an adapter in Node.

use crate::rss;
use crate::support::{KEY, claude, signal, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub(crate) struct Peer {
    server: Child,
    port: u16,
    session: String,
    heard: Receiver<(Instant, String)>,
    next: u64,
    home: tempfile::TempDir,
}

impl Peer {
    pub(crate) fn start(api: &str) -> Self {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/agent/node_modules");
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
        let program = modules.join(format!("@sandbox-agent/cli-linux-{architecture}/bin/sandbox-agent"));
        assert!(program.exists(), "no {}: benches/agent/run installs it", program.display());
        let _ = Command::new("chmod").arg("+x").arg(&program).status();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("project")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let claude = claude();
        let system = std::env::var_os("PATH").unwrap_or_default();
        let own = [modules.join(".bin"), claude.parent().unwrap().to_path_buf()];
        let path = own.into_iter().chain(std::env::split_paths(&system));
        let mut command = Command::new(program);
        command
            .args(["server", "--no-telemetry", "--no-token", "--port", &port.to_string()])
            .env_clear();
        command.env("PATH", std::env::join_paths(path).unwrap()).env("HOME", home.path());
        command
            .env("CLAUDE_CODE_EXECUTABLE", &claude)
            .env("SANDBOX_AGENT_REQUIRE_PREINSTALL", "1");
        command
            .env("ANTHROPIC_BASE_URL", api)
            .env("ANTHROPIC_API_KEY", KEY)
            .env("IS_SANDBOX", "1");
        command
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().unwrap();
        until("the peer listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let mut peer = Self {
            server,
            port,
            session: String::new(),
            heard: channel().1,
            next: 0,
            home,
        };
        peer.call("initialize", json!({"protocolVersion": 1, "clientCapabilities": {}}));
        peer.heard = listen(port);
        let project = peer.home.path().join("project");
        let made = peer.call("session/new", json!({"cwd": project, "mcpServers": []}));
        peer.session = made["result"]["sessionId"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        peer
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let body = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "POST /v1/acp/bench?agent=claude HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body = answer.find('{').map_or("", |at| &answer[at..]);
        let mut values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
        values.next().and_then(Result::ok).unwrap_or_default()
    }

    /// From a prompt to the first word of its answer on the event stream. Its POST is held open until the turn is over.
    pub(crate) fn first_text(&mut self, prompt: &str, word: &str) -> Duration {
        while self.heard.try_recv().is_ok() {}
        let params = json!({"sessionId": self.session, "prompt": [{"type": "text", "text": prompt}]});
        let began = Instant::now();
        let answer = self.call("session/prompt", params);
        assert!(answer["result"]["stopReason"].is_string(), "{answer}");
        loop {
            let (at, line) = self.heard.recv_timeout(Duration::from_secs(30)).unwrap();
            if line.contains("agent_message_chunk") && line.contains(word) {
                return at - began;
            }
        }
    }

    /// Of the server and its adapter.
    pub(crate) fn rss(&self) -> f64 {
        let own = self.processes();
        own.iter()
            .filter(|(_, command)| !command.contains("--output-format"))
            .map(|(pid, _)| rss(*pid))
            .sum()
    }

    /// By their home, since they outlive the server.
    fn processes(&self) -> Vec<(u32, String)> {
        let mark = format!("HOME={}", self.home.path().display());
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let own = pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        });
        own.map(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, command.replace('\0', " "))
        })
        .collect()
    }
}

fn listen(port: u16) -> Receiver<(Instant, String)> {
    let (sender, heard) = channel();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET /v1/acp/bench HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n").unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    heard
}

impl Drop for Peer {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            signal(pid, "KILL");
        }
        let _ = self.server.wait();
    }
}
