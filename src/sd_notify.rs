//! What this process tells whoever supervises it: systemd, or sandkeep itself when this is a worker. sd_notify(3).
//!
//! The words are those of the `sd-notify` crate; the socket is our own, since that crate waits without end where a supervisor that hangs
//! leaves its queue full, and a worker must go on then. Without `NOTIFY_SOCKET` every call does nothing, and a failed send is traced,
//! never an error, since nobody who runs a program by hand should see it fail for want of a supervisor.

use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// For how long there has to be room in the supervisor's queue for what is said once,
const PATIENCE: Duration = Duration::from_secs(2);
/// and for what is said again soon.
const LITTLE_PATIENCE: Duration = Duration::from_millis(100);

/// `READY=1`: it is started.
pub fn ready() {
    say(&[NotifyState::Ready], PATIENCE);
}

/// `RELOADING=1` with `MONOTONIC_USEC`; to be followed by [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now], PATIENCE),
        Err(_) => say(&[NotifyState::Reloading], PATIENCE),
    }
}

/// `STOPPING=1`: it has begun to stop.
pub fn stopping() {
    say(&[NotifyState::Stopping], PATIENCE);
}

/// `STATUS=…`: one line for people.
pub fn status(text: &str) {
    say(&[NotifyState::Status(&text.replace('\n', " "))], LITTLE_PATIENCE);
}

/// `WATCHDOG=1`: it is alive.
pub fn watchdog() {
    say(&[NotifyState::Watchdog], LITTLE_PATIENCE);
}

/// `EXTEND_TIMEOUT_USEC=…`: it needs this long from now for what it is doing (start, stop).
pub fn extend_timeout(from_now: Duration) {
    let usec = u32::try_from(from_now.as_micros()).unwrap_or(u32::MAX);
    say(&[NotifyState::ExtendTimeoutUsec(usec)], LITTLE_PATIENCE);
}

/// `X_SANDKEEP={json}`: a worker's part of the status document. To be sent on change and at most once a second. Never waits; whether it
/// was sent: false where the queue is full, and the part is to be sent again.
pub fn part(json: &serde_json::Value) -> bool {
    let sent = send(&[NotifyState::Custom(&format!("X_SANDKEEP={json}"))], Duration::ZERO);
    !sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// How often the watchdog wants to hear [`watchdog`]: half of `WATCHDOG_USEC`; `None` where nobody watches.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn say(states: &[NotifyState<'_>], patience: Duration) {
    if let Err(error) = send(states, patience) {
        tracing::debug!("notifying the supervisor: {error}");
    }
}

fn send(states: &[NotifyState<'_>], patience: Duration) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) => send_to(&path, states, patience),
        None => Ok(()),
    }
}

/// An error of the kind `WouldBlock` when there was no room within this time.
fn send_to(path: &OsStr, states: &[NotifyState<'_>], patience: Duration) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    if patience.is_zero() {
        socket.set_nonblocking(true)?;
    } else {
        socket.set_write_timeout(Some(patience))?;
    }
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send(text.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_supervisor_that_hangs_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let hung = UnixDatagram::bind(&path).unwrap();
        let mut sent = 0;
        while send_to(path.as_os_str(), &[NotifyState::Watchdog], Duration::ZERO).is_ok() {
            sent += 1;
        }
        let begun = Instant::now();
        let error = send_to(path.as_os_str(), &[NotifyState::Ready], Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(begun.elapsed() >= Duration::from_millis(30));
        // It goes on: what it left unread is there, and there is room again.
        let mut buffer = [0; 64];
        for _ in 0..sent {
            let length = hung.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
        }
        send_to(path.as_os_str(), &[NotifyState::Ready], Duration::ZERO).unwrap();
        let length = hung.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\n");
    }
}
