//! What the doors need of the daemon: snapshots to read, commands to send, events and logs to follow.

use super::event_log::EventReader;
use super::logs::Logs;
use super::snapshot::Snapshot;
use super::why::PortHolder;
use crate::supervisor::{Outcome, Pid, RequestId, Verb};
use crate::unit::Flags;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use utoipa::ToSchema;

/// Masks secrets in a text that leaves.
pub type Mask = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Tells which unit a process belongs to. An error means that it is not known: whoever asks is sent away.
pub type UnitOf = Arc<dyn Fn(Pid) -> BoxFuture<'static, Result<Option<String>, AskError>> + Send + Sync>;

/// What becomes of a question.
#[derive(Debug)]
enum Answered<T> {
    Here(T),
    /// The answer is to be had from the next image of the supervisor, under this number.
    Moved(RequestId),
}

/// Where an answer goes. Sending to somebody who has left is no error.
pub struct Reply<T> {
    to: oneshot::Sender<Answered<T>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl<T> Reply<T> {
    /// Answers.
    pub fn send(self, answer: T) {
        let _ = self.to.send(Answered::Here(answer));
    }

    /// Says that the answer is to be asked for again, as the request of this number, once the next image of the supervisor answers.
    pub fn moved(self, request: RequestId) {
        let _ = self.to.send(Answered::Moved(request));
    }

    /// Whether nobody waits any more.
    pub fn is_closed(&self) -> bool {
        self.to.is_closed()
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// An answer that is waited for.
#[derive(Debug)]
pub struct Waiting<T>(oneshot::Receiver<Answered<T>>);

impl<T> Waiting<T> {
    /// The answer.
    pub async fn answer(self) -> Result<T, AskError> {
        match self.0.await {
            Ok(Answered::Here(answer)) => Ok(answer),
            Ok(Answered::Moved(request)) => Err(AskError::Moved(request)),
            Err(_) => Err(AskError::Gone),
        }
    }
}

/// What `reload` (of the supervisor) or `up` on a running one brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// The file to run from now on, absolute; without it the one that runs is read again.
    #[serde(default)]
    pub file: Option<String>,
    /// The directory to look into where there is no file, absolute.
    #[serde(default)]
    pub directory: Option<String>,
    /// `up`'s flags: they stay in force until the next `up`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub flags: Option<Flags>,
    /// When the sandbox ends: takes the place of `SANDBOX_EXPIRES_AT` in the supervisor's environment.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<jiff::Timestamp>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadReply {
    /// It runs. The outcome is the core's.
    Applied {
        /// Whether anything differs.
        changed: bool,
        /// The hash of what runs.
        config_hash: String,
    },
    /// It is invalid: the diagnostics as `check` prints them. Nothing has changed.
    Invalid(String),
    /// It is valid and cannot be applied (another root or id). Nothing has changed.
    Refused(String),
}

/// What the doors ask of the daemon.
#[derive(Debug)]
pub enum Command {
    /// To be answered at once, after the snapshot shows whatever was asked before.
    Ping {
        /// The answer.
        reply: Reply<()>,
    },
    /// Facts that are only looked at when somebody asks (ports, memory, the preview) are to be looked at now.
    Refresh {
        /// Answered when the snapshot has them.
        reply: Reply<()>,
    },
    /// Which unit a process belongs to.
    UnitOf {
        /// The process.
        pid: Pid,
        /// The unit's name.
        reply: Reply<Option<String>>,
    },
    /// For the core.
    Verb {
        /// What is asked.
        verb: Verb,
        /// What came of it.
        reply: Reply<Outcome>,
    },
    /// Read the configuration anew.
    Reload {
        /// Which.
        request: ReloadRequest,
        /// What came of it.
        reply: Reply<ReloadReply>,
    },
    /// Stop everything and exit.
    Shutdown {
        /// The drain deadline, if not the configured one.
        budget: Option<Duration>,
        /// Answered when everything is down, before the process exits.
        reply: Reply<Outcome>,
    },
    /// Who holds the ports that this unit is expected to listen on, at this moment.
    PortHolders {
        /// The unit.
        unit: String,
        /// All processes of the machine that listen there.
        reply: Reply<Vec<PortHolder>>,
    },
    /// Execute another binary in place.
    Upgrade {
        /// Which; without it the path that was started from.
        binary: Option<PathBuf>,
        /// Whether the workers are restarted afterwards.
        workers: bool,
        /// Why it cannot be done; nothing has changed. Where it goes on, the question is moved: the next image answers it.
        reply: Reply<Outcome>,
    },
    /// What became of a request that an earlier image of the supervisor was asked.
    Resume {
        /// Its number.
        request: RequestId,
        /// `None`: there is no such request, or its outcome was not kept.
        reply: Reply<Option<Outcome>>,
    },
}

/// Why a command was not taken or not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Too many are waiting for an answer.
    #[error("too many requests wait for an answer")]
    Busy,
    /// The daemon has gone away.
    #[error("the supervisor is shutting down")]
    Gone,
    /// The supervisor is being upgraded: the next image knows the answer to the request of this number.
    #[error("the supervisor is being upgraded: ask again for request {0}")]
    Moved(RequestId),
}

/// What the doors need of the daemon. Cheap to clone.
#[derive(Clone)]
pub struct DaemonHandle {
    /// The latest state of things.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The transitions of late.
    pub events: EventReader,
    /// The units' logs.
    pub logs: Arc<dyn Logs>,
    /// Masks secrets.
    pub mask: Mask,
    /// The instance's runtime directory, where the workers' sockets are.
    pub runtime_dir: PathBuf,
    commands: mpsc::Sender<Command>,
    slots: Arc<Semaphore>,
    doors: Arc<Doors>,
}

/// What the doors and the daemon know of each other.
#[derive(Debug)]
struct Doors {
    closing: watch::Sender<bool>,
    connections: watch::Sender<usize>,
}

impl fmt::Debug for DaemonHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DaemonHandle")
            .field("runtime_dir", &self.runtime_dir)
            .finish_non_exhaustive()
    }
}

