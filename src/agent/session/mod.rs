//! One conversation as a pure machine: `step(now, event) → actions`. It claims prompts, runs them one at a time in order, resumes what
//! was cut, and ends each exactly once.
//!
//! It never looks at a clock, a file or a process. Two things live in it: the claude *process* (which may outlive a prompt) and the
//! *turn* (which may outlive a process). Whatever comes late carries the generation of its process or the attempt of its claim, and is
//! dropped when that is over.
//!
//! ```text
//! turn:     Claiming → Waiting → Sent ⇄ Cut → Waiting …        process:  Off → On → (Terminating →) Dying → Off
//!                          │      ├→ Interrupted ─┐
//!                          │      ├→ Recovering ──┼→ Sweeping → Flushing → gone
//!                          └──────┴───────────────┘
//! ```

mod alphabet;
mod apply;
mod lines;
mod settle;
mod state;
#[cfg(test)]
mod tests;

use super::prompt::{Durability, Happening, Origin, Outcome, Prompt, PromptId, Verdict, text_flaw};
use super::protocol::{self, Ask, Line};
use super::settings::Launch;
pub use alphabet::{Action, Event, Offer};
use apply::withdraw_questions;
use serde_json::{Value, json};
use state::{Phase, Process, Turn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Times and limits that hold for every session.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The longest silence of the model.
    pub stall_timeout: Duration,
    /// The longest silence while a tool runs.
    pub tool_timeout: Duration,
    /// The longest silence of a process that has just been started.
    pub start_timeout: Duration,
    /// After which an idle process is ended.
    pub idle_timeout: Duration,
    /// How often a claim is renewed.
    pub renew_every: Duration,
    /// From an interrupt or a SIGTERM to the next, harder thing.
    pub grace: Duration,
    /// From an idle claude without a result to looking the answer up in its transcript.
    pub recover_after: Duration,
    /// The longest wait for sync at a prompt's end.
    pub flush_timeout: Duration,
    /// Cuts in a row, without the model having said anything, after which a prompt has failed.
    pub setbacks_max: u32,
    /// Whether background processes of a turn live on.
    pub keep_background: bool,
    /// The longest prompt, bytes.
    pub prompt_bytes_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            stall_timeout: Duration::from_secs(120),
            tool_timeout: Duration::from_secs(900),
            start_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(900),
            renew_every: Duration::from_secs(20),
            grace: Duration::from_secs(5),
            recover_after: Duration::from_secs(2),
            flush_timeout: Duration::from_secs(5),
            setbacks_max: 5,
            keep_background: false,
            prompt_bytes_max: 4 << 20,
        }
    }
}

/// What a session is doing, for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// The model or a tool works.
    Running,
    /// The API refuses and claude tries again.
    Retrying,
    /// The turn was silent for too long and is being started again.
    Stalled,
    /// A person has to answer.
    RequiresAction,
}

impl Activity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Stalled => "stalled",
            Self::RequiresAction => "requires_action",
        }
    }
}

/// One conversation.
#[derive(Debug)]
pub struct Session {
    rules: Rules,
    fifo: bool,
    generation: u64,
    process: Process,
    turn: Option<Turn>,
    queue: VecDeque<Turn>,
    total_cost_usd: f64,
    draining: bool,
    stalled: bool,
    spoke: bool,
}

impl Session {
    /// A session that has done nothing yet. `fifo`: this claude does not say which message a result answers.
    pub fn new(rules: Rules, fifo: bool, total_cost_usd: f64) -> Self {
        Self {
            rules,
            fifo,
            generation: 0,
            process: Process::Off,
            turn: None,
            queue: VecDeque::new(),
            total_cost_usd,
            draining: false,
            stalled: false,
            spoke: false,
        }
    }

