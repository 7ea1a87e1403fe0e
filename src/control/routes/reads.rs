//! What is read from the snapshot alone.

use crate::control::answer::Answer;
use crate::control::daemon_handle::DaemonHandle;
use crate::control::document::{Healthz, Livez, Readyz, StatusDocument};
use crate::control::problem::{Code, Problem};
use crate::control::{metrics as exposition, openapi as description};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::time::Duration;

/// How long the daemon's loop may take for a turn before it counts as stuck.
const LIVE_LIMIT: Duration = Duration::from_secs(5);

/// Whether the supervisor's loop turns.
#[utoipa::path(get, path = "/livez", tag = "probes", security(()),
    responses((status = 200, body = Livez), (status = 503, description = "it does not", body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn livez(State(daemon): State<DaemonHandle>) -> Result<Answer, Problem> {
    if daemon.ping(LIVE_LIMIT).await {
        Ok(Answer::ok(&Livez { alive: true }))
    } else {
        Err(Problem::new(
            Code::NotAlive,
            format!("the supervisor's loop did not answer within {LIVE_LIMIT:?}"),
        ))
    }
}

/// Whether every required unit is ready.
#[utoipa::path(get, path = "/readyz", tag = "probes", security(()),
    responses((status = 200, description = "every required unit is ready", body = Readyz), (status = 503, description = "some is not", body = Readyz)))]
pub(in crate::control) async fn readyz(State(daemon): State<DaemonHandle>) -> Answer {
    let readyz = daemon.snapshot().readyz();
    Answer::new(ok_or_unavailable(readyz.ready), &readyz)
}

/// How the sandbox does as a whole.
#[utoipa::path(get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "ok or degraded", body = Healthz), (status = 503, description = "starting, failed or stopping", body = Healthz)))]
pub(in crate::control) async fn healthz(State(daemon): State<DaemonHandle>) -> Answer {
    let healthz = daemon.snapshot().healthz();
    Answer::new(ok_or_unavailable(healthz.status.is_healthy()), &healthz)
}

fn ok_or_unavailable(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Everything.
#[utoipa::path(get, path = "/v1/status", tag = "status", responses((status = 200, body = StatusDocument)))]
pub(in crate::control) async fn status(State(daemon): State<DaemonHandle>) -> Answer {
    Answer::ok(&daemon.fresh_snapshot().await.document())
}

/// The same in numbers, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "status",
    responses((status = 200, body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")))]
pub(in crate::control) async fn metrics(State(daemon): State<DaemonHandle>) -> Response {
    let text = exposition::encode(&daemon.snapshot());
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "status",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value, content_type = "application/json")))]
pub(in crate::control) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], description::document()).into_response()
}
