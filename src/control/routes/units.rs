//! One unit, or several with commas: state, reasons, commands.

use crate::control::answer::Answer;
use crate::control::daemon_handle::{AskError, Command, DaemonHandle, Waiting};
use crate::control::document::UnitStatus;
use crate::control::logs::LogQuery;
use crate::control::params::{self, Params, flag, list, some_duration};
use crate::control::problem::{Code, Problem};
use crate::control::snapshot::Snapshot;
use crate::control::why::Why;
use crate::ordered::IntoMap;
use crate::supervisor::{Outcome, Verb};
use crate::tasks;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// How many of a unit's last lines `why` shows.
const WHY_LINES: usize = 20;

/// How to wait for a command's outcome.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct Blocking {
    /// Whether to wait for the outcome; without waiting the answer is 202.
    #[serde(default = "yes", deserialize_with = "flag")]
    block: bool,
    /// How long to wait: `30s`. The command goes on afterwards.
    #[serde(default, deserialize_with = "some_duration")]
    #[param(value_type = Option<String>)]
    timeout: Option<Duration>,
}

/// A signal, and how to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::control) struct Killing {
    /// A name or a number.
    #[serde(default = "term")]
    signal: String,
}

fn yes() -> bool {
    true
}

fn term() -> String {
    "TERM".to_owned()
}

/// A command was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// `done`, or `accepted` when nobody waits.
    pub outcome: String,
    /// The units as they are then.
    pub units: Vec<UnitStatus>,
}

