//! The end of a sandbox: drained first.

use super::fault::Fault;
use super::inside::Inside;
use super::look::Unsaved;
use super::provider::{Provider, Sandbox, State, Wake, hear};
use super::record::{Record, Records, check_name};
use super::start::{down, remove};
use serde::Serialize;
use std::time::Duration;

/// How long another command of the same name is waited for, beyond what it may drain.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How much longer than its own time a command inside may take.
const MARGIN: Duration = Duration::from_secs(10);

/// What stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// The sandbox stands still; where the provider keeps files, `start` with the same name goes on with them.
    Keep,
    /// The sandbox, its files and its record are removed, as far as we made them.
    Remove,
}

/// How to stop.
#[derive(Clone, Copy, Debug)]
pub struct StopRequest {
    /// For how long it may drain.
    pub drain: Duration,
    /// What stays.
    pub files: Files,
}

/// What a stop came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Stopped {
    /// The sandbox's name.
    pub name: String,
    /// A supervisor ran, and everything in it was stopped in order and in time.
    pub drained: bool,
    /// The sandbox stood still or was gone already.
    pub already: bool,
    /// What was in it and is nowhere else; `None` where it could not be asked.
    pub unsaved: Option<Unsaved>,
    /// The same in words, and what else the caller should know.
    pub warnings: Vec<String>,
}

/// Drains the supervisor (sync is flushed), then ends the sandbox. Stopped already is fine.
///
/// # Errors
/// When the provider cannot be asked, something does not end, or nothing has this name.
pub async fn stop(name: &str, request: StopRequest, provider: &dyn Provider, records: &Records) -> Result<Stopped, Fault> {
    check_name(name)?;
    let _held = records.hold(name, request.drain + HELD_FOR).await?;
    let mut record = records.known(name)?;
    let mut stopped = Stopped {
        name: name.to_owned(),
        ..Stopped::default()
    };
    let found = provider.find(name, Wake::No).await?;
    let Some(sandbox) = found.filter(|sandbox| sandbox.state != State::Ended) else {
        stopped.already = true;
        stopped.warnings.push("its provider has the sandbox no longer".to_owned());
        records.forget(name)?;
        return Ok(stopped);
    };
    stopped.already = sandbox.state == State::Stopped;
    if sandbox.state == State::Running && !record.place.is_empty() {
        drain(&mut stopped, request.drain, provider, &sandbox, &record).await?;
    }
    provider.stop(&sandbox).await?;
    match request.files {
        Files::Keep => {
            record.stopped = true;
            records.save(&record)?;
        }
        Files::Remove => {
            // What was removed with the sandbox needs no second look.
            remove(provider, &sandbox, &record).await?;
            records.forget(name)?;
        }
    }
    Ok(stopped)
}

async fn drain(stopped: &mut Stopped, limit: Duration, provider: &dyn Provider, sandbox: &Sandbox, record: &Record) -> Result<(), Fault> {
    let inside = Inside { provider, sandbox, record };
    // What waits is sent before it is counted; without a store, or a supervisor, there is nothing to send.
    let flush = inside.command(["sync", "flush"]).within(limit + MARGIN);
    let _ = hear(provider, sandbox, &flush).await;
    stopped.unsaved = inside.report().await.ok().and_then(|reported| reported.unsaved);
    stopped.warnings.extend(stopped.unsaved.iter().flat_map(Unsaved::warnings));
    stopped.drained = down(provider, sandbox, record, limit).await?;
    stopped.already = !stopped.drained;
    Ok(())
}
