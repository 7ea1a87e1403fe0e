//! What can be followed: the units' logs and the transitions.
//!
//! A stream asks for its next page when the client has taken the last one: a slow client holds up itself alone.

use super::units::no_such_unit;
use crate::control::answer::masked;
use crate::control::daemon_handle::DaemonHandle;
use crate::control::event_log::{Event, EventReader, Position};
use crate::control::logs::{LogLine, LogPage, LogQuery, ReadLogsError};
use crate::control::params::{self, Params, flag, list};
use crate::control::problem::{Code, Problem};
use crate::tasks;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;
use utoipa::IntoParams;

/// Lines or events of one page.
const PAGE: usize = 512;
/// The most lines that `lines` may ask for.
const MAX_TAIL: usize = 100_000;
/// How often an idle event stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which lines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct WhichLines {
    /// Units with commas; all if there are none. (Only `/v1/logs`.)
    #[serde(default)]
    units: String,
    /// The last so many.
    #[serde(default)]
    lines: Option<usize>,
    /// Not older than this: RFC 3339, or how long ago (`5min`).
    #[serde(default)]
    since: Option<String>,
    /// Matching this regular expression.
    #[serde(default)]
    grep: Option<String>,
    /// After the line of this cursor.
    #[serde(default)]
    cursor: Option<String>,
    /// Whether to go on with new ones.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
}

