//! The API: one table of routes, each with what it needs.

use super::desk::DeskHandle;
use super::events::EventLog;
use super::keys::Keys;
use super::problem::{Problem, ProblemCode};
use super::rounds::Uses;
use super::routes::{operations, reads, sandboxes};
use super::sandboxes::Sandboxes;
use crate::sandbox::fleet::FleetHandle;
use axum::Router;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use std::sync::Arc;

/// What the routes work with; cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The operations.
    pub desk: DeskHandle,
    /// The fleet.
    pub fleet: FleetHandle,
    /// What happens.
    pub log: EventLog,
    /// The sandboxes themselves.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// The token.
    pub keys: Arc<Keys>,
    /// Who is told that a sandbox is used.
    pub uses: Uses,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("App")
    }
}

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing: open to anybody.
    Nothing,
    /// The bearer token.
    Token,
    /// The bearer token, or the key of the sandbox in the path.
    SandboxKey,
}

fn table() -> Vec<(&'static str, Need, MethodRouter<App>)> {
    vec![
        ("/livez", Need::Nothing, get(reads::livez)),
        ("/metrics", Need::Token, get(reads::metrics)),
        ("/openapi.json", Need::Token, get(reads::openapi)),
        ("/v1/fleet", Need::Token, get(reads::fleet)),
        ("/v1/events", Need::Token, get(operations::events)),
        ("/v1/sandboxes", Need::Token, post(sandboxes::start).get(sandboxes::list)),
        ("/v1/sandboxes/{id}", Need::Token, get(sandboxes::one)),
        ("/v1/sandboxes/{id}/worker", Need::Token, get(sandboxes::worker)),
        ("/v1/sandboxes/{id}/worker/stop", Need::Token, post(sandboxes::stop)),
        ("/v1/sandboxes/{id}/report", Need::SandboxKey, post(sandboxes::report)),
        ("/v1/operations/{id}", Need::Token, get(operations::operation)),
        ("/v1/operations/{id}/events", Need::Token, get(operations::operation_events)),
    ]
}

/// The API.
pub fn router(app: App) -> Router {
    let mut router = Router::new();
    for (path, need, method_router) in table() {
        let authorize = middleware::from_fn_with_state((app.clone(), need), authorize);
        router = router.route(path, method_router.route_layer(authorize));
    }
    router
        .fallback(|| async { Problem::new(ProblemCode::NotFound, "no route has this path").hint("`GET /openapi.json` lists them") })
        .method_not_allowed_fallback(|| async { Problem::new(ProblemCode::MethodNotAllowed, "this route does not take this method") })
        .with_state(app)
}

async fn authorize(State((app, need)): State<(App, Need)>, path: RawPathParams, request: Request, next: Next) -> Response {
    let sandbox = path.iter().find(|(key, _)| *key == "id").map_or("", |(_, value)| value);
    let may = match need {
        Need::Nothing => true,
        Need::Token => has_token(&app.keys, request.headers()),
        Need::SandboxKey => has_token(&app.keys, request.headers()) || has_key(&app.keys, request.uri(), sandbox),
    };
    if may {
        return next.run(request).await;
    }
    let problem = Problem::new(ProblemCode::Unauthorized, "no token, or a wrong one");
    problem.hint("`Authorization: Bearer …`").into_response()
}

fn has_token(keys: &Keys, headers: &HeaderMap) -> bool {
    let text = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = text.and_then(|text| text.split_once(' '));
    bearer.is_some_and(|(scheme, given)| scheme.eq_ignore_ascii_case("bearer") && keys.is_token(given.trim()))
}

fn has_key(keys: &Keys, uri: &Uri, sandbox: &str) -> bool {
    let pairs = uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    let given = pairs.filter(|(name, _)| *name == "key").map(|(_, key)| key).next();
    given.is_some_and(|given| keys.is_report_key(sandbox, given))
}

#[cfg(test)]
pub(super) fn paths() -> Vec<&'static str> {
    table().into_iter().map(|(path, _, _)| path).collect()
}
