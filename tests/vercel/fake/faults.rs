//! Faults by order of a test, and the list of what was asked.

use crate::model::Fake;
use crate::reply::{self, Request, Response};
use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use std::time::Duration;

/// What may go wrong with one request.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Fault {
    /// The answer comes late.
    Delay {
        /// By so much.
        ms: u64,
    },
    /// The connection closes and nothing was done.
    DropBefore,
    /// It was done, and the connection closes without an answer.
    DropAfter,
    /// Refused; nothing was done.
    Status {
        /// With this status,
        status: u16,
        /// and this code,
        #[serde(default)]
        code: String,
        /// and a `Retry-After` of so many seconds.
        retry_after: Option<u64>,
    },
    /// It was done, and the answer says that it was not.
    StatusAfter {
        /// With this status.
        status: u16,
        /// And this code.
        #[serde(default)]
        code: String,
        /// And a `Retry-After` of so many seconds.
        retry_after: Option<u64>,
    },
    /// The body ends in the middle: after so many bytes the connection closes.
    Cut {
        /// How much comes.
        bytes: usize,
    },
    /// The body ends after so many bytes as if it were whole.
    Short {
        /// How much comes.
        bytes: usize,
    },
    /// The body comes in small pieces.
    Slow {
        /// So many bytes,
        bytes: usize,
        /// then so long nothing.
        ms: u64,
    },
    /// After so many lines of a stream an error line, and its end.
    ErrorLine {
        /// How many whole lines come.
        lines: usize,
        /// The code in it.
        code: String,
    },
}

/// An order: the fault, for which operation, and when.
#[derive(Clone, Debug, serde::Deserialize)]
pub(crate) struct Order {
    /// The operation, as [`operation`] names it; `any` for every one.
    on: String,
    /// How many requests it lets pass first.
    #[serde(default)]
    skip: u32,
    /// How many times it happens.
    #[serde(default = "once")]
    times: u32,
    #[serde(flatten)]
    fault: Fault,
}

fn once() -> u32 {
    1
}

#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Order>);

impl Faults {
    pub(crate) fn order(&mut self, orders: Vec<Order>) {
        self.0.extend(orders);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn meet(&mut self, operation: &str) -> Option<Fault> {
        let at = self.0.iter().position(|order| order.on == operation || order.on == "any")?;
        let order = &mut self.0[at];
        if order.skip > 0 {
            order.skip -= 1;
            return None;
        }
        let fault = order.fault.clone();
        order.times = order.times.saturating_sub(1);
        if order.times == 0 {
            self.0.remove(at);
        }
        Some(fault)
    }
}

impl Fault {
    pub(crate) fn response(&self) -> Option<Response> {
        let (Self::Status { status, code, retry_after } | Self::StatusAfter { status, code, retry_after }) = self else {
            return None;
        };
        let usual = match status {
            402 => "payment_required",
            403 => "forbidden",
            410 => "sandbox_stopped",
            422 => "sandbox_stopping",
            429 => "rate_limited",
            500.. => "internal_server_error",
            _ => "bad_request",
        };
        let code = if code.is_empty() { usual } else { code };
        let mut response = reply::error(*status, code, "ordered by the test");
        if let Some(seconds) = retry_after {
            response.headers_mut().insert("retry-after", (*seconds).into());
        }
        Some(response)
    }
}

/// Names what a request asks for.
fn operation(method: &str, path: &str) -> &'static str {
    let path = path.strip_prefix("/api").unwrap_or(path);
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match (method, parts.get(2..).unwrap_or_default()) {
        ("POST", []) => "create",
        ("GET", []) => "list",
        ("GET", ["sessions"]) => "sessions",
        ("GET", ["sessions", _]) => "session",
        ("POST", ["sessions", _, "cmd"]) => "run",
        ("GET", ["sessions", _, "cmd"]) => "commands",
        ("GET", ["sessions", _, "cmd", _]) => "command",
        ("GET", ["sessions", _, "cmd", _, "logs"]) => "logs",
        ("POST", ["sessions", _, "cmd", _, "kill"]) => "kill",
        ("POST", ["sessions", _, "fs", "write"]) => "write",
        ("POST", ["sessions", _, "fs", "read"]) => "read",
        ("POST", ["sessions", _, "fs", "mkdir"]) => "mkdir",
        ("POST", ["sessions", _, "stop"]) => "stop",
        ("POST", ["sessions", _, "extend-timeout"]) => "extend",
        ("POST", ["sessions", _, "network-policy"]) => "network",
        ("POST", ["sessions", _, "snapshot"]) => "snapshot",
        (_, ["snapshots", ..]) => "snapshots",
        ("GET", [_]) => "get",
        ("PATCH", [_]) => "update",
        ("DELETE", [_]) => "delete",
        ("POST", [_, "fork"]) => "fork",
        _ => "other",
    }
}

