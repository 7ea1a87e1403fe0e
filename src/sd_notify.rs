//! What this process tells whoever supervises it: systemd, or sandkeep itself when this is a worker. sd_notify(3).
//!
//! A thin wrap of the `sd-notify` crate: without `NOTIFY_SOCKET` every call does nothing, and a failed send is traced, never an error,
//! since nobody who runs a program by hand should see it fail for want of a supervisor.

use sd_notify::NotifyState;
use std::time::Duration;

/// `READY=1`: it is started.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// `RELOADING=1` with `MONOTONIC_USEC`; to be followed by [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// `STOPPING=1`: it has begun to stop.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// `STATUS=…`: one line for people.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&text.replace('\n', " "))]);
}

/// `WATCHDOG=1`: it is alive.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// `EXTEND_TIMEOUT_USEC=…`: it needs this long from now for what it is doing (start, stop).
pub fn extend_timeout(from_now: Duration) {
    let usec = u32::try_from(from_now.as_micros()).unwrap_or(u32::MAX);
    send(&[NotifyState::ExtendTimeoutUsec(usec)]);
}

/// `X_SANDKEEP={json}`: a worker's part of the status document. To be sent on change and at most once a second.
pub fn part(json: &serde_json::Value) {
    send(&[NotifyState::Custom(&format!("X_SANDKEEP={json}"))]);
}

/// How often the watchdog wants to hear [`watchdog`]: half of `WATCHDOG_USEC`; `None` where nobody watches.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("notifying the supervisor: {error}");
    }
}
