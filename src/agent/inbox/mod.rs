//! Where prompts come from and where their ends are reported.
//!
//! The worker tells an inbox what it wants; answers and news come back as [`Notice`]s on one channel, so a slow inbox blocks nothing.

pub mod convex;
pub mod local;

use super::outbox::Progress;
use super::prompt::{Outcome, Prompt, PromptId};
use serde_json::Value;
use std::path::PathBuf;
use tokio::sync::watch;

/// What an inbox has to say.
#[derive(Clone, Debug)]
pub enum Notice {
    /// There is a prompt, or an attempt of ours at one is still open.
    Offer {
        /// The prompt.
        prompt: Box<Prompt>,
        /// Whether an attempt of ours is open.
        resumed: bool,
        /// Why it cannot be run as it was asked for.
        flaw: Option<String>,
    },
    /// A claim was granted.
    Claimed {
        /// The prompt.
        id: PromptId,
        /// The attempt.
        attempt: u32,
        /// The number that its next event gets, where another box had it before.
        first_seq: u64,
        /// What the user wrote, where the offer did not say.
        text: Option<String>,
        /// Whether what this box has recorded of it before is void.
        fresh: bool,
    },
    /// Everything of a prompt has arrived where it belongs.
    Delivered {
        /// The prompt.
        id: PromptId,
    },
    /// A claim was not granted.
    Refused {
        /// The prompt.
        id: PromptId,
    },
    /// A renewal was answered.
    Renewed {
        /// The prompt.
        id: PromptId,
        /// The attempt.
        attempt: u32,
        /// Whether it still holds.
        held: bool,
    },
    /// Somebody wants a prompt to end.
    Cancel {
        /// The prompt.
        id: PromptId,
    },
    /// A person answered a question.
    Answer {
        /// The question.
        question: String,
        /// The answer as the person gave it.
        answer: Value,
    },
}

/// An inbox: a queue of prompts with claims, and a place for their ends.
pub trait Inbox: std::fmt::Debug {
    /// Asks for a prompt; [`Notice::Claimed`] or [`Notice::Refused`] follows.
    fn claim(&mut self, id: &PromptId);
    /// Asks to keep it; [`Notice::Renewed`] follows.
    fn renew(&mut self, id: &PromptId, attempt: u32);
    /// Puts a question to whoever can answer it.
    fn ask(&mut self, id: &PromptId, attempt: u32, question: &str, body: &Value);
    /// Takes a question back, or tells that it was answered.
    fn settle(&mut self, id: &PromptId, attempt: u32, question: &str);
    /// Reports the end. Its terminal event is on disk.
    fn finish(&mut self, id: &PromptId, outcome: &Outcome, last_seq: u64);
    /// Reports how the agent is, when that changed and from time to time.
    fn report(&mut self, part: &Value);
    /// Tells where the events of a claimed prompt are.
    fn begun(&mut self, _id: &PromptId, _events: PathBuf, _progress: watch::Receiver<Progress>) {}
    /// Nothing more is to be delivered of a prompt.
    fn delivered(&mut self, _id: &PromptId) {}
    /// Prompts whose events have not all been delivered.
    fn pending_deliveries(&self) -> usize {
        0
    }
    /// What the status says of this inbox.
    fn status(&self) -> Value;
}
