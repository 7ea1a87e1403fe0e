//! The worker's loop: what was touched becomes dirty, what is due is sent, what vanished is removed with care, and whoever asks is told.

use super::arrive::{Arrived, Silent};
use super::deletes::{Deletes, Held, Surroundings};
use super::door::{self, Command};
use super::engine::Engine;
use super::error::SyncError;
use super::lanes::{Lane, Lanes, Moment};
use super::path::TreePath;
use super::project::Project;
use super::rules::Rules;
use super::status::{Flushed, Part, State};
use super::store::Store;
use super::walk::{Judge, Walk};
use super::watch::{Touched, Watch};
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
    worker.engine.adopt_index();
    worker.walk();
    worker.lanes_to_front();
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

    // --- what was touched

    /// Takes what the watcher says.
    fn meet(&mut self) {
        let Touched { paths, lost } = self.watch.take();
        if lost {
            tracing::info!("events were lost: the whole tree is looked at");
            self.walk();
            return;
        }
        let root = self.engine.project.root.path().to_owned();
        let mut rules_changed = false;
        let mut files = Vec::new();
        for path in paths {
            let Ok(relative) = path.strip_prefix(&root) else { continue };
            if relative.as_os_str().is_empty() {
                rules_changed = true;
                continue;
            }
            let Ok(path) = TreePath::from_relative(relative) else {
                // Its name is odd: the walk says so.
                rules_changed = true;
                continue;
            };
            rules_changed |= matches!(path.file_name(), ".gitignore" | ".sandkeepignore");
            files.push(path);
        }
        self.meet_paths(files);
        if rules_changed {
            self.walk();
        }
    }

    fn meet_paths(&mut self, paths: Vec<TreePath>) {
        let mut directories = BTreeSet::new();
        let mut dirty = Vec::new();
        {
            let project = &self.engine.project;
            let mut judge = Judge::new(&project.root, &project.rules);
            for path in paths {
                let stat = project.root.lstat(&path).ok().flatten();
                let is_directory = stat.is_some_and(|stat| stat.kind == super::beneath::Kind::Directory);
                if is_directory || self.watch.is_watched(path.as_str()) {
                    // It may be another directory under the same name.
                    self.watch.forget(&project.root, path.as_str());
                    dirty.extend(below(&self.engine.index.files, &path));
                }
                match stat {
                    None => dirty.extend(below(&self.engine.index.files, &path)),
                    Some(_) if is_directory => {
                        if judge.keeps(&path, true) {
                            directories.insert(path);
                        }
                    }
                    Some(_) if judge.keeps(&path, false) => dirty.push(path),
                    Some(_) => {
                        if self.excluded_changed.len() < 10_000 {
                            self.excluded_changed.insert(path.to_string());
                        }
                    }
                }
            }
        }
        for path in dirty {
            self.mark(path);
        }
        for directory in directories {
            if !self.watch.is_watched(directory.as_str()) {
                let project = &self.engine.project;
                match self.watch.scan(&project.root, &project.rules, directory.as_str()) {
                    Ok(walk) => self.mark_walk(walk),
                    Err(error) => tracing::debug!("{error}"),
                }
            }
        }
    }

    fn mark(&mut self, path: TreePath) {
        let lane = if Rules::is_urgent(&path) { Lane::Fast } else { Lane::Batch };
        let now = self.now();
        self.lanes.mark(path, lane, now);
    }

    /// Marks what a walk found to differ from the index.
    fn mark_walk(&mut self, walk: Walk) {
        for (path, stat) in &walk.files {
            self.deletes.back(path);
            if !self.engine.index.files.get(path).is_some_and(|entry| entry.is_unchanged(stat)) {
                self.mark(path.clone());
            }
        }
        self.engine.odd.extend(walk.odd);
    }

    /// Looks at the whole tree.
    fn walk(&mut self) {
        let begun = Instant::now();
        self.engine.project.refresh_tracked();
        if !self.engine.root_in_place() {
            self.held = Some(Held::Root);
            self.walk_at = self.now() + WALK_EVERY;
            return;
        }
        let project = &self.engine.project;
        match self.watch.scan(&project.root, &project.rules, "") {
            Ok(walk) => self.take_walk(walk),
            Err(error) => {
                self.errors += 1;
                self.last_error = Some(error.to_string());
            }
        }
        self.walk_took = begun.elapsed();
        let pause = if self.watch.polling().is_some() {
            (self.walk_took * 50).max(Duration::from_secs(5)).min(WALK_EVERY)
        } else {
            WALK_EVERY
        };
        self.walk_at = self.now() + pause;
    }

    fn take_walk(&mut self, mut walk: Walk) {
        self.present = walk.files.len();
        let missing: Vec<_> = self
            .engine
            .index
            .files
            .keys()
            .filter(|path| !walk.files.contains_key(*path))
            .cloned()
            .collect();
        for path in missing {
            // Left out by a rule since, but still there: it stays in the store as it was.
            if matches!(self.engine.project.root.lstat(&path), Ok(None)) {
                let now = self.now();
                self.deletes.gone(path, now);
            }
        }
        if self.engine.manifest.empty != walk.empty && self.engine.index.restored {
            self.engine.set_empty(walk.empty.clone());
        }
        self.engine.odd.clear();
        let left_out = std::mem::take(&mut walk.left_out);
        if !self.left_out.is_empty() {
            let changed = left_out
                .iter()
                .filter(|(path, stat)| self.left_out.get(*path).is_none_or(|before| before.mtime_ns != stat.mtime_ns));
            self.excluded_changed.extend(changed.map(|(path, _)| path.clone()).take(10_000));
        }
        self.left_out = left_out;
        self.mark_walk(walk);
    }

    /// At the start nothing waits for a batch.
    fn lanes_to_front(&mut self) {
        let now = self.now();
        for path in self.lanes.take_all() {
            self.lanes.mark(path, Lane::Fast, now.saturating_sub(Duration::from_secs(1)));
        }
    }

    // --- what is due

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

    // --- what is asked

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

    // --- what is told

    fn part(&self, state: State) -> Part {
        let requests = self.engine.project.store.requests();
        let hours = self.now().as_secs_f64().max(60.0) / 3600.0;
        Part {
            state,
            generation: self.engine.manifest.generation,
            pending: (self.lanes.pending(Lane::Fast) + self.lanes.pending(Lane::Batch)) as u64,
            pending_fast: self.lanes.pending(Lane::Fast) as u64,
            pending_batch: self.lanes.pending(Lane::Batch) as u64,
            oldest_unsynced_ms: self.lanes.oldest().map_or(0, |first| {
                u64::try_from((self.now().saturating_sub(first)).as_millis()).unwrap_or(u64::MAX)
            }),
            excluded_changed: self.excluded_changed.len() as u64,
            last_upload_at: self.last_upload_at.clone(),
            files: self.engine.index.files.len() as u64,
            bytes: self.engine.index.bytes(),
            errors: self.errors,
            last_error: self.last_error.clone(),
            held_deletes: self.deletes.pending() as u64,
            held_because: self.held.map(|held| held.to_string()),
            conflicts: self.engine.tally.conflicts,
            odd: self
                .engine
                .odd
                .iter()
                .take(20)
                .map(|(path, why)| (path.clone(), why.clone()))
                .collect(),
            watching: self
                .watch
                .polling()
                .map_or_else(|| "inotify".to_owned(), |why| format!("polling: {why}")),
            requests: requests.into(),
            cost_per_hour: requests.cost() / hours,
        }
    }

    fn show(&mut self, state: State) {
        let part = self.part(state);
        self.tell.send_replace(part.clone());
        if self.told.state != state {
            self.say(part);
        }
    }

    fn unsaid(&self) -> bool {
        *self.tell.borrow() != self.told
    }

    fn publish(&mut self, now: bool) {
        let quiet = Part {
            // These two change by themselves and are no news.
            oldest_unsynced_ms: self.told.oldest_unsynced_ms,
            cost_per_hour: self.told.cost_per_hour,
            ..self.part(self.resting)
        };
        let news = quiet != self.told;
        self.tell.send_replace(if news { self.part(self.resting) } else { quiet });
        let due = self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if now || (news && due) {
            let part = self.tell.borrow().clone();
            self.say(part);
        }
    }

    fn say(&mut self, part: Part) {
        if let Ok(json) = serde_json::to_value(&part) {
            sd_notify::part(&json);
        }
        self.told = part;
        self.told_at = Some(Instant::now());
    }
}

/// The index's files at or below a path.
fn below<T>(files: &BTreeMap<TreePath, T>, path: &TreePath) -> Vec<TreePath> {
    let prefix = format!("{path}/");
    let inside = files
        .range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded))
        .map(|(path, _)| path)
        .take_while(|path| path.as_str().starts_with(&prefix));
    inside.chain(files.contains_key(path).then_some(path)).cloned().collect()
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
