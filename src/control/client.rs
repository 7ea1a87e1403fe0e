//! The client of the control socket: for the command line, for the workers (through `SANDKEEP_SOCKET`), for `mcp`.

use super::daemon_handle::ReloadRequest;
use super::document::StatusDocument;
use super::event_log::Event;
use super::logs::LogLine;
use super::problem::{Code, Problem};
use super::routes::supervisor::{Down, Reloaded, Upgraded};
use super::routes::units::Done;
use super::unix_http::{ExchangeError, exchange};
use super::why::Why;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest document that is read.
const DOCUMENT_LIMIT: usize = 64 * 1024 * 1024;
/// The longest line of a stream.
const LINE_LIMIT: usize = 16 * 1024 * 1024;

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no supervisor runs here ({})", .socket.display())]
    NoSupervisor {
        /// Where it should.
        socket: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The supervisor says no.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The connection broke.
    #[error("the supervisor went away before it answered: {0}")]
    Broken(String),
    /// The answer makes no sense, perhaps of another version.
    #[error("reading the supervisor's answer: {0}")]
    Unreadable(String),
}

impl ClientError {
    /// The problem's code, if the supervisor said no.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem(problem) => Some(problem.code),
            Self::NoSupervisor { .. } | Self::Broken(_) | Self::Unreadable(_) => None,
        }
    }
}

/// Whether to wait for what comes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until it is done.
    Done,
    /// Until it is done, for this long at most.
    AtMost(Duration),
    /// Not at all.
    Not,
}

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct LinesWanted {
    /// Of these units; of all if empty.
    pub units: Vec<String>,
    /// The last so many.
    pub lines: Option<usize>,
    /// RFC 3339, or how long ago.
    pub since: Option<String>,
    /// A regular expression.
    pub grep: Option<String>,
    /// After this one.
    pub cursor: Option<String>,
    /// Whether to go on with new ones.
    pub follow: bool,
}

