//! The Convex double, and the app that talks to it.
//!
//! Whoever has a real deployment with the functions of `config/convex/` names it in `CONVEX_TEST_URL`, and then the tests that inject no
//! faults run against that. Beside it either its deploy key in `CONVEX_TEST_ADMIN_KEY`, with which each test lets in a box of its own, or
//! one box that has been let in before: `CONVEX_TEST_SANDBOX` and its token in `CONVEX_TEST_TOKEN`; such tests must run one at a time.

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
    token: String,
    ca: Option<PathBuf>,
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
        let variable = |name: &str| std::env::var(name).ok();
        let Some(url) = variable("CONVEX_TEST_URL") else {
            return Self::double();
        };
        let known = variable("CONVEX_TEST_SANDBOX").zip(variable("CONVEX_TEST_TOKEN"));
        let (sandbox, token) = known
            .clone()
            .unwrap_or_else(|| (format!("test-{}", fastrand::u64(..)), TOKEN.into()));
        let convex = Self {
            url,
            admin: variable("CONVEX_TEST_ADMIN_KEY").unwrap_or_default(),
            sandbox,
            token,
            ca: None,
            child: None,
            _stdin: None,
        };
        if known.is_none() {
            convex.admit();
        }
        convex
    }

    /// The double behind TLS, with a certificate of this authority.
    pub(crate) fn with_tls(authority: &Authority) -> Self {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (cert, key) = (text(&authority.cert), text(&authority.key));
        let mut convex = Self::serve(&["--tls-cert", &cert, "--tls-key", &key]);
        convex.ca = Some(authority.ca.clone());
        convex.admit();
        convex
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
            token: TOKEN.into(),
            ca: None,
            _stdin: child.stdin.take(),
            child: Some(child),
        };
        if arguments.is_empty() {
            convex.admit();
        }
        convex
    }

    pub(crate) fn admit(&self) {
        use sha2::{Digest, Sha256};
        let hash: String = Sha256::digest(&self.token).iter().map(|byte| format!("{byte:02x}")).collect();
        self.as_admin("agent:admit", json!({"sandboxId": self.sandbox, "tokenHash": hash}));
    }

    /// A sandbox whose agent belongs to this deployment.
    pub(crate) fn sandbox(&self, settings: Value) -> Sandbox {
        let mut sandbox = Sandbox::prepare(settings);
        for (name, value) in [("CONVEX_URL", self.url.as_str()), ("SANDBOX_TOKEN", self.token.as_str())] {
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
            if let Some(ca) = &self.ca {
                curl.arg("--cacert").arg(ca);
            }
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

    /// Nobody but an admin is served any more, and all sockets are dropped; or all is well again.
    pub(crate) fn outage(&self, on: bool) {
        self.post("/_double/outage", "", &json!({"on": on}).to_string());
    }

    /// Takes all faults back.
    pub(crate) fn heal(&self) {
        self.post("/_double/heal", "", "{}");
    }

    /// Lets the lease of a claim run out at once, as if minutes had gone by.
    pub(crate) fn expire(&self, id: &str, worker: &str) {
        let args = json!({"sandboxId": self.sandbox, "token": self.token, "id": id, "workerId": worker, "attempt": 1, "leaseMs": 1});
        self.as_admin("agent:renew", args);
        std::thread::sleep(std::time::Duration::from_millis(5));
        self.as_admin("agent:expire", json!({"id": id, "attempt": 1}));
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

/// A certificate authority that nobody trusts by itself, and a certificate of its for `localhost`.
pub(crate) struct Authority {
    _folder: tempfile::TempDir,
    pub(crate) ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    pub(crate) fn found() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let authority = Self {
            ca: path("ca.pem"),
            cert: path("cert.pem"),
            key: path("key.pem"),
            _folder: folder,
        };
        let make = "set -e
            new='openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2'
            $new -keyout ca.key -out ca.pem -subj '/CN=an authority for a test'
            $new -keyout key.pem -out cert.pem -subj /CN=localhost -CA ca.pem -CAkey ca.key \
                -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
        let output = Command::new("sh")
            .args(["-c", make])
            .current_dir(authority.ca.parent().unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        authority
    }
}
