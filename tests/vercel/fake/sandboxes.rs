//! Named sandboxes: create, get and resume, list, update, fork, delete.

use crate::command::{End, bad};
use crate::model::{Fake, Sandbox, Session, World, new_id, not_found, now};
use crate::reply::{self, Answer, Response, all_of_query, query};
use crate::vm::{self, Generation, Vm};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::sync::Arc;

type Here = State<Arc<Fake>>;

pub(crate) fn routes() -> axum::Router<Arc<Fake>> {
    axum::Router::new()
        .route("/v3/sandboxes", post(create_image))
        .route("/v2/sandboxes", post(create_runtime).get(list))
        .route("/v2/sandboxes/{name}", get(get_one).patch(update).delete(delete))
        .route("/v2/sandboxes/{name}/fork", post(fork))
}

async fn create_image(State(fake): Here, Json(body): Json<Value>) -> Answer {
    if body["runtime"].is_string() {
        return Err(bad("Invalid request: `runtime` is not allowed here."));
    }
    let image = body["image"].as_str().unwrap_or("vercel/sandbox/universal").to_owned();
    create(&fake, body, Generation::Image(format!("{image}@sha256:{}", "0".repeat(64)))).await
}

async fn create_runtime(State(fake): Here, Json(body): Json<Value>) -> Answer {
    let runtime = body["runtime"].as_str().unwrap_or("node24").to_owned();
    if !["node22", "node24", "node26", "python3.13"].contains(&runtime.as_str()) {
        return Err(bad(&format!("Invalid request: `runtime` `{runtime}` is not supported.")));
    }
    create(&fake, body, Generation::Runtime(runtime)).await
}

fn check(fake: &Fake, body: &Value) -> Result<Vec<u16>, Response> {
    if body["projectId"] != fake.settings.project.as_str() {
        return Err(reply::error(404, "not_found", "Project not found."));
    }
    let ports: Vec<u16> = match &body["ports"] {
        Value::Null => Vec::new(),
        ports => serde_json::from_value(ports.clone()).map_err(|_| bad("Invalid request: `ports` should be an array of port numbers."))?,
    };
    if ports.len() > 15 {
        return Err(bad("Invalid request: `ports` should NOT have more than 15 items."));
    }
    if body["timeout"]
        .as_u64()
        .is_some_and(|timeout| timeout > fake.settings.max_timeout_ms || timeout < 1000)
    {
        return Err(reply::error(
            400,
            "sandbox_timeout_invalid",
            "The timeout is not within the limits of your plan.",
        ));
    }
    if body["tags"].as_object().is_some_and(|tags| tags.len() > 5) {
        return Err(bad("Invalid request: `tags` should NOT have more than 5 properties."));
    }
    Ok(ports)
}

async fn create(fake: &Arc<Fake>, body: Value, generation: Generation) -> Answer {
    let ports = check(fake, &body)?;
    let name = body["name"]
        .as_str()
        .map_or_else(|| new_id("sandbox").replace('_', "-"), str::to_owned);
    let source = body["source"].clone();
    let from = match source["type"].as_str() {
        Some("snapshot") => Some(snapshot_of(fake, &source)?),
        _ => None,
    };
    let sandbox = Sandbox {
        name: name.clone(),
        persistent: body["persistent"].as_bool().unwrap_or(true),
        timeout_ms: body["timeout"].as_u64().unwrap_or(300_000),
        ports,
        generation: from.as_ref().map_or(generation, |(_, generation)| generation.clone()),
        created_at: now(),
        updated_at: now(),
        session: String::new(),
        snapshot: None,
        loses_disk: false,
        body,
    };
    // The name is taken before anything takes time, so that of two who ask at once one is refused.
    take_name(&mut fake.world.lock().unwrap(), &sandbox)?;
    let made = make(fake, &sandbox, from.as_ref().map(|(id, _)| id.as_str()), &source).await;
    if made.is_err() {
        fake.world.lock().unwrap().sandboxes.remove(&name);
        let _ = std::fs::remove_dir_all(fake.disk(&name));
    }
    made?;
    show(fake, &name, false)
}

