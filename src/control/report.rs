//! `[report] url`: the status document pushed to the orchestrator, on change of state and every 30 s with jitter.
//!
//! One push at a time, always of the latest document: what changes meanwhile is in the next one, so that nothing queues up and a
//! receiver that is slow or away holds up nobody. It is tried again, later and later, until it gets through.

use super::answer::masked;
use super::daemon_handle::DaemonHandle;
use super::snapshot::Snapshot;
use crate::web;
use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, header};
use bytes::Bytes;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// From one push to the next when nothing changes, give or take a fifth.
const PERIOD: Duration = Duration::from_secs(30);
/// From one push to the next when everything changes.
const GAP: Duration = Duration::from_secs(1);
/// How long a push may take.
const PUSH_TIME: Duration = Duration::from_secs(10);
/// The longest wait before a failed push is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Why the document did not get through.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The URL cannot be pushed to.
    #[error("`{url}` cannot be pushed to: {why}")]
    Url {
        /// Which.
        url: String,
        /// Why not.
        why: &'static str,
    },
    /// There was no answer.
    #[error("{0}")]
    Connection(String),
    /// There was one, and it was no success.
    #[error("the receiver answered {0}")]
    Refused(StatusCode),
}

/// Pushes to the URL of the configuration, whichever that is, for as long as the daemon lives.
pub async fn run(daemon: DaemonHandle) {
    let mut snapshots = daemon.snapshot.clone();
    loop {
        let url = snapshots.borrow_and_update().report_url.clone();
        let gone = match &url {
            None => snapshots.wait_for(|snapshot| snapshot.report_url.is_some()).await.is_err(),
            Some(url) => {
                let other = |snapshot: &Arc<Snapshot>| snapshot.report_url.as_ref() != Some(url);
                let pushing = async {
                    if let Err(error) = push(url, daemon.clone()).await {
                        tracing::error!("the status is not pushed: {error}");
                        // Until there is another URL there is nothing to do.
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    changed = snapshots.wait_for(other) => changed.is_err(),
                    () = pushing => true,
                }
            }
        };
        if gone {
            return;
        }
    }
}

/// Pushes to one URL for as long as the daemon lives.
///
/// # Errors
/// At once, if the URL is one that cannot be pushed to.
pub async fn push(url: &str, daemon: DaemonHandle) -> Result<(), PushError> {
    let receiver = Receiver::new(url)?;
    let mut snapshots = daemon.snapshot.clone();
    let mut failures = 0;
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let pushed = Instant::now();
        let sent = match timeout(PUSH_TIME, receiver.send(body(&daemon, &snapshot))).await {
            Ok(sent) => sent,
            Err(_) => Err(PushError::Connection(format!("no answer within {PUSH_TIME:?}"))),
        };
        let next = match sent {
            Ok(()) => {
                failures = 0;
                pushed + jittered(PERIOD)
            }
            Err(error) => {
                // Said once, not every time.
                if failures == 0 {
                    tracing::warn!("the status is not pushed to the orchestrator: {error}");
                }
                failures += 1;
                Instant::now() + jittered(retry(failures))
            }
        };
        if failures > 0 {
            sleep_until(next).await;
            continue;
        }
        let seen = fingerprint(&snapshot);
        let changed = async {
            while snapshots.changed().await.is_ok() {
                if fingerprint(&snapshots.borrow_and_update()) != seen {
                    return true;
                }
            }
            false
        };
        tokio::select! {
            changed = changed => if !changed { return Ok(()) },
            () = sleep_until(next) => {}
        }
        sleep_until(pushed + GAP).await;
    }
}

fn retry(failures: u32) -> Duration {
    GAP.saturating_mul(1 << failures.min(6)).min(LONGEST_RETRY)
}

fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.8 + 0.4 * fastrand::f64())
}

/// What counts as a change of state: no ages, no sizes, nothing that moves by itself.
fn fingerprint(snapshot: &Snapshot) -> u64 {
    let mut hasher = DefaultHasher::new();
    snapshot.config_hash.hash(&mut hasher);
    snapshot.status().as_str().hash(&mut hasher);
    snapshot.ready().hash(&mut hasher);
    for unit in &snapshot.units {
        let unit = &unit.status;
        (&unit.name, unit.state.as_str(), &unit.sub_state, unit.ready, unit.invocation).hash(&mut hasher);
    }
    (&snapshot.preview.state, &snapshot.sync.state, &snapshot.agent.state).hash(&mut hasher);
    hasher.finish()
}

fn body(daemon: &DaemonHandle, snapshot: &Snapshot) -> Bytes {
    let document = serde_json::to_value(snapshot.document()).unwrap_or_default();
    masked(document, &daemon.mask).to_string().into()
}

/// Who is pushed to.
enum Receiver {
    /// Over plain HTTP.
    Plain { uri: Uri, host: String, port: u16 },
    /// Over TLS.
    #[cfg(feature = "http-client")]
    Tls { url: String, client: reqwest::Client },
}

impl Receiver {
    fn new(url: &str) -> Result<Self, PushError> {
        let refuse = |why| PushError::Url { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| refuse("it is no URL"))?;
        let host = uri
            .host()
            .ok_or_else(|| refuse("it has no host"))?
            .trim_matches(['[', ']'])
            .to_owned();
        match uri.scheme_str() {
            Some("http") => Ok(Self::Plain {
                port: uri.port_u16().unwrap_or(80),
                uri,
                host,
            }),
            #[cfg(feature = "http-client")]
            Some("https") => Ok(Self::Tls {
                url: url.to_owned(),
                client: web::tls::client()
                    .pool_max_idle_per_host(1)
                    .build()
                    .map_err(|_| refuse("TLS cannot be set up"))?,
            }),
            #[cfg(not(feature = "http-client"))]
            Some("https") => Err(refuse("this build has no TLS")),
            _ => Err(refuse("it is neither http nor https")),
        }
    }

    async fn send(&self, body: Bytes) -> Result<(), PushError> {
        let status = match self {
            Self::Plain { uri, host, port } => send_plain(uri, host, *port, body).await?,
            #[cfg(feature = "http-client")]
            Self::Tls { url, client } => {
                let request = client.post(url).header(header::CONTENT_TYPE, "application/json").body(body);
                let answer = request
                    .send()
                    .await
                    .map_err(|error| PushError::Connection(error.without_url().to_string()))?;
                answer.status()
            }
        };
        if status.is_success() {
            Ok(())
        } else {
            Err(PushError::Refused(status))
        }
    }
}

async fn send_plain(uri: &Uri, host: &str, port: u16, body: Bytes) -> Result<StatusCode, PushError> {
    let connection = |error: &dyn std::fmt::Display| PushError::Connection(error.to_string());
    let stream = TcpStream::connect((host, port)).await.map_err(|error| connection(&error))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::post(target)
        .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("sandkeep/", env!("CARGO_PKG_VERSION")))
        .body(Body::from(body))
        .map_err(|error| connection(&error))?;
    let answer = web::connection::ask(stream, request).await.map_err(|error| connection(&error))?;
    Ok(answer.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_and_https_are_pushed_to() {
        assert!(Receiver::new("http://[::1]:8080/status?box=1").is_ok());
        for url in ["", "ftp://a/", "/status", "http:///x", "\u{0}"] {
            assert!(matches!(Receiver::new(url), Err(PushError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn retries_come_later_and_later() {
        let waits: Vec<u64> = (1..9).map(|failures| retry(failures).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(retry(u32::MAX), LONGEST_RETRY);
        let spread = jittered(PERIOD);
        assert!(spread >= Duration::from_secs(24) && spread <= Duration::from_secs(36));
    }
}
