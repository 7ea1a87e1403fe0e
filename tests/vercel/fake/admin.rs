//! The door for tests: orders faults, tells what was asked, does what the platform may do to a sandbox.

use crate::faults::Order;
use crate::model::Fake;
use crate::sandboxes::stop_session;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;

type Here = State<Arc<Fake>>;

pub(crate) fn routes(fake: Arc<Fake>) -> axum::Router {
    axum::Router::new()
        .route("/faults", post(order).delete(clear))
        .route("/requests", get(requests).delete(forget))
        .route("/sandboxes", get(sandboxes))
        .route("/sandboxes/{name}/stop", post(stop))
        .route("/sandboxes/{name}/lose-disk", post(lose_disk))
        .route("/sandboxes/{name}/status/{status}", post(set_status))
        .with_state(fake)
}

async fn order(State(fake): Here, Json(orders): Json<Vec<Order>>) -> StatusCode {
    fake.faults.lock().unwrap().order(orders);
    StatusCode::NO_CONTENT
}

async fn clear(State(fake): Here) -> StatusCode {
    fake.faults.lock().unwrap().clear();
    StatusCode::NO_CONTENT
}

async fn requests(State(fake): Here) -> Json<Vec<Value>> {
    Json(fake.seen.lock().unwrap().clone())
}

async fn forget(State(fake): Here) -> StatusCode {
    fake.seen.lock().unwrap().clear();
    StatusCode::NO_CONTENT
}

/// Each sandbox with its status, where its disk is on this machine, and the commands of its session.
async fn sandboxes(State(fake): Here) -> Json<Value> {
    let world = fake.world.lock().unwrap();
    let all = world.sandboxes.values().map(|sandbox| {
        let session = &world.sessions[&sandbox.session];
        let commands: Vec<Value> = session.commands.iter().map(|command| command.document()).collect();
        json!({
            "name": sandbox.name, "status": session.status, "session": session.id, "disk": fake.disk(&sandbox.name),
            "commands": commands, "expires_at": session.created_at + session.timeout_ms,
        })
    });
    Json(all.collect())
}

/// The session ends, as at its deadline.
async fn stop(State(fake): Here, Path(name): Path<String>) -> StatusCode {
    let Some(id) = session(&fake, &name) else {
        return StatusCode::NOT_FOUND;
    };
    stop_session(&fake, &id).await;
    StatusCode::NO_CONTENT
}

/// The next session begins with an empty disk.
async fn lose_disk(State(fake): Here, Path(name): Path<String>) -> StatusCode {
    let mut world = fake.world.lock().unwrap();
    let Some(sandbox) = world.sandboxes.get_mut(&name) else {
        return StatusCode::NOT_FOUND;
    };
    sandbox.loses_disk = true;
    StatusCode::NO_CONTENT
}

/// Shows the session in another state (`stopping`, `snapshotting`, `running`), whatever it is in.
async fn set_status(State(fake): Here, Path((name, status)): Path<(String, String)>) -> StatusCode {
    let Some(id) = session(&fake, &name) else {
        return StatusCode::NOT_FOUND;
    };
    let known = ["running", "stopping", "snapshotting", "failed", "aborted"];
    let Some(status) = known.into_iter().find(|known| *known == status) else {
        return StatusCode::BAD_REQUEST;
    };
    if let Some(session) = fake.world.lock().unwrap().sessions.get_mut(&id) {
        session.status = status;
    }
    StatusCode::NO_CONTENT
}

fn session(fake: &Fake, name: &str) -> Option<String> {
    fake.world
        .lock()
        .unwrap()
        .sandboxes
        .get(name)
        .map(|sandbox| sandbox.session.clone())
}