fn snapshot_of(fake: &Fake, source: &Value) -> Result<(String, Generation), Response> {
    let id = source["snapshotId"].as_str().unwrap_or_default();
    let world = fake.world.lock().unwrap();
    let snapshot = world.snapshots.get(id).filter(|snapshot| snapshot.status == "created");
    let snapshot = snapshot.ok_or_else(|| reply::error(410, "snapshot_not_found", &format!("Snapshot not found: {id}")))?;
    Ok((id.to_owned(), snapshot.generation.clone()))
}

fn take_name(world: &mut World, sandbox: &Sandbox) -> Result<(), Response> {
    if world.sandboxes.contains_key(&sandbox.name) {
        let message = format!("A sandbox with the name '{}' already exists for this project.", sandbox.name);
        return Err(bad(&message));
    }
    let session = Session {
        status: "pending",
        ..new_session(sandbox)
    };
    let sandbox = Sandbox {
        session: session.id.clone(),
        ..sandbox.clone()
    };
    world.sessions.insert(session.id.clone(), session);
    world.sandboxes.insert(sandbox.name.clone(), sandbox);
    Ok(())
}

async fn make(fake: &Arc<Fake>, sandbox: &Sandbox, snapshot: Option<&str>, source: &Value) -> Result<(), Response> {
    let disk = fake.disk(&sandbox.name);
    match snapshot {
        Some(id) => vm::copy(&fake.snapshot_disk(id), &disk).await,
        None => vm::format(&disk, &sandbox.generation).await,
    }
    match source["type"].as_str() {
        Some("git") => clone(&disk, &sandbox.generation, source).await?,
        Some("tarball") => return Err(bad("this double has no tarball sources")),
        _ => {}
    }
    start_session(fake, &sandbox.name, snapshot).await
}

/// Clones from the host, as the platform does from outside the VM: into the working directory, owned by its user.
async fn clone(disk: &std::path::Path, generation: &Generation, source: &Value) -> Result<(), Response> {
    let mut url = source["url"].as_str().unwrap_or_default().to_owned();
    if let (Some(user), Some(password)) = (source["username"].as_str(), source["password"].as_str()) {
        url = url.replacen("://", &format!("://{user}:{password}@"), 1);
    }
    let into = disk.join(generation.cwd().trim_start_matches('/'));
    let script = r#"
set -e
export GIT_TERMINAL_PROMPT=0 GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
cd "$1"
git init -q -b main
git remote add origin "$3"
if [ -n "$4" ]; then depth="--depth=$4"; fi
git fetch -q $depth origin "${5:-HEAD}"
if git ls-remote -q --exit-code --heads origin "refs/heads/$5" >/dev/null 2>&1; then git checkout -q -B "$5" FETCH_HEAD; else git checkout -q FETCH_HEAD; fi
git remote set-url origin "$6"
chown -R "$2:$2" . 2>/dev/null || true
"#;
    let output = tokio::process::Command::new("sh")
        .args(["-c", script, "clone"])
        .arg(into)
        .arg(vm::USER.to_string())
        .arg(&url)
        .arg(source["depth"].as_u64().map_or(String::new(), |depth| depth.to_string()))
        .arg(source["revision"].as_str().unwrap_or_default())
        .arg(source["url"].as_str().unwrap_or_default())
        .output()
        .await
        .expect("sh runs");
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).replace(&url, source["url"].as_str().unwrap_or_default());
    Err(bad(&format!("Failed to clone the repository: {}", message.trim())))
}

fn new_session(sandbox: &Sandbox) -> Session {
    Session {
        id: new_id("sbx"),
        sandbox: sandbox.name.clone(),
        status: "running",
        timeout_ms: sandbox.timeout_ms,
        created_at: now(),
        updated_at: now(),
        stopped_at: None,
        source_snapshot: None,
        snapshotted_at: None,
        network_policy: Some(sandbox.body["networkPolicy"].clone()).filter(|policy| !policy.is_null()),
        vm: None,
        commands: Vec::new(),
    }
}

