//! The start: everything is opened, however long the store cannot be reached, and compared once.

use super::{Options, Worker};
use crate::sd_notify;
use crate::sync::arrive::Silent;
use crate::sync::deletes::Deletes;
use crate::sync::engine::Engine;
use crate::sync::error::SyncError;
use crate::sync::lanes::{Lanes, Moment};
use crate::sync::lease::{Before, Claim, Lease, check_owner};
use crate::sync::project::Project;
use crate::sync::status::{Part, State};
use crate::sync::watch::Watch;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Opens everything and makes the first comparison.
pub(super) async fn begin(project: Project, options: Options, tell: watch::Sender<Part>) -> Result<Worker, SyncError> {
    tracing::info!(
        "keeping {} in {} as {} of {}",
        project.root.path().display(),
        project.store.name(),
        project.sandbox,
        project.id
    );
    let engine = open(project, &tell).await?;
    let mut worker = Worker::new(engine, options, tell);
    let engine = &worker.engine;
    let in_step = engine.index.restored && engine.index.manifest == engine.manifest_etag && !engine.may_have_lost_bytes();
    if worker.options.hold && !worker.engine.index.restored {
        worker.resting = State::Held;
    } else if !in_step {
        worker.show(State::Restoring);
        let (tell, engine) = (worker.tell.clone(), &mut worker.engine);
        patiently(&tell, async || engine.arrive(&Silent).await).await?;
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

/// Takes the right to write and reads what is known here and there.
async fn open(project: Project, tell: &watch::Sender<Part>) -> Result<Engine, SyncError> {
    let (store, id) = (&*project.store, &project.id);
    let before = patiently(tell, async || check_owner(store, id, Claim::Yes).await).await?;
    let lease = patiently(tell, async || Lease::take(store, id, &project.sandbox, before).await).await?;
    let mut engine = Engine::prepare(project)?;
    if before == Before::Perhaps {
        patiently(tell, async || engine.reload_manifest().await).await?;
    }
    engine.set_lease(lease);
    engine.replay();
    Ok(engine)
}

/// Tries until it succeeds, or until nothing but a person can help.
async fn patiently<T>(tell: &watch::Sender<Part>, mut act: impl AsyncFnMut() -> Result<T, SyncError>) -> Result<T, SyncError> {
    let mut wait = FIRST_WAIT;
    loop {
        match act().await {
            Ok(done) => return Ok(done),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => offline(tell, &error),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
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
    fn new(engine: Engine, options: Options, tell: watch::Sender<Part>) -> Self {
        let project = &engine.project;
        Self {
            lanes: Lanes::new(project.batch_files, project.batch_interval),
            expires_at: project.expires_at,
            collect_at: options.collect_after,
            engine,
            ahead: Vec::new(),
            watch: Watch::new(),
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
            beside_is_due: true,
            pack_at: None,
            held: None,
            left_out: BTreeMap::new(),
            excluded_changed: BTreeSet::new(),
            last_upload_at: None,
        }
    }
}
