//! The worker's loop: what was touched becomes dirty, what is due is sent, what vanished is removed with care, and whoever asks is told.

mod tell;
mod touch;

use super::arrive::{Arrived, Silent};
use super::deletes::{Deletes, Held, Surroundings};
use super::door::{self, Command};
use super::engine::Engine;
use super::error::SyncError;
use super::lanes::{Lane, Lanes, Moment};
use super::path::TreePath;
use super::project::Project;
use super::status::{Flushed, Part, State};
use super::store::Store;
use super::watch::Watch;
use crate::sd_notify;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// The whole tree is walked this often, whatever the watcher says.
const WALK_EVERY: Duration = Duration::from_secs(60);
/// Events are gathered for so long before they are looked at.
const GATHER: Duration = Duration::from_millis(20);
/// The status goes out at most this often.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Everything is sent so long before the box is taken away, and at once from then on.
const BEFORE_THE_END: u64 = 60;

/// How it is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the door is; `None` for none.
    pub socket: Option<PathBuf>,
    /// Nothing is sent until a restore has completed.
    pub hold: bool,
}

struct Worker {
    engine: Engine,
    watch: Watch,
    lanes: Lanes,
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
    held: Option<Held>,
    present: usize,
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
        begun = begin(project, options, tell) => Some(begun?),
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
            }
            () = tokio::time::sleep(wait) => {}
            Some(command) = commands.recv() => worker.obey(command).await?,
            _ = drain.recv() => {
                worker.drain().await?;
            }
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

/// Opens everything, however long the store cannot be reached, and makes the first comparison.
async fn begin(project: Project, options: Options, tell: watch::Sender<Part>) -> Result<Worker, SyncError> {
    let (batch_files, batch_interval, expires_at) = (project.batch_files, project.batch_interval, project.expires_at);
    let (sandbox, id) = (project.sandbox.clone(), project.id.clone());
    tracing::info!(
        "keeping {} in {} as {sandbox} of {id}",
        project.root.path().display(),
        project.store.name()
    );
    let store = Arc::clone(&project.store);
    until_reached(&*store, &tell, async || super::lease::check_owner(&*store, &id, true).await).await?;
    let engine = open_patiently(project, &tell).await?;
    let mut worker = Worker {
        engine,
        watch: Watch::new(),
        lanes: Lanes::new(batch_files, batch_interval),
        deletes: Deletes::default(),
        started: Instant::now(),
        options,
        tell,
        told_at: None,
        told: Part::default(),
        resting: State::Idle,
        errors: 0,
        last_error: None,
        retry_at: None,
        retries: 0,
        walk_at: Moment::ZERO,
        walk_took: Duration::ZERO,
        held: None,
        present: 0,
        left_out: BTreeMap::new(),
        excluded_changed: BTreeSet::new(),
        last_upload_at: None,
        expires_at,
    };
    let in_step = worker.engine.index.restored && worker.engine.index.manifest == worker.engine.manifest_etag;
    if worker.options.hold && !worker.engine.index.restored {
        worker.resting = State::Held;
    } else if !in_step {
        worker.show(State::Restoring);
        let tell = worker.tell.clone();
        let mut wait = Duration::from_millis(500);
        loop {
            match worker.engine.arrive(&Silent).await {
                Ok(_) => break,
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    offline(&tell, &error);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(30));
                }
            }
        }
    }
    if worker.may_write() {
        let settled = worker.engine.settle_unsure().await;
        worker.judge_result(settled, Vec::new())?;
    }
    worker.engine.adopt_index();
    worker.walk();
    worker.lanes_to_front();
    if worker.may_write() {
        let buried = worker.engine.bury_leftovers().await;
        worker.judge_result(buried, Vec::new())?;
    }
    Ok(worker)
}

async fn until_reached<F>(_store: &dyn Store, tell: &watch::Sender<Part>, act: F) -> Result<(), SyncError>
where
    F: AsyncFn() -> Result<(), SyncError>,
{
    let mut wait = Duration::from_millis(500);
    loop {
        match act().await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                offline(tell, &error);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        }
    }
}

fn offline(tell: &watch::Sender<Part>, error: &SyncError) {
    tracing::warn!("{error}");
    let part = Part {
        state: State::Offline,
        errors: tell.borrow().errors + 1,
        last_error: Some(error.to_string()),
        ..Part::default()
    };
    if let Ok(json) = serde_json::to_value(&part) {
        sd_notify::part(&json);
    }
    tell.send_replace(part);
}

