//! What a start tells while it goes on: the beginning and end of each step, and what commands write.

use super::fault::Fault;
use super::plan::Step;
use serde::{Deserialize, Serialize};

/// One thing told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Told {
    /// A step begins.
    Began {
        /// Which.
        step: Step,
        /// What it does in this case.
        detail: String,
    },
    /// Something worth a line happened within a step: a line that a command wrote, a unit that got ready. Secrets are masked.
    Note {
        /// In which.
        step: Step,
        /// The line.
        line: String,
    },
    /// A step is done.
    Done(StepDone),
    /// Something that the caller should know, although it goes on.
    Warning {
        /// In one line.
        message: String,
    },
    /// It is over, and this is why. No other event follows.
    Failed {
        /// Why.
        fault: Fault,
    },
}

/// A step that is done: told when it ends, kept in the record, and part of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepDone {
    /// Which.
    pub step: Step,
    /// What came of it.
    pub detail: String,
    /// How long it took.
    pub duration_ms: u64,
    /// Nothing had to be done.
    #[serde(default)]
    pub skipped: bool,
}

/// Is told how a start goes on. Must not block.
pub trait Progress: Send + Sync {
    /// Takes one thing.
    fn tell(&self, told: Told);
}

impl<F: Fn(Told) + Send + Sync> Progress for F {
    fn tell(&self, told: Told) {
        self(told);
    }
}

/// Nobody listens.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Progress for Nobody {
    fn tell(&self, _told: Told) {}
}
