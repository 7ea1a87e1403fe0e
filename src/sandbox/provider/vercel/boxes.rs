//! Sandboxes: made, found, woken, listed, exposed, kept alive, stopped, removed.

use super::api::{Api, Call, Trouble};
use super::deadline;
use super::wire::{Anything, OfSandbox, OfSession, Page, Status, Whole, urls};
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::provider::{Sandbox, State, Wake, Wanted};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// For a sandbox to come up, or to stop.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at one that is between two states.
const PAUSE: Duration = Duration::from_millis(250);
/// How often a request that may have been done is looked for and made again.
const ROUNDS: u32 = 4;

/// Makes a sandbox, or takes the one of this name.
pub(super) async fn create(api: &Api, runtime: Option<&str>, wanted: &Wanted) -> Result<Sandbox, Fault> {
    let doing = format!("creating the sandbox `{}`", wanted.name);
    let mut body = json!({
        "projectId": api.project(), "name": wanted.name, "ports": wanted.ports, "persistent": true,
    });
    if let Some(timeout) = wanted.timeout {
        body["timeout"] = json!(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    }
    if let Some(runtime) = runtime {
        body["runtime"] = json!(runtime);
    }
    // The second generation is the one with runtimes.
    let version = if runtime.is_some() { "v2" } else { "v3" };
    let mut round = 0;
    loop {
        if let Some(found) = find(api, &wanted.name, Wake::Yes).await? {
            if found.state == State::Running {
                return Ok(found);
            }
            let message = format!("{doing}: there is one of this name that does not come back");
            return Err(Fault::new(Code::SandboxGone, message).hint("remove it, or choose another name"));
        }
        let call = Call::post(&[version, "sandboxes"], body.clone()).within(PATIENCE).once();
        round += 1;
        match api.ask::<Whole>(&call).await {
            Ok(made) if made.session.status == Status::Running => return Ok(made.sandbox()),
            Ok(_) => {}
            // Was it made after all, or by another? The next look tells.
            Err(Trouble::Unknown(_)) if round < ROUNDS => {}
            Err(Trouble::Refused(refusal)) if refusal.is_name_taken() && round < ROUNDS => {}
            Err(trouble) if trouble.is_not_found() => {
                let mut fault = trouble.fault(&doing);
                fault.code = Code::Unauthorized;
                return Err(fault.hint("VERCEL_PROJECT_ID has to name a project of the team that VERCEL_TEAM_ID names"));
            }
            Err(trouble) => return Err(trouble.fault(&doing)),
        }
    }
}

/// Looks for a sandbox; with [`Wake::Yes`] brings it back and waits until commands can be run.
pub(super) async fn find(api: &Api, name: &str, wake: Wake) -> Result<Option<Sandbox>, Fault> {
    let doing = match wake {
        Wake::Yes => format!("bringing the sandbox `{name}` back"),
        Wake::No => format!("looking for the sandbox `{name}`"),
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let last = match look(api, name, wake).await {
            Ok(whole) if wake == Wake::No || whole.session.status == Status::Running => return Ok(Some(whole.sandbox())),
            Ok(whole) => {
                let status = whole.session.status;
                let sandbox = whole.sandbox();
                if sandbox.state == State::Ended {
                    return Ok(Some(sandbox));
                }
                Fault::new(Code::Unreachable, format!("{doing}: it is {status:?} still").to_lowercase()).hint("try again in a moment")
            }
            Err(trouble) if trouble.is_not_found() => return Ok(None),
            Err(trouble) => match trouble.refusal() {
                // It is there, but what it would come back from is not.
                Some(refusal) if refusal.code == "snapshot_not_found" => {
                    let whole = look(api, name, Wake::No).await.map_err(|trouble| trouble.fault(&doing))?;
                    return Ok(Some(Sandbox {
                        state: State::Ended,
                        ..whole.sandbox()
                    }));
                }
                Some(refusal) if refusal.is_session_over() => trouble.fault(&doing),
                _ => return Err(trouble.fault(&doing)),
            },
        };
        if Instant::now() > until {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

async fn look(api: &Api, name: &str, wake: Wake) -> Result<Whole, Trouble> {
    let resume = if wake == Wake::Yes { "true" } else { "false" };
    let call = Call::get(&["v2", "sandboxes", name])
        .query("projectId", api.project())
        .query("resume", resume);
    api.ask(&call.within(PATIENCE)).await
}

/// All of the project's.
pub(super) async fn list(api: &Api) -> Result<Vec<Sandbox>, Fault> {
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut call = Call::get(&["v2", "sandboxes"]).query("project", api.project()).query("limit", "50");
        if let Some(cursor) = &cursor {
            call = call.query("cursor", cursor);
        }
        let page: Page = api.ask(&call).await.map_err(|trouble| {
            let mut fault = trouble.fault("listing the sandboxes");
            if trouble.is_not_found() {
                fault.code = Code::Unauthorized;
            }
            fault
        })?;
        let empty = page.sandboxes.is_empty();
        found.extend(page.sandboxes.into_iter().map(super::wire::Sandbox::listed));
        match page.pagination.next {
            Some(next) if !empty && cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => return Ok(found),
        }
    }
}

/// Where a port is reachable; exposes it if it is not.
pub(super) async fn expose(api: &Api, sandbox: &Sandbox, port: u16) -> Result<Option<String>, Fault> {
    if let Some(url) = sandbox.urls.get(&port) {
        return Ok(Some(url.clone()));
    }
    let doing = format!("exposing port {port} of the sandbox `{}`", sandbox.name);
    let whole = look(api, &sandbox.name, Wake::No).await.map_err(|trouble| trouble.fault(&doing))?;
    let mut known = urls(whole.routes);
    if let Some(url) = known.remove(&port) {
        return Ok(Some(url));
    }
    let ports: Vec<u16> = known.into_keys().chain([port]).collect();
    let call = Call::patch(&["v2", "sandboxes", &sandbox.name], json!({"ports": ports})).query("projectId", api.project());
    let changed: OfSandbox = api.ask(&call).await.map_err(|trouble| trouble.fault(&doing))?;
    Ok(urls(changed.routes).remove(&port))
}

/// Moves the deadline to `until` if it is before that, or as near to it as the plan allows.
pub(super) async fn extend(api: &Api, sandbox: &Sandbox, until: jiff::Timestamp) -> Result<Option<jiff::Timestamp>, Fault> {
    let doing = format!("extending the time of the sandbox `{}`", sandbox.name);
    let fault = |trouble: &Trouble| trouble.fault(&doing);
    let path = ["v2", "sandboxes", "sessions", &sandbox.session];
    let mut session = api
        .ask::<OfSession>(&Call::get(&path))
        .await
        .map_err(|trouble| fault(&trouble))?
        .session;
    let mut most = Duration::MAX;
    let mut round = 0;
    loop {
        if session.status != Status::Running {
            let message = format!("{doing}: its session is {:?}", session.status).to_lowercase();
            return Err(Fault::new(Code::Unreachable, message).hint("`sandkeep sandbox start` brings it back"));
        }
        let deadline = session.deadline();
        let Some(missing) = deadline.and_then(|deadline| deadline::missing(deadline, until)) else {
            return Ok(deadline);
        };
        let asked = missing.min(most);
        let duration = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
        let call = Call::post(&[&path[..], &["extend-timeout"]].concat(), json!({"duration": duration})).once();
        match api.ask::<OfSession>(&call).await {
            Ok(answer) => {
                session = answer.session;
                if most < missing {
                    return Ok(session.deadline());
                }
            }
            // Added or not? The session tells.
            Err(Trouble::Unknown(trouble)) => {
                round += 1;
                if round > ROUNDS {
                    return Err(fault(&trouble));
                }
                session = api
                    .ask::<OfSession>(&Call::get(&path))
                    .await
                    .map_err(|trouble| fault(&trouble))?
                    .session;
            }
            Err(trouble) => match trouble.refusal() {
                Some(refusal) if refusal.code == "sandbox_timeout_invalid" => match deadline::less(asked) {
                    Some(less) => most = less,
                    None => return Ok(deadline),
                },
                _ => return Err(fault(&trouble)),
            },
        }
    }
}

/// Ends the session that runs, and waits until it has ended.
pub(super) async fn stop(api: &Api, sandbox: &Sandbox) -> Result<(), Fault> {
    let doing = format!("stopping the sandbox `{}`", sandbox.name);
    let until = Instant::now() + PATIENCE;
    loop {
        let whole = match look(api, &sandbox.name, Wake::No).await {
            Ok(whole) => whole,
            Err(trouble) if trouble.is_not_found() => return Ok(()),
            Err(trouble) => return Err(trouble.fault(&doing)),
        };
        let status = whole.session.status;
        if !status.is_passing() && status != Status::Running {
            return Ok(());
        }
        let mut last = Fault::new(Code::Busy, format!("{doing}: it is {status:?} still").to_lowercase());
        if matches!(status, Status::Running | Status::Pending) {
            let path = ["v2", "sandboxes", "sessions", &whole.session.id, "stop"];
            // It answers when the files are saved, which may take a while.
            match api.ask::<Anything>(&Call::post(&path, json!({})).within(PATIENCE)).await {
                Ok(_) => continue,
                Err(trouble) if trouble.is_not_found() || trouble.refusal().is_some_and(super::refusal::Refusal::is_session_over) => {}
                Err(trouble @ Trouble::Silent(_)) => last = trouble.fault(&doing),
                Err(trouble) => return Err(trouble.fault(&doing)),
            }
        }
        if Instant::now() > until {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

/// Removes it, with the files that it would come back from.
pub(super) async fn remove(api: &Api, sandbox: &Sandbox) -> Result<(), Fault> {
    let call = Call::delete(&["v2", "sandboxes", &sandbox.name])
        .query("projectId", api.project())
        .query("deleteOrphanSnapshots", "true")
        .within(PATIENCE);
    match api.ask::<Anything>(&call).await {
        Ok(_) => Ok(()),
        Err(trouble) if trouble.is_not_found() => Ok(()),
        Err(trouble) => Err(trouble.fault(&format!("removing the sandbox `{}`", sandbox.name))),
    }
}