/// What units wrote, by time.
#[utoipa::path(get, path = "/v1/logs", tag = "logs", params(WhichLines),
    responses((status = 200, description = "one line each", body = LogLine, content_type = "application/x-ndjson"),
        (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn logs(State(daemon): State<DaemonHandle>, Params(which): Params<WhichLines>) -> Result<Response, Problem> {
    let units = list(&which.units).into_iter().map(ToOwned::to_owned).collect();
    lines(daemon, units, which).await
}

/// What a unit wrote.
#[utoipa::path(get, path = "/v1/units/{u}/logs", tag = "logs", params(("u" = String, Path, description = "the unit, or several with commas"), WhichLines),
    responses((status = 200, description = "one line each", body = LogLine, content_type = "application/x-ndjson"),
        (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn unit_logs(
    State(daemon): State<DaemonHandle>,
    Path(units): Path<String>,
    Params(which): Params<WhichLines>,
) -> Result<Response, Problem> {
    let units = list(&units).into_iter().map(ToOwned::to_owned).collect();
    lines(daemon, units, which).await
}

async fn lines(daemon: DaemonHandle, units: Vec<String>, which: WhichLines) -> Result<Response, Problem> {
    let bad = |detail| Problem::new(Code::BadRequest, detail);
    let since = which
        .since
        .as_deref()
        .map(|text| params::time(text, jiff::Timestamp::now()))
        .transpose();
    let grep = which.grep.as_deref().map(regex).transpose();
    let query = LogQuery {
        units,
        known: daemon.snapshot().units.iter().map(|unit| unit.status.name.clone()).collect(),
        since: since.map_err(bad)?,
        grep: grep.map_err(bad)?,
        after: which.cursor,
        tail: which.lines.map(|lines| lines.min(MAX_TAIL)),
        limit: PAGE,
        follow: which.follow,
    };
    let mut changed = daemon.logs.changed();
    changed.borrow_and_update();
    let first = read_page(&daemon, query.clone()).await.map_err(|error| match error {
        ReadLogsError::NoSuchUnit(name) => no_such_unit(&name, &daemon.snapshot()),
        other => other.into(),
    })?;
    let follow = which.follow;
    // The last so many, and not what is written while they are read: a unit may write faster than they are sent.
    let left = query.tail.filter(|_| !follow);
    let state = (daemon, query, changed, Some(first), left);
    let body = stream::unfold(state, move |(daemon, mut query, mut changed, first, left)| async move {
        if left == Some(0) {
            return None;
        }
        let mut page = match first {
            Some(page) => page,
            None => read_page(&daemon, query.clone()).await.ok()?,
        };
        while page.lines.is_empty() && !page.more {
            if !follow {
                return None;
            }
            tokio::select! {
                more = changed.changed() => more.ok()?,
                () = daemon.closing() => return None,
            }
            query.go_on(page.cursor);
            page = read_page(&daemon, query.clone()).await.ok()?;
        }
        page.lines.truncate(left.unwrap_or(usize::MAX));
        let text = ndjson(&page.lines);
        let left = left.map(|left| left - page.lines.len());
        query.go_on(page.cursor);
        Some((Ok::<_, Infallible>(text), (daemon, query, changed, None, left)))
    });
    Ok(streaming("application/x-ndjson", Body::from_stream(body)))
}

impl LogQuery {
    /// After the first page the rest follows from the cursor alone.
    fn go_on(&mut self, cursor: String) {
        self.after = Some(cursor);
        self.tail = None;
        self.since = None;
    }
}

fn regex(pattern: &str) -> Result<regex::Regex, String> {
    // A pattern comes from outside: its program may not eat the memory of a small machine.
    let built = regex::RegexBuilder::new(pattern)
        .size_limit(1 << 20)
        .dfa_size_limit(1 << 20)
        .build();
    built.map_err(|error| format!("`{pattern}` is no regular expression: {error}"))
}

async fn read_page(daemon: &DaemonHandle, query: LogQuery) -> Result<LogPage, ReadLogsError> {
    let logs = daemon.logs.clone();
    let read = tasks::spawn_blocking(move || logs.read(&query)).await;
    read.unwrap_or_else(|error| {
        Err(ReadLogsError::Io {
            unit: "*".to_owned(),
            source: std::io::Error::other(error),
        })
    })
}

fn ndjson(lines: &[LogLine]) -> Bytes {
    let mut text = Vec::new();
    for line in lines {
        // Writing to memory does not fail, and the line is plain data.
        let _ = serde_json::to_writer(&mut text, line);
        text.push(b'\n');
    }
    text.into()
}

/// Which events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct WhichEvents {
    /// Whether to go on with new ones.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
    /// The last so many of those that are kept; all if absent.
    #[serde(default)]
    lines: Option<usize>,
    /// After the event of this id, as the header `Last-Event-ID`.
    #[serde(default)]
    after: Option<u64>,
}

/// Transitions: Server-Sent Events, or with `Accept: application/x-ndjson` one JSON document a line.
#[utoipa::path(get, path = "/v1/events", tag = "status",
    params(WhichEvents, ("Last-Event-ID" = Option<u64>, Header, description = "after the event of this id")),
    responses((status = 200, body = Event, content_type = "text/event-stream"), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn events(
    State(daemon): State<DaemonHandle>,
    headers: HeaderMap,
    Params(which): Params<WhichEvents>,
) -> Result<Response, Problem> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let last = text(header::HeaderName::from_static("last-event-id")).and_then(|id| id.trim().parse().ok());
    let lines = text(header::ACCEPT).is_some_and(|accept| accept.contains("application/x-ndjson"));
    let format = if lines { Format::Lines } else { Format::ServerSent };
    let mut reader = daemon.events.clone();
    let position = start(&mut reader, last.or(which.after), which.lines);
    let state = Following {
        reader,
        position,
        follow: which.follow,
        format,
        daemon: daemon.clone(),
    };
    let body = stream::unfold(state, |mut state| async move {
        state.next().await.map(|text| (Ok::<_, Infallible>(text), state))
    });
    Ok(streaming(format.content_type(), Body::from_stream(body)))
}

fn start(reader: &mut EventReader, after: Option<u64>, lines: Option<usize>) -> Position {
    match (after, lines) {
        (Some(id), _) => reader.after(id),
        (None, Some(lines)) => reader.last(lines),
        (None, None) => reader.oldest(),
    }
}

#[derive(Clone, Copy)]
enum Format {
    ServerSent,
    Lines,
}

impl Format {
    fn content_type(self) -> &'static str {
        match self {
            Self::ServerSent => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }
}

struct Following {
    reader: EventReader,
    position: Position,
    follow: bool,
    format: Format,
    daemon: DaemonHandle,
}

impl Following {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let (events, position) = self.reader.read(self.position, PAGE);
            self.position = position;
            if !events.is_empty() {
                return Some(self.write(events.iter().map(|event| &**event)));
            }
            if !self.follow {
                return None;
            }
            let more = async {
                tokio::select! {
                    more = self.reader.wait(position) => more,
                    () = self.daemon.closing() => false,
                }
            };
            match tokio::time::timeout(KEEP_ALIVE, more).await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(_) if matches!(self.format, Format::ServerSent) => return Some(Bytes::from_static(b": here\n\n")),
                Err(_) => {}
            }
        }
    }

    fn write<'a>(&self, events: impl Iterator<Item = &'a Event>) -> Bytes {
        let mut text = String::new();
        for event in events {
            let json = masked(serde_json::to_value(event).unwrap_or_default(), &self.daemon.mask);
            // Writing to a string does not fail.
            let _ = match self.format {
                Format::ServerSent => write!(text, "id: {}\nevent: {}\ndata: {json}\n\n", event.id(), event.kind()),
                Format::Lines => writeln!(text, "{json}"),
            };
        }
        text.into()
    }
}

fn streaming(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer (nginx, some platforms) let an event stream through with this.
    headers.insert(header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
