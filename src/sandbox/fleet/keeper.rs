//! The one task that owns the fleet. It takes reports, polls whom the state says, and answers what is asked; it never waits for a
//! sandbox itself.

use super::heard::Heard;
use super::metrics;
use super::state::{Change, Fleet, Poll};
use super::view::{FleetRow, FleetView};
use crate::control::document::StatusDocument;
use crate::tasks;
use futures_util::future::BoxFuture;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

/// Where a sandbox is asked how it does.
#[derive(Clone, PartialEq, Eq)]
pub enum Target {
    /// Over HTTP: what comes before `/v1/status`, and the bearer token for it; without a token `/healthz` is asked.
    Http {
        /// `https://x.vercel.run`, without a slash at the end.
        base: String,
        /// The sandbox's own token.
        token: Option<String>,
    },
    /// Through its provider: no port of it can be reached.
    Provider,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http { base, .. } => f.debug_struct("Http").field("base", base).finish_non_exhaustive(),
            Self::Provider => f.write_str("Provider"),
        }
    }
}

/// Who asks sandboxes.
pub trait Prober: Send + Sync + 'static {
    /// Asks a sandbox how it does; an error says why there is no answer. It may take its time: the keeper has a limit.
    fn probe(&self, sandbox: Arc<str>, target: Target) -> BoxFuture<'static, Result<Heard, String>>;
}

/// The keeper is gone: the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fleet is not kept any more")]
pub struct FleetGone;

#[derive(Debug)]
enum Ask {
    Add(String, Option<Target>),
    Remove(String),
    Stopped(String),
    Report(String, Heard, oneshot::Sender<()>),
    Learned(String, Heard),
    View(oneshot::Sender<FleetView>),
    Rows(oneshot::Sender<Vec<FleetRow>>),
    One(String, oneshot::Sender<Option<(FleetRow, Option<Arc<StatusDocument>>)>>),
    Scrape(Registry, oneshot::Sender<Registry>),
}

/// The way to the keeper; cheap to clone.
#[derive(Clone, Debug)]
pub struct FleetHandle {
    asks: mpsc::Sender<Ask>,
}

/// How many asks may wait for the keeper.
const ROOM: usize = 1024;

impl FleetHandle {
    /// Starts a keeper. `changed` is called with every change; it must not block.
    pub fn start(fleet: Fleet, prober: Arc<dyn Prober>, changed: impl FnMut(Change) + Send + 'static) -> Self {
        let (asks, inbox) = mpsc::channel(ROOM);
        let keeper = Keeper {
            fleet,
            prober,
            targets: BTreeMap::new(),
            polls: JoinSet::new(),
            under_way: HashMap::new(),
            took: Histogram::new(exponential_buckets(0.001, 2.0, 13)),
            changed: Box::new(changed),
        };
        tasks::spawn(keeper.run(inbox));
        Self { asks }
    }

    /// Takes a sandbox in; without a target it is one that only pushes.
    ///
    /// # Errors
    /// When the program ends; so with all of these.
    pub async fn add(&self, sandbox: impl Into<String>, target: Option<Target>) -> Result<(), FleetGone> {
        self.tell(Ask::Add(sandbox.into(), target)).await
    }

    /// Forgets a sandbox.
    pub async fn remove(&self, sandbox: impl Into<String>) -> Result<(), FleetGone> {
        self.tell(Ask::Remove(sandbox.into())).await
    }

    /// A sandbox was stopped on request.
    pub async fn stopped(&self, sandbox: impl Into<String>) -> Result<(), FleetGone> {
        self.tell(Ask::Stopped(sandbox.into())).await
    }

    /// A sandbox pushed its status. Returns when it has been taken.
    pub async fn report(&self, sandbox: impl Into<String>, heard: Heard) -> Result<(), FleetGone> {
        self.ask(|reply| Ask::Report(sandbox.into(), heard, reply)).await
    }

    /// A sandbox was asked for another reason, and this is what it said.
    pub async fn learned(&self, sandbox: impl Into<String>, heard: Heard) -> Result<(), FleetGone> {
        self.tell(Ask::Learned(sandbox.into(), heard)).await
    }

    /// The fleet in numbers.
    pub async fn view(&self) -> Result<FleetView, FleetGone> {
        self.ask(Ask::View).await
    }

    /// All sandboxes.
    pub async fn rows(&self) -> Result<Vec<FleetRow>, FleetGone> {
        self.ask(Ask::Rows).await
    }

