//! The worker's own door: HTTP over `<runtime>/<instance>/agent.sock`. The supervisor's doors pass `/v1/agent/…` on to it.

use super::outbox::{self, Progress, Reader};
use super::prompt::PromptId;
use super::settings::Options;
use super::tree;
use crate::web::door::{Peer, serve_unix};
use axum::Extension;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

/// Bytes of a prompt's file that are read at a time for a reader.
const PIECE: usize = 256 << 10;

/// What a client wants of the worker.
#[derive(Debug)]
pub enum Wish {
    /// A prompt.
    Submit(Submission),
    /// What is known of one.
    Show(PromptId),
    /// The last ones.
    List,
    /// Its end.
    Cancel(PromptId),
    /// An answer to one of its questions; with no question named, to the only one.
    Answer(PromptId, Option<String>, Value),
    /// The worker's part of the status.
    Status,
}

/// A prompt as a client sends it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// An id of the client's, so that sending it twice is harmless.
    #[serde(default)]
    pub id: Option<String>,
    /// The conversation; `main` by default.
    #[serde(default)]
    pub session: Option<String>,
    /// What the user wrote.
    pub text: String,
    /// What it asks for beyond the config.
    #[serde(default)]
    pub options: Options,
}

/// What is wrong, as RFC 9457 has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

impl Problem {
    /// A problem.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
        }
    }

    /// No such prompt.
    pub fn unknown(id: &PromptId) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_prompt", format!("there is no prompt `{id}`"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("error");
        let body = json!({"type": "about:blank", "title": title, "status": self.status.as_u16(), "code": self.code, "detail": self.detail});
        (self.status, [("content-type", "application/problem+json")], body.to_string()).into_response()
    }
}

/// What a wish comes back with.
pub type Reply = Result<(StatusCode, Value), Problem>;
/// A prompt's file, and how far it has come.
pub type Following = (PathBuf, watch::Receiver<Progress>);

/// What reaches the worker through the door.
#[derive(Debug)]
pub enum Knock {
    /// A wish.
    Wish(Box<Wish>, oneshot::Sender<Reply>),
    /// Somebody wants to follow a prompt.
    Follow(PromptId, oneshot::Sender<Option<Following>>),
}

type Door = mpsc::UnboundedSender<Knock>;

/// Binds the socket, readable for this user alone.
pub fn bind(path: &std::path::Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, door: Door, prompt_max: usize) {
    let router = Router::new()
        .route("/v1/agent/prompts", post(submit).get(list))
        .route("/v1/agent/prompts/{id}", get(show))
        .route("/v1/agent/prompts/{id}/events", get(events))
        .route("/v1/agent/prompts/{id}/cancel", post(cancel))
        .route("/v1/agent/prompts/{id}/answer", post(answer))
        .route("/v1/agent/status", get(status))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "unknown_route", "there is no such route"))
        // JSON may write each byte as six.
        .layer(DefaultBodyLimit::max(prompt_max.saturating_mul(6).saturating_add(64 << 10)))
        .layer(middleware::from_fn(not_from_inside))
        .with_state(door);
    serve_unix(listener, router).await;
}

/// The model must not answer its own questions, nor queue prompts for itself.
async fn not_from_inside(Extension(Peer(peer)): Extension<Peer>, request: Request, next: Next) -> Response {
    let changes = request.method() != axum::http::Method::GET;
    if changes && peer.is_some_and(tree::is_inside) {
        let detail = "processes that claude started may not ask or answer for it";
        return Problem::new(StatusCode::FORBIDDEN, "from_inside", detail).into_response();
    }
    next.run(request).await
}

async fn wish(door: &Door, wish: Wish) -> Response {
    let (sender, receiver) = oneshot::channel();
    let gone = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ending", "the agent is ending");
    if door.send(Knock::Wish(Box::new(wish), sender)).is_err() {
        return gone().into_response();
    }
    match receiver.await {
        Ok(Ok((status, body))) => (status, Json(body)).into_response(),
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => gone().into_response(),
    }
}

fn prompt_id(text: &str) -> Result<PromptId, Problem> {
    let problem = || {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_id",
            "a prompt's id is 1 to 64 letters, digits, `_` and `-`",
        )
    };
    PromptId::new(text).ok_or_else(problem)
}

