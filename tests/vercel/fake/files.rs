//! Files of a running session, as its user writes and reads them.

use crate::command::bad;
use crate::model::{Fake, not_found};
use crate::reply::{self, Answer, Response};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use std::process::{Output, Stdio};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

pub(crate) fn routes() -> axum::Router<Arc<Fake>> {
    axum::Router::new()
        .route("/v2/sandboxes/sessions/{session}/fs/write", post(write))
        .route("/v2/sandboxes/sessions/{session}/fs/read", post(read))
        .route("/v2/sandboxes/sessions/{session}/fs/mkdir", post(mkdir))
        .layer(DefaultBodyLimit::disable())
}

/// Runs a program in the session for a request of its own, with something on standard input.
async fn within(fake: &Fake, id: &str, sudo: bool, cwd: Option<&str>, program: &[&str], input: &[u8]) -> Result<Output, Response> {
    let (session, vm) = fake.running(id)?;
    let generation = {
        let world = fake.world.lock().unwrap();
        let sandbox = world
            .sandboxes
            .get(&session.sandbox)
            .ok_or_else(|| not_found("Sandbox", &session.sandbox))?;
        sandbox.generation.clone()
    };
    let mut command = vm.command(&generation, cwd.unwrap_or(generation.cwd()), sudo);
    command
        .args(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("nsenter runs");
    let mut stdin = child.stdin.take().expect("piped");
    let feed = async {
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let (output, ()) = tokio::join!(child.wait_with_output(), feed);
    Ok(output.expect("its output"))
}

/// A gzipped tar, unpacked as the sandbox's user, below the directory of `x-cwd` or the home.
async fn write(State(fake): State<Arc<Fake>>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    if headers.get("content-type").is_none_or(|kind| kind != "application/gzip") {
        return Err(bad("Invalid request: the content type should be application/gzip."));
    }
    let cwd = headers.get("x-cwd").and_then(|cwd| cwd.to_str().ok());
    // Directories on the way are made; what they exist as stays. No owner out of the archive.
    let tar = ["tar", "--extract", "--gzip", "--file=-", "--no-same-owner", "--unlink-first"];
    let home = fake.running(&id).map(|_| "/")?;
    let output = within(&fake, &id, false, Some(cwd.unwrap_or(home)), &tar, &body).await?;
    if output.status.success() {
        return Ok(reply::json_of(&json!({})));
    }
    Err(bad(&format!(
        "Failed to write files: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

#[derive(serde::Deserialize)]
struct Place {
    path: String,
    cwd: Option<String>,
    #[serde(default)]
    recursive: bool,
}

async fn read(State(fake): State<Arc<Fake>>, Path(id): Path<String>, Json(place): Json<Place>) -> Answer {
    let output = within(&fake, &id, false, place.cwd.as_deref(), &["cat", "--", &place.path], b"").await?;
    if !output.status.success() {
        return Err(not_found("File", &place.path));
    }
    let mut response = Response::new(Body::from(output.stdout));
    response
        .headers_mut()
        .insert("content-type", axum::http::HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// Leaves a directory that is root's, as the service does.
async fn mkdir(State(fake): State<Arc<Fake>>, Path(id): Path<String>, Json(place): Json<Place>) -> Answer {
    let mut program = vec!["mkdir"];
    program.extend(place.recursive.then_some("-p"));
    program.extend(["--", &place.path]);
    let output = within(&fake, &id, true, place.cwd.as_deref(), &program, b"").await?;
    if output.status.success() {
        return Ok(reply::json_of(&Value::Object(serde_json::Map::new())));
    }
    Err(bad(&format!("mkdir failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
