//! The supervisor as a whole: wait, reload, shut down, upgrade.

use super::units::{done, no_such_unit, outcome_or_problem, within};
use crate::control::answer::Answer;
use crate::control::daemon_handle::{Command, DaemonHandle, ReloadReply, ReloadRequest};
use crate::control::document::{StatusDocument, Upgrade};
use crate::control::params::{Params, flag, list, some_duration};
use crate::control::problem::{Code, Problem};
use crate::control::snapshot::Snapshot;
use crate::supervisor::Verb;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// The largest body of a request that is for us.
const BODY_LIMIT: usize = 256 * 1024;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// What to wait for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct WaitFor {
    /// Units with commas; all required ones if there are none.
    #[serde(default)]
    units: String,
    /// How long: `60s`; without it for as long as it takes.
    #[serde(default, deserialize_with = "some_duration")]
    #[param(value_type = Option<String>)]
    timeout: Option<Duration>,
}

/// Waits until units are ready, or one has failed.
#[utoipa::path(get, path = "/v1/wait", tag = "supervisor", params(WaitFor),
    responses((status = 200, description = "ready", body = StatusDocument), (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"), (status = 504, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn wait(State(daemon): State<DaemonHandle>, Params(what): Params<WaitFor>) -> Result<Answer, Problem> {
    let snapshot = daemon.snapshot();
    let names = list(&what.units);
    if let Some(name) = names.iter().find(|name| snapshot.unit(name).is_none()) {
        return Err(no_such_unit(name, &snapshot));
    }
    let verb = Verb::Wait(names.into_iter().map(ToOwned::to_owned).collect());
    let answer = daemon.send(|reply| Command::Verb { verb, reply }).await?;
    let outcome = within(answer, what.timeout).await?;
    let snapshot = daemon.snapshot();
    outcome_or_problem(outcome, &snapshot)?;
    Ok(Answer::ok(&snapshot.document()))
}

/// The configuration that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Whether anything differed.
    pub changed: bool,
    /// The hash of what runs.
    pub config_hash: String,
}

/// Reads the configuration again and applies the difference; an invalid one changes nothing.
#[utoipa::path(post, path = "/v1/reload", tag = "supervisor", request_body(content = Option<ReloadRequest>, content_type = "application/json"),
    responses((status = 200, body = Reloaded), (status = 409, description = "another root or id", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "invalid: `detail` has the diagnostics", body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn reload(State(daemon): State<DaemonHandle>, body: Body) -> Result<Answer, Problem> {
    let request = read_json(body).await?.unwrap_or_default();
    let answered = daemon.ask(|reply| Command::Reload { request, reply }).await;
    match answered.map_err(|error| Problem::from(error).then("what=reload"))? {
        ReloadReply::Applied { changed, config_hash } => Ok(Answer::ok(&Reloaded { changed, config_hash })),
        ReloadReply::Invalid(diagnostics) => Err(Problem::new(Code::InvalidConfig, diagnostics)),
        ReloadReply::Refused(why) => Err(Problem::new(Code::Refused, why)),
    }
}

/// How to shut down.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct ShuttingDown {
    /// One drain deadline for everything, instead of the configured one.
    #[serde(default, deserialize_with = "some_duration")]
    #[param(value_type = Option<String>)]
    timeout: Option<Duration>,
}

/// Everything is down; the supervisor's process ends next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Down {
    /// Always `done`.
    pub outcome: String,
    /// The supervisor's pid, to wait for its end.
    pub pid: i32,
}

