//! The app's three actions, and the sandboxes' reports.

use super::{Json, answer};
use crate::control::document::{StatusDocument, Time};
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::fleet::Heard;
use crate::sandbox::look::{Condition, Report};
use crate::sandbox::record::check_name;
use crate::sandbox::serve::answers::{Accepted, SandboxList, SandboxRow, Worker, WorkerStopped};
use crate::sandbox::serve::api::App;
use crate::sandbox::serve::operation::Operation;
use crate::sandbox::serve::order::StartBody;
use crate::sandbox::serve::problem::{Problem, ProblemCode, ProblemDocument};
use crate::tasks;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The lines of a worker's `logs`.
const LINES: usize = 100;
/// How long a sandbox may take to say how it does.
const LOOK_TIME: Duration = Duration::from_secs(30);

/// Starts a sandbox with its worker, or makes sure that the one of `sandboxId` is as it should be.
#[utoipa::path(post, path = "/v1/sandboxes", tag = "sandboxes", request_body = StartBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "the same key is the same start, also after a restart of the server; values of `environment` are not compared")),
    responses((status = 202, description = "taken; `Location` is the operation", body = Accepted),
        (status = 400, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "it is being started otherwise, or stopped", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "the key was used for another request", body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn start(
    State(app): State<App>,
    headers: HeaderMap,
    Json(body): Json<StartBody>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    let (order, environment) = body.checked()?;
    let taken = app.desk.take(order, environment, key).await?;
    app.uses.tell(&taken.sandbox_id);
    let accepted = Accepted {
        operation_id: taken.operation_id,
        sandbox_id: taken.sandbox_id,
    };
    let mut response = answer(StatusCode::ACCEPTED, &accepted);
    let place = format!("/v1/operations/{}", accepted.operation_id);
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    if taken.replayed {
        let name = HeaderName::from_static("idempotent-replayed");
        response.headers_mut().insert(name, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// draft-ietf-httpapi-idempotency-key-header: a quoted string; what others send bare is taken too.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(HeaderName::from_static("idempotency-key")) else {
        return Ok(None);
    };
    let wrong = || Problem::new(ProblemCode::BadRequest, "the Idempotency-Key is not 1 to 255 visible characters");
    let text = value.to_str().map_err(|_| wrong())?.trim();
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let fits = (1..=255).contains(&bare.len()) && bare.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(Some(bare.to_owned())) } else { Err(wrong()) }
}

/// All sandboxes: those that were started from here, and those that report here.
#[utoipa::path(get, path = "/v1/sandboxes", tag = "sandboxes", responses((status = 200, body = SandboxList)))]
pub(in crate::sandbox::serve) async fn list(State(app): State<App>) -> Result<Response, Problem> {
    let sandboxes = rows(&app).await?.into_values().collect();
    Ok(answer(StatusCode::OK, &SandboxList { sandboxes }))
}

/// A sandbox in short, without asking it.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = "sandboxes", params(("id" = String, Path, description = "the sandbox")),
    responses((status = 200, body = SandboxRow), (status = 404, body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let row = rows(&app).await?.remove(&id);
    Ok(answer(StatusCode::OK, &row.ok_or_else(|| Problem::no_such_sandbox(&id))?))
}

async fn rows(app: &App) -> Result<BTreeMap<String, SandboxRow>, Problem> {
    let sandboxes = app.sandboxes.clone();
    let known = tasks::spawn_blocking(move || sandboxes.known()).await;
    let known = known.unwrap_or_else(|error| Err(Fault::new(Code::Record, format!("reading the records: {error}"))))?;
    let empty = |id: &str| SandboxRow {
        sandbox_id: id.to_owned(),
        provider: None,
        repo: None,
        branch: None,
        preview_url: None,
        created_at: None,
        expires_at: None,
        operation_id: None,
        operation_state: None,
        fleet: None,
    };
    let mut rows = BTreeMap::new();
    for known in known {
        let row = SandboxRow {
            provider: Some(known.provider),
            repo: known.repo,
            branch: known.branch,
            preview_url: known.preview_url,
            created_at: Some(known.created_at),
            expires_at: known.expires_at,
            ..empty(&known.sandbox_id)
        };
        rows.insert(known.sandbox_id, row);
    }
    for (id, (operation, state)) in app.desk.latest().await? {
        // A start that failed leaves no sandbox: it is an operation, and nothing else.
        if state.is_over() && !rows.contains_key(&id) {
            continue;
        }
        let row = rows.entry(id).or_insert_with_key(|id| empty(id));
        row.operation_id = Some(operation);
        row.operation_state = Some(state);
    }
    for fleet in app.fleet.rows().await? {
        let row = rows.entry(fleet.sandbox_id.clone()).or_insert_with_key(|id| empty(id));
        row.fleet = Some(fleet);
    }
    Ok(rows)
}

/// Whether a sandbox's worker runs, its pid, its last lines, and the status document.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/worker", tag = "sandboxes", params(("id" = String, Path, description = "the sandbox")),
    responses((status = 200, body = Worker),
        (status = 404, body = ProblemDocument, content_type = "application/problem+json"),
        (status = 504, description = "the sandbox does not answer", body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn worker(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    check_name(&id)?;
    app.uses.tell(&id);
    let operation = app.desk.last_of(&id).await?;
    let starting = operation.as_ref().filter(|operation| !operation.state.is_over());
    let worker = match look(&app, &id).await? {
        Some(report) => {
            if let Some(document) = &report.status {
                app.fleet.learned(&id, Heard::Document(Arc::new(document.clone()))).await?;
            }
            let lines = lines(&app, &id, report.condition).await;
            told(&id, report, lines, starting)
        }
        // A start has only begun: there is nothing yet that could be asked.
        None if starting.is_some() => nothing_yet(&id, starting),
        None => return Err(gone(&id, operation.as_ref())),
    };
    Ok(answer(StatusCode::OK, &worker))
}

/// `None` if there is no such sandbox.
async fn look(app: &App, id: &str) -> Result<Option<Report>, Problem> {
    let looked = tokio::time::timeout(LOOK_TIME, app.sandboxes.look(id.to_owned())).await;
    let late = |_| {
        Fault::new(
            Code::Unreachable,
            format!("`{id}` did not say how it does within {} s", LOOK_TIME.as_secs()),
        )
    };
    match looked.map_err(late)? {
        Ok(report) => Ok(Some(report).filter(|report| report.condition != Condition::NoSuchSandbox)),
        Err(fault) if fault.code == Code::NoSuchSandbox => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

fn gone(id: &str, operation: Option<&Operation>) -> Problem {
    let mut problem = Problem::no_such_sandbox(id);
    if let Some(failure) = operation.and_then(|operation| operation.failure.as_ref()) {
        problem.document.detail = format!("no sandbox has the id `{id}`: its start failed: {}", failure.message);
        problem.document.hint.clone_from(&failure.hint);
        problem.document.output.clone_from(&failure.output);
    }
    problem
}

async fn lines(app: &App, id: &str, condition: Condition) -> Result<String, Fault> {
    if condition == Condition::Gone {
        return Ok(String::new());
    }
    let asked = tokio::time::timeout(LOOK_TIME, app.sandboxes.lines(id.to_owned(), LINES)).await;
    asked.unwrap_or_else(|_| Err(Fault::new(Code::Unreachable, "its lines did not come in time")))
}

fn told(id: &str, report: Report, lines: Result<String, Fault>, starting: Option<&Operation>) -> Worker {
    let mut warnings = report.unsaved.map(|unsaved| unsaved.warnings()).unwrap_or_default();
    let logs = lines.unwrap_or_else(|fault| {
        warnings.push(format!("the logs are missing: {}", fault.message));
        String::new()
    });
    let is_running = matches!(report.condition, Condition::Ready | Condition::NotReady);
    Worker {
        sandbox_id: id.to_owned(),
        is_running,
        pid: report.status.as_ref().filter(|_| is_running).map(|status| status.pid),
        logs,
        condition: report.condition,
        reason: report.reason,
        preview_url: report.url,
        expires_at: report.expires_at.map(Time),
        operation_id: starting.map(|operation| operation.operation_id.clone()),
        unsaved: report.unsaved.map(Into::into),
        warnings,
        status: report.status,
    }
}

fn nothing_yet(id: &str, starting: Option<&Operation>) -> Worker {
    let step = starting.and_then(|operation| operation.steps.last());
    let reason = match step {
        Some(step) => format!("it is being started: {}", step.step),
        None => "it is being started".to_owned(),
    };
    Worker {
        sandbox_id: id.to_owned(),
        is_running: false,
        pid: None,
        logs: String::new(),
        condition: Condition::NoSupervisor,
        reason: Some(reason),
        preview_url: None,
        expires_at: None,
        operation_id: starting.map(|operation| operation.operation_id.clone()),
        unsaved: None,
        warnings: Vec::new(),
        status: None,
    }
}

/// Stops a sandbox's worker, drained (sync is flushed), and ends the sandbox; `POST /v1/sandboxes` with its id starts it again. A start that
/// is under way ends first. It goes on when the caller goes away.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/worker/stop", tag = "sandboxes", params(("id" = String, Path, description = "the sandbox")),
    responses((status = 200, body = WorkerStopped), (status = 404, body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn stop(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    check_name(&id)?;
    let stopped = app.desk.stop(&id).await?;
    let stopped = WorkerStopped {
        sandbox_id: id,
        is_running: false,
        drained: stopped.drained,
        already: stopped.already,
        unsaved: stopped.unsaved.map(Into::into),
        warnings: stopped.warnings,
    };
    Ok(answer(StatusCode::OK, &stopped))
}

/// Takes a sandbox's status document: where `[report] url` of its supervisor leads.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/report", tag = "fleet", request_body = StatusDocument,
    params(("id" = String, Path, description = "the sandbox"),
        ("key" = Option<String>, Query, description = "good for this sandbox alone, instead of the bearer token")),
    responses((status = 204, description = "taken"), (status = 400, body = ProblemDocument, content_type = "application/problem+json")))]
pub(in crate::sandbox::serve) async fn report(
    State(app): State<App>,
    Path(id): Path<String>,
    Json(document): Json<StatusDocument>,
) -> Result<StatusCode, Problem> {
    check_name(&id)?;
    app.fleet.report(id, Heard::Document(Arc::new(document))).await?;
    Ok(StatusCode::NO_CONTENT)
}
