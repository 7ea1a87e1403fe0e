//! Between the client's words and the store's: conditions, metadata, and what an error means.

use crate::sync::store::{Condition, Etag, Info, StoreError};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

/// What went wrong with one attempt.
pub(super) enum Trouble {
    /// Told to slow down.
    Slow(String),
    /// The keys have ended.
    Stale(String),
    /// Anything else.
    Other(StoreError),
}

pub(super) fn headers(condition: &Condition) -> (Option<String>, Option<String>) {
    match condition {
        Condition::Always => (None, None),
        Condition::Absent => (None, Some("*".into())),
        Condition::Matches(etag) => (Some(etag.0.clone()), None),
    }
}

pub(super) fn content_type(info: &Info) -> Option<String> {
    Some(info.content_type.clone()).filter(|text| !text.is_empty())
}

pub(super) fn metadata(info: &Info) -> Option<std::collections::HashMap<String, String>> {
    Some(info.metadata.clone().into_iter().collect())
}

pub(super) fn info(content_type: Option<String>, metadata: Option<std::collections::HashMap<String, String>>) -> Info {
    Info {
        content_type: content_type.unwrap_or_default(),
        metadata: metadata.unwrap_or_default().into_iter().collect(),
    }
}

pub(super) fn incomplete(what: &str) -> Trouble {
    Trouble::Other(StoreError::Unavailable(format!("the answer has no {what}")))
}

pub(super) fn etag(etag: Option<String>) -> Result<Etag, Trouble> {
    etag.map(Etag).ok_or_else(|| incomplete("ETag"))
}

pub(super) fn length(length: Option<i64>) -> Result<u64, Trouble> {
    length
        .and_then(|length| u64::try_from(length).ok())
        .ok_or_else(|| incomplete("length"))
}

pub(super) fn is_not_found<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    status == Some(404) && error.code() != Some("NoSuchBucket")
}

pub(super) fn trouble<E>(act: &str, key: &str, error: SdkError<E>) -> Trouble
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    let text = match (error.message(), status) {
        (Some(message), _) => format!("{act} `{key}`: {code}: {message}"),
        (None, Some(status)) => format!("{act} `{key}`: HTTP {status} {code}"),
        (None, None) => format!("{act} `{key}`: {}", DisplayErrorContext(&error)),
    };
    match (status, code.as_str()) {
        (Some(409 | 412), _) => Trouble::Other(StoreError::Precondition),
        (_, "ExpiredToken" | "TokenRefreshRequired") => Trouble::Stale(text),
        (_, "NoSuchBucket") => Trouble::Other(StoreError::Missing(text)),
        (_, "RequestTimeTooSkewed") => Trouble::Other(StoreError::Unavailable(format!("{text}: this machine's clock is wrong"))),
        (_, "KeyTooLongError") => Trouble::Other(StoreError::Unrepresentable {
            key: key.into(),
            why: "the key is too long".into(),
        }),
        (Some(401 | 403), _) => Trouble::Other(StoreError::Denied(text)),
        (Some(429 | 503), _) => Trouble::Slow(text),
        (Some(500..), _) | (None, _) => Trouble::Other(StoreError::Unavailable(text)),
        (Some(200..=299), _) => Trouble::Other(StoreError::Unavailable(text)),
        _ => Trouble::Other(StoreError::Refused(text)),
    }
}

/// Percent encoding for `x-amz-copy-source`.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
