//! The agent's children: the claudes that it started, and the orphans of all that they start.
//!
//! tokio waits for the claudes, each by its process id. Everything else that becomes a child of the agent is an orphan that it was given,
//! and is reaped here.

use super::tree;
use crate::tasks;
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The shortest time between two looks for orphans that have ended.
const PAUSE: Duration = Duration::from_millis(100);

/// A time as `/proc/<pid>/stat` tells it: hundredths of a second after boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(pub u64);

impl Ticks {
    /// Before everything.
    pub const NEVER: Self = Self(0);
    /// After everything.
    pub const FOREVER: Self = Self(u64::MAX);

    /// This moment.
    pub fn now() -> Self {
        use nix::time::{ClockId, clock_gettime};
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Self(u64::try_from(since_boot.as_millis() / 10).unwrap_or(u64::MAX))
    }
}

/// The claudes that have been started and not yet been waited for: their marks by process id.
#[derive(Clone, Debug, Default)]
pub struct Leaders(Arc<Mutex<BTreeMap<i32, String>>>);

/// A claude is known while this lives.
#[derive(Debug)]
pub struct Known {
    leaders: Leaders,
    pid: i32,
}

impl Leaders {
    /// Takes a claude up that has just been started. Nothing may be awaited in between.
    pub fn add(&self, pid: i32, mark: &str) -> Known {
        self.with(|leaders| leaders.insert(pid, mark.to_owned()));
        Known {
            leaders: self.clone(),
            pid,
        }
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<i32, String> {
        self.with(|leaders| leaders.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<i32, String>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.leaders.with(|leaders| leaders.remove(&self.pid));
    }
}

/// Makes this process the one that orphans among its descendants are given to, and reaps those from then on.
pub fn adopt(leaders: Leaders) -> io::Result<()> {
    let mut ended = signal(SignalKind::child())?;
    set_child_subreaper(Some(getpid()))?;
    tasks::spawn(async move {
        while ended.recv().await.is_some() {
            reap(&leaders);
            tokio::time::sleep(PAUSE).await;
        }
    });
    Ok(())
}

fn reap(leaders: &Leaders) {
    let (own, known) = (tree::own(), leaders.all());
    let orphans = tree::pids().filter(|pid| !known.contains_key(pid));
    for pid in orphans.filter(|&pid| tree::stat(pid).is_some_and(|stat| stat.dead && stat.parent == own)) {
        let Some(pid) = Pid::from_raw(pid) else { continue };
        if let Err(error) = waitpid(Some(pid), WaitOptions::NOHANG) {
            tracing::debug!("reaping pid {pid:?}: {error}");
        }
    }
}
