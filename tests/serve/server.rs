//! A server on a socket of its own, in a runtime of its own, so that it can end at any moment as a process does.

use super::client::client;
use super::fake::Fake;
use futures_util::StreamExt;
use reqwest::{Method, RequestBuilder, Response};
use sandkeep::sandbox::fleet::{Policy, Prober, Target};
use sandkeep::sandbox::serve::deadlines::DeadlinePolicy;
use sandkeep::sandbox::serve::desk::DeskPolicy;
use sandkeep::sandbox::serve::keys::Keys;
use sandkeep::sandbox::serve::sandboxes::Sandboxes;
use sandkeep::sandbox::serve::{self, BookError, Parts, door};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

pub const TOKEN: &str = "the-token-of-the-server";
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Server {
    runtime: Option<Runtime>,
    base: String,
    client: reqwest::Client,
    /// Kept as long as one of the servers that share it.
    pub directory: Arc<tempfile::TempDir>,
}

impl Server {
    pub fn new(fake: &Fake) -> Self {
        Self::on(fake, Arc::new(tempfile::tempdir().unwrap()))
    }

    /// On a directory that another server may have left.
    pub fn on(fake: &Fake, directory: Arc<tempfile::TempDir>) -> Self {
        Self::with(Arc::new(fake.clone()), Arc::new(fake.clone()), Policy::default(), directory)
    }

    pub fn with(sandboxes: Arc<dyn Sandboxes>, prober: Arc<dyn Prober>, fleet: Policy, directory: Arc<tempfile::TempDir>) -> Self {
        Self::kept(sandboxes, prober, fleet, DeadlinePolicy::default(), directory)
    }

    pub fn kept(
        sandboxes: Arc<dyn Sandboxes>,
        prober: Arc<dyn Prober>,
        fleet: Policy,
        deadlines: DeadlinePolicy,
        directory: Arc<tempfile::TempDir>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let path: PathBuf = directory.path().to_owned();
        let (send, receive) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let end = Instant::now() + DEADLINE;
            let router = loop {
                let parts = Parts {
                    sandboxes: sandboxes.clone(),
                    prober: prober.clone(),
                    target: Arc::new(|_, _| Target::Provider),
                    keys: Arc::new(Keys::new(TOKEN)),
                    desk: DeskPolicy {
                        starts_at_once: 4,
                        retry: Duration::from_millis(20),
                    },
                    fleet: fleet.clone(),
                    deadlines,
                };
                match serve::assemble(&path, parts).await {
                    Ok(router) => break router,
                    // The server before this one still ends.
                    Err(BookError::Locked(_)) if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{error}"),
                }
            };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            send.send(listener.local_addr().unwrap()).unwrap();
            door::serve(listener, router).await;
        });
        let address = receive.recv_timeout(DEADLINE).unwrap();
        Self {
            runtime: Some(runtime),
            base: format!("http://{address}"),
            client: client(),
            directory,
        }
    }

    /// Ends at once, as with SIGKILL.
    pub fn end(mut self) -> Arc<tempfile::TempDir> {
        self.runtime.take().unwrap().shutdown_background();
        self.directory.clone()
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.bare(Method::GET, path).bearer_auth(TOKEN)
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.bare(Method::POST, path).bearer_auth(TOKEN).json(body)
    }

    pub async fn read(&self, path: &str) -> Value {
        expect(self.get(path).send().await.unwrap(), 200).await
    }

    /// Starts a sandbox and gives `(operationId, sandboxId)`.
    pub async fn start(&self, body: &Value) -> (String, String) {
        let taken = expect(self.post("/v1/sandboxes", body).send().await.unwrap(), 202).await;
        let text = |key: &str| taken[key].as_str().unwrap().to_owned();
        (text("operationId"), text("sandboxId"))
    }

    pub async fn operation_over(&self, id: &str) -> Value {
        let path = format!("/v1/operations/{id}");
        let over = |value: &Value| !matches!(value["state"].as_str().unwrap(), "pending" | "running");
        self.eventually(&path, over).await
    }

    /// Reads a path until what it says holds.
    pub async fn eventually(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let value = self.read(path).await;
            if holds(&value) {
                return value;
            }
            assert!(Instant::now() < end, "timed out: {path}: {value:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn shop() -> Value {
    serde_json::json!({
        "githubRepoUrl": "https://github.com/acme/shop", "branchName": "main",
        "installCommand": "npm install", "developmentCommand": "npm run dev", "port": 3000,
    })
}

pub async fn expect(response: Response, status: u16) -> Value {
    let got = response.status().as_u16();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{text}");
    let expected = if status < 400 {
        "application/json"
    } else {
        "application/problem+json"
    };
    assert_eq!(kind, expected, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A server-sent event.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// Reads server-sent events until the stream ends or `enough` is satisfied.
pub async fn sent(response: Response, mut enough: impl FnMut(&[Sent]) -> bool) -> Vec<Sent> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.bytes_stream();
    let (mut text, mut all) = (String::new(), Vec::new());
    let read = async {
        while let Some(chunk) = stream.next().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            while let Some((block, rest)) = text.split_once("\n\n") {
                if let Some(event) = parse(block) {
                    all.push(event);
                }
                text = rest.to_owned();
                if enough(&all) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("the events come in time");
    all
}

fn parse(block: &str) -> Option<Sent> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    Some(Sent {
        id: field("id: ")?,
        kind: field("event: ")?,
        data: serde_json::from_str(&field("data: ")?).unwrap(),
    })
}
