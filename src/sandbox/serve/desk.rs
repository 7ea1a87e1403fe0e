//! Where operations are asked for: what can be asked of the [`clerk`](super::clerk), and the way to it.

use super::book::{Book, BookError};
use super::clerk::Clerk;
use super::events::{Event, EventLog, OperationState};
use super::operation::Operation;
use super::order::{Environment, Order};
use super::problem::{Problem, ProblemCode};
use super::sandboxes::Sandboxes;
use crate::sandbox::fault::Fault;
use crate::sandbox::fleet::{FleetHandle, Target};
use crate::sandbox::progress::Told;
use crate::sandbox::start::Started;
use crate::sandbox::stop::Stopped;
use crate::tasks;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How starts are done.
#[derive(Clone, Debug)]
pub struct DeskPolicy {
    /// Starts at once; the others wait for their turn.
    pub starts_at_once: usize,
    /// Before a start is tried again that failed for a reason that may pass by itself: this, then twice as long, and so on.
    pub retry: Duration,
}

impl Default for DeskPolicy {
    fn default() -> Self {
        Self {
            starts_at_once: 16,
            retry: Duration::from_secs(4),
        }
    }
}

/// What a start was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its operation.
    pub operation_id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// It was asked for before, with the same key or while it is under way.
    pub replayed: bool,
}

/// What is asked of the clerk.
pub(super) enum Ask {
    Start(Order, Environment, Option<String>, oneshot::Sender<Result<Taken, Problem>>),
    Stop(String, oneshot::Sender<Result<Stopped, Problem>>),
    Operation(String, oneshot::Sender<Option<Operation>>),
    LastOf(String, oneshot::Sender<Option<Operation>>),
    Latest(oneshot::Sender<BTreeMap<String, (String, OperationState)>>),
    Events(String, u64, oneshot::Sender<Option<(Vec<Event>, bool)>>),
    Scrape(Registry, oneshot::Sender<Registry>),
}

/// From the tasks that do it. Through one channel, so that the end comes after all that was told before.
pub(super) enum News {
    Began(String),
    Told(String, Told),
    Ended(String, Ended),
    Stopped(String, Result<Stopped, Fault>),
}

pub(super) enum Ended {
    Started(Box<Started>),
    Failed(Fault),
    Cancelled,
}

/// The way to the desk; cheap to clone.
#[derive(Clone, Debug)]
pub struct DeskHandle {
    asks: mpsc::Sender<Ask>,
}

impl DeskHandle {
    /// Opens the book in this directory, takes up what was under way, and starts the desk.
    ///
    /// # Errors
    /// When the book cannot be used.
    pub fn start(
        book: &std::path::Path,
        policy: DeskPolicy,
        sandboxes: Arc<dyn Sandboxes>,
        target: TargetOf,
    ) -> Result<(Self, EventLog, Unstarted), BookError> {
        let (clerk, log, news) = Clerk::open(Book::open(book)?, policy, sandboxes, target)?;
        let (asks, inbox) = mpsc::channel(256);
        Ok((Self { asks }, log, Unstarted { clerk, inbox, news }))
    }

    /// Takes a start. Answered when it is on disk.
    ///
    /// # Errors
    /// When the key was used for something else, the sandbox is busy, or it cannot be written down.
    pub async fn take(&self, order: Order, environment: Environment, key: Option<String>) -> Result<Taken, Problem> {
        self.ask(|reply| Ask::Start(order, environment, key, reply)).await?
    }

    /// Stops a sandbox; a start of it that is under way ends first. Goes on when the caller goes away.
    ///
    /// # Errors
    /// When there is no such sandbox or it cannot be stopped.
    pub async fn stop(&self, sandbox: &str) -> Result<Stopped, Problem> {
        self.ask(|reply| Ask::Stop(sandbox.to_owned(), reply)).await?
    }

    /// An operation.
    ///
    /// # Errors
    /// When the program ends; so with the rest of these.
    pub async fn operation(&self, id: &str) -> Result<Option<Operation>, Problem> {
        self.ask(|reply| Ask::Operation(id.to_owned(), reply)).await
    }

    /// The last operation of a sandbox.
    pub async fn last_of(&self, sandbox: &str) -> Result<Option<Operation>, Problem> {
        self.ask(|reply| Ask::LastOf(sandbox.to_owned(), reply)).await
    }

    /// The last operation of each sandbox, and how far it is.
    pub async fn latest(&self) -> Result<BTreeMap<String, (String, OperationState)>, Problem> {
        self.ask(Ask::Latest).await
    }

    /// What happened in an operation after the event of this id, and whether it is over; `None` if there is no such one.
    pub async fn events(&self, id: &str, after: u64) -> Result<Option<(Vec<Event>, bool)>, Problem> {
        self.ask(|reply| Ask::Events(id.to_owned(), after, reply)).await
    }

    /// Puts the desk's numbers into a registry.
    pub async fn scrape(&self, registry: Registry) -> Result<Registry, Problem> {
        self.ask(|reply| Ask::Scrape(registry, reply)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Problem> {
        let gone = || Problem::new(ProblemCode::Stopping, "the server shuts down");
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// Where a sandbox that was started is asked how it does: by its id and its health endpoint.
pub type TargetOf = Arc<dyn Fn(&str, Option<&str>) -> Target + Send + Sync>;

/// A desk that waits for its fleet.
pub struct Unstarted {
    clerk: Clerk,
    inbox: mpsc::Receiver<Ask>,
    news: mpsc::UnboundedReceiver<News>,
}

impl std::fmt::Debug for Unstarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unstarted")
    }
}

impl Unstarted {
    /// Has it work, and take up what was under way.
    pub fn run(self, fleet: FleetHandle) {
        tasks::spawn(self.clerk.run(self.inbox, self.news, fleet));
    }
}