/// Boots the machine of a sandbox whose disk is there.
async fn start_session(fake: &Arc<Fake>, name: &str, snapshot: Option<&str>) -> Result<(), Response> {
    let sandbox = fake.world.lock().unwrap().sandbox(name)?.0.clone();
    let session = Session {
        source_snapshot: snapshot.map(str::to_owned),
        ..new_session(&sandbox)
    };
    let root = fake.settings.dir.join("roots").join(&session.id);
    let vm = Vm::boot(&fake.disk(name), &root).await;
    let vm = Arc::new(vm.map_err(|error| reply::error(500, "internal_server_error", &error.to_string()))?);
    let mut world = fake.world.lock().unwrap();
    let Some(sandbox) = world.sandboxes.get_mut(name) else {
        return Err(not_found("Sandbox", name));
    };
    let pending = std::mem::replace(&mut sandbox.session, session.id.clone());
    sandbox.updated_at = now();
    if world.sessions.get(&pending).is_some_and(|session| session.status == "pending") {
        world.sessions.remove(&pending);
    }
    let id = session.id.clone();
    world.sessions.insert(id.clone(), Session { vm: Some(vm), ..session });
    drop(world);
    tokio::spawn(end_in_time(Arc::clone(fake), id));
    Ok(())
}

/// Ends a session at its deadline, wherever that moves.
async fn end_in_time(fake: Arc<Fake>, id: String) {
    loop {
        let left = {
            let world = fake.world.lock().unwrap();
            let Some(session) = world.sessions.get(&id).filter(|session| session.status == "running") else {
                return;
            };
            (session.created_at + session.timeout_ms).saturating_sub(now())
        };
        if left == 0 {
            stop_session(&fake, &id).await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(left.min(100))).await;
    }
}

/// Stops a session: its processes are gone, its files are kept if the sandbox is persistent.
pub(crate) async fn stop_session(fake: &Fake, id: &str) {
    let (vm, commands, sandbox) = {
        let mut world = fake.world.lock().unwrap();
        let Some(session) = world.sessions.get_mut(id) else { return };
        let Some(vm) = session.vm.take() else { return };
        session.status = "stopping";
        let (name, commands) = (session.sandbox.clone(), session.commands.clone());
        (vm, commands, world.sandboxes.get(&name).cloned())
    };
    for command in &commands {
        command.finish(End::Gone);
    }
    vm.off().await;
    if let Some(sandbox) = &sandbox {
        if sandbox.persistent {
            crate::snapshots::take(fake, sandbox, id).await;
        } else {
            let _ = std::fs::remove_dir_all(fake.disk(&sandbox.name));
        }
    }
    let mut world = fake.world.lock().unwrap();
    if let Some(session) = world.sessions.get_mut(id) {
        session.status = "stopped";
        session.stopped_at = Some(now());
        session.updated_at = now();
    }
}

pub(crate) fn show(fake: &Fake, name: &str, resumed: bool) -> Answer {
    let world = fake.world.lock().unwrap();
    let (sandbox, session) = world.sandbox(name)?;
    Ok(reply::json_of(&json!({
        "sandbox": sandbox.document(session), "session": session.document(sandbox), "routes": sandbox.routes(), "resumed": resumed,
    })))
}

async fn get_one(State(fake): Here, Path(name): Path<String>, uri: Uri) -> Answer {
    // Of two who resume at once one does, and one that comes while it stops waits until it has.
    let _one_at_a_time = fake.resuming.lock().await;
    while fake.world.lock().unwrap().sandbox(&name)?.1.is_stopping() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let (status, sandbox) = {
        let world = fake.world.lock().unwrap();
        let (sandbox, session) = world.sandbox(&name)?;
        (session.status, sandbox.clone())
    };
    let resume = query(&uri, "resume").as_deref() == Some("true");
    if !resume || matches!(status, "running" | "pending") {
        return show(&fake, &name, false);
    }
    if matches!(status, "stopping" | "snapshotting") {
        return Err(reply::error(422, &format!("sandbox_{status}"), &format!("Sandbox is {status}")));
    }
    let disk = fake.disk(&name);
    if sandbox.loses_disk {
        let _ = std::fs::remove_dir_all(&disk);
        if let Some(sandbox) = fake.world.lock().unwrap().sandboxes.get_mut(&name) {
            sandbox.loses_disk = false;
        }
    }
    if !disk.exists() {
        vm::format(&disk, &sandbox.generation).await;
    }
    start_session(&fake, &name, sandbox.snapshot.as_deref()).await?;
    show(&fake, &name, true)
}

