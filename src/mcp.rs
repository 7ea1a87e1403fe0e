//! What the agent may ask of the supervisor: an MCP server over stdio that speaks to the control socket.
//!
//! So that claude debugs the dev server that runs instead of starting a second one. Every answer is bounded, and says so when something
//! else than the dev server answers on its port. What the agent may do is decided by the supervisor (`[control] allow`), not here.

mod answer;
mod protocol;
mod tools;

use crate::control::client::{Client, ClientError};
use protocol::{Asked, Call};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::{AbortHandle, JoinSet};

/// The longest message of a client, in bytes: a call of a tool is far shorter.
const MESSAGE_MAX: u64 = 4 << 20;

/// Serving MCP: what ended it.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// Reading from the client, or answering it.
    #[error("serving MCP: {0}")]
    Broken(#[from] io::Error),
    /// A message without an end.
    #[error("serving MCP: a message of over {} MiB", MESSAGE_MAX >> 20)]
    TooLong,
}

/// Serves over standard input and output until the input ends. Tools act side by side; what the client no longer waits for is ended.
///
/// # Errors
/// What ended it otherwise.
pub async fn serve(client: Client) -> Result<(), McpError> {
    let server = Arc::new(Server {
        client,
        looked: Mutex::default(),
    });
    let mut input = BufReader::new(tokio::io::stdin());
    let mut output = tokio::io::stdout();
    let mut line = Vec::new();
    let mut calls = JoinSet::new();
    let mut waiting: BTreeMap<String, AbortHandle> = BTreeMap::new();
    loop {
        let room = MESSAGE_MAX - line.len() as u64;
        let mut bounded = (&mut input).take(room);
        let answer = tokio::select! {
            // What was read before a tool ended stays in `line`.
            read = bounded.read_until(b'\n', &mut line) => {
                read?;
                if line.last() != Some(&b'\n') {
                    return if line.len() as u64 >= MESSAGE_MAX { Err(McpError::TooLong) } else { Ok(()) };
                }
                let asked = protocol::read(&line);
                line.clear();
                match asked {
                    Asked::Answered(answer) => answer,
                    Asked::Call(call) => {
                        let id = call.id.to_string();
                        waiting.insert(id, calls.spawn(server.clone().answer(call)));
                        continue;
                    }
                    Asked::Cancelled(id) => {
                        if let Some(call) = waiting.remove(&id.to_string()) {
                            call.abort();
                        }
                        continue;
                    }
                    Asked::Nothing => continue,
                }
            }
            Some(ended) = calls.join_next() => match ended {
                Ok((id, answer)) => {
                    waiting.remove(&id);
                    answer
                }
                // It broke, or the client has ended it and waits no more.
                Err(error) => match waiting.iter().find(|(_, call)| call.id() == error.id()) {
                    Some((id, _)) => {
                        let id = id.clone();
                        waiting.remove(&id);
                        protocol::broken(&id)
                    }
                    None => continue,
                },
            }
        };
        output.write_all(format!("{answer}\n").as_bytes()).await?;
        output.flush().await?;
    }
}

#[derive(Debug)]
struct Server {
    client: Client,
    /// How far the lines of each unit have been looked at: a cursor.
    looked: Mutex<BTreeMap<String, String>>,
}

impl Server {
    async fn answer(self: Arc<Self>, call: Call) -> (String, Value) {
        let said = self.call(&call.tool, &call.arguments).await;
        (call.id.to_string(), call.answered(said))
    }

    async fn call(&self, tool: &str, arguments: &Map<String, Value>) -> Result<String, String> {
        let text = self.act(tool, arguments).await?;
        // Something else on the port is told whatever was asked, since it explains most of what looks odd.
        let warning = match tool {
            "status" | "preview_check" => None,
            _ => self.status().await.ok().and_then(|status| answer::second_server(&status)),
        };
        Ok(answer::bounded(match warning {
            Some(warning) => format!("{text}\n\n{warning}"),
            None => text,
        }))
    }

    async fn status(&self) -> Result<Value, String> {
        self.client.get("/v1/status").await.map_err(|error| told(&error))
    }
}

/// A failure for the model: what, and what to do.
fn told(error: &ClientError) -> String {
    match error {
        ClientError::Problem(problem) => match &problem.hint {
            Some(hint) => format!("{}\nhint: {hint}", problem.detail),
            None => problem.detail.clone(),
        },
        ClientError::NoSupervisor { .. } | ClientError::Broken(_) | ClientError::Unreadable(_) => error.to_string(),
    }
}