/// Notes a request for the test, with its body where that is small JSON.
pub(crate) async fn see(fake: &Fake, request: Request) -> (&'static str, Request) {
    let (parts, body) = request.into_parts();
    let operation = operation(parts.method.as_str(), parts.uri.path());
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    fake.seen.lock().unwrap().push(serde_json::json!({
        "op": operation,
        "method": parts.method.as_str(),
        "path": parts.uri.path(),
        "query": parts.uri.query().unwrap_or_default(),
        "body": body,
        "bytes": bytes.len(),
        "agent": header("user-agent"),
        "x-cwd": header("x-cwd"),
    }));
    (operation, Request::from_parts(parts, Body::from(bytes)))
}

/// Does to an answer's body what was ordered.
pub(crate) fn spoil(response: Response, fault: Option<Fault>) -> Response {
    let (parts, body) = match fault {
        Some(Fault::Cut { .. } | Fault::Short { .. } | Fault::Slow { .. } | Fault::ErrorLine { .. }) => response.into_parts(),
        _ => return response,
    };
    let mut parts = parts;
    parts.headers.remove("content-length");
    let chunks = body.into_data_stream();
    let body = match fault {
        Some(Fault::Cut { bytes }) => Body::from_stream(cut(chunks, bytes, true)),
        Some(Fault::Short { bytes }) => Body::from_stream(cut(chunks, bytes, false)),
        Some(Fault::Slow { bytes, ms }) => Body::from_stream(chunks.flat_map(move |chunk| {
            let chunk = chunk.unwrap_or_default();
            let pieces: Vec<Bytes> = chunk.chunks(bytes.max(1)).map(Bytes::copy_from_slice).collect();
            futures_util::stream::iter(pieces).then(move |piece| async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok::<_, std::io::Error>(piece)
            })
        })),
        Some(Fault::ErrorLine { lines, code }) => {
            let line = format!(
                "{}\n",
                serde_json::json!({"stream": "error", "data": {"code": code, "message": "ordered by the test"}})
            );
            let whole = chunks.scan(lines, |left, chunk| {
                let chunk = chunk.unwrap_or_default();
                let kept: Vec<u8> = chunk
                    .split_inclusive(|byte| *byte == b'\n')
                    .take(*left)
                    .flatten()
                    .copied()
                    .collect();
                let more = *left > 0;
                *left = left.saturating_sub(chunk.iter().filter(|byte| **byte == b'\n').count());
                std::future::ready(more.then_some(Ok::<_, std::io::Error>(Bytes::from(kept))))
            });
            Body::from_stream(whole.chain(futures_util::stream::iter([Ok(Bytes::from(line))])))
        }
        _ => unreachable!("only what changes a body comes here"),
    };
    Response::from_parts(parts, body)
}

/// The first bytes of a stream, then an error or a quiet end.
fn cut(chunks: axum::body::BodyDataStream, bytes: usize, broken: bool) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    futures_util::stream::unfold((chunks, bytes, false), move |(mut chunks, left, ended)| async move {
        if ended {
            return None;
        }
        if left == 0 {
            // What was sent gets through before the connection closes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return broken.then(|| (Err(std::io::Error::other("ordered by the test")), (chunks, 0, true)));
        }
        let mut chunk = chunks.next().await?.ok()?;
        chunk.truncate(left);
        let left = left - chunk.len();
        Some((Ok(chunk), (chunks, left, false)))
    })
}
