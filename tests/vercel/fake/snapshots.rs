//! Snapshots of a sandbox's disk.

use crate::model::{Fake, Sandbox, Snapshot, new_id, not_found, now};
use crate::reply::{self, Answer, query};
use crate::sandboxes::{page, stop_session};
use crate::vm;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;

type Here = State<Arc<Fake>>;

pub(crate) fn routes() -> axum::Router<Arc<Fake>> {
    axum::Router::new()
        .route("/v2/sandboxes/sessions/{session}/snapshot", post(create))
        .route("/v3/sandboxes/sessions/{session}/snapshot", post(create))
        .route("/v2/sandboxes/snapshots", get(list))
        .route("/v2/sandboxes/snapshots/{snapshot}", get(one).delete(delete))
}

/// Copies the disk of a sandbox whose machine is off, and makes that what it resumes from.
pub(crate) async fn take(fake: &Fake, sandbox: &Sandbox, session: &str) -> String {
    let id = new_id("snap");
    vm::copy(&fake.disk(&sandbox.name), &fake.snapshot_disk(&id)).await;
    let mut world = fake.world.lock().unwrap();
    let snapshot = Snapshot {
        id: id.clone(),
        sandbox: sandbox.name.clone(),
        session: session.to_owned(),
        status: "created",
        created_at: now(),
        parent: sandbox.snapshot.clone(),
        generation: sandbox.generation.clone(),
    };
    world.snapshots.insert(id.clone(), snapshot);
    if let Some(sandbox) = world.sandboxes.get_mut(&sandbox.name) {
        sandbox.snapshot = Some(id.clone());
    }
    if let Some(session) = world.sessions.get_mut(session) {
        session.snapshotted_at = Some(now());
    }
    id
}

/// Ends the session, as the service does, persistent or not.
async fn create(State(fake): Here, Path(id): Path<String>) -> Answer {
    let (session, _) = fake.running(&id)?;
    let was = {
        let mut world = fake.world.lock().unwrap();
        let sandbox = world
            .sandboxes
            .get_mut(&session.sandbox)
            .ok_or_else(|| not_found("Sandbox", &session.sandbox))?;
        std::mem::replace(&mut sandbox.persistent, true)
    };
    stop_session(&fake, &id).await;
    let mut world = fake.world.lock().unwrap();
    let sandbox = world
        .sandboxes
        .get_mut(&session.sandbox)
        .ok_or_else(|| not_found("Sandbox", &session.sandbox))?;
    sandbox.persistent = was;
    let sandbox = sandbox.clone();
    let snapshot = &world.snapshots[sandbox.snapshot.as_ref().expect("just taken")];
    Ok(reply::json_of(
        &json!({"snapshot": snapshot.document(), "session": world.sessions[&id].document(&sandbox)}),
    ))
}

async fn list(State(fake): Here, uri: Uri) -> Answer {
    let world = fake.world.lock().unwrap();
    let name = query(&uri, "name");
    let mut found: Vec<&Snapshot> = world
        .snapshots
        .values()
        .filter(|snapshot| name.as_deref().is_none_or(|name| name == snapshot.sandbox))
        .collect();
    found.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.created_at, snapshot.id.clone())));
    let documents: Vec<Value> = found.iter().map(|snapshot| snapshot.document()).collect();
    Ok(page(&uri, "snapshots", &documents))
}

async fn one(State(fake): Here, Path(id): Path<String>) -> Answer {
    let world = fake.world.lock().unwrap();
    let snapshot = world.snapshots.get(&id).ok_or_else(|| not_found("Snapshot", &id))?;
    Ok(reply::json_of(&json!({"snapshot": snapshot.document()})))
}

async fn delete(State(fake): Here, Path(id): Path<String>) -> Answer {
    let mut world = fake.world.lock().unwrap();
    let snapshot = world.snapshots.get_mut(&id).ok_or_else(|| not_found("Snapshot", &id))?;
    snapshot.status = "deleted";
    let document = snapshot.document();
    drop(world);
    let _ = std::fs::remove_dir_all(fake.snapshot_disk(&id));
    Ok(reply::json_of(&json!({"snapshot": document})))
}
