//! Operations, and what happens, to be followed.

use super::{Params, answer};
use crate::sandbox::serve::api::App;
use crate::sandbox::serve::events::{Event, EventLog};
use crate::sandbox::serve::operation::Operation;
use crate::sandbox::serve::problem::{Problem, ProblemDocument};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use utoipa::IntoParams;

/// Events of one chunk.
const PAGE: usize = 256;
/// How often an idle stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An operation.
#[utoipa::path(get, path = "/v1/operations/{id}", tag = "operations", params(("id" = String, Path, description = "the operation")),
    responses((status = 200, body = Operation), (status = 404, body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn operation(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let operation = app.desk.operation(&id).await?;
    let operation = operation.ok_or_else(|| Problem::no_such_operation(&id))?;
    Ok(answer(StatusCode::OK, &operation))
}

/// Where to begin.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::sandbox::serve) struct StartingAt {
    /// After the event of this id, as the header `Last-Event-ID`.
    #[serde(default)]
    after: Option<u64>,
}

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::sandbox::serve) struct Which {
    /// After the event of this id, as the header `Last-Event-ID`; without both, what happens from now on.
    #[serde(default)]
    after: Option<u64>,
    /// About this sandbox alone.
    #[serde(default)]
    sandbox: Option<String>,
}

fn last_event_id(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(HeaderName::from_static("last-event-id"))?.to_str().ok()?;
    text.trim().parse().ok()
}

/// An operation's events as they happen, from the first on, also those from before a restart; ends with the operation.
#[utoipa::path(get, path = "/v1/operations/{id}/events", tag = "operations",
    params(("id" = String, Path, description = "the operation"), StartingAt,
        ("Last-Event-ID" = Option<u64>, Header, description = "after the event of this id")),
    responses((status = 200, body = Event, content_type = "text/event-stream"),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn operation_events(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Params(from): Params<StartingAt>,
) -> Result<Response, Problem> {
    let after = last_event_id(&headers).or(from.after).unwrap_or(0);
    let newest = app.log.newest();
    let first = app.desk.events(&id, after).await?.ok_or_else(|| Problem::no_such_operation(&id))?;
    let state = (app, id, after, newest, Some(first));
    let body = stream::unfold(state, |(app, id, mut after, mut newest, mut page)| async move {
        loop {
            let (events, over) = match page.take() {
                Some(page) => page,
                None => app.desk.events(&id, after).await.ok()??,
            };
            if let Some(last) = events.last() {
                after = last.id();
                let text = server_sent(events.iter());
                return Some((
                    Ok::<_, Infallible>(text),
                    (app, id, after, newest, over.then(|| (Vec::new(), true))),
                ));
            }
            if over {
                return None;
            }
            let seen = newest;
            newest = app.log.newest();
            if seen == newest && tokio::time::timeout(KEEP_ALIVE, app.log.wait(newest)).await.is_err() {
                let text = Bytes::from_static(b": here\n\n");
                return Some((Ok(text), (app, id, after, newest, None)));
            }
        }
    });
    Ok(streaming(Body::from_stream(body)))
}

/// What happens: steps of starts, operations that begin and end, sandboxes that come to be otherwise.
#[utoipa::path(get, path = "/v1/events", tag = "operations",
    params(Which, ("Last-Event-ID" = Option<u64>, Header, description = "after the event of this id")),
    responses((status = 200, body = Event, content_type = "text/event-stream")))]
pub(in crate::sandbox::serve) async fn events(State(app): State<App>, headers: HeaderMap, Params(which): Params<Which>) -> Response {
    let log = app.log.clone();
    let after = last_event_id(&headers).or(which.after).unwrap_or_else(|| log.newest());
    let state = (log, after, which.sandbox);
    let body = stream::unfold(state, |(log, after, sandbox)| async move {
        let (text, after) = next(&log, after, sandbox.as_deref()).await;
        Some((Ok::<_, Infallible>(text), (log, after, sandbox)))
    });
    streaming(Body::from_stream(body))
}

/// The next chunk, and the id to go on from.
async fn next(log: &EventLog, mut after: u64, sandbox: Option<&str>) -> (Bytes, u64) {
    loop {
        let events = log.after(after, PAGE);
        let Some(last) = events.last() else {
            if tokio::time::timeout(KEEP_ALIVE, log.wait(after)).await.is_err() {
                return (Bytes::from_static(b": here\n\n"), after);
            }
            // An id from the future: from the oldest on.
            after = if after > log.newest() { 0 } else { after };
            continue;
        };
        after = last.id();
        let wanted = |event: &&Event| sandbox.is_none_or(|sandbox| event.sandbox_id().is_none_or(|id| id == sandbox));
        let wanted: Vec<_> = events.iter().map(|event| &**event).filter(wanted).collect();
        if !wanted.is_empty() {
            return (server_sent(wanted.into_iter()), after);
        }
    }
}

fn server_sent<'a>(events: impl Iterator<Item = &'a Event>) -> Bytes {
    let mut text = String::new();
    for event in events {
        let json = serde_json::to_string(event).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = write!(text, "id: {}\nevent: {}\ndata: {json}\n\n", event.id(), event.kind());
    }
    text.into()
}

fn streaming(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer (nginx, some platforms) let an event stream through with this.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
