//! What clients ask, and who waits for which answer.

use super::Daemon;
use crate::control::{Command, ReloadReply, ReloadRequest, Reply};
use crate::ordered::IntoMap;
use crate::supervisor::{Event, Outcome, Request, RequestId};
use crate::unit::{Flags, Source, load};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who waits for what came of a request.
#[derive(Debug)]
pub(super) enum Waiting {
    /// Nobody: a signal asked.
    Nobody,
    /// For the core's outcome as it is.
    Outcome(Reply<Outcome>),
    /// For a configuration to be taken over.
    Reload {
        reply: Reply<ReloadReply>,
        changed: bool,
        hash: String,
    },
    /// Whoever was sent to the next image of the supervisor, and has not come yet.
    Moved,
    /// For the outcome of a request that was moved.
    Resumed(Reply<Option<Outcome>>),
    /// We ourselves, for a worker to be restarted.
    Worker,
}

/// How long the outcome of a request that was moved is kept for who comes for it.
const KEPT: Duration = Duration::from_secs(60);

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last: RequestId,
    waiting: BTreeMap<RequestId, Waiting>,
    /// Of requests that were moved, until somebody comes for it.
    outcomes: BTreeMap<RequestId, (Outcome, Instant)>,
    refresh: Vec<Reply<()>>,
    /// The number of who waits for the upgrade that goes on; 0 = nobody.
    pub(super) upgrade: RequestId,
    /// Everything that is asked is moved.
    moving: bool,
}

/// What the next image has to know of requests.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct HandedRequests {
    last: RequestId,
    /// Those that somebody will come for.
    #[serde(default)]
    moved: Vec<RequestId>,
    /// Outcomes that are known already.
    #[serde(default)]
    outcomes: Vec<(RequestId, Outcome)>,
}

impl Requests {
    fn register(&mut self, waiting: Waiting) -> RequestId {
        self.last += 1;
        let waiting = if self.moving { moved(waiting, self.last) } else { waiting };
        self.waiting.insert(self.last, waiting);
        self.last
    }

    /// Numbers a request that is moved.
    pub(super) fn register_moved(&mut self) -> RequestId {
        self.register(Waiting::Moved)
    }

    /// Numbers a request of our own for a worker.
    pub(super) fn register_worker(&mut self) -> RequestId {
        self.register(Waiting::Worker)
    }

    /// Sends everyone who waits to the next image, and whoever asks from here on.
    pub(super) fn move_all(&mut self) {
        self.moving = true;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        self.waiting = waiting.map(|(id, waiting)| (id, moved(waiting, id))).into_map();
    }

    pub(super) fn hand_over(&self) -> HandedRequests {
        let moved = self.waiting.iter().filter(|(_, waiting)| matches!(waiting, Waiting::Moved));
        HandedRequests {
            last: self.last,
            moved: moved.map(|(id, _)| *id).collect(),
            outcomes: self.outcomes.iter().map(|(id, (outcome, _))| (*id, outcome.clone())).collect(),
        }
    }

    pub(super) fn inherit(handed: HandedRequests) -> Self {
        let now = Instant::now();
        Self {
            last: handed.last,
            waiting: handed.moved.into_iter().map(|id| (id, Waiting::Moved)).into_map(),
            outcomes: handed.outcomes.into_iter().map(|(id, outcome)| (id, (outcome, now))).into_map(),
            ..Self::default()
        }
    }

    /// Somebody comes for the outcome of a request that was moved.
    fn resume(&mut self, request: RequestId, reply: Reply<Option<Outcome>>) {
        if let Some((outcome, _)) = self.outcomes.remove(&request) {
            return reply.send(Some(outcome));
        }
        match self.waiting.get_mut(&request) {
            Some(waiting @ (Waiting::Moved | Waiting::Resumed(_))) => *waiting = Waiting::Resumed(reply),
            Some(_) | None => reply.send(None),
        }
    }

    /// Passes an outcome on to who waits for it. `true` when it is that of a worker's restart.
    pub(super) fn reply(&mut self, request: RequestId, outcome: Outcome) -> bool {
        match self.waiting.remove(&request) {
            None | Some(Waiting::Nobody) => {}
            Some(Waiting::Worker) => return true,
            Some(Waiting::Outcome(reply)) => reply.send(outcome),
            Some(Waiting::Resumed(reply)) => reply.send(Some(outcome)),
            Some(Waiting::Moved) => {
                let now = Instant::now();
                self.outcomes.retain(|_, (_, since)| now.duration_since(*since) < KEPT);
                self.outcomes.insert(request, (outcome, now));
            }
            Some(Waiting::Reload { reply, changed, hash }) => reply.send(match outcome {
                Outcome::Refused(why) => ReloadReply::Refused(why),
                Outcome::Done | Outcome::Failed(_) | Outcome::NoSuchUnit(_) | Outcome::Cancelled(_) => ReloadReply::Applied {
                    changed,
                    config_hash: hash,
                },
            }),
        }
        false
    }

