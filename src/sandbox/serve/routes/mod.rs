//! The routes, by what they are about.

pub(super) mod operations;
pub(super) mod reads;
pub(super) mod sandboxes;

use super::problem::{Problem, ProblemCode};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The largest body: a status document, or a start with its environment.
const BODY_LIMIT: usize = 4 << 20;
/// How much of a body that is too large is read before the answer.
const READ_LIMIT: usize = 32 << 20;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let slow = |_| Problem::new(ProblemCode::BadRequest, "the body did not arrive in time");
        let body = tokio::time::timeout(BODY_TIME, read(request.into_body())).await.map_err(slow)??;
        let wrong = |error: serde_json::Error| Problem::new(ProblemCode::BadRequest, format!("reading the body: {error}"));
        serde_json::from_slice(&body).map(Self).map_err(wrong)
    }
}

/// Reads a body. Of one that is too large the rest is read too, up to a point: who is answered in the middle of its body may never see the
/// answer.
async fn read(body: Body) -> Result<Vec<u8>, Problem> {
    let mut body = body.into_data_stream();
    let (mut kept, mut length) = (Vec::new(), 0);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Problem::new(ProblemCode::BadRequest, format!("reading the body: {error}")))?;
        length += chunk.len();
        if length <= BODY_LIMIT {
            kept.extend_from_slice(&chunk);
        } else if length > READ_LIMIT {
            break;
        }
    }
    if length > BODY_LIMIT {
        return Err(Problem::new(
            ProblemCode::TooLarge,
            format!("the body is larger than {BODY_LIMIT} bytes"),
        ));
    }
    Ok(kept)
}

/// The query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = crate::web::query::read(&parts.uri);
        query.map(Self).map_err(|why| Problem::new(ProblemCode::BadRequest, why))
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
