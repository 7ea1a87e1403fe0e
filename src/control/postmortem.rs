//! What is kept of a unit's failure: its `why` and its last 200 lines, in the state directory; of every unit when the sandbox drains.
//!
//! A sandbox whose disk goes away takes its logs with it. These few files are small enough for the sync worker to carry them out.

use super::answer::masked;
use super::daemon_handle::DaemonHandle;
use super::document::{Time, UnitState};
use super::event_log::{Event, Position};
use super::routes::units::explain;
use super::snapshot::{Phase, Snapshot};
use super::why::Why;
use crate::ordered::Order;
use crate::tasks;
use serde::Serialize;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many of a unit's last lines are kept.
pub const LINES: usize = 200;
/// How many failures of one unit are kept.
const KEPT: usize = 5;
/// How many events are looked at in one go.
const PAGE: usize = 256;

/// One unit.
#[derive(Debug, Serialize)]
struct Postmortem {
    /// When it was written.
    at: Time,
    /// Why the unit is as it is, with its last lines.
    why: Why,
}

/// Writes into this directory for as long as the daemon lives: `<unit>.failed-<time>.json` for each failure, the latest five of a unit,
/// and `drain.json`, an array of all units, when the sandbox begins to drain.
pub async fn keep(directory: PathBuf, daemon: DaemonHandle) {
    let position = daemon.events.oldest();
    keep_from(position, directory, daemon, || ()).await;
}

/// The same for what happens from this position on; `drained` is called when `drain.json` is written, or could not be.
pub async fn keep_from(mut position: Position, directory: PathBuf, daemon: DaemonHandle, drained: impl FnOnce()) {
    let mut events = daemon.events.clone();
    let mut snapshots = daemon.snapshot.clone();
    let mut drained = Some(drained);
    loop {
        tokio::select! {
            more = events.wait(position) => if !more { return },
            changed = snapshots.changed(), if drained.is_some() => if changed.is_err() { return },
        }
        drain_if_due(&mut drained, &directory, &daemon).await;
        let (seen, end) = events.read(position, PAGE);
        position = end;
        for event in seen {
            if let Event::Transition(transition) = &*event
                && transition.state == UnitState::Failed
            {
                failed(&directory, &daemon, &transition.unit).await;
                // Sync waits for nothing else, and failures take their time each.
                drain_if_due(&mut drained, &directory, &daemon).await;
            }
        }
    }
}

async fn drain_if_due(drained: &mut Option<impl FnOnce()>, directory: &Path, daemon: &DaemonHandle) {
    let snapshot = daemon.snapshot();
    if snapshot.phase == Phase::Stopping
        && let Some(drained) = drained.take()
    {
        drain(directory.to_owned(), daemon.clone(), snapshot).await;
        drained();
    }
}

async fn failed(directory: &Path, daemon: &DaemonHandle, unit: &str) {
    let Ok(why) = explain(daemon, unit, LINES).await else { return };
    let at = Time(jiff::Timestamp::now());
    let postmortem = Postmortem { at, why };
    let text = masked(serde_json::to_value(&postmortem).unwrap_or_default(), &daemon.mask).to_string();
    let (directory, unit) = (directory.to_owned(), unit.to_owned());
    let name = format!("{unit}.failed-{}.json", at.0.strftime("%Y%m%dT%H%M%S"));
    on_a_thread(move || {
        write(&directory, &name, text.as_bytes())?;
        prune(&directory, &unit)
    })
    .await;
}

/// All units as they are when the drain begins, so that sync, which drains last, can still carry it out.
async fn drain(directory: PathBuf, daemon: DaemonHandle, snapshot: Arc<Snapshot>) {
    on_a_thread(move || {
        let at = Time(jiff::Timestamp::now());
        let names: Vec<String> = snapshot.units.iter().map(|unit| unit.status.name.clone()).collect();
        let mut lines = daemon.logs.last_of_each(&names, LINES);
        let why = |name: &String| Why::new(&snapshot, name, Vec::new(), lines.remove(name).unwrap_or_default());
        let all: Vec<Postmortem> = names.iter().filter_map(why).map(|why| Postmortem { at, why }).collect();
        let text = masked(serde_json::to_value(&all).unwrap_or_default(), &daemon.mask).to_string();
        write(&directory, "drain.json", text.as_bytes())
    })
    .await;
}

async fn on_a_thread(work: impl FnOnce() -> io::Result<()> + Send + 'static) {
    if let Ok(Err(error)) = tasks::spawn_blocking(work).await {
        tracing::warn!("keeping a postmortem: {error}");
    }
}

fn write(directory: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let fresh = directory.join(format!("{name}.new"));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&fresh)?;
    file.write_all(text)?;
    std::fs::rename(fresh, directory.join(name))
}

/// Keeps a unit's latest failures alone: their names sort by time.
fn prune(directory: &Path, unit: &str) -> io::Result<()> {
    let prefix = format!("{unit}.failed-");
    let entries = std::fs::read_dir(directory)?.flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with(&prefix))
        .collect();
    names.order();
    for name in names.iter().take(names.len().saturating_sub(KEPT)) {
        std::fs::remove_file(directory.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_failures_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for second in 0..9 {
            write(dir.path(), &format!("dev.failed-20260203T14021{second}.json"), b"{}").unwrap();
            write(dir.path(), "drain.json", b"{}").unwrap();
            prune(dir.path(), "dev").unwrap();
        }
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 6);
        assert_eq!(names[5], "drain.json");
        assert_eq!(names[0], "dev.failed-20260203T140214.json");
    }
}
