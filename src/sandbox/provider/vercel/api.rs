//! One request to the API and its retries.

use super::account::Account;
use super::refusal::Refusal;
use super::retry::{self, Effect, Failure, Next};
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::provider::Secret;
use crate::web::tls;
use bytes::Bytes;
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(15);
/// For an ordinary answer.
const ANSWER: Duration = Duration::from_secs(60);

/// The API, as one account. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Api {
    http: reqwest::Client,
    account: Arc<Account>,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Body,
    effect: Effect,
    limit: Duration,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Json(Value),
    /// A gzipped tar, unpacked below `/`.
    Archive(Bytes),
}

impl Call {
    fn new(method: Method, path: &[&str]) -> Self {
        Self {
            method,
            path: path.iter().map(|part| (*part).to_owned()).collect(),
            query: Vec::new(),
            body: Body::None,
            effect: Effect::Same,
            limit: ANSWER,
        }
    }

    pub(super) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(super) fn patch(path: &[&str], body: Value) -> Self {
        Self {
            body: Body::Json(body),
            ..Self::new(Method::PATCH, path)
        }
    }

    pub(super) fn post(path: &[&str], body: Value) -> Self {
        Self {
            body: Body::Json(body),
            ..Self::new(Method::POST, path)
        }
    }

    pub(super) fn archive(path: &[&str], archive: Bytes) -> Self {
        Self {
            body: Body::Archive(archive),
            ..Self::new(Method::POST, path)
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// To be made a second time only after a look.
    pub(super) fn once(mut self) -> Self {
        self.effect = Effect::Twice;
        self
    }
}

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The API says no.
    Refused(Refusal),
    /// It may have been done or not: only of what was to be done [`Call::once`]. The wait before a look is over.
    Unknown(Box<Self>),
    /// No connection, or no whole answer.
    Silent(String),
    /// There is no token that is of use: nothing was asked.
    NoToken(Box<Fault>),
}

impl Trouble {
    /// The fault that it is, of something that was done.
    pub(super) fn fault(&self, doing: &str) -> Fault {
        match self {
            Self::Refused(refusal) => refusal.fault(doing),
            Self::Unknown(trouble) => trouble.fault(doing),
            Self::NoToken(fault) => fault.as_ref().clone(),
            Self::Silent(why) => Fault::new(Code::Unreachable, format!("{doing}: Vercel does not answer: {why}"))
                .hint("look at this machine's network, and at https://www.vercel-status.com"),
        }
    }

    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Unknown(_) | Self::Silent(_) | Self::NoToken(_) => None,
        }
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.refusal().is_some_and(|refusal| refusal.status == 404)
    }
}

/// One attempt that did not succeed.
struct Missed {
    failure: Failure,
    trouble: Trouble,
}

/// Takes the bytes of an answer for what they should be.
type Read<'a> = dyn FnMut(&[u8]) -> serde_json::Result<()> + Send + 'a;

