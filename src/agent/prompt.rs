//! What the parts of the agent say to each other: a prompt, its events, its end.

use super::settings::Options;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;

/// A prompt's id, unique over all inboxes: the inbox's own id of it. It is the message id that claude is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PromptId(String);

impl PromptId {
    /// Takes an id that can be part of a file name: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub fn new(id: &str) -> Option<Self> {
        let good = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        (good && (1..=64).contains(&id.len())).then(|| Self(id.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PromptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a prompt came from, and where its end is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The queue on this disk.
    Local,
    /// The app's Convex deployment.
    Convex,
}

/// Something to do for claude.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Its id.
    pub id: PromptId,
    /// Where it came from.
    pub origin: Origin,
    /// The conversation that it belongs to.
    pub session: String,
    /// What the user wrote.
    pub text: String,
    /// What it asks for beyond the config.
    #[serde(default)]
    pub options: Options,
}

/// Why a text is no prompt: a code for programs, and words for people.
pub fn text_flaw(text: &str, longest: usize) -> Option<(&'static str, String)> {
    if text.trim().is_empty() {
        return Some(("empty_prompt", "the prompt is empty".into()));
    }
    let bytes = text.len();
    let long = || format!("the prompt has {bytes} bytes, at most {longest} are taken ([agent] max_prompt_bytes)");
    (bytes > longest).then(|| ("long_prompt", long()))
}

/// Why a text is no session's name.
pub fn session_flaw(name: &str) -> Option<String> {
    let bad = name.is_empty() || name.len() > 200 || name.chars().any(char::is_control);
    bad.then(|| "a session's name is 1 to 200 bytes without control characters".into())
}

/// How a prompt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As asked.
    Done,
    /// It did not work.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The end of a prompt, as the terminal event and the inbox carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Verdict,
    /// A word for programs: `completed max_turns max_budget time_limit api_error crashed cancelled refused …`.
    pub reason: String,
    /// The last text of the model.
    pub text: String,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Rounds with the model.
    pub turns: u64,
    /// From the claim to the end.
    pub duration_ms: u64,
    /// What this prompt cost.
    pub cost_usd: f64,
    /// Tokens.
    pub usage: Value,
    /// How often the turn was cut and resumed; where it was, effects of the tool that ran then may have happened twice.
    pub resumed: u32,
    /// The attempt that ended it.
    pub attempt: u32,
    /// Whether the files as of this end are in the store; `None` = no sync here.
    pub durable: Option<bool>,
    /// The store's generation that has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Files that are not there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// Background processes of the turn that were ended.
    #[serde(default)]
    pub strays_ended: u32,
}

impl Outcome {
    /// An end of a prompt that claude had no part in.
    pub fn without_claude(status: Verdict, reason: &str, error: Option<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
            text: String::new(),
            error,
            turns: 0,
            duration_ms: 0,
            cost_usd: 0.0,
            usage: Value::Null,
            resumed: 0,
            attempt: 0,
            durable: None,
            generation: None,
            pending: None,
            strays_ended: 0,
        }
    }
}

/// What sync says to a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// Whether everything is in the store; `None` = no sync here.
    pub durable: Option<bool>,
    /// The store's generation.
    pub generation: Option<u64>,
    /// Files that are not there yet.
    pub pending: Option<u64>,
}

/// What happened in a prompt: the `type` and the `data` of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// An attempt began.
    Started {
        /// Its number.
        attempt: u32,
        /// Whether it goes on with a turn that was cut.
        resumed: bool,
    },
    /// claude said what it is.
    Init(Value),
    /// Text as it is written; joined.
    Text(String),
    /// The model's thinking as it is written; joined.
    Thinking(String),
    /// A block of the answer, whole.
    Message(Value),
    /// Results of tools.
    ToolResult(Value),
    /// `running requires_action retrying stalled`.
    State(&'static str, Value),
    /// A question to a person.
    Question(Value),
    /// Its answer, or that it is withdrawn.
    Answer(Value),
    /// Something worth knowing that is none of the others.
    Notice(Value),
    /// The terminal event: the last of a prompt.
    End(Box<Outcome>),
}

impl Happening {
    /// That a question needs no answer any more, and why.
    pub fn withdrawn(question: &str, because: &str) -> Self {
        Self::Answer(json!({"question": question, "withdrawn": true, "because": because}))
    }

    /// The event's type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Init(_) => "init",
            Self::Text(_) => "text",
            Self::Thinking(_) => "thinking",
            Self::Message(_) => "message",
            Self::ToolResult(_) => "tool_result",
            Self::State(..) => "state",
            Self::Question(_) => "question",
            Self::Answer(_) => "answer",
            Self::Notice(_) => "notice",
            Self::End(_) => "end",
        }
    }

    /// The event's data.
    pub fn data(self) -> Value {
        match self {
            Self::Started { attempt, resumed } => json!({"attempt": attempt, "resumed": resumed}),
            Self::Text(text) | Self::Thinking(text) => json!({"text": text}),
            Self::Init(data)
            | Self::Message(data)
            | Self::ToolResult(data)
            | Self::Question(data)
            | Self::Answer(data)
            | Self::Notice(data) => data,
            Self::State(state, detail) => json!({"state": state, "detail": detail}),
            Self::End(outcome) => serde_json::to_value(outcome).unwrap_or_default(),
        }
    }

    /// Whether readers should get it without waiting for more.
    pub fn urgent(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Thinking(_))
    }
}
