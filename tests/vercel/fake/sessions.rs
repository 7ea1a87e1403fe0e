//! Sessions: their commands, their deadline, their end.

use crate::command::{Command, End, Order, bad};
use crate::model::{Fake, Session, not_found, now};
use crate::reply::{self, Answer, query};
use crate::sandboxes::{page, stop_session};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;

type Here = State<Arc<Fake>>;
const ONE: &str = "/v2/sandboxes/sessions/{session}";

pub(crate) fn routes() -> axum::Router<Arc<Fake>> {
    let at = |rest: &str| format!("{ONE}{rest}");
    axum::Router::new()
        .route("/v2/sandboxes/sessions", get(list))
        .route(ONE, get(session))
        .route(&at("/cmd"), post(run).get(commands))
        .route(&at("/cmd/{command}"), get(command))
        .route(&at("/cmd/{command}/logs"), get(logs))
        .route(&at("/cmd/{command}/kill"), post(kill))
        .route(&at("/stop"), post(stop))
        .route(&at("/extend-timeout"), post(extend))
        .route(&at("/network-policy"), post(network))
        .route(&at("/interactive"), post(interactive))
}

fn show(fake: &Fake, id: &str) -> Answer {
    let world = fake.world.lock().unwrap();
    let session = world.sessions.get(id).ok_or_else(|| not_found("Session", id))?;
    let sandbox = world
        .sandboxes
        .get(&session.sandbox)
        .ok_or_else(|| not_found("Sandbox", &session.sandbox))?;
    Ok(reply::json_of(&json!({
        "session": session.document(sandbox), "routes": sandbox.routes(), "sandbox": sandbox.document(session),
    })))
}

async fn session(State(fake): Here, Path(id): Path<String>) -> Answer {
    show(&fake, &id)
}

async fn list(State(fake): Here, uri: Uri) -> Answer {
    let world = fake.world.lock().unwrap();
    let name = query(&uri, "name");
    let mut found: Vec<&Session> = world
        .sessions
        .values()
        .filter(|session| name.as_deref().is_none_or(|name| name == session.sandbox) && world.sandboxes.contains_key(&session.sandbox))
        .collect();
    found.sort_by_key(|session| (session.created_at, session.id.clone()));
    if query(&uri, "sortOrder").as_deref() != Some("asc") {
        found.reverse();
    }
    let documents: Vec<Value> = found
        .iter()
        .map(|session| session.document(&world.sandboxes[&session.sandbox]))
        .collect();
    Ok(page(&uri, "sessions", &documents))
}

async fn run(State(fake): Here, Path(id): Path<String>, Json(body): Json<Value>) -> Answer {
    let (session, vm) = fake.running(&id)?;
    let order: Order = serde_json::from_value(body).map_err(|error| bad(&format!("Invalid request: {error}")))?;
    // The vendor's list of differences says that a whole shell line as the command is refused.
    if order.command.is_empty() || (order.args.is_empty() && order.command.contains(' ')) {
        return Err(bad("Invalid request: `command` should be an executable."));
    }
    let (generation, env) = {
        let world = fake.world.lock().unwrap();
        let sandbox = world
            .sandboxes
            .get(&session.sandbox)
            .ok_or_else(|| not_found("Sandbox", &session.sandbox))?;
        (sandbox.generation.clone(), sandbox.body["env"].clone())
    };
    let command = Command::start(&vm, &session, &generation, &env, &order);
    let command = command.map_err(|error| reply::error(500, "internal_server_error", &error.to_string()))?;
    if let Some(session) = fake.world.lock().unwrap().sessions.get_mut(&id) {
        session.commands.insert(0, Arc::clone(&command));
    }
    if order.wait {
        return Ok(command.stream(order.logs, true));
    }
    Ok(reply::json_of(&json!({"command": command.document()})))
}

async fn commands(State(fake): Here, Path(id): Path<String>) -> Answer {
    let (session, _) = fake.running(&id)?;
    let documents: Vec<Value> = session.commands.iter().map(|command| command.document()).collect();
    Ok(reply::json_of(&json!({"commands": documents})))
}

fn find(fake: &Fake, id: &str, command: &str) -> Result<Arc<Command>, reply::Response> {
    let (session, _) = fake.running(id)?;
    let found = session.commands.iter().find(|one| one.id == command);
    found.cloned().ok_or_else(|| not_found("Command", command))
}

async fn command(State(fake): Here, Path((id, command)): Path<(String, String)>, uri: Uri) -> Answer {
    let command = find(&fake, &id, &command)?;
    if query(&uri, "wait").as_deref() == Some("true") && command.ended().await == End::Gone {
        return Err(reply::error(410, "sandbox_stopped", "Sandbox was stopped"));
    }
    Ok(reply::json_of(&json!({"command": command.document()})))
}

async fn logs(State(fake): Here, Path((id, command)): Path<(String, String)>) -> Answer {
    Ok(find(&fake, &id, &command)?.stream(true, false))
}

async fn kill(State(fake): Here, Path((id, command)): Path<(String, String)>, Json(body): Json<Value>) -> Answer {
    let command = find(&fake, &id, &command)?;
    let signal = body["signal"].as_i64().and_then(|signal| i32::try_from(signal).ok());
    command.signal(signal.ok_or_else(|| bad("Invalid request: `signal` should be a number."))?);
    Ok(reply::json_of(&json!({"command": command.document()})))
}

async fn stop(State(fake): Here, Path(id): Path<String>) -> Answer {
    if !fake.world.lock().unwrap().sessions.contains_key(&id) {
        return Err(not_found("Session", &id));
    }
    stop_session(&fake, &id).await;
    show(&fake, &id)
}

async fn extend(State(fake): Here, Path(id): Path<String>, Json(body): Json<Value>) -> Answer {
    fake.running(&id)?;
    let duration = body["duration"].as_u64().filter(|duration| *duration >= 1000);
    let duration = duration.ok_or_else(|| bad("Invalid request: `duration` should be >= 1000."))?;
    if let Some(session) = fake.world.lock().unwrap().sessions.get_mut(&id) {
        if session.timeout_ms + duration > fake.settings.max_timeout_ms {
            let message = "The requested timeout exceeds the maximum of your plan.";
            return Err(reply::error(400, "sandbox_timeout_invalid", message));
        }
        session.timeout_ms += duration;
        session.updated_at = now();
    }
    show(&fake, &id)
}

async fn network(State(fake): Here, Path(id): Path<String>, Json(body): Json<Value>) -> Answer {
    fake.running(&id)?;
    if let Some(session) = fake.world.lock().unwrap().sessions.get_mut(&id) {
        session.network_policy = Some(body);
        session.updated_at = now();
    }
    show(&fake, &id)
}

async fn interactive(State(fake): Here, Path(id): Path<String>) -> Answer {
    fake.running(&id)?;
    Ok(reply::json_of(
        &json!({"url": "wss://interactive.invalid/ws", "token": "not-served-here"}),
    ))
}
