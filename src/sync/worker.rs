//! The worker's loop: what was touched becomes dirty, what is due is sent, what vanished is removed with care, and whoever asks is told.

mod ask;
mod begin;
mod tell;
mod touch;

use super::deletes::{Deletes, Held, Surroundings};
use super::door;
use super::engine::Engine;
use super::error::SyncError;
use super::gc::KEEP_GENERATIONS;
use super::lanes::{Lane, Lanes, Moment};
use super::pack::Allowed;
use super::path::TreePath;
use super::project::Project;
use super::status::{Part, State};
use super::watch::Watch;
use crate::sd_notify;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// Events are gathered for so long before they are looked at.
const GATHER: Duration = Duration::from_millis(20);
/// What can be done before configuration is due may take so long.
const LOOK_AHEAD: Duration = Duration::from_secs(2);
/// The status goes out at most this often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Everything is sent so long before the box is taken away, and at once from then on.
const BEFORE_THE_END: u64 = 60;
/// After so long without work the pack is looked at,
const PACK_AFTER: Duration = Duration::from_secs(10);
/// and after so long it is to be as good as new.
const PACK_WHOLE_AFTER: Duration = Duration::from_secs(60);

/// How it is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the door is; `None` for none.
    pub socket: Option<PathBuf>,
    /// Nothing is sent until a restore has completed.
    pub hold: bool,
    /// The whole tree is walked this often, whatever the watcher says.
    pub walk_every: Duration,
    /// When what is no longer needed is collected for the first time,
    pub collect_after: Duration,
    /// and how long after each time again.
    pub collect_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            socket: None,
            hold: false,
            walk_every: Duration::from_secs(60),
            collect_after: Duration::from_secs(600),
            collect_every: Duration::from_secs(6 * 3600),
        }
    }
}

struct Worker {
    engine: Engine,
    watch: Watch,
    lanes: Lanes,
    /// Configuration that was touched since it was last looked ahead.
    ahead: Vec<TreePath>,
    deletes: Deletes,
    started: Instant,
    options: Options,
    tell: watch::Sender<Part>,
    told_at: Option<Instant>,
    told: Part,
    /// The state when nothing is going on.
    resting: State,
    errors: u64,
    last_error: Option<String>,
    retry_at: Option<Moment>,
    retries: u32,
    walk_at: Moment,
    walk_took: Duration,
    /// Transcripts and postmortems are to be looked at.
    beside_is_due: bool,
    /// When the pack is to be looked at, and how much of it may be stale then.
    pack_at: Option<(Moment, Allowed)>,
    collect_at: Moment,
    held: Option<Held>,
    left_out: BTreeMap<String, super::beneath::Stat>,
    excluded_changed: BTreeSet<String>,
    last_upload_at: Option<String>,
    expires_at: Option<i64>,
}

