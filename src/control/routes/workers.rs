//! The way through to the workers' own doors: `sync.sock` and `agent.sock` beside the control socket, same paths, bodies streamed.

use crate::control::access::Who;
use crate::control::daemon_handle::DaemonHandle;
use crate::control::problem::{Code, Problem};
use crate::control::unix_http::{ExchangeError, exchange};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::response::Response;
use http_body_util::Limited;

/// The largest body that is passed on: a prompt with what is attached to it.
const BODY_LIMIT: usize = 32 * 1024 * 1024;

macro_rules! passed_on {
    ($($(#[$doc:meta])* $name:ident: $worker:literal, $method:ident $path:literal $(, $param:literal)?;)*) => {$(
        $(#[$doc])*
        #[utoipa::path($method, path = $path, tag = $worker, $(params(($param = String, Path, description = "the prompt")),)?
            responses((status = "default", description = "the worker's answer", body = serde_json::Value),
                (status = 503, description = "the worker is not there", body = Problem, content_type = "application/problem+json")))]
        pub(in crate::control) async fn $name(daemon: State<DaemonHandle>, request: Request) -> Result<Response, Problem> {
            pass_on(&daemon, $worker, request).await
        }
    )*};
}

passed_on! {
    /// Brings everything to the store at once.
    sync_flush: "sync", post "/v1/sync/flush";
    /// Brings what changed in the store.
    sync_pull: "sync", post "/v1/sync/pull";
    /// Gives the agent a prompt.
    agent_ask: "agent", post "/v1/agent/prompts";
    /// The agent's prompts.
    agent_list: "agent", get "/v1/agent/prompts";
    /// A prompt.
    agent_prompt: "agent", get "/v1/agent/prompts/{id}", "id";
    /// A prompt's events.
    agent_events: "agent", get "/v1/agent/prompts/{id}/events", "id";
    /// Cancels a prompt.
    agent_cancel: "agent", post "/v1/agent/prompts/{id}/cancel", "id";
    /// Answers what the agent asks.
    agent_answer: "agent", post "/v1/agent/prompts/{id}/answer", "id";
}

async fn pass_on(daemon: &DaemonHandle, worker: &str, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    let who = parts.extensions.get::<Who>().map_or_else(|| Who::Anybody.header(), Who::header);
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    parts.uri = target
        .parse::<Uri>()
        .map_err(|error| Problem::new(Code::BadRequest, error.to_string()))?;
    strip_hop_by_hop(&mut parts.headers);
    for ours in [header::AUTHORIZATION, header::COOKIE, header::CONTENT_LENGTH, header::EXPECT] {
        parts.headers.remove(ours);
    }
    parts.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    if let Ok(who) = HeaderValue::from_str(&who) {
        parts.headers.insert(HeaderName::from_static("x-sandkeep-who"), who);
    }
    let socket = daemon.runtime_dir.join(format!("{worker}.sock"));
    let request = Request::from_parts(parts, Body::new(Limited::new(body, BODY_LIMIT)));
    let answer = exchange(&socket, request).await.map_err(|error| unavailable(worker, &error))?;
    let (mut parts, body) = answer.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, Body::new(body)))
}

fn unavailable(worker: &str, error: &ExchangeError) -> Problem {
    Problem::new(Code::WorkerUnavailable, format!("the {worker} worker does not answer: {error}")).hint(format!("`sandkeep why {worker}`"))
}

/// Headers that are about one connection. RFC 9110, section 7.6.1.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let fixed = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("keep-alive"),
    ];
    for name in named.into_iter().chain(fixed) {
        headers.remove(name);
    }
}
