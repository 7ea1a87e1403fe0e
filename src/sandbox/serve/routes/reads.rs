//! What is read: whether the server lives, the fleet, numbers, this description.

use super::answer;
use crate::sandbox::fleet::FleetView;
use crate::sandbox::serve::answers::Alive;
use crate::sandbox::serve::api::App;
use crate::sandbox::serve::openapi as description;
use crate::sandbox::serve::problem::{Problem, ProblemDocument};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// The content type of the numbers.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the server lives: its desk and its fleet answer.
#[utoipa::path(get, path = "/livez", tag = "server", security(()),
    responses((status = 200, body = Alive), (status = 503, body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn livez(State(app): State<App>) -> Result<Response, Problem> {
    app.desk.operation("").await?;
    app.fleet.one("").await?;
    Ok(answer(StatusCode::OK, &Alive { alive: true }))
}

/// All sandboxes in numbers, and those that need a look.
#[utoipa::path(get, path = "/v1/fleet", tag = "fleet", responses((status = 200, body = FleetView)))]
pub(in crate::sandbox::serve) async fn fleet(State(app): State<App>) -> Result<Response, Problem> {
    Ok(answer(StatusCode::OK, &app.fleet.view().await?))
}

/// Sums over all sandboxes and counts of starts, in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "fleet",
    responses((status = 200, body = String, content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")))]
pub(in crate::sandbox::serve) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let registry = app.fleet.scrape(Registry::with_prefix("sandkeep")).await?;
    let registry = app.desk.scrape(registry).await?;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut out, &registry);
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], out).into_response())
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "server",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value, content_type = "application/json")))]
pub(in crate::sandbox::serve) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], description::document()).into_response()
}
