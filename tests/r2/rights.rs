//! What a request may do beyond its signature: session tokens that end, keys for one prefix alone.

use hyper::http::{HeaderMap, Uri};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Nothing is restricted until a test says so.
#[derive(Default)]
pub(crate) struct Rights {
    /// Tokens that count; empty for no need of any.
    tokens: Mutex<BTreeSet<String>>,
    seen: Mutex<BTreeSet<String>>,
    /// Keys and listings must begin with this.
    prefix: Mutex<String>,
}

impl Rights {
    pub(crate) fn accept_tokens(&self, tokens: BTreeSet<String>) {
        *self.tokens.lock().unwrap() = tokens;
    }

    pub(crate) fn seen_tokens(&self) -> BTreeSet<String> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn allow_below(&self, prefix: &str) {
        *self.prefix.lock().unwrap() = prefix.to_owned();
    }

    /// The status and code of the refusal.
    pub(crate) fn refuse(&self, uri: &Uri, headers: &HeaderMap) -> Option<(u16, &'static str)> {
        let token = headers.get("x-amz-security-token").and_then(|token| token.to_str().ok());
        if let Some(token) = token {
            self.seen.lock().unwrap().insert(token.to_owned());
        }
        let tokens = self.tokens.lock().unwrap();
        if !tokens.is_empty() && !token.is_some_and(|token| tokens.contains(token)) {
            return Some((400, if token.is_some() { "ExpiredToken" } else { "AccessDenied" }));
        }
        let (_, key) = uri.path().trim_start_matches('/').split_once('/').unwrap_or_default();
        let listed = uri.query().unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("prefix="));
        let place = if key.is_empty() {
            listed.unwrap_or("").replace("%2F", "/")
        } else {
            key.to_owned()
        };
        let within = place.starts_with(&*self.prefix.lock().unwrap());
        (!within).then_some((403, "AccessDenied"))
    }
}