impl DaemonHandle {
    /// How many commands may wait for their answer.
    pub const MAX_WAITING: usize = 256;
    /// How long facts may be waited for.
    pub const FRESH_WITHIN: Duration = Duration::from_millis(1500);

    /// A handle, and the commands that come through it.
    pub fn new(
        snapshot: watch::Receiver<Arc<Snapshot>>,
        events: EventReader,
        logs: Arc<dyn Logs>,
        mask: Mask,
        runtime_dir: PathBuf,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, receiver) = mpsc::channel(64);
        let handle = Self {
            snapshot,
            events,
            logs,
            mask,
            runtime_dir,
            commands,
            slots: Arc::new(Semaphore::new(Self::MAX_WAITING)),
            doors: Arc::new(Doors {
                closing: watch::Sender::new(false),
                connections: watch::Sender::new(0),
            }),
        };
        (handle, receiver)
    }

    /// The latest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// The same daemon, with room for so many of its own that wait: what one kind of client does cannot use up another's.
    pub fn with_room_for(&self, waiting: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(waiting)),
            ..self.clone()
        }
    }

    /// Sends a command; the answer comes through the receiver.
    pub async fn send<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<Waiting<T>, AskError> {
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| AskError::Busy)?;
        let (to, answer) = oneshot::channel();
        let reply = Reply { to, _slot: Some(slot) };
        self.commands.send(command(reply)).await.map_err(|_| AskError::Gone)?;
        Ok(Waiting(answer))
    }

    /// Sends a command and waits for its answer.
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, AskError> {
        self.send(command).await?.answer().await
    }

    /// As `ask`, for what is answered at once: it takes no room.
    async fn ask_at_once<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, AskError> {
        let (to, answer) = oneshot::channel();
        let command = command(Reply { to, _slot: None });
        self.commands.send(command).await.map_err(|_| AskError::Gone)?;
        Waiting(answer).answer().await
    }

    /// The latest snapshot, with facts that are not old. Where they cannot be had in time, with those there are.
    pub async fn fresh_snapshot(&self) -> Arc<Snapshot> {
        let refresh = self.ask(|reply| Command::Refresh { reply });
        let _ = tokio::time::timeout(Self::FRESH_WITHIN, refresh).await;
        self.snapshot()
    }

    /// Has every connection end: each after the answer that it is about to give, each stream at the end of a line.
    pub fn close_connections(&self) {
        self.doors.closing.send_replace(true);
    }

    /// Waits until connections are to end.
    pub async fn closing(&self) {
        // The sender is ours too.
        let _ = self.doors.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Waits until no connection is open.
    pub async fn connections_closed(&self) {
        let _ = self.doors.connections.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Counts a connection for as long as the value lives.
    pub(super) fn connection(&self) -> Connection {
        self.doors.connections.send_modify(|count| *count += 1);
        Connection(Arc::clone(&self.doors))
    }

    /// Tells units' processes from others by asking the daemon.
    pub fn unit_of(&self) -> UnitOf {
        let daemon = self.clone();
        Arc::new(move |pid| {
            let daemon = daemon.clone();
            Box::pin(async move { daemon.ask_at_once(|reply| Command::UnitOf { pid, reply }).await })
        })
    }

    /// Whether the daemon's loop turns: it answers within `limit`.
    pub async fn ping(&self, limit: Duration) -> bool {
        let asked = self.ask_at_once(|reply| Command::Ping { reply });
        matches!(tokio::time::timeout(limit, asked).await, Ok(Ok(())))
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection(Arc<Doors>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.send_modify(|count| *count -= 1);
    }
}