    /// Takes in what happened and says what is to be done.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.apply(now, event, &mut actions);
        self.settle(now, &mut actions);
        actions
    }

    /// When it wants to be stepped again although nothing happened.
    pub fn next_deadline(&self) -> Option<Instant> {
        let process = match &self.process {
            Process::On {
                idle_since: Some(since), ..
            } if self.turn.is_none() => Some(*since + self.rules.idle_timeout),
            Process::Terminating { until } => Some(*until),
            Process::Off | Process::On { .. } | Process::Dying => None,
        };
        let turn = self.turn.as_ref().and_then(|turn| self.turn_deadline(turn));
        process.into_iter().chain(turn).min()
    }

    fn turn_deadline(&self, turn: &Turn) -> Option<Instant> {
        let phase = match turn.phase {
            Phase::Waiting { start_at } => matches!(self.process, Process::Off | Process::On { .. }).then_some(start_at),
            Phase::Sent { look_at } => self.stalls_at(turn).into_iter().chain(look_at).min(),
            Phase::Interrupted { until, .. } | Phase::Flushing { until, .. } => Some(until),
            Phase::Claiming | Phase::Cut | Phase::Recovering | Phase::Sweeping { .. } | Phase::Lost | Phase::Suspended => None,
        };
        let renewal = self.renews(turn).then_some(turn.renew_at);
        let limit = self.limit_at(turn);
        phase.into_iter().chain(renewal).chain(limit).min()
    }

    /// The prompt that has been claimed and is not over, with its attempt.
    pub fn open(&self) -> Option<(&Prompt, u32)> {
        let turn = self
            .turn
            .as_ref()
            .filter(|turn| !matches!(turn.phase, Phase::Claiming | Phase::Lost))?;
        Some((&turn.prompt, turn.attempt))
    }

    /// Whether it has this prompt, waiting or running.
    pub fn knows(&self, id: &PromptId) -> bool {
        self.turn.iter().chain(&self.queue).any(|turn| &turn.prompt.id == id)
    }

    /// The question with this id, if it is open.
    pub fn question(&self, id: &str) -> Option<(&PromptId, &Ask)> {
        let turn = self.turn.as_ref()?;
        turn.questions.get(id).map(|ask| (&turn.prompt.id, ask))
    }

    /// The open questions.
    pub fn questions(&self) -> impl Iterator<Item = &str> {
        self.turn.iter().flat_map(|turn| turn.questions.keys().map(String::as_str))
    }

    /// What it is doing.
    pub fn activity(&self) -> Activity {
        match &self.turn {
            None => Activity::Idle,
            Some(turn) if !turn.questions.is_empty() => Activity::RequiresAction,
            Some(_) if self.stalled => Activity::Stalled,
            Some(turn) if turn.retrying => Activity::Retrying,
            Some(_) => Activity::Running,
        }
    }

    /// Whether a prompt runs or waits here.
    pub fn busy(&self) -> bool {
        self.turn.is_some() || !self.queue.is_empty()
    }

    /// Whether a prompt has been begun.
    pub fn running(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether tools of its prompt may run.
    pub fn uses_tools(&self) -> bool {
        match self.turn.as_ref().map(|turn| &turn.phase) {
            Some(Phase::Waiting { .. } | Phase::Sent { .. } | Phase::Cut | Phase::Interrupted { .. } | Phase::Recovering) => true,
            None | Some(Phase::Claiming | Phase::Sweeping { .. } | Phase::Flushing { .. } | Phase::Lost | Phase::Suspended) => false,
        }
    }

    /// Prompts that wait behind the running one.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing of it is left to wait for when the agent ends.
    pub fn drained(&self) -> bool {
        let turn = match self.turn.as_ref().map(|turn| &turn.phase) {
            None | Some(Phase::Suspended) => true,
            Some(_) => false,
        };
        turn && self.process == Process::Off
    }

    /// What the session has cost, as claude counts it.
    pub fn total_cost_usd(&self) -> f64 {
        self.total_cost_usd
    }
}