impl Worker {
    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn may_write(&self) -> bool {
        !matches!(self.resting, State::Held | State::Fenced)
    }

    fn next_deadline(&self) -> Moment {
        let due = [self.lanes.next_due(), self.deletes.next_due(self.held), self.end_at()];
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
        self.judge_result(result.map(|_| ()), due)
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
                self.last_upload_at = Some(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
            }
        }
        self.remove(last_look).await?;
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

    async fn obey(&mut self, command: Command) -> Result<(), SyncError> {
        match command {
            Command::Flush { confirm_deletes, reply } => {
                if confirm_deletes {
                    self.deletes.confirm();
                }
                let (flushed, result) = self.flush().await;
                let _ = reply.send(flushed);
                result
            }
            Command::Pull { reply } => self.pull(reply).await,
        }
    }

    /// Sends everything that is there now.
    async fn flush(&mut self) -> (Flushed, Result<(), SyncError>) {
        if !self.may_write() {
            let error = match self.resting {
                State::Held => "uploads are held: there was no restore",
                _ => "a newer box of this project has taken over",
            };
            return (self.flushed(false, Some(error.into())), Ok(()));
        }
        self.meet();
        self.walk();
        let mut error = None;
        let mut result = Ok(());
        // A file that changes while it is read is read again, a few times.
        for _ in 0..5 {
            let due = self.lanes.take_all();
            match self.send(&due, true).await {
                Ok(_) => {
                    result = self.judge_result(Ok(()), Vec::new());
                    if self.lanes.oldest().is_none() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(failed) => {
                    error = Some(failed.to_string());
                    result = self.judge_result(Err(failed), due);
                    break;
                }
            }
        }
        let durable = error.is_none() && self.lanes.oldest().is_none();
        (self.flushed(durable, error), result)
    }

    fn flushed(&self, durable: bool, error: Option<String>) -> Flushed {
        Flushed {
            generation: self.engine.manifest.generation,
            durable,
            pending: (self.lanes.pending(Lane::Fast) + self.lanes.pending(Lane::Batch)) as u64,
            held_deletes: self.deletes.pending() as u64,
            error,
        }
    }

    async fn pull(&mut self, reply: oneshot::Sender<Result<Arrived, String>>) -> Result<(), SyncError> {
        self.show(State::Restoring);
        let result = match self.engine.reload_manifest().await {
            Ok(()) => self.engine.arrive(&Silent).await,
            Err(error) => Err(error),
        };
        let (answer, result) = match result {
            Ok(arrived) => {
                self.engine.adopt_index();
                self.walk();
                (Ok(arrived), Ok(()))
            }
            Err(error) => (Err(error.to_string()), Err(error)),
        };
        if answer.is_ok() && self.resting == State::Held {
            self.resting = State::Idle;
        }
        let _ = reply.send(answer);
        self.judge_result(result, Vec::new())
    }

    /// Sends everything, telling the supervisor for as long as it goes on.
    async fn drain(&mut self) -> Result<(), SyncError> {
        let store = Arc::clone(&self.engine.project.store);
        let extending = tokio::spawn(async move {
            let mut before = None;
            loop {
                let now = store.requests();
                if before != Some(now) {
                    sd_notify::extend_timeout(Duration::from_secs(10));
                }
                before = Some(now);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        });
        let mut last = Ok(());
        for attempt in 0..20 {
            let (flushed, result) = self.flush().await;
            last = result;
            let later = flushed.error.is_some() && self.resting == State::Offline;
            if last.is_err() || flushed.durable || !later {
                tracing::info!("generation {} has everything: {}", flushed.generation, flushed.durable);
                break;
            }
            tokio::time::sleep(Duration::from_millis(200 << attempt.min(4))).await;
        }
        extending.abort();
        last
    }
}

async fn open_patiently(project: Project, tell: &watch::Sender<Part>) -> Result<Engine, SyncError> {
    let store = Arc::clone(&project.store);
    let (id, sandbox) = (project.id.clone(), project.sandbox.clone());
    let lease = std::sync::Mutex::new(None);
    until_reached(&*store, tell, async || {
        let taken = super::lease::Lease::take(&*store, &id, &sandbox).await?;
        *lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(taken);
        Ok(())
    })
    .await?;
    let mut engine = Engine::prepare(project)?;
    let mut wait = Duration::from_millis(500);
    loop {
        match engine.reload_manifest().await {
            Ok(()) => break,
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                offline(tell, &error);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        }
    }
    engine.set_lease(lease.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    engine.replay();
    Ok(engine)
}
