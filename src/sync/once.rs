//! Acts that are done once and end: what the command line does without a running worker.

use super::arrive::{Arrived, Progress};
use super::engine::Engine;
use super::error::SyncError;
use super::lease::{Claim, check_owner};
use super::pack::Allowed;
use super::project::Project;
use super::status::Flushed;
use super::walk::walk;
use std::time::{Duration, Instant};

/// Brings the tree in step with the store, trying again for as long as the store cannot be reached and patience lasts.
pub async fn restore(project: Project, patience: Option<Duration>, progress: &dyn Progress) -> Result<Arrived, SyncError> {
    let _lock = project.lock()?;
    let begun = Instant::now();
    let mut wait = Duration::from_millis(500);
    let mut engine = Engine::prepare(project)?;
    engine.replay();
    loop {
        match attempt(&mut engine, progress).await {
            Ok(arrived) => return Ok(arrived),
            Err(error) if error.is_final() => return Err(error),
            Err(error @ SyncError::Local { .. }) => return Err(error),
            Err(error) if patience.is_some_and(|patience| begun.elapsed() > patience) => return Err(error),
            Err(error) => {
                tracing::warn!("{error}: trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(15));
            }
        }
    }
}

async fn attempt(engine: &mut Engine, progress: &dyn Progress) -> Result<Arrived, SyncError> {
    check_owner(&*engine.project.store, &engine.project.id, Claim::No).await?;
    engine.reload_manifest().await?;
    engine.arrive(progress).await
}

/// Sends everything that differs, once.
pub async fn flush(project: Project, confirm_deletes: bool) -> Result<Flushed, SyncError> {
    let _lock = project.lock()?;
    let mut engine = Engine::open_to_write(project).await?;
    if !engine.index.restored || engine.may_have_lost_bytes() || engine.index.manifest != engine.manifest_etag {
        engine.arrive(&super::arrive::Silent).await?;
    }
    engine.settle_unsure().await?;
    engine.adopt_index();
    engine.bury_leftovers().await?;
    let found = walk(&engine.project.root, &engine.project.rules).map_err(|error| SyncError::Local {
        act: "walking",
        path: error.directory.clone(),
        error: error.error,
    })?;
    let changed = found
        .files
        .iter()
        .filter(|(path, stat)| !engine.index.files.get(*path).is_some_and(|entry| entry.is_unchanged(stat)));
    let changed: Vec<_> = changed.map(|(path, _)| path.clone()).collect();
    if engine.manifest.empty != found.empty {
        engine.set_empty(found.empty.clone());
    }
    let sent = engine.send(&changed).await?;
    engine.send_beside().await?;
    let gone: Vec<_> = engine
        .index
        .files
        .keys()
        .filter(|path| matches!(engine.project.root.lstat(path), Ok(None)))
        .cloned()
        .collect();
    let held = gone.len();
    let around = super::deletes::Surroundings {
        root_in_place: engine.root_in_place(),
        restored: true,
        present: engine.index.files.len() - held,
        known: engine.index.files.len(),
    };
    let mut deletes = super::deletes::Deletes::default();
    if confirm_deletes {
        deletes.confirm();
    }
    gone.into_iter().for_each(|path| deletes.gone(path, Duration::ZERO));
    let decision = deletes.take(Duration::ZERO, true, &around);
    if !decision.remove.is_empty() {
        engine.remove(&decision.remove).await?;
    }
    let generation = engine.commit(true).await?;
    engine.keep_pack(Allowed::Few).await?;
    engine.save_index()?;
    Ok(Flushed {
        generation,
        durable: sent.again.is_empty(),
        pending: sent.again.len() as u64,
        held_deletes: deletes.pending() as u64,
        error: decision.held.map(|held| held.to_string()),
    })
}
