//! The Convex double, and the app that talks to it.
//!
//! Whoever has a real deployment with the functions of `config/convex/` names it in `CONVEX_TEST_URL` and its deploy key in
//! `CONVEX_TEST_ADMIN_KEY`: then the tests that inject no faults run against that.

use super::{PATIENCE, Sandbox, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

pub(crate) const TOKEN: &str = "sandbox-token-0123456789";

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/convex-double")
}

pub(crate) struct Convex {
    pub(crate) url: String,
    admin: String,
    sandbox: String,
    child: Option<Child>,
    _stdin: Option<ChildStdin>,
}

impl Convex {
    /// The double, always: its faults are needed.
    pub(crate) fn double() -> Self {
        Self::serve(&[])
    }

    /// A real deployment where one is given, else the double.
    pub(crate) fn any() -> Self {
        match (std::env::var("CONVEX_TEST_URL"), std::env::var("CONVEX_TEST_ADMIN_KEY")) {
            (Ok(url), Ok(admin)) => {
                let convex = Self {
                    url,
                    admin,
                    sandbox: format!("test-{}", fastrand::u64(..)),
                    child: None,
                    _stdin: None,
                };
                convex.admit();
                convex
            }
            _ => Self::double(),
        }
    }

    pub(crate) fn serve(arguments: &[&str]) -> Self {
        let mut child = Command::new("node")
            .arg(folder().join("server.mjs"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is needed for the Convex double");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value =
            serde_json::from_str(&line).expect("the double says where it is; tests/convex-double/setup installs what it needs");
        let convex = Self {
            url: said["url"].as_str().unwrap().into(),
            admin: said["adminKey"].as_str().unwrap().into(),
            sandbox: "sb1".into(),
            _stdin: child.stdin.take(),
            child: Some(child),
        };
        if arguments.is_empty() {
            convex.admit();
        }
        convex
    }

    fn admit(&self) {
        use sha2::{Digest, Sha256};
        let hash: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
        self.as_admin("agent:admit", json!({"sandboxId": self.sandbox, "tokenHash": hash}));
    }

    /// A sandbox whose agent belongs to this deployment.
    pub(crate) fn sandbox(&self, settings: Value) -> Sandbox {
        let mut sandbox = Sandbox::prepare(settings);
        for (name, value) in [("CONVEX_URL", self.url.as_str()), ("SANDBOX_TOKEN", TOKEN)] {
            sandbox.environment.push((name.into(), value.into()));
        }
        sandbox.id = self.sandbox.clone();
        sandbox
    }

    fn call(&self, kind: &str, path: &str, args: &Value, admin: bool) -> Value {
        let body = json!({"path": path, "args": args, "format": "json"}).to_string();
        let authorization = if admin {
            format!("authorization: Convex {}\r\n", self.admin)
        } else {
            String::new()
        };
        self.post(&format!("/api/{kind}"), &authorization, &body)
    }

    /// Through curl's shape of a request for the loopback double, through `curl` for a real deployment.
    fn post(&self, path: &str, headers: &str, body: &str) -> Value {
        let Some(host) = self.url.strip_prefix("http://") else {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-X", "POST", "-H", "content-type: application/json", "--data-binary", body]);
            if let Some(header) = headers.lines().next() {
                curl.args(["-H", header]);
            }
            return serde_json::from_slice(&curl.arg(format!("{}{path}", self.url)).output().unwrap().stdout).unwrap();
        };
        let mut stream = TcpStream::connect(host).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            return serde_json::from_str(body).unwrap_or_default();
        }
        let mut rest = body;
        let mut whole = String::new();
        while let Some((size, after)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            if size == 0 {
                break;
            }
            whole.push_str(&after[..size]);
            rest = &after[size + 2..];
        }
        serde_json::from_str(&whole).unwrap_or_default()
    }

    fn value(answer: Value, what: &str) -> Value {
        assert_eq!(answer["status"], "success", "{what}: {answer}");
        answer["value"].clone()
    }

    pub(crate) fn mutation(&self, path: &str, args: Value) -> Value {
        Self::value(self.call("mutation", path, &args, false), path)
    }

    pub(crate) fn query(&self, path: &str, args: Value) -> Value {
        Self::value(self.call("query", path, &args, false), path)
    }

    pub(crate) fn as_admin(&self, path: &str, args: Value) -> Value {
        Self::value(self.call("mutation", path, &args, true), path)
    }

    pub(crate) fn fault(&self, fault: Value) {
        self.post("/_double/fault", "", &fault.to_string());
    }

    /// Drops all sockets.
    pub(crate) fn drop_sockets(&self) {
        self.post("/_double/drop", "", "{}");
    }

    pub(crate) fn send(&self, text: &str) -> String {
        let args = json!({"sandboxId": self.sandbox, "text": text, "clientKey": fastrand::u64(..).to_string()});
        self.mutation("ui:send", args).as_str().unwrap().to_owned()
    }

    pub(crate) fn prompt(&self, id: &str) -> Value {
        self.query("ui:prompt", json!({"id": id}))
    }

    pub(crate) fn status(&self) -> Value {
        self.query("ui:status", json!({"sandboxId": self.sandbox}))
    }

    pub(crate) fn events(&self, id: &str) -> Vec<Value> {
        let events = self.query("ui:stream", json!({"id": id, "from": 1, "to": 100_000}));
        events
            .as_array()
            .unwrap()
            .iter()
            .map(|event| serde_json::from_str(event.as_str().unwrap()).unwrap())
            .collect()
    }

    /// Waits until the prompt is over and all its events are there: without a gap, without a duplicate, with one end.
    pub(crate) fn end_of(&self, id: &str, sandbox: &Sandbox) -> Value {
        let over = || {
            let prompt = self.prompt(id);
            !matches!(prompt["status"].as_str(), Some("pending" | "claimed"))
                && prompt["lastSeq"].as_f64() == Some(self.events(id).len() as f64)
        };
        until(&format!("prompt {id} ends at Convex: {}\n{}", self.prompt(id), sandbox.log()), over);
        let events = self.events(id);
        for (at, event) in events.iter().enumerate() {
            assert_eq!(event["seq"], at + 1, "{events:?}");
        }
        assert_eq!(events.iter().filter(|event| event["type"] == "end").count(), 1);
        assert_eq!(events.last().unwrap()["type"], "end");
        let result: Value = serde_json::from_str(self.prompt(id)["result"].as_str().unwrap()).unwrap();
        assert_eq!(result["status"], self.prompt(id)["status"]);
        result
    }
}

impl Drop for Convex {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_dir_all(folder().join(format!("node_modules/.functions-{}", child.id())));
        }
    }
}
