//! JSON that leaves: a handler gives a value, and one layer over all routes masks its strings and writes it out. A handler that forgot
//! to mask cannot be written; one outside that layer answers with an empty body.

use super::daemon_handle::Mask;
use super::problem::Problem;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

/// A JSON document on its way out.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    value: Value,
}

impl Answer {
    /// A document with this status.
    pub(super) fn new(status: StatusCode, value: &impl Serialize) -> Self {
        Self {
            status,
            content_type: "application/json",
            value: serde_json::to_value(value).unwrap_or_default(),
        }
    }

    /// A document with 200.
    pub(super) fn ok(value: &impl Serialize) -> Self {
        Self::new(StatusCode::OK, value)
    }

    /// A problem.
    pub(super) fn problem(problem: &Problem) -> Self {
        Self {
            content_type: "application/problem+json",
            ..Self::new(problem.code.status(), problem)
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The layer: writes out the answer of a response that has one.
pub(super) fn write_out(mut response: Response, mask: &Mask) -> Response {
    let Some(Answer { value, content_type, .. }) = response.extensions_mut().remove::<Answer>() else {
        return response;
    };
    let mut text = masked(value, mask).to_string();
    text.push('\n');
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.body_mut() = Body::from(text);
    response
}

/// Masks every string of a value; keys are ours.
pub(super) fn masked(value: Value, mask: &Mask) -> Value {
    match value {
        Value::String(text) => Value::String(mask(&text)),
        Value::Array(items) => items.into_iter().map(|item| masked(item, mask)).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, field)| (key, masked(field, mask))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn every_string_is_masked() {
        let mask: Mask = Arc::new(|text: &str| text.replace("hunter2", "***"));
        let value = serde_json::json!({"a": ["hunter2", {"b": "x hunter2 y"}], "n": 1});
        assert_eq!(masked(value, &mask), serde_json::json!({"a": ["***", {"b": "x *** y"}], "n": 1}));
    }
}