/// Runs until it is told to stop, then sends what is left. Returns when that is done, or with what no later attempt can mend.
pub async fn run(project: Project, options: Options) -> Result<(), SyncError> {
    let _lock = project.lock()?;
    let (tell, status) = watch::channel(Part {
        state: State::Restoring,
        ..Part::default()
    });
    let (sender, mut commands) = mpsc::channel(16);
    if let Some(path) = &options.socket
        && let Err(error) = door::open(path, sender.clone(), status).await
    {
        tracing::warn!("opening the door {}: {error}", path.display());
    }
    let failed = |error| SyncError::Local {
        act: "listening to",
        path: "signals".into(),
        error,
    };
    let mut stop = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut drain = signal(SignalKind::user_defined2()).map_err(failed)?;
    let begun = tokio::select! {
        begun = begin::begin(project, options, tell) => Some(begun?),
        _ = stop.recv() => None,
        _ = interrupt.recv() => None,
    };
    let Some(mut worker) = begun else { return Ok(()) };
    sd_notify::ready();
    worker.work().await?;
    loop {
        worker.publish(false);
        let wait = worker.next_deadline().saturating_sub(worker.now());
        tokio::select! {
            () = worker.watch.touched() => {
                tokio::time::sleep(GATHER).await;
                worker.meet();
                worker.look_ahead().await;
            }
            () = tokio::time::sleep(wait) => {}
            Some(command) = commands.recv() => worker.obey(command).await?,
            _ = drain.recv() => worker.drain().await?,
            _ = stop.recv() => break,
            _ = interrupt.recv() => break,
        }
        worker.work().await?;
    }
    sd_notify::stopping();
    worker.drain().await?;
    worker.publish(true);
    if let Some(path) = &worker.options.socket {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

impl Worker {
    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn may_write(&self) -> bool {
        !matches!(self.resting, State::Held | State::Fenced)
    }

    fn next_deadline(&self) -> Moment {
        let tidy_at = self.pack_at.map_or(self.collect_at, |(at, _)| at.min(self.collect_at));
        let due = [
            self.lanes.next_due(),
            self.deletes.next_due(self.held),
            self.end_at(),
            // Only when there is nothing else to do.
            self.lanes.oldest().is_none().then_some(tidy_at),
        ];
        let due = due.into_iter().flatten().min().filter(|_| self.may_write());
        let due = match (due, self.retry_at) {
            (Some(due), Some(retry)) => Some(due.max(retry)),
            (due, retry) => due.or(retry),
        };
        let tell = self
            .unsaid()
            .then(|| self.told_at.map_or(Moment::ZERO, |at| at + TELL_EVERY - self.started));
        due.into_iter().chain(tell).fold(self.walk_at, Moment::min)
    }

    fn end_at(&self) -> Option<Moment> {
        let end = u64::try_from(self.expires_at?).ok()?.checked_sub(BEFORE_THE_END)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let left = Duration::from_secs(end).saturating_sub(now);
        // Once it has come, whatever is dirty is due.
        (left > Duration::ZERO || self.lanes.oldest().is_some()).then(|| self.now() + left)
    }

    /// Does what is due. Returns only what no later attempt can mend.
    async fn work(&mut self) -> Result<(), SyncError> {
        if self.now() >= self.walk_at {
            self.walk();
        }
        if self.retry_at.is_some_and(|at| self.now() < at) || !self.may_write() {
            return Ok(());
        }
        let ending = self.end_at().is_some_and(|at| at <= self.now());
        let due = if ending {
            self.lanes.take_all()
        } else {
            self.lanes.take_due(self.now())
        };
        let result = self.send(&due, false).await;
        let went_well = result.is_ok();
        self.judge_result(result.map(|_| ()), due)?;
        if went_well && self.lanes.oldest().is_none() {
            self.tidy().await
        } else {
            Ok(())
        }
    }

    /// What is done when there is nothing else to do.
    async fn tidy(&mut self) -> Result<(), SyncError> {
        let now = self.now();
        if let Some((_, allowed)) = self.pack_at.filter(|(at, _)| *at <= now) {
            self.pack_at = (allowed == Allowed::Fifth).then_some((now + PACK_WHOLE_AFTER, Allowed::Few));
            let packed = self.engine.keep_pack(allowed).await;
            self.judge_result(packed, Vec::new())?;
        }
        if self.collect_at <= now {
            self.collect_at = now + self.options.collect_every;
            match self.collect(KEEP_GENERATIONS).await {
                Err(error @ SyncError::Fenced(_)) => self.judge_result(Err(error), Vec::new())?,
                // Nothing hangs on it.
                Err(error) => tracing::warn!("removing what is no longer needed: {error}"),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// While configuration waits for its quiet, what sending it needs beforehand is done. Whatever goes wrong shows when it is sent.
    async fn look_ahead(&mut self) {
        let paths = std::mem::take(&mut self.ahead);
        if !paths.is_empty() && self.may_write() && self.retry_at.is_none() {
            let _ = tokio::time::timeout(LOOK_AHEAD, self.engine.send_ahead(&paths)).await;
        }
    }

    /// Sends files, removes what may be removed, writes the manifest.
    async fn send(&mut self, due: &[TreePath], last_look: bool) -> Result<u64, SyncError> {
        if !due.is_empty() {
            self.show(State::Uploading);
            let before = self.engine.tally.uploaded;
            let sent = self.engine.send(due).await?;
            let now = self.now();
            for path in sent.gone {
                if self.engine.index.files.contains_key(&path) && matches!(self.engine.project.root.lstat(&path), Ok(None)) {
                    self.deletes.gone(path, now);
                }
            }
            for path in sent.again {
                self.mark(path);
            }
            if self.engine.tally.uploaded > before {
                self.pack_at = Some((now + PACK_AFTER, Allowed::Fifth));
                self.last_upload_at = Some(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            }
        }
        self.remove(last_look).await?;
        if last_look || self.beside_is_due {
            self.engine.send_beside().await?;
            self.beside_is_due = false;
        }
        self.engine.commit(last_look).await
    }

    async fn remove(&mut self, last_look: bool) -> Result<(), SyncError> {
        if self.deletes.pending() == 0 {
            self.held = None;
            return Ok(());
        }
        // One more look: what is back by now is no longer gone.
        let waiting: Vec<_> = self.deletes.paths().cloned().collect();
        let back: Vec<_> = waiting
            .into_iter()
            .filter(|path| !matches!(self.engine.project.root.lstat(path), Ok(None)))
            .collect();
        back.iter().for_each(|path| self.deletes.back(path));
        let around = Surroundings {
            root_in_place: self.engine.root_in_place(),
            restored: self.engine.index.restored,
            present: self.present_now(),
            known: self.engine.index.files.len(),
        };
        let decision = self.deletes.take(self.now(), last_look, &around);
        if let Some(held) = decision.held.filter(|held| self.held != Some(*held)) {
            tracing::warn!("{} vanished files are held in the store: {held}", self.deletes.pending());
        }
        self.held = decision.held;
        if decision.remove.is_empty() {
            return Ok(());
        }
        self.show(State::Uploading);
        if let Err(error) = self.engine.remove(&decision.remove).await {
            let now = self.now().saturating_sub(Duration::from_secs(2));
            decision.remove.into_iter().for_each(|path| self.deletes.gone(path, now));
            return Err(error);
        }
        self.pack_at = Some((self.now() + PACK_AFTER, Allowed::Fifth));
        Ok(())
    }

    fn present_now(&self) -> usize {
        let gone: BTreeSet<_> = self.deletes.paths().collect();
        self.engine.index.files.keys().filter(|path| !gone.contains(path)).count()
    }

    /// Takes a failure: what was to be sent is dirty again, and it is tried later.
    fn judge_result(&mut self, result: Result<(), SyncError>, due: Vec<TreePath>) -> Result<(), SyncError> {
        let Err(error) = result else {
            self.retry_at = None;
            self.retries = 0;
            if self.resting == State::Offline {
                self.resting = State::Idle;
                tracing::info!("the store is there again");
            }
            self.publish(false);
            return Ok(());
        };
        due.into_iter().for_each(|path| self.mark(path));
        self.errors += 1;
        self.last_error = Some(error.to_string());
        tracing::warn!("{error}");
        if error.is_final() {
            return Err(error);
        }
        if matches!(error, SyncError::Fenced(_)) {
            self.resting = State::Fenced;
            sd_notify::status(&error.to_string());
        } else {
            self.resting = State::Offline;
            self.retries += 1;
            let wait = Duration::from_millis(500) * 2_u32.pow(self.retries.min(6));
            self.retry_at = Some(self.now() + wait.min(Duration::from_secs(30)));
        }
        self.publish(false);
        Ok(())
    }
}
