//! The worker's own door: HTTP over a Unix socket beside the supervisor's, for its owner alone.
//!
//! `POST /v1/sync/flush`, `POST /v1/sync/pull`, `POST /v1/sync/gc`, `POST /v1/sync/deadline`, `GET /v1/sync/status`.

use super::arrive::Arrived;
use super::gc::{Collected, KEEP_GENERATIONS};
use super::status::{Flushed, Part};
use crate::tasks;
use crate::web::door::serve_unix;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

/// The socket's name, beside `control.sock`.
pub const SOCKET: &str = "sync.sock";

/// What is asked of the worker.
#[derive(Debug)]
pub enum Command {
    /// Send everything now.
    Flush {
        /// Also what was held because much went at once.
        confirm_deletes: bool,
        /// Told when it is done.
        reply: oneshot::Sender<Flushed>,
    },
    /// Bring in what changed in the store.
    Pull {
        /// Told when it is done.
        reply: oneshot::Sender<Result<Arrived, String>>,
    },
    /// Remove from the store what is no longer needed.
    Collect {
        /// How many generations stay.
        keep: usize,
        /// Told when it is done.
        reply: oneshot::Sender<Result<Collected, String>>,
    },
    /// The box will be taken away at another time, seconds since the epoch, or never.
    Deadline(Option<i64>),
}

#[derive(Clone)]
struct Shared {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Part>,
}

/// Opens the door. A socket that nobody answers on is a leftover and replaced.
pub async fn open(path: &Path, commands: mpsc::Sender<Command>, status: watch::Receiver<Part>) -> io::Result<()> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers there already"));
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/v1/sync/flush", post(flush))
        .route("/v1/sync/pull", post(pull))
        .route("/v1/sync/gc", post(collect))
        .route("/v1/sync/deadline", post(expire))
        .route("/v1/sync/status", get(show))
        .with_state(Shared { commands, status });
    tasks::spawn(serve_unix(listener, router));
    Ok(())
}

#[derive(Debug, Default, Deserialize)]
struct FlushQuery {
    #[serde(default)]
    confirm_deletes: bool,
}

async fn flush(State(shared): State<Shared>, Query(query): Query<FlushQuery>) -> Response {
    let (reply, answer) = oneshot::channel();
    let command = Command::Flush {
        confirm_deletes: query.confirm_deletes,
        reply,
    };
    if shared.commands.send(command).await.is_err() {
        return gone();
    }
    answer.await.map_or_else(|_| gone(), |flushed| Json(flushed).into_response())
}

async fn pull(State(shared): State<Shared>) -> Response {
    ask(&shared, |reply| Command::Pull { reply }, "pull_failed").await
}

#[derive(Debug, Deserialize)]
struct CollectQuery {
    keep: Option<usize>,
}

async fn collect(State(shared): State<Shared>, Query(query): Query<CollectQuery>) -> Response {
    let keep = query.keep.unwrap_or(KEEP_GENERATIONS);
    ask(&shared, |reply| Command::Collect { keep, reply }, "gc_failed").await
}

#[derive(Debug, Deserialize)]
struct DeadlineQuery {
    at: Option<i64>,
}

/// Answers once the worker will hear of it: it may be busy.
async fn expire(State(shared): State<Shared>, Query(query): Query<DeadlineQuery>) -> Response {
    match shared.commands.send(Command::Deadline(query.at)).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(_) => gone(),
    }
}

/// Puts a command to the worker and passes its answer on.
async fn ask<T: Serialize>(shared: &Shared, command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command, failed: &str) -> Response {
    let (reply, answer) = oneshot::channel();
    if shared.commands.send(command(reply)).await.is_err() {
        return gone();
    }
    match answer.await {
        Ok(Ok(done)) => Json(done).into_response(),
        Ok(Err(why)) => problem(StatusCode::BAD_GATEWAY, failed, &why),
        Err(_) => gone(),
    }
}

async fn show(State(shared): State<Shared>) -> Json<Part> {
    Json(shared.status.borrow().clone())
}

fn gone() -> Response {
    problem(StatusCode::SERVICE_UNAVAILABLE, "sync_stopping", "the sync worker is ending")
}

/// RFC 9457.
fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let body = serde_json::json!({ "status": status.as_u16(), "code": code, "title": status.canonical_reason(), "detail": detail });
    (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
}
