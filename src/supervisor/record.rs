//! A run written down and run again: every `(time, event)` that the core was given, and the actions that it answered with.
//!
//! A recording is a list of entries, one JSON document a line. As the core is pure, stepping another one through the same entries gives
//! the same actions: a recording of something odd that happened is a test of it.

use super::action::Action;
use super::event::Event;
use super::machine::Supervisor;
use crate::unit::Config;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One line of a recording. Times count from its beginning.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// The beginning: a supervisor without units.
    Began {
        /// Who recorded.
        version: String,
        /// What the jitter is made from.
        seed: u64,
        /// The drain deadline where the configuration names none.
        budget: Duration,
    },
    /// A step.
    Step {
        /// When.
        at: Duration,
        /// What happened.
        event: Box<Event>,
        /// What was to be done about it.
        actions: Vec<Value>,
    },
    /// The supervisor was saved and restored: an upgrade in place.
    Restored {
        /// When.
        at: Duration,
    },
}

impl Entry {
    /// A step. What tells no other decision is left out of the event: tokens, values of variables, what workers say of themselves.
    pub fn step(at: Duration, event: &Event, actions: &[Action]) -> Self {
        Self::Step {
            at,
            event: Box::new(without_secrets(event)),
            actions: actions.iter().map(written).collect(),
        }
    }
}

/// An action as a recording has it: a configuration is named by its hash alone.
fn written(action: &Action) -> Value {
    match action {
        Action::Configured(config) => json!({ "configured": config.hash }),
        Action::Spawn { .. }
        | Action::Signal { .. }
        | Action::Empty { .. }
        | Action::Probe { .. }
        | Action::TakeHashes { .. }
        | Action::Announce(_)
        | Action::Reply { .. }
        | Action::Halt { .. } => serde_json::to_value(action).unwrap_or_default(),
    }
}

fn without_secrets(event: &Event) -> Event {
    use super::event::Notice;
    let mut event = event.clone();
    if let Event::Configure { config, .. } = &mut event {
        *config = Arc::new(without_values(config));
    }
    if let Event::Notified {
        notice: Notice::Part(part),
        ..
    } = &mut event
    {
        part.clear();
    }
    event
}

/// Values of variables may be secrets; only whether they change matters.
fn without_values(config: &Config) -> Config {
    let mut config = config.clone();
    config.token = config.token.map(|_| String::new());
    config.report_url = config.report_url.map(|_| String::new());
    for unit in config.units.iter_mut().map(Arc::make_mut) {
        for value in unit.environment.values_mut() {
            let digest = Sha256::digest(&*value);
            *value = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        }
    }
    config
}

/// Why a recording cannot be run again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A step comes before the beginning.
    #[error("the recording does not begin with its beginning")]
    NoBeginning,
    /// Saved and restored, the supervisor was not to be read.
    #[error("{0}")]
    Restore(#[from] super::RestoreError),
}

/// A step that was run again.
#[derive(Debug)]
pub struct Replayed {
    /// When, from the beginning on.
    pub at: Duration,
    /// What happened.
    pub event: Event,
    /// What was to be done about it when it was recorded.
    pub recorded: Vec<Value>,
    /// What is to be done about it.
    pub actions: Vec<Value>,
}

impl Replayed {
    /// Whether the core decides as it did.
    pub fn is_same(&self) -> bool {
        self.recorded == self.actions
    }
}

/// Runs a recording again.
#[derive(Debug)]
pub struct Replay {
    begun: Instant,
    supervisor: Option<Supervisor>,
}

impl Replay {
    /// From any instant on: only differences matter.
    pub fn new(begun: Instant) -> Self {
        Self { begun, supervisor: None }
    }

    /// The next entry; what came of it, if it is a step.
    pub fn take(&mut self, entry: Entry) -> Result<Option<Replayed>, ReplayError> {
        match entry {
            Entry::Began { version: _, seed, budget } => {
                self.supervisor = Some(Supervisor::new(self.begun, seed).with_budget(budget));
                Ok(None)
            }
            Entry::Step { at, event, actions } => {
                let supervisor = self.supervisor.as_mut().ok_or(ReplayError::NoBeginning)?;
                let again = supervisor.step(self.begun + at, (*event).clone());
                Ok(Some(Replayed {
                    at,
                    event: *event,
                    recorded: actions,
                    actions: again.iter().map(written).collect(),
                }))
            }
            Entry::Restored { at } => {
                let moment = self.begun + at;
                let supervisor = self.supervisor.take().ok_or(ReplayError::NoBeginning)?;
                self.supervisor = Some(Supervisor::restore(supervisor.save(moment), moment)?);
                Ok(None)
            }
        }
    }

    /// The supervisor as it is after what was taken.
    pub fn supervisor(&mut self) -> Option<&mut Supervisor> {
        self.supervisor.as_mut()
    }
}
