//! The routes, by what they are about.

pub(super) mod operations;
pub(super) mod reads;
pub(super) mod sandboxes;

use super::problem::{Problem, ProblemCode};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let slow = |_| Problem::new(ProblemCode::BadRequest, "the body did not arrive in time");
        let body = tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state))
            .await
            .map_err(slow)?;
        let body = body.map_err(|error| {
            let code = if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ProblemCode::TooLarge
            } else {
                ProblemCode::BadRequest
            };
            Problem::new(code, format!("reading the body: {}", error.body_text()))
        })?;
        let wrong = |error: serde_json::Error| Problem::new(ProblemCode::BadRequest, format!("reading the body: {error}"));
        serde_json::from_slice(&body).map(Self).map_err(wrong)
    }
}

/// The query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::try_from_uri(&parts.uri).map_err(|error| {
            let source = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Problem::new(ProblemCode::BadRequest, format!("reading the query: {source}"))
        })?;
        Ok(Self(query.0))
    }
}

/// A document.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
