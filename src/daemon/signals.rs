//! The signals that are for the supervisor itself, through signal-hook. SIGCHLD is the host's.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM, SIGINT: an ordered shutdown; again: hurry.
    Shutdown,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: tell the state of everything in the log.
    Tell,
}

const SIGNALS: [(i32, Asked); 4] = [
    (SIGTERM, Asked::Shutdown),
    (SIGINT, Asked::Shutdown),
    (SIGHUP, Asked::Reload),
    (SIGUSR1, Asked::Tell),
];

/// Signals as they come.
#[derive(Debug)]
pub(super) struct Signals {
    pipe: UnixStream,
    flags: Vec<(Arc<AtomicBool>, Asked)>,
}

impl Signals {
    /// Takes the signals from here on. Must be called within a runtime.
    pub(super) fn take() -> io::Result<Self> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let mut flags = Vec::new();
        for (signal, asked) in SIGNALS {
            let flag = Arc::new(AtomicBool::new(false));
            // The flag first: whoever is woken by the pipe finds it set.
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
            signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
            flags.push((flag, asked));
        }
        Ok(Self {
            pipe: UnixStream::from_std(ours)?,
            flags,
        })
    }

    /// Sends what has come and was not told yet to this process again: held, it waits for the next image.
    pub(super) fn give_back(&self) {
        for ((signal, _), (flag, _)) in SIGNALS.iter().zip(&self.flags) {
            if flag.swap(false, Ordering::SeqCst) {
                crate::host::image::send_to_ourselves(*signal);
            }
        }
    }

    /// Waits for the next. Cancel safe.
    pub(super) async fn next(&mut self) -> Asked {
        loop {
            if let Some((_, asked)) = self.flags.iter().find(|(flag, _)| flag.swap(false, Ordering::SeqCst)) {
                return *asked;
            }
            let mut buffer = [0; 64];
            if self.pipe.read(&mut buffer).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