fn parsed<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_body", format!("reading the body: {error}")))
}

async fn submit(State(door): State<Door>, body: axum::body::Bytes) -> Response {
    match parsed(&body) {
        Ok(submission) => wish(&door, Wish::Submit(submission)).await,
        Err(problem) => problem.into_response(),
    }
}

async fn list(State(door): State<Door>) -> Response {
    wish(&door, Wish::List).await
}

async fn status(State(door): State<Door>) -> Response {
    wish(&door, Wish::Status).await
}

async fn show(State(door): State<Door>, Path(id): Path<String>) -> Response {
    match prompt_id(&id) {
        Ok(id) => wish(&door, Wish::Show(id)).await,
        Err(problem) => problem.into_response(),
    }
}

async fn cancel(State(door): State<Door>, Path(id): Path<String>) -> Response {
    match prompt_id(&id) {
        Ok(id) => wish(&door, Wish::Cancel(id)).await,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(State(door): State<Door>, Path(id): Path<String>, body: axum::body::Bytes) -> Response {
    let read = || -> Result<Wish, Problem> {
        let id = prompt_id(&id)?;
        let mut answer: Value = parsed(&body)?;
        let question = answer.as_object_mut().and_then(|fields| fields.remove("question"));
        let question = question.as_ref().and_then(Value::as_str).map(str::to_owned);
        Ok(Wish::Answer(id, question, answer))
    };
    match read() {
        Ok(answer) => wish(&door, answer).await,
        Err(problem) => problem.into_response(),
    }
}

#[derive(Debug, Deserialize)]
struct After {
    after: Option<u64>,
}

async fn events(State(door): State<Door>, Path(id): Path<String>, Query(after): Query<After>, headers: HeaderMap) -> Response {
    let id = match prompt_id(&id) {
        Ok(id) => id,
        Err(problem) => return problem.into_response(),
    };
    let (sender, receiver) = oneshot::channel();
    let _ = door.send(Knock::Follow(id.clone(), sender));
    let Ok(Some((path, progress))) = receiver.await else {
        return Problem::unknown(&id).into_response();
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let stream = follow(path, progress, last.or(after.after).unwrap_or(0));
    Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}

struct Follower {
    path: PathBuf,
    progress: watch::Receiver<Progress>,
    reader: Option<Reader>,
    ready: VecDeque<SseEvent>,
    after: u64,
    over: bool,
}

/// The events after a number, and those to come, until the terminal one.
fn follow(path: PathBuf, progress: watch::Receiver<Progress>, after: u64) -> impl Stream<Item = Result<SseEvent, Infallible>> {
    let follower = Follower {
        path,
        progress,
        reader: None,
        ready: VecDeque::new(),
        after,
        over: false,
    };
    futures_util::stream::unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.ready.pop_front() {
                return Some((Ok(event), follower));
            }
            if follower.over {
                return None;
            }
            follower.progress.mark_unchanged();
            let ended = follower.progress.borrow().ended;
            if follower.fill().await {
                continue;
            }
            // A closed channel with no end: the claim was lost, or the agent ends; the client asks again.
            if ended || follower.progress.changed().await.is_err() {
                follower.over |= !follower.fill().await;
            }
        }
    })
}

impl Follower {
    /// Reads on; what is read is on the disk before it is shown. False = there is nothing more for now.
    async fn fill(&mut self) -> bool {
        if self.reader.is_none() {
            self.reader = Reader::open(&self.path).ok();
        }
        let Some(Ok(events)) = self.reader.as_mut().map(|reader| reader.next(PIECE)) else {
            return false;
        };
        let some = !events.is_empty();
        let ready = events.into_iter().filter(|event| event.seq > self.after).collect::<Vec<_>>();
        let Some(last) = ready.last() else { return some };
        self.after = last.seq;
        if let Err(error) = outbox::on_disk(self.path.clone()).await {
            tracing::error!("writing {} to the disk: {error}", self.path.display());
            self.over = true;
            return false;
        }
        self.ready.extend(ready.into_iter().map(|event| {
            let data = serde_json::to_string(&event).unwrap_or_default();
            SseEvent::default().id(event.seq.to_string()).event(event.kind).data(data)
        }));
        some
    }
}