    /// One of them, with the document it last sent.
    pub async fn one(&self, sandbox: &str) -> Result<Option<(FleetRow, Option<Arc<StatusDocument>>)>, FleetGone> {
        self.ask(|reply| Ask::One(sandbox.to_owned(), reply)).await
    }

    /// Puts the fleet's numbers into a registry.
    pub async fn scrape(&self, registry: Registry) -> Result<Registry, FleetGone> {
        self.ask(|reply| Ask::Scrape(registry, reply)).await
    }

    async fn tell(&self, ask: Ask) -> Result<(), FleetGone> {
        self.asks.send(ask).await.map_err(|_| FleetGone)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, FleetGone> {
        let (reply, answer) = oneshot::channel();
        self.tell(ask(reply)).await?;
        answer.await.map_err(|_| FleetGone)
    }
}

/// What a poll came to, and how long it took.
type Polled = (Result<Heard, String>, Duration);

struct Keeper {
    fleet: Fleet,
    prober: Arc<dyn Prober>,
    targets: BTreeMap<Arc<str>, Target>,
    polls: JoinSet<Polled>,
    under_way: HashMap<Id, Poll>,
    took: Histogram,
    changed: Box<dyn FnMut(Change) + Send>,
}

impl Keeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        loop {
            self.poll_due();
            let deadline = self.fleet.next_deadline().map(Instant::from_std);
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(ask) => self.answer(ask),
                    None => return,
                },
                Some(done) = self.polls.join_next_with_id() => self.polled(done),
                () = due => {}
            }
        }
    }

    fn poll_due(&mut self) {
        let (polls, changes) = self.fleet.take_due(now());
        for change in changes {
            (self.changed)(change);
        }
        for poll in polls {
            // Only one with a target is asked.
            let target = self.targets.get(&poll.sandbox).cloned().unwrap_or(Target::Provider);
            let probe = self.prober.probe(poll.sandbox.clone(), target);
            let limit = self.fleet.time_limit();
            let task = self.polls.spawn(async move {
                let begun = Instant::now();
                let answer = tokio::time::timeout(limit, probe).await;
                let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs_f32())));
                (answer, begun.elapsed())
            });
            self.under_way.insert(task.id(), poll);
        }
    }

    fn polled(&mut self, done: Result<(Id, Polled), tokio::task::JoinError>) {
        let (id, answer) = match done {
            Ok((id, (answer, took))) => {
                self.took.observe(took.as_secs_f64());
                (id, answer)
            }
            Err(error) => (error.id(), Err(format!("asking failed: {error}"))),
        };
        if let Some(poll) = self.under_way.remove(&id) {
            let change = self.fleet.polled(now(), &poll, answer);
            self.tell(change);
        }
    }

    fn tell(&mut self, change: Option<Change>) {
        if let Some(change) = change {
            (self.changed)(change);
        }
    }

    fn answer(&mut self, ask: Ask) {
        let (now, wall) = (now(), jiff::Timestamp::now());
        // Whoever asked may have gone away: then nobody is answered.
        match ask {
            Ask::Add(sandbox, target) => {
                let change = self.fleet.add(now, &sandbox, target.is_some());
                match target {
                    Some(target) => self.targets.insert(sandbox.into(), target),
                    None => self.targets.remove(sandbox.as_str()),
                };
                self.tell(change);
            }
            Ask::Remove(sandbox) => {
                self.fleet.remove(&sandbox);
                self.targets.remove(sandbox.as_str());
            }
            Ask::Stopped(sandbox) => {
                let change = self.fleet.stopped(&sandbox);
                self.tell(change);
            }
            Ask::Report(sandbox, heard, reply) => {
                let change = self.fleet.reported(now, &sandbox, heard);
                self.tell(change);
                let _ = reply.send(());
            }
            Ask::Learned(sandbox, heard) => {
                let change = self.fleet.learned(now, &sandbox, heard);
                self.tell(change);
            }
            Ask::View(reply) => {
                let _ = reply.send(self.fleet.view(now, wall));
            }
            Ask::Rows(reply) => {
                let _ = reply.send(self.fleet.rows(now, wall));
            }
            Ask::One(sandbox, reply) => {
                let row = self.fleet.row(&sandbox, now, wall);
                let _ = reply.send(row.map(|row| (row, self.fleet.document(&sandbox))));
            }
            Ask::Scrape(mut registry, reply) => {
                metrics::register(&mut registry, &self.fleet, now);
                let help = "How long polls took";
                registry.register_with_unit("fleet_poll_duration", help, Unit::Seconds, self.took.clone());
                let _ = reply.send(registry);
            }
        }
    }
}

/// Of the clock that tests can hold.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
