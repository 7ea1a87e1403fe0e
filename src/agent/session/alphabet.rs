//! The alphabet: what happens to a session, and what it wants done.

use super::{Durability, Duration, Happening, Launch, Line, Origin, Outcome, Prompt, PromptId, Value};

/// A prompt for a session.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The prompt.
    pub prompt: Prompt,
    /// How claude is to be started for it.
    pub launch: Launch,
    /// Its wall-clock limit.
    pub time_limit: Option<Duration>,
    /// Whether an attempt at it was under way when the agent last ended.
    pub resumed: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// An inbox has a prompt for this session.
    Offered(Box<Offer>),
    /// The inbox gave it to us.
    Claimed {
        /// The prompt.
        id: PromptId,
        /// The attempt that fences everything we say of it.
        attempt: u32,
        /// What the user wrote, where the offer did not say.
        text: Option<String>,
    },
    /// The inbox did not give it to us.
    Refused {
        /// The prompt.
        id: PromptId,
    },
    /// The inbox answered a renewal.
    Renewed {
        /// The prompt.
        id: PromptId,
        /// The attempt that was renewed.
        attempt: u32,
        /// Whether the claim still holds.
        held: bool,
    },
    /// Somebody wants the prompt to end.
    CancelAsked {
        /// The prompt.
        id: PromptId,
    },
    /// A person answered a question.
    Answered {
        /// The question.
        question: String,
        /// What claude is told.
        response: Value,
    },
    /// The process runs.
    Started {
        /// Which one.
        generation: u64,
    },
    /// It could not be started.
    StartFailed {
        /// Which one.
        generation: u64,
        /// Why.
        error: String,
    },
    /// It said a line.
    Said {
        /// Which one.
        generation: u64,
        /// What.
        line: Line,
    },
    /// It ended.
    Exited {
        /// Which one.
        generation: u64,
        /// How, for people.
        how: String,
    },
    /// What was to be killed is gone.
    Emptied {
        /// Of which process.
        generation: u64,
        /// How many were ended.
        ended: u32,
    },
    /// The transcript was looked through for an answer.
    Recovered {
        /// The prompt.
        id: PromptId,
        /// The answer.
        text: Option<String>,
    },
    /// Sync answered, or did not in time.
    Flushed {
        /// The prompt.
        id: PromptId,
        /// What it said.
        durability: Durability,
    },
    /// An idle process is to make room.
    Rest,
    /// The agent is to end: nothing new, and what runs is left to be resumed.
    Drain,
    /// Time went by.
    Tick,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Claim the prompt in its inbox.
    Claim(PromptId, Origin),
    /// Renew the claim.
    Renew(PromptId, u32),
    /// Start claude.
    Start {
        /// The number of the process.
        generation: u64,
        /// With what.
        launch: Launch,
        /// The message that it will get first.
        message: String,
        /// Whether a turn was cut before.
        resumes: bool,
    },
    /// Write a line to its input.
    Write(String),
    /// SIGTERM to claude alone: it ends its tools itself.
    Terminate,
    /// SIGKILL to claude and everything it started; then [`Event::Emptied`].
    KillTree(u64),
    /// End what tools left behind, but not claude; then [`Event::Emptied`].
    Sweep(u64),
    /// Put an event into the prompt's outbox.
    Record(PromptId, Happening),
    /// Look the answer up in the transcript.
    Recover(PromptId),
    /// Let sync bring everything into the store.
    Flush(PromptId),
    /// The prompt is over: the terminal event, then the inbox.
    Finish(Prompt, Box<Outcome>),
    /// The claim is lost: what was not sent of it is void.
    Abandon(PromptId),
    /// The prompt cannot be claimed: forget it.
    Drop(PromptId),
    /// Remember what this version of claude can do.
    Learn {
        /// The version.
        version: String,
        /// Its capabilities.
        capabilities: Vec<String>,
    },
    /// Keep new lines of the transcript.
    Mirror {
        /// claude's file.
        file: String,
        /// The lines.
        entries: Vec<Value>,
    },
}
