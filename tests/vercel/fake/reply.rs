//! Answers as the service gives them, and who gets any.

use crate::model::{Fake, now};
use base64::Engine;
use serde_json::{Value, json};

pub(crate) type Request = axum::http::Request<axum::body::Body>;
pub(crate) type Response = axum::response::Response;
/// What a handler has: an answer, or a refusal which is one too.
pub(crate) type Answer = Result<Response, Response>;

pub(crate) fn json_of(value: &Value) -> Response {
    json_with(200, value)
}

pub(crate) fn error(status: u16, code: &str, message: &str) -> Response {
    json_with(status, &json!({"error": {"code": code, "message": message}}))
}

fn json_with(status: u16, value: &Value) -> Response {
    axum::http::Response::builder()
        .status(status)
        .header("content-type", "application/json; charset=utf-8")
        .body(value.to_string().into())
        .expect("a response")
}

pub(crate) async fn no_route(request: Request) -> Response {
    error(
        404,
        "not_found",
        &format!("No route for {} {}", request.method(), request.uri().path()),
    )
}

/// The query's value of a name.
pub(crate) fn query(request: &axum::http::Uri, name: &str) -> Option<String> {
    all_of_query(request, name).into_iter().next()
}

pub(crate) fn all_of_query(uri: &axum::http::Uri, name: &str) -> Vec<String> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map(|query| query.0)
        .unwrap_or_default();
    pairs.into_iter().filter(|(key, _)| key == name).map(|(_, value)| value).collect()
}

/// Refuses who has no right: a token that is not one, another team, another project.
pub(crate) fn refuse_stranger(fake: &Fake, request: &Request) -> Option<Response> {
    let settings = &fake.settings;
    let token = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let token = token.strip_prefix("Bearer ").unwrap_or_default();
    let not_authorized = || {
        Some(json_with(
            403,
            &json!({"error": {"code": "forbidden", "message": "Not authorized", "invalidToken": true}}),
        ))
    };
    if token != settings.token && !is_oidc_of(token, &settings.team, &settings.project) {
        return not_authorized();
    }
    let team = query(request.uri(), "teamId").or_else(|| query(request.uri(), "slug"));
    if team.as_deref() != Some(settings.team.as_str()) {
        return Some(error(403, "forbidden", "You don't have permission to access this team."));
    }
    let project = query(request.uri(), "projectId").or_else(|| query(request.uri(), "project"));
    if project.is_some_and(|project| project != settings.project) {
        return Some(error(404, "not_found", "Project not found."));
    }
    None
}

/// Whether a JWT names team and project and has not expired. Its signature is not looked at.
fn is_oidc_of(token: &str, team: &str, project: &str) -> bool {
    let Some(claims) = token.split('.').nth(1) else { return false };
    let Ok(claims) = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims) else {
        return false;
    };
    let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
    claims["owner_id"] == team && claims["project_id"] == project && claims["exp"].as_u64().is_some_and(|exp| exp * 1000 > now())
}