/// Stops everything, drained, in reverse order, then ends the supervisor.
#[utoipa::path(post, path = "/v1/shutdown", tag = "supervisor", params(ShuttingDown),
    responses((status = 200, description = "everything is down", body = Down), (status = 409, description = "something is left", body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn shutdown(State(daemon): State<DaemonHandle>, Params(how): Params<ShuttingDown>) -> Result<Answer, Problem> {
    let budget = how.timeout;
    let answered = daemon.ask(|reply| Command::Shutdown { budget, reply }).await;
    let outcome = answered.map_err(|error| Problem::from(error).then("what=down"))?;
    let snapshot = daemon.snapshot();
    outcome_or_problem(outcome, &snapshot)?;
    Ok(Answer::ok(&Down {
        outcome: "done".to_owned(),
        pid: snapshot.pid,
    }))
}

/// What to upgrade to.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct UpgradeTo {
    /// An absolute path; without it the one that was started from.
    #[serde(default)]
    binary: Option<String>,
    /// Whether the workers are restarted afterwards, one by one.
    #[serde(default, deserialize_with = "flag")]
    workers: bool,
}

/// The new binary has taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgraded {
    /// The version that answers.
    pub version: String,
    /// How the last upgrade went.
    pub upgrade: Option<Upgrade>,
}

/// Executes another binary in place; on any failure nothing has changed. The answer to wait for is the next image's: a redirection.
#[utoipa::path(post, path = "/v1/upgrade", tag = "supervisor", params(UpgradeTo),
    responses((status = 303, description = "it goes on; the outcome is at `Location`", body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn upgrade(State(daemon): State<DaemonHandle>, Params(to): Params<UpgradeTo>) -> Result<Answer, Problem> {
    let UpgradeTo { binary, workers } = to;
    let binary = binary.map(Into::into);
    let answered = daemon.ask(|reply| Command::Upgrade { binary, workers, reply }).await;
    let outcome = answered.map_err(|error| Problem::from(error).then("what=upgrade"))?;
    outcome_or_problem(outcome, &daemon.snapshot())?;
    Ok(Answer::ok(&upgraded(&daemon.snapshot())))
}

fn upgraded(snapshot: &Snapshot) -> Upgraded {
    Upgraded {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        upgrade: snapshot.upgrade.clone(),
    }
}

/// What was asked for in the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum Asked {
    #[default]
    Status,
    Units,
    Reload,
    Down,
    Upgrade,
}

/// How the outcome is to be shown: as the answer to what was asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct Resuming {
    /// What was asked for.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    what: Asked,
    /// Of which units.
    #[serde(default)]
    units: String,
}

/// What became of a request that was under way when the supervisor was upgraded: where such a request is redirected to. Kept for a minute.
#[utoipa::path(get, path = "/v1/requests/{id}", tag = "supervisor", params(("id" = u64, Path, description = "the request"), Resuming),
    responses((status = 200, description = "as the request itself would have been answered", body = StatusDocument),
        (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn request(
    State(daemon): State<DaemonHandle>,
    Path(request): Path<u64>,
    Params(Resuming { what, units }): Params<Resuming>,
) -> Result<Answer, Problem> {
    let answered = daemon.ask(|reply| Command::Resume { request, reply }).await?;
    let outcome = answered.ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            format!("request {request} is not known, or its outcome was not kept"),
        )
    })?;
    let snapshot = daemon.snapshot();
    outcome_or_problem(outcome, &snapshot)?;
    Ok(match what {
        Asked::Status => Answer::ok(&snapshot.document()),
        Asked::Units => {
            let names: Vec<String> = list(&units).into_iter().map(ToOwned::to_owned).collect();
            done("done", StatusCode::OK, &snapshot, &names)
        }
        Asked::Reload => Answer::ok(&Reloaded {
            changed: true,
            config_hash: snapshot.config_hash.clone(),
        }),
        Asked::Down => Answer::ok(&Down {
            outcome: "done".to_owned(),
            pid: snapshot.pid,
        }),
        Asked::Upgrade => Answer::ok(&upgraded(&snapshot)),
    })
}

/// Reads a JSON body; `None` when it is empty.
async fn read_json<T: DeserializeOwned>(body: Body) -> Result<Option<T>, Problem> {
    let bytes = tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_LIMIT).collect())
        .await
        .map_err(|_| Problem::new(Code::BadRequest, format!("the body did not arrive within {BODY_TIME:?}")))?
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Problem::new(Code::TooLarge, format!("a body has at most {BODY_LIMIT} bytes"))
            } else {
                Problem::new(Code::BadRequest, format!("reading the body: {error}"))
            }
        })?
        .to_bytes();
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Problem::new(Code::BadRequest, format!("reading the body: {error}")))
}
