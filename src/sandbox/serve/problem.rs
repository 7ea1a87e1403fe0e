//! Errors of the API: RFC 9457 problems with a stable `code`.

use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::fleet::FleetGone;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is wrong with a request itself. Problems of sandboxes have the code of their [`Fault`]. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemCode {
    /// No such route.
    NotFound,
    /// Not with this method.
    MethodNotAllowed,
    /// A parameter or the body is not what it should be.
    BadRequest,
    /// The body is too large.
    TooLarge,
    /// No token, or a wrong one.
    Unauthorized,
    /// No sandbox of that id.
    NoSuchSandbox,
    /// No operation of that id.
    NoSuchOperation,
    /// The `Idempotency-Key` was used for another request.
    IdempotencyMismatch,
    /// A start or stop of this sandbox is on its way.
    Busy,
    /// Too many starts wait.
    TooManyStarts,
    /// What the request did could not be written down.
    Record,
    /// The server shuts down.
    Stopping,
}

impl ProblemCode {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BadRequest => "bad-request",
            Self::TooLarge => "too-large",
            Self::Unauthorized => "unauthorized",
            Self::NoSuchSandbox => "no-such-sandbox",
            Self::NoSuchOperation => "no-such-operation",
            Self::IdempotencyMismatch => "idempotency-mismatch",
            Self::Busy => "busy",
            Self::TooManyStarts => "too-many-starts",
            Self::Record => "record",
            Self::Stopping => "stopping",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NotFound | Self::NoSuchSandbox | Self::NoSuchOperation => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Busy => StatusCode::CONFLICT,
            Self::TooManyStarts | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Record => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NotFound => "no such route",
            Self::MethodNotAllowed => "method not allowed",
            Self::BadRequest => "bad request",
            Self::TooLarge => "body too large",
            Self::Unauthorized => "a token is needed",
            Self::NoSuchSandbox => "no such sandbox",
            Self::NoSuchOperation => "no such operation",
            Self::IdempotencyMismatch => "the key was used for another request",
            Self::Busy => "busy",
            Self::TooManyStarts => "too many starts",
            Self::Record => "not written down",
            Self::Stopping => "shutting down",
        }
    }
}

/// What is wrong with one field of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Where: a JSON pointer such as `/port`.
    pub pointer: String,
    /// What.
    pub detail: String,
}

/// An error of the API. RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument {
    /// `urn:sandkeep:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is the matter this time.
    pub detail: String,
    /// The kind of problem, stable: `bad-request`, `no-such-sandbox`, `unreachable`, ….
    pub code: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The last lines of what a command wrote, where one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// A problem on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it says.
    pub document: Box<ProblemDocument>,
    retry_after: Option<u64>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self::of(code.as_str(), code.status(), code.title(), detail.into())
    }

    fn of(code: &str, status: StatusCode, title: &str, detail: String) -> Self {
        let document = ProblemDocument {
            kind: format!("urn:sandkeep:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail,
            code: code.to_owned(),
            hint: None,
            errors: Vec::new(),
            output: None,
        };
        Self {
            document: Box::new(document),
            retry_after: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.document.hint = Some(hint.into());
        self
    }

    /// A body with these faults, all of them.
    pub fn fields(errors: Vec<FieldError>) -> Self {
        let said: Vec<_> = errors.iter().map(|error| error.detail.as_str()).collect();
        let mut problem = Self::new(ProblemCode::BadRequest, said.join("; "));
        problem.document.errors = errors;
        problem
    }

    /// No sandbox of this id.
    pub fn no_such_sandbox(id: &str) -> Self {
        Self::new(ProblemCode::NoSuchSandbox, format!("no sandbox has the id `{id}`")).hint("`GET /v1/sandboxes` lists them")
    }

    /// No operation of this id.
    pub fn no_such_operation(id: &str) -> Self {
        Self::new(ProblemCode::NoSuchOperation, format!("no operation has the id `{id}`"))
    }
}

/// A provider's refusal is not the caller's: a 401 of its own would tell the caller that the token for us is wrong.
fn status_of(code: Code) -> (StatusCode, &'static str, &'static str) {
    let (status, title) = match code {
        Code::BadRequest | Code::Unsupported => (StatusCode::BAD_REQUEST, "bad request"),
        Code::Busy => (StatusCode::CONFLICT, "busy"),
        Code::NoSuchSandbox => (StatusCode::NOT_FOUND, "no such sandbox"),
        Code::SandboxGone => (StatusCode::GONE, "the sandbox is gone"),
        Code::PlanLimit => (StatusCode::PAYMENT_REQUIRED, "the provider's plan does not include it"),
        Code::Quota => (StatusCode::TOO_MANY_REQUESTS, "the provider has too many requests or sandboxes"),
        Code::Unreachable => (StatusCode::GATEWAY_TIMEOUT, "the sandbox does not answer"),
        Code::Record => (StatusCode::INTERNAL_SERVER_ERROR, "the record cannot be used"),
        Code::Unauthorized => {
            let title = "the provider does not accept our credentials";
            return (StatusCode::BAD_GATEWAY, title, "provider-unauthorized");
        }
        _ => (StatusCode::BAD_GATEWAY, "it failed in the sandbox"),
    };
    (status, title, code.as_str())
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let (status, title, code) = status_of(fault.code);
        let mut problem = Self::of(code, status, title, fault.message);
        problem.document.hint = fault.hint;
        problem.document.output = fault.output;
        problem.retry_after = fault.retry_after.map(|wait| wait.as_secs().max(1));
        problem
    }
}

impl From<FleetGone> for Problem {
    fn from(_: FleetGone) -> Self {
        Self::new(ProblemCode::Stopping, "the server shuts down")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.document.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut text = serde_json::to_string(&self.document).unwrap_or_default();
        text.push('\n');
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"sandkeep serve\""),
            );
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_refuses_us_is_no_401() {
        let problem = Problem::from(Fault::new(Code::Unauthorized, "the token is not accepted"));
        assert_eq!(problem.document.status, 502);
        assert_eq!(problem.document.code, "provider-unauthorized");
        let mut quota = Fault::new(Code::Quota, "too many");
        quota.retry_after = Some(std::time::Duration::from_millis(2500));
        let response = Problem::from(quota).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
