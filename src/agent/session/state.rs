//! What a session is: its process, its turn.

use super::*;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Process {
    Off,
    On {
        launch: Box<Launch>,
        /// What the session may have cost before claude stops, as it was told when it started.
        spend_until: Option<f64>,
        idle_since: Option<Instant>,
    },
    Terminating {
        until: Instant,
    },
    Dying,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    Claiming,
    Waiting {
        start_at: Instant,
    },
    Sent {
        look_at: Option<Instant>,
    },
    Cut,
    Interrupted {
        until: Instant,
        verdict: Verdict,
        reason: &'static str,
    },
    Recovering,
    Sweeping {
        outcome: Box<Outcome>,
    },
    Flushing {
        outcome: Box<Outcome>,
        until: Instant,
    },
    Lost,
    Suspended,
}

#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) prompt: Prompt,
    pub(super) launch: Launch,
    pub(super) attempt: u32,
    pub(super) began: Instant,
    pub(super) time_limit: Option<Duration>,
    /// What the session may have cost before the prompt is to stop.
    pub(super) spend_until: Option<f64>,
    pub(super) renew_at: Instant,
    pub(super) phase: Phase,
    pub(super) heard: Instant,
    /// Whether claude has said anything that it can say only after it has read the message.
    pub(super) taken_in: bool,
    pub(super) tools: BTreeSet<String>,
    pub(super) questions: BTreeMap<String, Ask>,
    pub(super) asked_since: Instant,
    /// Messages with this prompt that claude took for answered although they were not: the next one gets an id of its own.
    pub(super) forgotten: u32,
    pub(super) resumes: u32,
    pub(super) setbacks: u32,
    pub(super) announced: bool,
    pub(super) cancelled: bool,
    pub(super) retrying: bool,
    pub(super) last_error: String,
}

impl Turn {
    /// The id that claude knows the prompt by.
    pub(super) fn message_id(&self) -> String {
        match self.forgotten {
            0 => self.prompt.id.to_string(),
            count => format!("{}-{}", self.prompt.id, count + 1),
        }
    }

    /// A person's time is not the prompt's.
    pub(super) fn forgive_wait(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.asked_since);
        self.time_limit = self.time_limit.map(|limit| limit + waited);
    }
}
