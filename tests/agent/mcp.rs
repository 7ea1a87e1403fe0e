//! What claude can ask of the supervisor: the real `sandkeep mcp`, with the control socket played by a script.

use crate::support::{Sandbox, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A control socket that answers as the supervisor would. Who waits for readiness waits for ever.
struct Control {
    asked: Arc<Mutex<Vec<String>>>,
    waits: Arc<Mutex<Vec<UnixStream>>>,
}

impl Control {
    fn listen(path: &Path, preview: Value) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = asked.clone();
        let waits = Arc::new(Mutex::new(Vec::new()));
        let waiting = waits.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut writer = stream;
                let mut head = String::new();
                reader.read_line(&mut head).unwrap();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let Some((name, value)) = line.trim().split_once(':') else { break };
                    if name.eq_ignore_ascii_case("content-length") {
                        length = value.trim().parse().unwrap();
                    }
                }
                reader.read_exact(&mut vec![0; length]).unwrap();
                let target = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
                shared.lock().unwrap().push(target.clone());
                if target.starts_with("GET /v1/wait") {
                    waiting.lock().unwrap().push(writer);
                    continue;
                }
                let (status, body) = answer(&target, &preview);
                // The client may have gone.
                let _ = write!(
                    writer,
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { asked, waits }
    }
}

fn answer(target: &str, preview: &Value) -> (u16, String) {
    let line = |text: &str, cursor: &str| {
        json!({"unit": "dev", "at": "2026-11-24T10:00:00Z", "stream": "stdout", "invocation": 1, "text": text, "cursor": cursor})
            .to_string()
    };
    if target.starts_with("GET /v1/status") {
        let units = json!([{"name": "dev", "state": "active", "sub_state": "running", "ports": [{"port": 3000, "address": "0.0.0.0"}]}]);
        return (
            200,
            json!({"status": "ok", "ready": true, "units": units, "preview": preview, "sync": {"state": "idle", "pending": 0}}).to_string(),
        );
    }
    if target.starts_with("GET /v1/logs") {
        let new = target.contains("cursor=");
        return (
            200,
            if new {
                format!("{}\n", line("second", "c2"))
            } else {
                format!("{}\n", line("first", "c1"))
            },
        );
    }
    if target.starts_with("POST /v1/sync/flush") {
        return (200, json!({"durable": true, "generation": 7, "pending": 0}).to_string());
    }
    let problem = json!({"type": "about:blank", "title": "Forbidden", "status": 403, "code": "not_allowed", "detail": "the unit `agent` may not do this"});
    (403, problem.to_string())
}

pub(crate) struct Mcp {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    next: u64,
}

impl Mcp {
    pub(crate) fn start(socket: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sandkeep"))
            .arg("mcp")
            .env("SANDKEEP_SOCKET", socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut mcp = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            next: 0,
        };
        let info = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let begun = mcp.ask("initialize", info);
        assert!(begun["instructions"].as_str().unwrap().contains("do not start another"), "{begun}");
        writeln!(mcp.input, "{}", json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).unwrap();
        mcp
    }

    fn send(&mut self, method: &str, params: Value) {
        self.next += 1;
        let message = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        writeln!(self.input, "{message}").unwrap();
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(method, params);
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["id"], self.next, "{answer}");
        answer["result"].clone()
    }

    pub(crate) fn call(&mut self, tool: &str, arguments: Value) -> (bool, String) {
        let result = self.ask("tools/call", json!({"name": tool, "arguments": arguments}));
        (
            result["isError"] == true,
            result["content"][0]["text"].as_str().unwrap_or_default().to_owned(),
        )
    }
}

impl Drop for Mcp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_tools_answer_in_short_texts() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let control = Control::listen(&socket, json!({"state": "ready", "port": 3000}));
    let mut mcp = Mcp::start(&socket);
    let tools = mcp.ask("tools/list", json!({}));
    let names: Vec<_> = tools["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap().to_owned())
        .collect();
    for name in [
        "status",
        "why",
        "dev_logs",
        "dev_restart",
        "wait_ready",
        "preview_check",
        "checkpoint",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    let (failed, status) = mcp.call("status", json!({}));
    assert!(
        !failed && status.contains("dev: active (running), listens on 0.0.0.0:3000"),
        "{status}"
    );
    assert_eq!(mcp.call("dev_logs", json!({})), (false, "first".into()));
    assert_eq!(mcp.call("dev_logs", json!({"since": "last_call"})), (false, "second".into()));
    assert_eq!(
        mcp.call("checkpoint", json!({})),
        (false, "everything is saved, generation 7".into())
    );
    let (failed, refused) = mcp.call("dev_restart", json!({"wait": "1s"}));
    assert!(failed && refused.contains("may not do this"), "{refused}");
    assert!(mcp.call("dev_restart", json!({"wait": "soon"})).0);
    assert!(mcp.call("nonsense", json!({})).0);
    assert!(
        control
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|asked| asked.contains("/v1/units/dev/restart?timeout=1000ms"))
    );
}

