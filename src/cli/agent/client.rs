//! The command line's side of the agent's door.

use crate::cli::{CliError, Global};
use crate::tasks;
use futures_util::StreamExt;
use serde_json::Value;
use std::path::PathBuf;
use tokio::runtime::Runtime;

/// A client of the agent of one instance.
pub(super) struct Client {
    runtime: Runtime,
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(global: &Global) -> Result<Self, CliError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let paths = global.paths()?;
        let socket = paths.runtime.join("agent.sock");
        let failed = |error: &dyn std::fmt::Display| CliError::failed(format!("preparing the client: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let http = reqwest::Client::builder()
            .unix_socket(socket.clone())
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self { runtime, http, socket })
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        if error.is_connect() {
            return CliError {
                message: format!("no agent listens on {}", self.socket.display()),
                hint: Some("`sandkeep up` starts it, `sandkeep why agent` tells why it does not run".into()),
                code: 3,
            };
        }
        CliError::failed(format!("asking the agent: {error}"))
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        tasks::block_on(&self.runtime, async {
            let sent = self.http.post(format!("http://agent{path}")).json(body).send().await;
            let response = sent.map_err(|error| self.unreachable(&error))?;
            let status = response.status();
            let answer: Value = response.json().await.map_err(|error| self.unreachable(&error))?;
            if status.is_success() {
                return Ok(answer);
            }
            let detail = answer["detail"].as_str().unwrap_or("no reason given").to_owned();
            Err(if status.is_client_error() {
                CliError::usage(detail)
            } else {
                CliError::failed(detail)
            })
        })
    }

    /// Follows a prompt until `event` returns something; goes on where it was when the agent is restarted in between.
    pub(super) fn events(&self, id: &str, mut event: impl FnMut(&Value) -> Option<Value>) -> Result<Value, CliError> {
        tasks::block_on(&self.runtime, async {
            let mut after = 0;
            let mut tries = 0u32;
            loop {
                match self.follow(id, &mut after, &mut event).await {
                    Ok(Some(end)) => return Ok(end),
                    Ok(None) => tries = 0,
                    // The agent is being started again: a minute is more than it needs.
                    Err(error) if tries < 120 && (error.is_connect() || error.is_request() || error.is_body() || error.is_decode()) => {}
                    Err(error) => return Err(self.unreachable(&error)),
                }
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        })
    }

    async fn follow(&self, id: &str, after: &mut u64, event: &mut impl FnMut(&Value) -> Option<Value>) -> reqwest::Result<Option<Value>> {
        let request = self
            .http
            .get(format!("http://agent/v1/agent/prompts/{id}/events"))
            .header("last-event-id", after.to_string());
        let mut body = request.send().await?.error_for_status()?.bytes_stream();
        let mut rest = Vec::new();
        while let Some(chunk) = body.next().await {
            rest.extend_from_slice(&chunk?);
            while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=at).collect();
                let Some(data) = line.strip_prefix(b"data:") else { continue };
                let Ok(value) = serde_json::from_slice::<Value>(data) else {
                    continue;
                };
                *after = value["seq"].as_u64().unwrap_or(*after);
                if let Some(end) = event(&value) {
                    return Ok(Some(end));
                }
            }
        }
        Ok(None)
    }
}
