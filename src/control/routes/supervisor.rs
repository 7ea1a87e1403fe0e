//! The supervisor as a whole: wait, reload, shut down, upgrade.

use super::units::{no_such_unit, outcome_or_problem, within};
use crate::control::answer::Answer;
use crate::control::daemon_handle::{Command, DaemonHandle, ReloadReply, ReloadRequest};
use crate::control::document::StatusDocument;
use crate::control::params::{Params, flag, list, some_duration};
use crate::control::problem::{Code, Problem};
use crate::supervisor::Verb;
use axum::body::Body;
use axum::extract::State;
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
    match daemon.ask(|reply| Command::Reload { request, reply }).await? {
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
    let outcome = daemon.ask(|reply| Command::Shutdown { budget, reply }).await?;
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

/// The new binary takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgrading {
    /// The version that is left.
    pub from: String,
}

/// Executes another binary in place; on any failure nothing has changed.
#[utoipa::path(post, path = "/v1/upgrade", tag = "supervisor", params(UpgradeTo),
    responses((status = 200, body = Upgrading), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn upgrade(State(daemon): State<DaemonHandle>, Params(to): Params<UpgradeTo>) -> Result<Answer, Problem> {
    let UpgradeTo { binary, workers } = to;
    let binary = binary.map(Into::into);
    let answer = daemon.ask(|reply| Command::Upgrade { binary, workers, reply }).await?;
    answer.map_err(|why| Problem::new(Code::Refused, why))?;
    Ok(Answer::ok(&Upgrading {
        from: env!("CARGO_PKG_VERSION").to_owned(),
    }))
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
