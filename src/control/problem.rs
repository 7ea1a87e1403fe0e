//! Errors of the API: RFC 9457 problems with a stable `code`.

use super::answer::Answer;
use super::daemon_handle::AskError;
use super::logs::ReadLogsError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// What kind of problem it is. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
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
    /// `[control] allow` does not give it to this unit, or a cookie alone does not suffice.
    NotAllowed,
    /// No unit of that name.
    NoSuchUnit,
    /// Some unit did not get there.
    UnitFailed,
    /// Another request or a shutdown overtook it.
    Cancelled,
    /// It cannot be done.
    Refused,
    /// The configuration is invalid; nothing has changed.
    InvalidConfig,
    /// It was not done in the time given; it goes on.
    Timeout,
    /// Too many requests wait for an answer.
    Busy,
    /// The supervisor shuts down.
    Stopping,
    /// The supervisor's loop does not turn.
    NotAlive,
    /// The supervisor is being upgraded: the answer is to be had at `location`.
    Moved,
    /// The worker is not there or does not answer.
    WorkerUnavailable,
    /// The logs could not be read.
    LogsUnreadable,
    /// One that a worker or another version has and this one does not know.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotFound | Self::NoSuchUnit => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::UnitFailed | Self::Cancelled | Self::Refused => StatusCode::CONFLICT,
            Self::InvalidConfig => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Busy | Self::Stopping | Self::NotAlive | Self::WorkerUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::LogsUnreadable | Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Moved => StatusCode::SEE_OTHER,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NotFound => "no such route",
            Self::MethodNotAllowed => "method not allowed",
            Self::BadRequest => "bad request",
            Self::TooLarge => "body too large",
            Self::Unauthorized => "a token is needed",
            Self::NotAllowed => "not allowed",
            Self::NoSuchUnit => "no such unit",
            Self::UnitFailed => "a unit did not get there",
            Self::Cancelled => "overtaken",
            Self::Refused => "refused",
            Self::InvalidConfig => "invalid configuration",
            Self::Timeout => "not in time",
            Self::Busy => "busy",
            Self::Stopping => "shutting down",
            Self::NotAlive => "the supervisor does not answer",
            Self::WorkerUnavailable => "worker unavailable",
            Self::Moved => "being upgraded",
            Self::LogsUnreadable => "logs unreadable",
            Self::Unknown => "unknown",
        }
    }
}

/// An error of the API. RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:sandkeep:problem:<code>`.
    #[serde(rename = "type", default)]
    #[schema(value_type = String)]
    pub kind: Box<str>,
    /// The kind of problem in words.
    #[serde(default)]
    #[schema(value_type = String)]
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What is the matter this time.
    pub detail: String,
    /// The kind of problem, stable.
    pub code: Code,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub hint: Option<Box<str>>,
    /// Where the answer is to be had, also the header `Location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub location: Option<Box<str>>,
    /// Which units did not get there, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, String>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let name = serde_json::to_value(code).ok();
        let name = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or("unknown");
        Self {
            kind: format!("urn:sandkeep:problem:{name}").into(),
            title: code.title().into(),
            status: code.status().as_u16(),
            detail: detail.into(),
            code,
            hint: None,
            location: None,
            units: BTreeMap::new(),
        }
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<Box<str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What is asked for, where the answer is to be had elsewhere: the query of that address.
    pub(super) fn then(mut self, query: &str) -> Self {
        self.location = self.location.map(|location| format!("{location}?{query}").into());
        self
    }

    /// No unit of this name, among these.
    pub fn no_such_unit<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let problem = Self::new(Code::NoSuchUnit, format!("no unit has the name `{name}`"));
        let near = known.map(|unit| (strsim::damerau_levenshtein(unit, name), unit)).min();
        match near {
            Some((distance, unit)) if distance <= 1 + name.len() / 4 => problem.hint(format!("did you mean `{unit}`?")),
            _ => problem.hint("`sandkeep status` shows those that there are"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Answer::problem(&self).into_response();
        if self.code == Code::Unauthorized {
            let challenge = axum::http::HeaderValue::from_static("Bearer realm=\"sandkeep\"");
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, challenge);
        }
        let location = self.location.and_then(|location| axum::http::HeaderValue::from_str(&location).ok());
        if let Some(location) = location {
            response.headers_mut().insert(axum::http::header::LOCATION, location);
        }
        response
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        let code = match error {
            AskError::Busy => Code::Busy,
            AskError::Gone => Code::Stopping,
            AskError::Moved(_) => Code::Moved,
        };
        let mut problem = Self::new(code, error.to_string());
        if let AskError::Moved(request) = error {
            problem.location = Some(format!("/v1/requests/{request}").into());
        }
        problem
    }
}

impl From<ReadLogsError> for Problem {
    fn from(error: ReadLogsError) -> Self {
        let code = match error {
            ReadLogsError::NoSuchUnit(_) => Code::NoSuchUnit,
            ReadLogsError::BadCursor(_) => Code::BadRequest,
            ReadLogsError::Io { .. } => Code::LogsUnreadable,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_problem_is_read() {
        let workers = r#"{"status":503,"code":"sync_stopping","title":"Service Unavailable","detail":"the sync worker is ending"}"#;
        let problem: Problem = serde_json::from_str(workers).unwrap();
        assert_eq!(
            (problem.code, problem.detail.as_str()),
            (Code::Unknown, "the sync worker is ending")
        );
    }
}