    /// Answers whoever waits for the upgrade.
    pub(super) fn upgrade_over(&mut self, outcome: Outcome) {
        let request = std::mem::take(&mut self.upgrade);
        self.reply(request, outcome);
    }

    /// The facts are new.
    pub(super) fn refreshed(&mut self) {
        for reply in self.refresh.drain(..) {
            reply.send(());
        }
    }
}

/// Sends who waits to the next image.
fn moved(waiting: Waiting, request: RequestId) -> Waiting {
    match waiting {
        Waiting::Nobody | Waiting::Worker => return waiting,
        Waiting::Moved => {}
        Waiting::Outcome(reply) => reply.moved(request),
        Waiting::Reload { reply, .. } => reply.moved(request),
        Waiting::Resumed(reply) => reply.moved(request),
    }
    Waiting::Moved
}

/// Where the configuration came from, to read it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// The file, or the directory that was looked into.
    pub source: Source,
    /// The flags of the last `up`.
    #[serde(deserialize_with = "known_flags")]
    pub flags: Flags,
}

/// The flags that this version knows.
fn known_flags<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Flags, D::Error> {
    use serde::de::Error;
    let mut flags = serde_json::Map::deserialize(deserializer)?;
    let known = serde_json::to_value(Flags::default()).map_err(D::Error::custom)?;
    flags.retain(|name, _| known.get(name).is_some());
    serde_json::from_value(flags.into()).map_err(D::Error::custom)
}

impl Daemon {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Ping { reply } => {
                self.publish();
                reply.send(());
            }
            Command::Refresh { reply } if self.hands.facts_are_fresh() => reply.send(()),
            Command::Refresh { reply } => {
                self.requests.refresh.push(reply);
                self.hands.gather_facts(&mut self.supervisor);
            }
            Command::UnitOf { pid, reply } => reply.send(self.hands.unit_of(pid).map(|name| name.as_str().to_owned())),
            Command::Verb { verb, reply } => {
                let id = self.requests.register(Waiting::Outcome(reply));
                self.inbox.push_back(Event::Request(Request { id, verb }));
            }
            Command::Reload { request, reply } => {
                let waiting = Waiting::Reload {
                    reply,
                    changed: false,
                    hash: String::new(),
                };
                self.reload(request, waiting);
            }
            Command::Shutdown { budget, reply } => {
                let request = self.requests.register(Waiting::Outcome(reply));
                let budget = budget.unwrap_or_else(|| self.hands.budget());
                self.inbox.push_back(Event::Shutdown { request, budget });
            }
            Command::PortHolders { unit, reply } => self.hands.port_holders(&unit, reply),
            Command::Upgrade { binary, workers, reply } => self.upgrade(binary, workers, reply),
            Command::Resume { request, reply } => self.requests.resume(request, reply),
        }
    }

    /// Reads the configuration again; an invalid one changes nothing.
    pub(super) fn reload(&mut self, request: ReloadRequest, waiting: Waiting) {
        if let Some(at) = request.expires_at {
            self.hands.set_variable("SANDBOX_EXPIRES_AT", &at.to_string());
        }
        let origin = self.origin(request);
        match load(&origin.source, &origin.flags, &self.hands.variables()) {
            Err(diagnostics) => self.refuse(waiting, ReloadReply::Invalid(diagnostics.to_string())),
            Ok(loaded) => {
                let config = Arc::new(loaded.config);
                let waiting = match waiting {
                    Waiting::Reload { reply, .. } => Waiting::Reload {
                        reply,
                        changed: config.hash != self.hands.config().hash,
                        hash: config.hash.clone(),
                    },
                    other => other,
                };
                let request = self.requests.register(waiting);
                self.hands.propose(&config, origin);
                self.notice(format!("the configuration {} was read", config.hash.get(..12).unwrap_or_default()));
                self.inbox.push_back(Event::Configure { config, request });
            }
        }
    }

    fn refuse(&mut self, waiting: Waiting, why: ReloadReply) {
        if let ReloadReply::Invalid(text) | ReloadReply::Refused(text) = &why {
            self.notice(format!("the configuration was not taken over, nothing has changed: {text}"));
        }
        if let Waiting::Reload { reply, .. } = waiting {
            reply.send(why);
        }
    }

    fn origin(&self, request: ReloadRequest) -> Origin {
        let mut origin = self.hands.origin().clone();
        if let Some(directory) = request.directory {
            origin.source = Source::Detect(PathBuf::from(directory));
        }
        if let Some(file) = request.file {
            origin.source = Source::File(PathBuf::from(file));
        }
        if let Some(flags) = request.flags {
            origin.flags = flags;
        }
        origin
    }
}
