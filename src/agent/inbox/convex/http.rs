//! Calls over Convex's HTTP API: each with a deadline and an answer of its own, whatever the socket does.

use super::Account;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest that one call may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// Minutes that are counted.
const MINUTES: usize = 60;

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// It may work later: no connection, an overloaded or a broken server.
    #[error("Convex does not answer: {0}")]
    Unavailable(String),
    /// The function says no, with a code of ours.
    #[error("Convex refuses: {0}")]
    Refused(String),
    /// The deployment does not have the function.
    #[error(
        "this Convex deployment has no function `{0}`: copy sandkeep's config/convex into the app's convex folder and run `npx convex deploy`"
    )]
    NoFunction(String),
    /// The function failed.
    #[error("Convex's `{path}` failed: {message}")]
    Failed {
        /// The function.
        path: String,
        /// What it says.
        message: String,
    },
}

impl CallError {
    /// Whether the claim that the call was about is no longer ours.
    pub fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Refused(code) if code == "LeaseLost")
    }
}

/// What is counted of the calls.
#[derive(Debug)]
pub struct Counts {
    minutes: [AtomicU64; MINUTES],
    minute: AtomicU64,
    /// Milliseconds since the epoch of the first failure since the last success; 0 = none.
    failing_since: AtomicU64,
    /// What is wrong with single functions, by their paths.
    problems: Mutex<BTreeMap<String, String>>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            minutes: [const { AtomicU64::new(0) }; MINUTES],
            minute: AtomicU64::new(super::epoch_minute()),
            failing_since: AtomicU64::new(0),
            problems: Mutex::default(),
        }
    }
}

impl Counts {
    /// Counts a call, or what is billed like one.
    pub fn count(&self) {
        self.turn_to(super::epoch_minute());
        let minute = self.minute.load(Ordering::Relaxed);
        self.minutes[index(minute)].fetch_add(1, Ordering::Relaxed);
    }

    fn turn_to(&self, minute: u64) {
        let from = self.minute.swap(minute, Ordering::Relaxed);
        let passed = minute.saturating_sub(from).min(MINUTES as u64);
        for behind in 0..passed {
            self.minutes[index(minute - behind)].store(0, Ordering::Relaxed);
        }
    }

    /// Calls within the last hour.
    pub fn last_hour(&self) -> u64 {
        self.turn_to(super::epoch_minute());
        self.minutes.iter().map(|minute| minute.load(Ordering::Relaxed)).sum()
    }

    /// Since when every call has failed.
    pub fn failing_since(&self) -> Option<u64> {
        Some(self.failing_since.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    /// What is wrong with a function that does answer, until it has done its work.
    pub fn problem(&self) -> Option<String> {
        self.problems.lock().ok()?.values().next().cloned()
    }

    fn outcome(&self, path: &str, answer: Result<(), &CallError>) {
        let reached = !matches!(answer, Err(CallError::Unavailable(_)));
        if let (true, Ok(mut problems)) = (reached, self.problems.lock()) {
            match answer {
                Err(problem @ (CallError::NoFunction(_) | CallError::Failed { .. })) => {
                    if problems.insert(path.to_owned(), problem.to_string()).is_none() {
                        tracing::warn!("{problem}");
                    }
                }
                Ok(()) | Err(CallError::Refused(_) | CallError::Unavailable(_)) => drop(problems.remove(path)),
            }
        }
        let since = if reached { 0 } else { crate::agent::outbox::epoch_ms() };
        if reached || self.failing_since.load(Ordering::Relaxed) == 0 {
            self.failing_since.store(since, Ordering::Relaxed);
        }
    }
}

fn index(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).unwrap_or_default()
}

/// The API of a deployment, as this sandbox.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    account: Account,
    counts: Arc<Counts>,
}

impl Api {
    /// For an account. The token goes into each call's arguments, never into a URL or a log.
    pub fn new(account: Account, counts: Arc<Counts>) -> reqwest::Result<Self> {
        let http = crate::web::tls::client()
            .connect_timeout(Duration::from_secs(10))
            .timeout(DEADLINE)
            .build()?;
        Ok(Self { http, account, counts })
    }

