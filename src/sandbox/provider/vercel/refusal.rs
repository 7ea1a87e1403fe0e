//! What a refusal of the API means: one line, a code, and what to do. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::sandbox::fault::{Code, Fault};
use std::time::Duration;

/// The longest part of the service's own words that is shown.
const SHOWN: usize = 300;

/// A refusal as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The `code` of its body; empty if there is none.
    pub(super) code: String,
    /// The `message` of its body; empty if there is none.
    pub(super) message: String,
    /// The body says that the token itself is not one.
    pub(super) invalid_token: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// Reads the body `{"error":{"code":…,"message":…}}`.
    pub(super) fn read(status: u16, body: &[u8], retry_after: Option<Duration>) -> Self {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| one_line(body["error"][key].as_str().unwrap_or_default());
        Self {
            status,
            code: text("code"),
            message: text("message"),
            invalid_token: body["error"]["invalidToken"] == true,
            retry_after,
        }
    }

    /// Whether this session has ended, or is about to.
    pub(super) fn is_session_over(&self) -> bool {
        self.status == 410 || (self.status == 422 && self.code.starts_with("sandbox_"))
    }

    /// Whether the name is taken.
    pub(super) fn is_name_taken(&self) -> bool {
        (self.status == 400 || self.status == 409) && self.message.contains("already exists")
    }

    /// The fault that it is, of something that was done: `creating the sandbox`.
    pub(super) fn fault(&self, doing: &str) -> Fault {
        let (code, hint) = self.meaning();
        let mut why = self.message.clone();
        if why.is_empty() {
            why = if self.code.is_empty() {
                "no reason given".to_owned()
            } else {
                self.code.clone()
            };
        }
        let mut fault = Fault::new(code, format!("{doing}: Vercel says {}: {why}", self.status)).hint(hint);
        fault.retry_after = self.retry_after;
        fault
    }

    fn meaning(&self) -> (Code, String) {
        let (code, hint) = match (self.status, self.code.as_str()) {
            (401 | 403, _) if self.invalid_token => (
                Code::Unauthorized,
                "the token is wrong, revoked or expired: make one at https://vercel.com/account/settings/tokens",
            ),
            (401 | 403, _) => (
                Code::Unauthorized,
                "the token has no right to this: it has to be one of the team of VERCEL_TEAM_ID, for the project of VERCEL_PROJECT_ID",
            ),
            (402, _) => (
                Code::PlanLimit,
                "the plan's limit is reached: stop sandboxes (`sandkeep sandbox list`), or upgrade at https://vercel.com/account/billing",
            ),
            (400, "sandbox_timeout_invalid") => (
                Code::PlanLimit,
                "a sandbox lives at most 45 minutes on Hobby and 24 hours on Pro: ask for less with --timeout",
            ),
            (429, _) => {
                let hint = match self.retry_after {
                    Some(after) => format!("try again in {} s, or start fewer at once", after.as_secs()),
                    None => "wait a little, or start fewer at once".to_owned(),
                };
                return (Code::Quota, hint);
            }
            (410, "snapshot_not_found") => (
                Code::SandboxGone,
                "what it would come back from has expired: remove it and start another",
            ),
            (410, _) => (Code::Unreachable, "its session ended: `sandkeep sandbox start` brings it back"),
            (422, _) => (Code::Busy, "it is being stopped or saved: try again in a moment"),
            (404, _) => (
                Code::SandboxGone,
                "it is not there (any more), or in another project: see VERCEL_PROJECT_ID",
            ),
            (408 | 425 | 500..=599, _) => (Code::ProviderFailed, "see https://www.vercel-status.com, and try again"),
            _ => (Code::BadRequest, "Vercel does not take the request as it is"),
        };
        (code, hint.to_owned())
    }
}

/// Other people's words, fit for one line.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = line.char_indices().nth(SHOWN) {
        line.truncate(cut);
        line.push('…');
    }
    line.chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(status: u16, code: &str) -> Fault {
        let body = format!(r#"{{"error":{{"code":"{code}","message":"because\n  of this"}}}}"#);
        Refusal::read(status, body.as_bytes(), Some(Duration::from_secs(30))).fault("creating the sandbox `x`")
    }

    #[test]
    fn each_has_its_code_and_says_what_to_do_in_one_line() {
        let table = [
            (400, "bad_request", Code::BadRequest),
            (400, "sandbox_timeout_invalid", Code::PlanLimit),
            (401, "", Code::Unauthorized),
            (402, "payment_required", Code::PlanLimit),
            (403, "forbidden", Code::Unauthorized),
            (404, "not_found", Code::SandboxGone),
            (410, "sandbox_stopped", Code::Unreachable),
            (410, "snapshot_not_found", Code::SandboxGone),
            (422, "sandbox_stopping", Code::Busy),
            (429, "rate_limited", Code::Quota),
            (500, "", Code::ProviderFailed),
            (503, "", Code::ProviderFailed),
        ];
        for (status, code, expected) in table {
            let fault = fault(status, code);
            assert_eq!(fault.code, expected, "{status} {code}");
            assert_eq!(
                fault.message,
                format!("creating the sandbox `x`: Vercel says {status}: because of this")
            );
            assert!(fault.hint.is_some_and(|hint| !hint.is_empty() && !hint.contains('\n')));
        }
        assert_eq!(fault(429, "").hint.unwrap(), "try again in 30 s, or start fewer at once");
    }

    #[test]
    fn a_token_that_is_none_is_told_from_one_without_rights() {
        let body = br#"{"error":{"code":"forbidden","message":"Not authorized","invalidToken":true}}"#;
        let hint = Refusal::read(403, body, None).fault("x").hint.unwrap();
        assert!(hint.contains("revoked"), "{hint}");
    }

    #[test]
    fn any_body_is_a_refusal() {
        for body in [&b""[..], b"<html>", b"[]", b"{\"error\":3}", b"\xff"] {
            let fault = Refusal::read(502, body, None).fault("asking");
            assert_eq!(fault.message, "asking: Vercel says 502: no reason given");
        }
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "ä".repeat(1000));
        assert!(Refusal::read(400, long.as_bytes(), None).message.chars().count() <= SHOWN + 1);
    }
}
