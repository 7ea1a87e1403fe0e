//! `sandkeep serve`: the app's three actions over HTTP: start a sandbox with its worker, say how the worker does, stop it.
//!
//! ```text
//! app ──HTTP──▶ door ─▶ api ─▶ routes ─┬─▶ desk, clerk (operations, on disk) ─▶ a task for each start or stop ─▶ Sandboxes ─▶ sandbox::start …
//!                                      ├─▶ fleet (what each sandbox says, and whom to ask next) ◀── reports of the sandboxes
//!                                      └─▶ event log (server-sent events)
//! rounds: the records, which the command line writes too ─▶ fleet; more time for sandboxes in use
//! ```
//!
//! A start is asynchronous: it is written down, then answered 202, then done. [`sandboxes::Sandboxes`] is the seam to the sandboxes
//! themselves; [`through::Through`] is what stands behind it.

pub mod answers;
pub mod api;
mod attempt;
mod book;
mod clerk;
pub mod deadlines;
pub mod desk;
pub mod door;
pub mod events;
pub mod keys;
mod numbers;
pub mod openapi;
pub mod operation;
pub mod order;
pub mod problem;
mod rounds;
mod routes;
pub mod sandboxes;
pub mod through;

pub use book::BookError;
pub use rounds::Uses;

use self::api::App;
use self::deadlines::DeadlinePolicy;
use self::desk::{DeskHandle, DeskPolicy, TargetOf};
use self::events::{Event, SandboxEvent};
use self::keys::Keys;
use self::rounds::Rounds;
use self::sandboxes::Sandboxes;
use super::fleet::{Change, Fleet, FleetHandle, Policy, Prober};
use axum::Router;
use std::path::Path;
use std::sync::Arc;

/// What a server needs.
pub struct Parts {
    /// The sandboxes themselves.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// Who asks sandboxes how they do.
    pub prober: Arc<dyn Prober>,
    /// Where a sandbox that was started is asked how it does.
    pub target: TargetOf,
    /// The token.
    pub keys: Arc<Keys>,
    /// How starts are done.
    pub desk: DeskPolicy,
    /// How sandboxes are looked after.
    pub fleet: Policy,
    /// How sandboxes in use are kept from ending.
    pub deadlines: DeadlinePolicy,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

/// Puts a server together: opens the book in this directory, takes up what was under way, and looks after the sandboxes that are known. The
/// router is what the door serves. To be called within a runtime.
///
/// # Errors
/// When the book cannot be used.
pub async fn assemble(directory: &Path, parts: Parts) -> Result<Router, BookError> {
    let Parts {
        sandboxes,
        prober,
        target,
        keys,
        desk,
        fleet,
        deadlines,
    } = parts;
    let (desk, log, unstarted) = DeskHandle::start(&directory.join("operations"), desk, sandboxes.clone(), target)?;
    let told = log.clone();
    let changed = move |change: Change| {
        told.push(|id, at| {
            Event::Sandbox(SandboxEvent {
                id,
                at,
                sandbox_id: change.sandbox.as_ref().to_owned(),
                from: change.from,
                to: change.to,
            })
        });
    };
    let fleet = FleetHandle::start(Fleet::new(fleet, fastrand::u64(..)), prober, changed);
    unstarted.run(fleet.clone());
    let uses = Rounds::begin(deadlines, sandboxes.clone(), fleet.clone(), desk.clone()).await;
    let app = App {
        desk,
        fleet,
        log,
        sandboxes,
        keys,
        uses,
    };
    Ok(api::router(app))
}
