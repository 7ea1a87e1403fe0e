//! The API: one table of routes, each with what it needs. Both doors serve it; the door says who asks.
//!
//! A request passes: the door (who is it?) → authorize (may they?) → the route → write out (mask, serialize).

use super::access::{self, Need, Who};
use super::answer::write_out;
use super::daemon_handle::DaemonHandle;
use super::params;
use super::problem::{Code, Problem};
use super::routes::{reads, streams, supervisor, units, workers};
use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

/// The routes: method, path, what it needs, where it goes. In the order of the page that documents them.
fn table() -> Vec<(&'static str, Need, MethodRouter<DaemonHandle>)> {
    vec![
        ("/livez", Need::Nothing, get(reads::livez)),
        ("/readyz", Need::Nothing, get(reads::readyz)),
        ("/healthz", Need::Nothing, get(reads::healthz)),
        ("/metrics", Need::Word("metrics"), get(reads::metrics)),
        ("/openapi.json", Need::Word("status"), get(reads::openapi)),
        ("/v1/status", Need::Word("status"), get(reads::status)),
        ("/v1/units/{u}", Need::Unit("status"), get(units::unit)),
        ("/v1/units/{u}/why", Need::Unit("why"), get(units::why)),
        ("/v1/units/{u}/start", Need::Unit("start"), post(units::start)),
        ("/v1/units/{u}/stop", Need::Unit("stop"), post(units::stop)),
        ("/v1/units/{u}/restart", Need::Unit("restart"), post(units::restart)),
        ("/v1/units/{u}/reload", Need::Unit("reload"), post(units::reload)),
        ("/v1/units/{u}/kill", Need::Unit("kill"), post(units::kill)),
        ("/v1/units/{u}/logs", Need::Unit("logs"), get(streams::unit_logs)),
        ("/v1/logs", Need::Word("logs"), get(streams::logs)),
        ("/v1/events", Need::Word("status"), get(streams::events)),
        ("/v1/wait", Need::Word("wait"), get(supervisor::wait)),
        ("/v1/reload", Need::Word("configure"), post(supervisor::reload)),
        ("/v1/shutdown", Need::Word("down"), post(supervisor::shutdown)),
        ("/v1/upgrade", Need::Word("upgrade"), post(supervisor::upgrade)),
        ("/v1/requests/{id}", Need::Word("wait"), get(supervisor::request)),
        ("/v1/sync/flush", Need::Word("sync:flush"), post(workers::sync_flush)),
        ("/v1/sync/pull", Need::Word("sync:pull"), post(workers::sync_pull)),
        (
            "/v1/agent/prompts",
            Need::Word("agent:prompts"),
            post(workers::agent_ask).get(workers::agent_list),
        ),
        ("/v1/agent/prompts/{id}", Need::Word("agent:prompts"), get(workers::agent_prompt)),
        (
            "/v1/agent/prompts/{id}/events",
            Need::Word("agent:prompts"),
            get(workers::agent_events),
        ),
        (
            "/v1/agent/prompts/{id}/cancel",
            Need::Word("agent:prompts"),
            post(workers::agent_cancel),
        ),
        (
            "/v1/agent/prompts/{id}/answer",
            Need::Word("agent:prompts"),
            post(workers::agent_answer),
        ),
    ]
}

/// The API without a door: whoever serves it puts a [`Who`] into each request's extensions; without one it is [`Who::Anybody`].
pub fn router(daemon: DaemonHandle) -> Router {
    let mut router = Router::new();
    for (path, need, method_router) in table() {
        let authorize = middleware::from_fn_with_state((daemon.clone(), need), authorize);
        router = router.route(path, method_router.route_layer(authorize));
    }
    router
        .fallback(|| async { Problem::new(Code::NotFound, "no route has this path").hint("`GET /openapi.json` lists them") })
        .method_not_allowed_fallback(|| async { Problem::new(Code::MethodNotAllowed, "this route does not take this method") })
        .layer(middleware::from_fn_with_state(daemon.clone(), finish))
        .with_state(daemon)
}

async fn authorize(State((daemon, need)): State<(DaemonHandle, Need)>, path: RawPathParams, request: Request, next: Next) -> Response {
    let who = request.extensions().get::<Who>().unwrap_or(&Who::Anybody);
    let named = path.iter().find(|(key, _)| *key == "u").map_or("", |(_, value)| value);
    let units = params::list(named);
    let snapshot = daemon.snapshot();
    match access::allow(who, need, request.method(), &units, &snapshot) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn finish(State(daemon): State<DaemonHandle>, request: Request, next: Next) -> Response {
    write_out(next.run(request).await, &daemon.mask)
}

#[cfg(test)]
pub(super) fn paths() -> Vec<&'static str> {
    table().into_iter().map(|(path, _, _)| path).collect()
}