impl Api {
    pub(super) fn new(account: Account) -> Result<Self, Fault> {
        let wrong =
            |error: &dyn std::fmt::Display| Fault::new(Code::BadRequest, format!("`{}` is no address of an API: {error}", account.base));
        let url = Url::parse(&account.base).map_err(|error| wrong(&error))?;
        if url.cannot_be_a_base() || !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(&"it has to begin with https://"));
        }
        let http = tls::client()
            .connect_timeout(CONNECT)
            .build()
            .map_err(|error| Fault::new(Code::Unreachable, format!("preparing to speak with Vercel: {error}")))?;
        Ok(Self {
            http,
            account: Arc::new(account),
        })
    }

    pub(super) fn project(&self) -> &str {
        &self.account.project
    }

    fn token(&self) -> Result<Secret, Trouble> {
        let token = self.account.token(jiff::Timestamp::now());
        token.map_err(|fault| Trouble::NoToken(Box::new(fault)))
    }

    /// Makes a request until it has an answer, or it makes no sense to go on.
    pub(super) async fn ask<T: DeserializeOwned + Send>(&self, call: &Call) -> Result<T, Trouble> {
        let mut answer = None;
        self.ask_and_read(call, &mut |bytes| serde_json::from_slice(bytes).map(|read| answer = Some(read)))
            .await?;
        Ok(answer.expect("it was read"))
    }

    /// What all kinds of answers have in common.
    async fn ask_and_read(&self, call: &Call, read: &mut Read<'_>) -> Result<(), Trouble> {
        let token = self.token()?;
        let mut attempt = 0;
        loop {
            let answered = tokio::time::timeout(call.limit, self.answer(call, &token, read)).await;
            match answered.unwrap_or_else(|_| Err(late(call))) {
                Ok(()) => return Ok(()),
                Err(missed) => pause(missed, call.effect, &mut attempt).await?,
            }
        }
    }

    /// Opens a body that is read as it comes. It may break at any time.
    pub(super) async fn open(&self, call: &Call) -> Result<reqwest::Response, Trouble> {
        let token = self.token()?;
        let mut attempt = 0;
        loop {
            let opened = tokio::time::timeout(call.limit, self.send(call, &token)).await;
            match opened.unwrap_or_else(|_| Err(late(call))) {
                Ok(response) => return Ok(response),
                Err(missed) => pause(missed, call.effect, &mut attempt).await?,
            }
        }
    }

    async fn answer(&self, call: &Call, token: &Secret, read: &mut Read<'_>) -> Result<(), Missed> {
        let bytes = self.send(call, token).await?.bytes().await.map_err(|error| unanswered(&error))?;
        read(&bytes).map_err(|error| silence(Failure::Unanswered, format!("its answer makes no sense: {error}")))
    }

    /// The answer, if it is not a refusal.
    async fn send(&self, call: &Call, token: &Secret) -> Result<reqwest::Response, Missed> {
        let response = self.request(call, token).send().await.map_err(|error| unanswered(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|value| retry::retry_after(value, jiff::Timestamp::now()));
        // A refusal is one also without its reason.
        let body = response.bytes().await.unwrap_or_default();
        Err(Missed {
            failure: Failure::Status {
                status: status.as_u16(),
                retry_after,
            },
            trouble: Trouble::Refused(Refusal::read(status.as_u16(), &body, retry_after)),
        })
    }

    fn request(&self, call: &Call, token: &Secret) -> reqwest::RequestBuilder {
        let mut url = Url::parse(&self.account.base).expect("it was checked when this was made");
        url.path_segments_mut()
            .expect("it was checked when this was made")
            .pop_if_empty()
            .extend(&call.path);
        url.query_pairs_mut()
            .append_pair("teamId", &self.account.team)
            .extend_pairs(&call.query);
        let mut token = format!("Bearer {}", String::from_utf8_lossy(token.reveal())).into_bytes();
        token.retain(|byte| (0x20..0x7f).contains(byte));
        let mut authorization = reqwest::header::HeaderValue::from_bytes(&token).expect("only printable characters are left");
        authorization.set_sensitive(true);
        let request = self.http.request(call.method.clone(), url).header("authorization", authorization);
        match &call.body {
            Body::None => request.header("content-type", "application/json"),
            Body::Json(body) => request.json(body),
            Body::Archive(archive) => request
                .header("content-type", "application/gzip")
                .header("x-cwd", "/")
                .body(archive.clone()),
        }
    }
}

fn silence(failure: Failure, why: String) -> Missed {
    Missed {
        failure,
        trouble: Trouble::Silent(why),
    }
}

fn unanswered(error: &reqwest::Error) -> Missed {
    let failure = if error.is_connect() { Failure::Unsent } else { Failure::Unanswered };
    silence(failure, tls::innermost(error))
}

fn late(call: &Call) -> Missed {
    silence(Failure::Unanswered, format!("nothing within {} s", call.limit.as_secs()))
}

/// Waits until the next attempt, if there is one.
async fn pause(missed: Missed, effect: Effect, attempt: &mut u32) -> Result<(), Trouble> {
    let next = retry::next(missed.failure, effect, *attempt, fastrand::u64(..));
    *attempt += 1;
    match next {
        Next::Again(wait) => {
            tokio::time::sleep(wait).await;
            Ok(())
        }
        Next::Look(wait) => {
            tokio::time::sleep(wait).await;
            Err(Trouble::Unknown(Box::new(missed.trouble)))
        }
        Next::GiveUp => Err(missed.trouble),
    }
}
