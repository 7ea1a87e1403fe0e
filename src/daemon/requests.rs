//! What clients ask, and who waits for which answer.

use super::Daemon;
use crate::control::{Command, ReloadReply, ReloadRequest, Reply};
use crate::supervisor::{Event, Outcome, Request, RequestId};
use crate::unit::{Flags, Source, load};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

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
}

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Requests {
    last: RequestId,
    waiting: BTreeMap<RequestId, Waiting>,
    refresh: Vec<Reply<()>>,
}

impl Requests {
    fn register(&mut self, waiting: Waiting) -> RequestId {
        self.last += 1;
        self.waiting.insert(self.last, waiting);
        self.last
    }

    /// Passes an outcome on to who waits for it.
    pub(super) fn reply(&mut self, request: RequestId, outcome: Outcome) {
        match self.waiting.remove(&request) {
            None | Some(Waiting::Nobody) => {}
            Some(Waiting::Outcome(reply)) => reply.send(outcome),
            Some(Waiting::Reload { reply, changed, hash }) => reply.send(match outcome {
                Outcome::Refused(why) => ReloadReply::Refused(why),
                Outcome::Done | Outcome::Failed(_) | Outcome::NoSuchUnit(_) | Outcome::Cancelled(_) => ReloadReply::Applied {
                    changed,
                    config_hash: hash,
                },
            }),
        }
    }

    /// The facts are new.
    pub(super) fn refreshed(&mut self) {
        for reply in self.refresh.drain(..) {
            reply.send(());
        }
    }
}

/// Where the configuration came from, to read it again.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file, or the directory that was looked into.
    pub source: Source,
    /// The flags of the last `up`.
    pub flags: Flags,
}

impl Daemon {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Ping { reply } => {
                self.publish();
                reply.send(());
            }
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
            Command::Upgrade { reply, .. } => reply.send(Err("this build cannot be upgraded in place yet".to_owned())),
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