/// Asks a supervisor. A connection for each request; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Of the supervisor that listens on this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Of the supervisor that started this process, by `SANDKEEP_SOCKET`.
    pub fn of_parent() -> Option<Self> {
        std::env::var_os("SANDKEEP_SOCKET")
            .filter(|socket| !socket.is_empty())
            .map(Self::new)
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The supervisor's process as this side's PID namespace sees it; `None` where it does not see it.
    pub async fn peer(&self) -> Option<i32> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.ok()?;
        stream.peer_cred().ok()?.pid().filter(|pid| *pid > 0)
    }

    /// Everything.
    pub async fn status(&self) -> Result<StatusDocument, ClientError> {
        self.get("/v1/status").await
    }

    /// Why a unit is as it is.
    pub async fn why(&self, unit: &str) -> Result<Why, ClientError> {
        self.get(&format!("/v1/units/{}/why", encoded(unit))).await
    }

    /// `start`, `stop`, `restart` or `reload` of units.
    pub async fn command(&self, verb: &str, units: &[String], wait: Wait) -> Result<Done, ClientError> {
        let query = match wait {
            Wait::Done => String::new(),
            Wait::AtMost(limit) => format!("?timeout={}ms", limit.as_millis()),
            Wait::Not => "?block=false".to_owned(),
        };
        self.post(&format!("/v1/units/{}/{verb}{query}", joined(units)), None::<&()>).await
    }

    /// Sends a signal, a name or a number, to all processes of units.
    pub async fn kill(&self, units: &[String], signal: &str) -> Result<Done, ClientError> {
        self.post(&format!("/v1/units/{}/kill?signal={}", joined(units), encoded(signal)), None::<&()>)
            .await
    }

    /// Waits until units (all required ones if there are none) are ready.
    pub async fn wait(&self, units: &[String], limit: Option<Duration>) -> Result<StatusDocument, ClientError> {
        let limit = limit.map_or_else(String::new, |limit| format!("&timeout={}ms", limit.as_millis()));
        self.get(&format!("/v1/wait?units={}{limit}", joined(units))).await
    }

    /// Has the supervisor read its configuration, or another one.
    pub async fn reload(&self, request: &ReloadRequest) -> Result<Reloaded, ClientError> {
        self.post("/v1/reload", Some(request)).await
    }

    /// Stops everything; answered when it is down.
    pub async fn shutdown(&self, budget: Option<Duration>) -> Result<Down, ClientError> {
        let budget = budget.map_or_else(String::new, |budget| format!("?timeout={}ms", budget.as_millis()));
        self.post(&format!("/v1/shutdown{budget}"), None::<&()>).await
    }

    /// Executes another binary in place; answered by the new one.
    pub async fn upgrade(&self, binary: Option<&Path>, workers: bool) -> Result<Upgraded, ClientError> {
        let binary = binary.map_or_else(String::new, |path| format!("&binary={}", encoded(&path.to_string_lossy())));
        self.post(&format!("/v1/upgrade?workers={workers}{binary}"), None::<&()>).await
    }

    /// Lines that units wrote.
    pub async fn logs(&self, wanted: &LinesWanted) -> Result<Stream<LogLine>, ClientError> {
        let LinesWanted {
            units,
            lines,
            since,
            grep,
            cursor,
            follow,
        } = wanted;
        let mut path = format!("/v1/logs?follow={follow}&units={}", joined(units));
        let lines = lines.map(|lines| lines.to_string());
        let texts = [("lines", &lines), ("since", since), ("grep", grep), ("cursor", cursor)];
        for (key, text) in texts {
            if let Some(text) = text {
                // Writing to a string does not fail.
                let _ = write!(path, "&{key}={}", encoded(text));
            }
        }
        self.stream(&path).await
    }

    /// Transitions: the last so many of those that are kept (all if `None`), and new ones if it follows.
    pub async fn events(&self, lines: Option<usize>, follow: bool) -> Result<Stream<Event>, ClientError> {
        let lines = lines.map_or_else(String::new, |lines| format!("&lines={lines}"));
        self.stream(&format!("/v1/events?follow={follow}{lines}")).await
    }

    /// New transitions after the one of this id, for as long as the supervisor lives.
    pub async fn events_after(&self, id: Option<u64>) -> Result<Stream<Event>, ClientError> {
        let from = id.map_or_else(|| "lines=0".to_owned(), |id| format!("after={id}"));
        self.stream(&format!("/v1/events?follow=true&{from}")).await
    }

    /// A GET whose answer is one document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        document(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    /// A POST whose answer is one document.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: Option<&B>) -> Result<T, ClientError> {
        let body = body
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|error| ClientError::Unreadable(error.to_string()))?;
        document(self.send(Method::POST, path, body.unwrap_or_default().into()).await?).await
    }

    /// A GET whose answer is one document a line.
    pub async fn stream<T: DeserializeOwned>(&self, path: &str) -> Result<Stream<T>, ClientError> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        Ok(Stream {
            body: answer.into_body(),
            buffer: BytesMut::new(),
            searched: 0,
            of: PhantomData,
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "application/x-ndjson, application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|error| ClientError::Unreadable(error.to_string()))?;
        let answer = exchange(&self.socket, request).await.map_err(|error| match error {
            ExchangeError::Connect { source, .. } => ClientError::NoSupervisor {
                socket: self.socket.clone(),
                source,
            },
            ExchangeError::Broken { source, .. } => ClientError::Broken(source.to_string()),
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        if let (StatusCode::SEE_OTHER, Some(location)) = (status, location) {
            // The supervisor is being upgraded: its next image answers.
            return Box::pin(self.send(Method::GET, location, Bytes::new())).await;
        }
        let text = text(answer).await?;
        match serde_json::from_slice(&text) {
            Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
            Err(_) => Err(ClientError::Unreadable(format!("HTTP status {status}"))),
        }
    }
}

async fn text(answer: Response<Incoming>) -> Result<Bytes, ClientError> {
    let collected = Limited::new(answer.into_body(), DOCUMENT_LIMIT).collect().await;
    Ok(collected.map_err(|error| ClientError::Broken(error.to_string()))?.to_bytes())
}

async fn document<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, ClientError> {
    let text = text(answer).await?;
    serde_json::from_slice(&text).map_err(|error| ClientError::Unreadable(error.to_string()))
}

/// Documents that arrive one by one.
#[derive(Debug)]
pub struct Stream<T> {
    body: Incoming,
    buffer: BytesMut,
    searched: usize,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Stream<T> {
    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(line) = self.take_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let read = serde_json::from_slice(&line).map(Some);
                return read.map_err(|error| ClientError::Unreadable(error.to_string()));
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(ClientError::Unreadable(format!("a line of more than {LINE_LIMIT} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(ClientError::Broken(error.to_string())),
                None => return Ok(None),
            }
        }
    }

    fn take_line(&mut self) -> Option<BytesMut> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = found.map(|at| at + self.searched) else {
            self.searched = self.buffer.len();
            return None;
        };
        self.searched = 0;
        let line = self.buffer.split_to(end);
        self.buffer.advance(1);
        Some(line)
    }
}

fn joined(units: &[String]) -> String {
    units.iter().map(|unit| encoded(unit)).collect::<Vec<_>>().join(",")
}

/// Percent-encodes all but the unreserved characters. RFC 3986, section 2.3.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
