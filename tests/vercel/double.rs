//! The double as a process, and its door for tests.

use sandkeep::sandbox::provider::{Provider, Sandbox, Settings, Wanted, vercel};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A running double; it ends with this value, and every sandbox with it.
pub(crate) struct Double {
    child: Child,
    /// The API's base URL.
    pub(crate) api: String,
    /// The admin door's base URL.
    pub(crate) admin: String,
}

impl Double {
    pub(crate) fn start() -> Self {
        let sandkeep = std::path::Path::new(env!("CARGO_BIN_EXE_sandkeep"));
        let program = sandkeep.parent().expect("a directory").join("examples/vercel");
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the double is built: cargo build --example vercel");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("it says where it is");
        let (api, admin) = line.trim().split_once(" admin=").expect("both addresses");
        Self {
            child,
            api: api.trim_start_matches("api=").to_owned(),
            admin: admin.to_owned(),
        }
    }

    /// Our client of it, with the double's own token.
    pub(crate) fn provider(&self, runtime: Option<&str>) -> Arc<dyn Provider> {
        self.provider_with(runtime, &[("VERCEL_TOKEN", "token")])
    }

    pub(crate) fn provider_with(&self, runtime: Option<&str>, variables: &[(&str, &str)]) -> Arc<dyn Provider> {
        let settings = vercel::Settings {
            team: Some("team_test".to_owned()),
            project: Some("prj_test".to_owned()),
            api: Some(self.api.clone()),
            runtime: runtime.map(str::to_owned),
        };
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Settings::Vercel(settings).open(&variable).unwrap()
    }

    /// Orders faults; forgets what was asked so far.
    pub(crate) fn order(&self, faults: &Value) {
        self.ask("DELETE", "/faults", &Value::Null);
        self.ask("DELETE", "/requests", &Value::Null);
        self.ask("POST", "/faults", faults);
    }

    /// What was asked since the last order: the requests of an operation, or all.
    pub(crate) fn asked(&self, operation: Option<&str>) -> Vec<Value> {
        let all = self.ask("GET", "/requests", &Value::Null);
        let all = all.as_array().cloned().unwrap_or_default();
        all.into_iter()
            .filter(|one| operation.is_none_or(|operation| one["op"] == operation))
            .collect()
    }

    /// The sandboxes that there are.
    pub(crate) fn sandboxes(&self) -> Vec<Value> {
        self.ask("GET", "/sandboxes", &Value::Null).as_array().cloned().unwrap_or_default()
    }

    /// Asks the admin door; `Null` where it has nothing to say.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let address = self.admin.trim_start_matches("http://");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(address).expect("the double listens");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("it hears");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains(" 20"), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or_default()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        // The end of its standard input ends it, in order: it takes its sandboxes down first.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A sandbox of this name.
pub(crate) async fn create(provider: &dyn Provider, name: &str) -> Sandbox {
    let wanted = Wanted {
        name: name.to_owned(),
        ports: Vec::new(),
        timeout: Some(Duration::from_secs(600)),
    };
    provider.create(&wanted).await.unwrap()
}

/// Waits for something, long enough for a loaded machine.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