/// A unit.
#[utoipa::path(get, path = "/v1/units/{u}", tag = "units", params(("u" = String, Path, description = "the unit")),
    responses((status = 200, body = UnitStatus), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn unit(State(daemon): State<DaemonHandle>, Path(name): Path<String>) -> Result<Answer, Problem> {
    let snapshot = daemon.fresh_snapshot().await;
    let unit = snapshot.unit(&name).ok_or_else(|| no_such_unit(&name, &snapshot))?;
    Ok(Answer::ok(&unit.status))
}

/// Why a unit is as it is.
#[utoipa::path(get, path = "/v1/units/{u}/why", tag = "units", params(("u" = String, Path, description = "the unit")),
    responses((status = 200, body = Why), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn why(State(daemon): State<DaemonHandle>, Path(name): Path<String>) -> Result<Answer, Problem> {
    explain(&daemon, &name, WHY_LINES).await.map(|why| Answer::ok(&why))
}

/// Puts a unit's `why` together. What cannot be had in time (holders of ports, lines) is left out.
pub(in crate::control) async fn explain(daemon: &DaemonHandle, name: &str, lines: usize) -> Result<Why, Problem> {
    let snapshot = daemon.fresh_snapshot().await;
    if snapshot.unit(name).is_none() {
        return Err(no_such_unit(name, &snapshot));
    }
    let unit = name.to_owned();
    let holders = daemon.ask(|reply| Command::PortHolders { unit, reply });
    let holders = tokio::time::timeout(Duration::from_secs(2), holders).await;
    let query = LogQuery {
        units: vec![Why::root(&snapshot, name).to_owned()],
        known: vec![Why::root(&snapshot, name).to_owned()],
        tail: Some(lines),
        limit: lines,
        ..LogQuery::default()
    };
    let logs = daemon.logs.clone();
    let page = tasks::spawn_blocking(move || logs.read(&query)).await;
    let lines = page.ok().and_then(Result::ok).map(|page| page.lines).unwrap_or_default();
    let holders = holders.ok().and_then(Result::ok).unwrap_or_default();
    Why::new(&snapshot, name, holders, lines).ok_or_else(|| no_such_unit(name, &snapshot))
}

/// Starts units, at once also in backoff.
#[utoipa::path(post, path = "/v1/units/{u}/start", tag = "units", params(("u" = String, Path, description = "the unit, or several with commas"), Blocking),
    responses((status = 200, description = "ready", body = Done), (status = 202, description = "not waited for", body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn start(
    daemon: State<DaemonHandle>,
    units: Path<String>,
    waiting: Params<Blocking>,
) -> Result<Answer, Problem> {
    command(daemon, units, waiting, Verb::Start).await
}

/// Stops units, what requires them first.
#[utoipa::path(post, path = "/v1/units/{u}/stop", tag = "units", params(("u" = String, Path, description = "the unit, or several with commas"), Blocking),
    responses((status = 200, description = "nothing of them is left", body = Done), (status = 202, description = "not waited for", body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn stop(
    daemon: State<DaemonHandle>,
    units: Path<String>,
    waiting: Params<Blocking>,
) -> Result<Answer, Problem> {
    command(daemon, units, waiting, Verb::Stop).await
}

/// Stops and starts units.
#[utoipa::path(post, path = "/v1/units/{u}/restart", tag = "units", params(("u" = String, Path, description = "the unit, or several with commas"), Blocking),
    responses((status = 200, description = "ready again", body = Done), (status = 202, description = "not waited for", body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn restart(
    daemon: State<DaemonHandle>,
    units: Path<String>,
    waiting: Params<Blocking>,
) -> Result<Answer, Problem> {
    command(daemon, units, waiting, Verb::Restart).await
}

/// Has units read their configuration anew.
#[utoipa::path(post, path = "/v1/units/{u}/reload", tag = "units", params(("u" = String, Path, description = "the unit, or several with commas"), Blocking),
    responses((status = 200, body = Done), (status = 202, description = "not waited for", body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn reload(
    daemon: State<DaemonHandle>,
    units: Path<String>,
    waiting: Params<Blocking>,
) -> Result<Answer, Problem> {
    command(daemon, units, waiting, Verb::Reload).await
}

/// Sends a signal to all processes of a unit.
#[utoipa::path(post, path = "/v1/units/{u}/kill", tag = "units", params(("u" = String, Path, description = "the unit, or several with commas"), Killing),
    responses((status = 200, body = Done), (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(in crate::control) async fn kill(
    State(daemon): State<DaemonHandle>,
    Path(units): Path<String>,
    Params(killing): Params<Killing>,
) -> Result<Answer, Problem> {
    let signal = params::signal(&killing.signal).map_err(|detail| Problem::new(Code::BadRequest, detail))?;
    let names = known(&daemon.snapshot(), &units)?;
    for unit in &names {
        let unit = unit.clone();
        let verb = Verb::Kill { unit, signal };
        let outcome = daemon.ask(|reply| Command::Verb { verb, reply }).await?;
        outcome_or_problem(outcome, &daemon.snapshot())?;
    }
    Ok(done("done", StatusCode::OK, &daemon.snapshot(), &names))
}

async fn command(
    State(daemon): State<DaemonHandle>,
    Path(units): Path<String>,
    Params(waiting): Params<Blocking>,
    verb: fn(Vec<String>) -> Verb,
) -> Result<Answer, Problem> {
    let names = known(&daemon.snapshot(), &units)?;
    let verb = verb(names.clone());
    let answer = daemon.send(|reply| Command::Verb { verb, reply }).await?;
    if !waiting.block {
        return Ok(done("accepted", StatusCode::ACCEPTED, &daemon.snapshot(), &names));
    }
    let answered = within(answer, waiting.timeout).await;
    let outcome = answered.map_err(|problem| problem.then(&format!("what=units&units={}", names.join(","))))?;
    outcome_or_problem(outcome, &daemon.snapshot())?;
    Ok(done("done", StatusCode::OK, &daemon.snapshot(), &names))
}

/// The units of a path, all known.
fn known(snapshot: &Snapshot, units: &str) -> Result<Vec<String>, Problem> {
    let names = list(units);
    if names.is_empty() {
        return Err(Problem::new(Code::BadRequest, "no unit is named"));
    }
    match names.iter().find(|name| snapshot.unit(name).is_none()) {
        Some(name) => Err(no_such_unit(name, snapshot)),
        None => Ok(names.into_iter().map(ToOwned::to_owned).collect()),
    }
}

pub(in crate::control) fn no_such_unit(name: &str, snapshot: &Snapshot) -> Problem {
    Problem::no_such_unit(name, snapshot.units.iter().map(|unit| unit.status.name.as_str()))
}

pub(super) fn done(outcome: &str, status: StatusCode, snapshot: &Snapshot, names: &[String]) -> Answer {
    let units = names.iter().filter_map(|name| snapshot.unit(name));
    let done = Done {
        outcome: outcome.to_owned(),
        units: units.map(|unit| unit.status.clone()).collect(),
    };
    Answer::new(status, &done)
}

/// Waits for an answer, for a while or for as long as it takes.
pub(in crate::control) async fn within<T>(answer: Waiting<T>, limit: Option<Duration>) -> Result<T, Problem> {
    let gone = |error| match error {
        AskError::Gone => Problem::new(Code::Stopping, "the supervisor went away before it answered"),
        AskError::Busy | AskError::Moved(_) => error.into(),
    };
    match limit {
        None => answer.answer().await.map_err(gone),
        Some(limit) => match tokio::time::timeout(limit, answer.answer()).await {
            Ok(answered) => answered.map_err(gone),
            Err(_) => Err(Problem::new(Code::Timeout, format!("not done within {limit:?}; it goes on"))),
        },
    }
}

pub(in crate::control) fn outcome_or_problem(outcome: Outcome, snapshot: &Snapshot) -> Result<(), Problem> {
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::Failed(units) => {
            let said: Vec<String> = units.iter().map(|(unit, why)| format!("`{unit}`: {why}")).collect();
            let mut problem = Problem::new(Code::UnitFailed, said.join("; "));
            if let [(unit, _), ..] = units.as_slice() {
                problem = problem.hint(format!("`sandkeep why {unit}`"));
            }
            problem.units = units.into_iter().map(|(unit, why)| (unit.as_str().to_owned(), why)).into_map();
            Err(problem)
        }
        Outcome::NoSuchUnit(name) => Err(no_such_unit(&name, snapshot)),
        Outcome::Cancelled(why) => Err(Problem::new(Code::Cancelled, why)),
        Outcome::Refused(why) => Err(Problem::new(Code::Refused, why)),
    }
}
