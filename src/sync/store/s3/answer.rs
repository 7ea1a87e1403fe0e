//! Between S3's words and the store's: what a refusal means, and what an answer's headers say.

use super::request::Reply;
use crate::sync::store::{Etag, Head, Info, StoreError};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

/// Why one attempt came to nothing.
pub(super) struct Refusal {
    /// `None` when no answer came.
    status: Option<StatusCode>,
    code: String,
    message: String,
    /// What time it was there, seconds since the epoch.
    pub(super) date_s: Option<i64>,
    is_ours: bool,
}

/// What went wrong with one attempt.
pub(super) enum Trouble {
    /// Told to slow down.
    Slow(String),
    /// The keys have ended.
    Stale(String),
    /// Anything else.
    Other(StoreError),
}

impl Refusal {
    /// `error` is the code and the message of the document, where there was one: not for `HEAD`.
    pub(super) fn said(status: StatusCode, headers: &HeaderMap, error: Option<(String, String)>) -> Self {
        let date = headers
            .get("date")
            .and_then(|date| jiff::fmt::rfc2822::parse(date.to_str().ok()?).ok());
        let (code, message) = error.unwrap_or_default();
        let date_s = date.map(|date| date.timestamp().as_second());
        Self {
            status: Some(status),
            code,
            message,
            date_s,
            is_ours: false,
        }
    }

    pub(super) fn cut(error: &reqwest::Error) -> Self {
        Self::without_answer(crate::web::tls::innermost(error))
    }

    pub(super) fn silence() -> Self {
        Self::without_answer("no answer in time".into())
    }

    /// No such request can be made.
    pub(super) fn impossible(why: String) -> Self {
        Self {
            is_ours: true,
            ..Self::without_answer(why)
        }
    }

    fn without_answer(message: String) -> Self {
        Self {
            status: None,
            code: String::new(),
            message,
            date_s: None,
            is_ours: false,
        }
    }

    /// Whether the object, or the upload, is not there.
    pub(super) fn is_not_found(&self) -> bool {
        self.status == Some(StatusCode::NOT_FOUND) && self.code != "NoSuchBucket"
    }

    /// Whether a wrong clock on either side can be the reason.
    pub(super) fn is_forbidden(&self) -> bool {
        self.status == Some(StatusCode::FORBIDDEN)
    }

    pub(super) fn trouble(self, act: &str, key: &str) -> Trouble {
        let Self {
            status,
            code,
            message,
            is_ours,
            ..
        } = self;
        let text = match status {
            Some(_) if !message.is_empty() => format!("{act} `{key}`: {code}: {message}"),
            Some(status) => format!("{act} `{key}`: HTTP {} {code}", status.as_u16()),
            None => format!("{act} `{key}`: {message}"),
        };
        match (status.map(|status| status.as_u16()), code.as_str()) {
            (None, _) if is_ours => Trouble::Other(StoreError::Refused(text)),
            (Some(409 | 412), _) => Trouble::Other(StoreError::Precondition),
            (_, "ExpiredToken" | "TokenRefreshRequired") => Trouble::Stale(text),
            (_, "NoSuchBucket") => Trouble::Other(StoreError::Missing(text)),
            (_, "RequestTimeTooSkewed") => Trouble::Other(StoreError::Unavailable(format!("{text}: this machine's clock is wrong"))),
            (_, "KeyTooLongError") => Trouble::Other(StoreError::Unrepresentable {
                key: key.into(),
                why: "the key is too long".into(),
            }),
            // What was lost or spoilt on its way there.
            (_, "RequestTimeout" | "IncompleteBody" | "BadDigest" | "XAmzContentSHA256Mismatch") => {
                Trouble::Other(StoreError::Unavailable(text))
            }
            (Some(401 | 403), _) => Trouble::Other(StoreError::Denied(text)),
            (Some(429 | 503), _) | (_, "SlowDown") => Trouble::Slow(text),
            (Some(500..) | None, _) => Trouble::Other(StoreError::Unavailable(text)),
            _ => Trouble::Other(StoreError::Refused(text)),
        }
    }
}

fn incomplete(what: &str) -> StoreError {
    StoreError::Unavailable(format!("the answer has no {what}"))
}

pub(super) fn etag(etag: Option<&str>) -> Result<Etag, StoreError> {
    etag.map(|etag| Etag(etag.to_owned())).ok_or_else(|| incomplete("ETag"))
}

pub(super) fn length(length: Option<&str>) -> Result<u64, StoreError> {
    length.and_then(|length| length.parse().ok()).ok_or_else(|| incomplete("length"))
}

/// What the headers say of an object.
pub(super) fn head(reply: &Reply) -> Result<Head, StoreError> {
    let mut info = Info {
        content_type: reply.header("content-type").unwrap_or_default().to_owned(),
        ..Info::default()
    };
    for (name, value) in reply.response.headers() {
        if let (Some(name), Ok(value)) = (name.as_str().strip_prefix(METADATA), value.to_str()) {
            info.metadata.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(Head {
        size: length(reply.header("content-length"))?,
        etag: etag(reply.header("etag"))?,
        info,
    })
}

/// Before the name of each piece of an object's own metadata.
pub(super) const METADATA: &str = "x-amz-meta-";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Trouble {
        let status = StatusCode::from_u16(status).unwrap();
        let error = (code.to_owned(), "as it says".to_owned());
        Refusal::said(status, &HeaderMap::new(), Some(error)).trouble("writing", "a")
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_cannot_is_final() {
        for (status, code) in [
            (500, "InternalError"),
            (400, "RequestTimeout"),
            (400, "BadDigest"),
            (403, "RequestTimeTooSkewed"),
            (502, ""),
        ] {
            assert!(
                matches!(refused(status, code), Trouble::Other(StoreError::Unavailable(_))),
                "{code}"
            );
        }
        for (status, code) in [(503, "SlowDown"), (429, ""), (500, "SlowDown")] {
            assert!(matches!(refused(status, code), Trouble::Slow(_)), "{code}");
        }
        assert!(matches!(refused(400, "ExpiredToken"), Trouble::Stale(_)));
        assert!(matches!(
            refused(403, "SignatureDoesNotMatch"),
            Trouble::Other(StoreError::Denied(_))
        ));
        assert!(matches!(refused(404, "NoSuchBucket"), Trouble::Other(StoreError::Missing(_))));
        assert!(matches!(
            refused(412, "PreconditionFailed"),
            Trouble::Other(StoreError::Precondition)
        ));
        assert!(matches!(
            refused(400, "KeyTooLongError"),
            Trouble::Other(StoreError::Unrepresentable { .. })
        ));
        for (status, code) in [(400, "InvalidRequest"), (301, "PermanentRedirect")] {
            let Trouble::Other(StoreError::Refused(text)) = refused(status, code) else {
                panic!("{code}")
            };
            assert_eq!(text, format!("writing `a`: {code}: as it says"));
        }
        let Trouble::Other(silent) = Refusal::silence().trouble("reading", "b") else {
            panic!("no answer")
        };
        assert_eq!(silent, StoreError::Unavailable("reading `b`: no answer in time".into()));
        let Trouble::Other(ours) = Refusal::impossible("no such header".into()).trouble("reading", "b") else {
            panic!("ours")
        };
        assert!(!ours.is_temporary());
    }
}
