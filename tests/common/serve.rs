//! `sandkeep serve` as a process of its own, and a client for it.
#![allow(clippy::print_stderr, reason = "what it says belongs to what a failed test shows")]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOKEN: &str = "the-token-of-a-server-of-the-tests";

/// For what a whole start takes on a slow machine.
const OVER_WITHIN: Duration = Duration::from_secs(300);

/// Tests talk to the loopback alone.
pub(crate) fn client() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .build()
        .unwrap()
}

/// A server that runs. Dropped, it is killed as by a crash.
pub(crate) struct Serve {
    pub(crate) child: Child,
    base: String,
    client: reqwest::Client,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serve {
    /// Starts it, and waits until it says where it is.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .env("SANDKEEP_SERVE_TOKEN", TOKEN)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let at = line.find("http://")?;
            Some(line[at..].trim().to_owned())
        });
        let base = said.expect("it says where it serves");
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("serve: {line}")));
        Self {
            child,
            base,
            client: client(),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let answer = request.bearer_auth(TOKEN).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Asks, also for what may be refused.
    pub(crate) async fn ask(&self, path: &str) -> (u16, Value) {
        self.send(self.client.get(format!("{}{path}", self.base))).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask(path).await;
        assert_eq!(status, 200, "{path}: {value:#}");
        value
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.client.post(format!("{}{path}", self.base)).json(body)).await
    }

    pub(crate) async fn eventually(&self, path: &str, within: Duration, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + within;
        loop {
            let value = self.get(path).await;
            if holds(&value) {
                return value;
            }
            assert!(Instant::now() < end, "in vain: {path}: {value:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Has a sandbox started; answers the operation's id and the sandbox's.
    pub(crate) async fn order(&self, body: &Value) -> (String, String) {
        let (status, taken) = self.post("/v1/sandboxes", body).await;
        assert_eq!(status, 202, "{taken:#}");
        let text = |key: &str| taken[key].as_str().unwrap().to_owned();
        (text("operationId"), text("sandboxId"))
    }

    /// What an operation came to.
    pub(crate) async fn over(&self, operation: &str) -> Value {
        let path = format!("/v1/operations/{operation}");
        let over = |value: &Value| !matches!(value["state"].as_str(), Some("pending" | "running"));
        self.eventually(&path, OVER_WITHIN, over).await
    }
}