async fn list(State(fake): Here, uri: Uri) -> Answer {
    let world = fake.world.lock().unwrap();
    let prefix = query(&uri, "namePrefix").unwrap_or_default();
    let tags = all_of_query(&uri, "tags");
    let status = query(&uri, "status");
    let has_tag = |sandbox: &Sandbox, tag: &String| tag.split_once(':').is_some_and(|(key, value)| sandbox.body["tags"][key] == value);
    let mut found: Vec<_> = world
        .sandboxes
        .values()
        .filter(|sandbox| sandbox.name.starts_with(&prefix) && tags.iter().all(|tag| has_tag(sandbox, tag)))
        .map(|sandbox| (sandbox, &world.sessions[&sandbox.session]))
        .filter(|(_, session)| status.as_deref().is_none_or(|status| status == session.status))
        .collect();
    found.sort_by_key(|(sandbox, _)| (sandbox.created_at, sandbox.name.clone()));
    if query(&uri, "sortBy").as_deref() == Some("name") {
        found.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    }
    if query(&uri, "sortOrder").as_deref() != Some("asc") {
        found.reverse();
    }
    let documents: Vec<Value> = found.iter().map(|(sandbox, session)| sandbox.document(session)).collect();
    Ok(page(&uri, "sandboxes", &documents))
}

/// A page of a list, and where the next one begins.
pub(crate) fn page(uri: &Uri, key: &str, all: &[Value]) -> Response {
    let number = |name: &str| query(uri, name).and_then(|value| value.parse::<usize>().ok());
    let (from, limit) = (number("cursor").unwrap_or(0), number("limit").unwrap_or(20));
    let here: Vec<&Value> = all.iter().skip(from).take(limit).collect();
    let next = (from + here.len() < all.len()).then(|| (from + here.len()).to_string());
    reply::json_of(&json!({key: here, "pagination": {"count": here.len(), "next": next}}))
}

async fn update(State(fake): Here, Path(name): Path<String>, Json(body): Json<Value>) -> Answer {
    let mut world = fake.world.lock().unwrap();
    let session = world.sandbox(&name)?.1.id.clone();
    let sandbox = world.sandboxes.get_mut(&name).expect("found");
    for (key, value) in body.as_object().into_iter().flatten() {
        sandbox.body[key] = value.clone();
    }
    sandbox.persistent = body["persistent"].as_bool().unwrap_or(sandbox.persistent);
    sandbox.timeout_ms = body["timeout"].as_u64().unwrap_or(sandbox.timeout_ms);
    if let Ok(ports) = serde_json::from_value(body["ports"].clone()) {
        sandbox.ports = ports;
    }
    sandbox.updated_at = now();
    let sandbox = sandbox.clone();
    let session = &world.sessions[&session];
    Ok(reply::json_of(
        &json!({"sandbox": sandbox.document(session), "routes": sandbox.routes()}),
    ))
}

async fn fork(State(fake): Here, Path(name): Path<String>, uri: Uri, Json(over): Json<Value>) -> Answer {
    let source = fake.world.lock().unwrap().sandbox(&name)?.0.clone();
    let mut body = source.body.clone();
    for key in ["name", "source"] {
        body.as_object_mut().expect("an object").remove(key);
    }
    for (key, value) in over.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body["projectId"] = json!(query(&uri, "projectId"));
    if let Some(snapshot) = &source.snapshot {
        body["source"] = json!({"type": "snapshot", "snapshotId": snapshot});
    }
    create(&fake, body, source.generation).await
}

async fn delete(State(fake): Here, Path(name): Path<String>) -> Answer {
    let id = fake.world.lock().unwrap().sandbox(&name)?.1.id.clone();
    if let Some(sandbox) = fake.world.lock().unwrap().sandboxes.get_mut(&name) {
        sandbox.persistent = false;
    }
    stop_session(&fake, &id).await;
    let mut world = fake.world.lock().unwrap();
    let (sandbox, session) = world.sandbox(&name)?;
    let document = sandbox.document(session);
    world.sandboxes.remove(&name);
    let _ = std::fs::remove_dir_all(fake.disk(&name));
    Ok(reply::json_of(&json!({"sandbox": document})))
}