#[test]
fn a_call_that_waits_holds_nothing_up_and_can_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let control = Control::listen(&socket, json!({"state": "ready", "port": 3000}));
    let mut mcp = Mcp::start(&socket);
    mcp.send("tools/call", json!({"name": "wait_ready", "arguments": {"wait": "5min"}}));
    let waiting = mcp.next;
    until("it waits", || control.waits.lock().unwrap().len() == 1);
    assert_eq!(mcp.ask("ping", json!({})), json!({}));
    assert!(!mcp.call("status", json!({})).0);

    let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": waiting}});
    writeln!(mcp.input, "{cancelled}").unwrap();
    let mut wait = control.waits.lock().unwrap().pop().unwrap();
    assert_eq!(wait.read(&mut [0]).unwrap(), 0, "nobody waits any more");
    // An answer to the cancelled call would be read in place of this one's.
    assert_eq!(mcp.ask("ping", json!({})), json!({}));
}

#[test]
fn a_second_server_is_told_with_the_next_answer() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let reason = "port 3000 answers, but from pid 812 (agent › bash › npm run dev), not dev";
    let _control = Control::listen(&socket, json!({"state": "wrong_owner", "port": 3000, "reason": reason}));
    let (_, text) = Mcp::start(&socket).call("dev_logs", json!({}));
    assert!(text.starts_with("first") && text.contains("pid 812"), "{text}");
}

#[test]
fn claude_gets_the_tools_by_itself() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::prepare(json!({"permission_mode": "default"}));
    let socket = sandbox.path("run/default/control.sock");
    let _control = Control::listen(&socket, json!({"state": "ready", "port": 3000}));
    sandbox.environment.push(("SANDKEEP_SOCKET".into(), socket.display().to_string()));
    sandbox.up();
    let id = sandbox.send("[[tool mcp__sandkeep__status {}]][[say Looked.]]");
    let end = sandbox.end_of(&id);
    assert_eq!(end["text"], "Looked.", "{end}");
    sandbox.event(&id, "tool_result", |data| data.to_string().contains("dev: active (running)"));
    assert_eq!(
        (end["durable"].as_bool(), end["generation"].as_u64()),
        (Some(true), Some(7)),
        "the end waits for the files"
    );
    until("nothing asks any more", || sandbox.status()["state"] == "idle");
}

/// The protocol is ours (`src/mcp/protocol.rs`); the official client must find nothing wrong with it, with a handshake and without one.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_is_understood() {
    use rmcp::model::{CallToolRequestParams, ProtocolVersion};
    use rmcp::{ClientLifecycleMode, ClientServiceExt};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let _control = Control::listen(&socket, json!({"state": "ready", "port": 3000}));
    let stateless = ProtocolVersion::LATEST;
    let modes = [
        (ClientLifecycleMode::Initialize, ProtocolVersion::LATEST_WITH_INITIALIZE),
        (
            ClientLifecycleMode::Discover {
                preferred_versions: vec![stateless.clone()],
            },
            stateless,
        ),
    ];
    for (mode, version) in modes {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_sandkeep"))
            .arg("mcp")
            .env("SANDKEEP_SOCKET", &socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pipes = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let client = ().serve_with_lifecycle(pipes, mode).await.unwrap();
        let server = client.peer_info().unwrap().clone();
        assert_eq!(server.protocol_version, version, "{server:?}");
        assert!(server.capabilities.tools.is_some() && server.instructions.is_some(), "{server:?}");

        let tools = client.list_all_tools().await.unwrap();
        let tool = |name: &str| tools.iter().find(|tool| tool.name == name).unwrap();
        assert_eq!(tool("why").annotations.as_ref().unwrap().read_only_hint, Some(true));
        assert!(tool("why").input_schema["required"].as_array().unwrap().contains(&json!("unit")));
        assert_eq!(tool("dev_restart").annotations, None);

        let asked = ["status", "nonsense"].map(|tool| client.call_tool(CallToolRequestParams::new(tool)));
        let [status, nonsense] = futures_util::future::join_all(asked).await.try_into().unwrap();
        let text = |result: &rmcp::model::CallToolResult| result.content[0].as_text().unwrap().text.clone();
        let (status, nonsense) = (status.unwrap(), nonsense.unwrap());
        assert!(status.is_error != Some(true) && text(&status).contains("dev: active"), "{status:?}");
        assert!(
            nonsense.is_error == Some(true) && text(&nonsense).contains("no tool"),
            "{nonsense:?}"
        );
        client.list_all_prompts().await.unwrap_err();

        client.cancel().await.unwrap();
        assert!(child.wait().await.unwrap().success(), "it ends with its input");
    }
}
