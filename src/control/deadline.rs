//! The end of the sandbox: what is not in the store yet is brought there well before it.
//!
//! Sync has a look at the clock too, and knows the deadline that held when it was started. This follows the one in force, and tells sync
//! when it is another.

use super::daemon_handle::DaemonHandle;
use super::unix_http::exchange;
use axum::body::Body;
use axum::http::{Method, Request, header};
use http_body_util::BodyExt;
use jiff::{SignedDuration, Timestamp};
use std::path::Path;
use std::time::Duration;

/// How long before the end: once with time to spare, and once for what came after.
const BEFORE: [SignedDuration; 2] = [SignedDuration::from_secs(120), SignedDuration::from_secs(30)];
/// The wall clock is looked at so often at least: a machine that was paused comes back late.
const LOOK: Duration = Duration::from_secs(10);
/// How long a flush may take.
const FLUSHED_WITHIN: Duration = Duration::from_secs(60);
/// How long sync may take to hear of another deadline.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Flushes before the deadline, whatever it is at the time, for as long as the daemon lives.
pub async fn keep(daemon: DaemonHandle) {
    let mut snapshot = daemon.snapshot.clone();
    let mut flushed: Option<Timestamp> = None;
    let socket = daemon.runtime_dir.join("sync.sock");
    let mut told = snapshot.borrow().expires_at.map(|time| time.0);
    loop {
        let ends = snapshot.borrow_and_update().expires_at.map(|time| time.0);
        if ends != told && tell(&socket, ends).await {
            told = ends;
        }
        let now = Timestamp::now();
        let wait = ends.and_then(|ends| due_in(ends, now, flushed));
        if wait == Some(Duration::ZERO) {
            let asked = tokio::time::timeout(FLUSHED_WITHIN, post(&socket, "/v1/sync/flush"));
            match asked.await {
                Ok(Ok(())) => {
                    tracing::info!("the sandbox ends soon: sync was flushed");
                    flushed = Some(now);
                    continue;
                }
                // Perhaps it is not there yet, or there is none: another look is cheap.
                Ok(Err(why)) => tracing::debug!("the sandbox ends soon, and sync was not flushed: {why}"),
                Err(_) => tracing::warn!("the sandbox ends soon, and sync was not flushed within {FLUSHED_WITHIN:?}"),
            }
        }
        let wait = wait.map(|wait| if wait.is_zero() { LOOK } else { wait });
        // Where sync is not there yet it is told later; one that is started meanwhile knows it anyway.
        let wait = wait.or((ends != told).then_some(LOOK));
        tokio::select! {
            changed = snapshot.changed() => if changed.is_err() { return },
            () = pause(wait) => {}
        }
    }
}

async fn pause(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait.min(LOOK)).await,
        None => std::future::pending().await,
    }
}

/// How long until the next flush for this deadline; `None` when it was done, or the end is over.
fn due_in(ends: Timestamp, now: Timestamp, flushed: Option<Timestamp>) -> Option<Duration> {
    if now >= ends {
        return None;
    }
    let moments = BEFORE.iter().filter_map(|before| ends.checked_sub(*before).ok());
    let mut open = moments.filter(|moment| flushed.is_none_or(|flushed| flushed < *moment));
    // Of those that are over one is enough.
    open.next()
        .map(|moment| Duration::try_from(moment.duration_since(now)).unwrap_or(Duration::ZERO))
}

async fn tell(socket: &Path, ends: Option<Timestamp>) -> bool {
    let at = ends.map_or_else(String::new, |ends| format!("?at={}", ends.as_second()));
    let told = tokio::time::timeout(HEARD_WITHIN, post(socket, &format!("/v1/sync/deadline{at}"))).await;
    matches!(told, Ok(Ok(())))
}

async fn post(socket: &Path, path: &str) -> Result<(), String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let answer = exchange(socket, request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    // Its end is the end of what was asked for.
    let _ = answer.into_body().collect().await;
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("it answers {status}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn twice_before_the_end_and_not_after() {
        let ends = at(1000);
        let due = |now, flushed: Option<i64>| due_in(ends, at(now), flushed.map(at)).map(|wait| wait.as_secs());
        assert_eq!(due(500, None), Some(380));
        assert_eq!(due(900, None), Some(0), "late is better than never");
        assert_eq!(due(900, Some(900)), Some(70));
        assert_eq!(due(980, Some(900)), Some(0));
        assert_eq!(due(980, Some(975)), None);
        assert_eq!(due(1000, None), None);
    }

    #[test]
    fn a_later_end_is_another() {
        assert_eq!(due_in(at(5000), at(900), Some(at(890))).map(|wait| wait.as_secs()), Some(3980));
    }
}