    /// Calls a mutation once.
    pub async fn mutation(&self, path: &str, args: Value) -> Result<Value, CallError> {
        self.call("mutation", path, args).await
    }

    /// Calls a query once.
    pub async fn query(&self, path: &str, args: Value) -> Result<Value, CallError> {
        self.call("query", path, args).await
    }

    /// Calls a mutation until it is answered, later and later. For what is idempotent.
    pub async fn insist(&self, path: &str, args: Value) -> Result<Value, CallError> {
        let mut pause = Duration::from_millis(250);
        loop {
            match self.mutation(path, args.clone()).await {
                Err(error @ CallError::Unavailable(_)) => {
                    tracing::debug!("{path}: {error}");
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(Duration::from_secs(15));
                }
                answered => return answered,
            }
        }
    }

    async fn call(&self, kind: &str, path: &str, mut args: Value) -> Result<Value, CallError> {
        args["sandboxId"] = json!(self.account.sandbox);
        args["token"] = json!(self.account.token);
        self.counts.count();
        let sent = self
            .http
            .post(format!("{}/api/{kind}", self.account.url))
            .json(&json!({"path": path, "args": args, "format": "json"}));
        let answer = async {
            // An error of reqwest's names the URL, which has no secret in it.
            let response = sent.send().await.map_err(|error| CallError::Unavailable(with_causes(&error)))?;
            let status = response.status().as_u16();
            let text = response
                .bytes()
                .await
                .map_err(|error| CallError::Unavailable(with_causes(&error)))?;
            read(path, status, &text)
        }
        .await;
        self.counts.outcome(path, answer.as_ref().map(drop));
        answer
    }
}

/// What went wrong, and why: that a certificate is not trusted is known only at the bottom.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn read(path: &str, status: u16, text: &[u8]) -> Result<Value, CallError> {
    let mut answer: Value = serde_json::from_slice(text).unwrap_or_default();
    match (answer["status"].as_str(), status) {
        (Some("success"), _) => Ok(answer["value"].take()),
        (Some("error"), _) => Err(failure(
            path,
            answer["errorMessage"].as_str().unwrap_or_default(),
            &answer["errorData"],
        )),
        (_, 408 | 425 | 429 | 500..) => Err(CallError::Unavailable(format!(
            "HTTP {status} {}",
            answer["code"].as_str().unwrap_or_default()
        ))),
        _ => Err(CallError::Failed {
            path: path.into(),
            message: format!("HTTP {status} {}", answer["message"].as_str().unwrap_or_default()),
        }),
    }
}

/// What a failed function means, however it was called.
pub fn failure(path: &str, message: &str, data: &Value) -> CallError {
    if let Some(code) = data["code"].as_str() {
        return CallError::Refused(code.into());
    }
    if message.contains("Could not find public function") {
        return CallError::NoFunction(path.into());
    }
    CallError::Failed {
        path: path.into(),
        message: message
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no reason given")
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let read = |status, text: &str| read("agent:claim", status, text.as_bytes());
        assert_eq!(read(200, r#"{"status":"success","value":3}"#), Ok(json!(3)));
        let refused = read(560, r#"{"status":"error","errorMessage":"x","errorData":{"code":"LeaseLost"}}"#).unwrap_err();
        assert!(refused.is_lease_lost());
        let missing = read(
            200,
            r#"{"status":"error","errorMessage":"Could not find public function for 'agent:claim'."}"#,
        )
        .unwrap_err();
        assert!(missing.to_string().contains("npx convex deploy"), "{missing}");
        for (status, text) in [(503, "{\"code\":\"Overloaded\"}"), (502, "<html>"), (429, "")] {
            assert!(matches!(read(status, text), Err(CallError::Unavailable(_))), "{status}");
        }
        assert!(matches!(read(400, "{}"), Err(CallError::Failed { .. })));
    }

    #[test]
    fn calls_are_counted_for_an_hour() {
        let counts = Counts::default();
        counts.count();
        counts.count();
        assert_eq!(counts.last_hour(), 2);
        counts.turn_to(super::super::epoch_minute() + 61);
        assert_eq!(counts.minutes.iter().map(|minute| minute.load(Ordering::Relaxed)).sum::<u64>(), 0);
    }
}
