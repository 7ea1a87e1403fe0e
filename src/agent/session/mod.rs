//! One conversation as a pure machine: `step(now, event) → actions`. It claims prompts, runs them one at a time in order, resumes what
//! was cut, and ends each exactly once.
//!
//! It never looks at a clock, a file or a process. Two things live in it: the claude *process* (which may outlive a prompt) and the
//! *turn* (which may outlive a process). Whatever comes late carries the generation of its process or the attempt of its claim, and is
//! dropped when that is over.
//!
//! ```text
//! turn:     Claiming → Waiting → Sent ⇄ Cut → Waiting …        process:  Off → On → (Closing → Terminating →) Dying → Off
//!                          │      ├→ Interrupted ─┐
//!                          │      ├→ Recovering ──┼→ Sweeping → Flushing → gone
//!                          └──────┴───────────────┘
//! ```

mod lines;
mod settle;
#[cfg(test)]
mod tests;

use super::prompt::{Durability, Happening, Origin, Outcome, Prompt, PromptId, Verdict};
use super::protocol::{self, Ask, Line};
use super::settings::Launch;
use serde_json::{Value, json};
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
    /// From an interrupt, a closed input or a SIGTERM to the next, harder thing.
    pub grace: Duration,
    /// From an idle claude without a result to looking the answer up in its transcript.
    pub recover_after: Duration,
    /// The longest wait for sync at a prompt's end.
    pub flush_timeout: Duration,
    /// Cuts in a row, without the model having said anything, after which a prompt has failed.
    pub setbacks_max: u32,
    /// Whether background processes of a turn live on.
    pub keep_background: bool,
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
        }
    }
}

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
        /// Whether a turn was cut before.
        resumes: bool,
    },
    /// Write a line to its input.
    Write(String),
    /// Close its input: it ends once it is done.
    CloseInput,
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

#[derive(Clone, Debug, PartialEq)]
enum Process {
    Off,
    On { launch: Launch, idle_since: Option<Instant> },
    Closing { until: Instant },
    Terminating { until: Instant },
    Dying,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
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
struct Turn {
    prompt: Prompt,
    launch: Launch,
    attempt: u32,
    began: Instant,
    time_limit: Option<Duration>,
    renew_at: Instant,
    phase: Phase,
    heard: Instant,
    tools: BTreeSet<String>,
    questions: BTreeMap<String, Ask>,
    asked_since: Instant,
    /// Messages with this prompt that claude took for answered although they were not: the next one gets an id of its own.
    forgotten: u32,
    resumes: u32,
    setbacks: u32,
    announced: bool,
    cancelled: bool,
    retrying: bool,
    last_error: String,
}

impl Turn {
    /// The id that claude knows the prompt by.
    fn message_id(&self) -> String {
        match self.forgotten {
            0 => self.prompt.id.to_string(),
            count => format!("{}-{}", self.prompt.id, count + 1),
        }
    }

    /// A person's time is not the prompt's.
    fn forgive_wait(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.asked_since);
        self.time_limit = self.time_limit.map(|limit| limit + waited);
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
            Process::Closing { until } | Process::Terminating { until } => Some(*until),
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

    fn apply(&mut self, now: Instant, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Offered(offer) => self.offered(now, *offer),
            Event::Claimed { id, attempt, text } => self.claimed(now, &id, attempt, text),
            Event::Refused { id } => self.refused(&id, actions),
            Event::Renewed { id, attempt, held } => self.renewed(&id, attempt, held, actions),
            Event::CancelAsked { id } => self.cancel_asked(&id),
            Event::Answered { question, response } => self.answered(now, &question, &response, actions),
            Event::Started { generation }
            | Event::Exited { generation, .. }
            | Event::StartFailed { generation, .. }
            | Event::Said { generation, .. }
                if generation != self.generation => {}
            Event::Started { .. } | Event::Tick => {}
            Event::StartFailed { error, .. } => self.start_failed(now, error),
            Event::Said { line, .. } => self.said(now, line, actions),
            Event::Exited { how, .. } => self.exited(how, actions),
            Event::Emptied { generation, ended } => {
                if generation == self.generation {
                    self.emptied(now, ended, actions);
                }
            }
            Event::Recovered { id, text } => self.recovered(now, &id, text, actions),
            Event::Flushed { id, durability } => self.flushed(&id, durability, actions),
            Event::Rest => self.rest(now, actions),
            Event::Drain => self.draining = true,
        }
    }

    fn rest(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.turn.is_none() && matches!(self.process, Process::On { .. }) {
            self.process = Process::Closing {
                until: now + self.rules.grace,
            };
            actions.push(Action::CloseInput);
        }
    }

    fn offered(&mut self, now: Instant, offer: Offer) {
        let Offer {
            prompt,
            launch,
            time_limit,
            resumed,
        } = offer;
        if self.knows(&prompt.id) {
            return;
        }
        let turn = Turn {
            prompt,
            launch,
            attempt: 0,
            began: now,
            time_limit,
            renew_at: now,
            phase: Phase::Claiming,
            heard: now,
            tools: BTreeSet::new(),
            questions: BTreeMap::new(),
            asked_since: now,
            forgotten: 0,
            resumes: u32::from(resumed),
            setbacks: 0,
            announced: false,
            cancelled: false,
            retrying: false,
            last_error: String::new(),
        };
        match resumed {
            true => self.queue.push_front(turn),
            false => self.queue.push_back(turn),
        }
    }

    fn turn_of(&mut self, id: &PromptId) -> Option<&mut Turn> {
        self.turn.as_mut().filter(|turn| &turn.prompt.id == id)
    }

    fn claimed(&mut self, now: Instant, id: &PromptId, attempt: u32, text: Option<String>) {
        let renew_at = now + self.rules.renew_every;
        if let Some(turn) = self.turn_of(id)
            && turn.phase == Phase::Claiming
        {
            turn.attempt = attempt;
            turn.prompt.text = text.unwrap_or_else(|| std::mem::take(&mut turn.prompt.text));
            turn.began = now;
            turn.heard = now;
            turn.renew_at = renew_at;
            turn.phase = Phase::Waiting { start_at: now };
        }
    }

    fn refused(&mut self, id: &PromptId, actions: &mut Vec<Action>) {
        self.queue.retain(|turn| &turn.prompt.id != id);
        if self.turn_of(id).is_some_and(|turn| turn.phase == Phase::Claiming) {
            self.turn = None;
            actions.push(Action::Drop(id.clone()));
        }
    }

    fn renewed(&mut self, id: &PromptId, attempt: u32, held: bool, actions: &mut Vec<Action>) {
        let generation = self.generation;
        let Some(turn) = self.turn_of(id).filter(|turn| turn.attempt == attempt && !held) else {
            return;
        };
        turn.phase = Phase::Lost;
        actions.push(Action::Abandon(id.clone()));
        if self.process != Process::Off {
            self.process = Process::Dying;
            actions.push(Action::KillTree(generation));
        }
    }

    fn cancel_asked(&mut self, id: &PromptId) {
        if let Some(turn) = self.turn.iter_mut().chain(&mut self.queue).find(|turn| &turn.prompt.id == id) {
            turn.cancelled = true;
        }
    }

    fn answered(&mut self, now: Instant, question: &str, response: &Value, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn.as_mut() else { return };
        let Some(ask) = turn.questions.remove(question) else { return };
        turn.heard = now;
        actions.push(Action::Write(protocol::answer(&ask.request_id, response)));
        let told = json!({"question": question, "behavior": response["behavior"], "message": response["message"]});
        actions.push(Action::Record(turn.prompt.id.clone(), Happening::Answer(told)));
        if turn.questions.is_empty() {
            turn.forgive_wait(now);
            actions.push(Action::Record(turn.prompt.id.clone(), Happening::State("running", Value::Null)));
        }
    }

    fn start_failed(&mut self, now: Instant, error: String) {
        self.process = Process::Off;
        if let Some(turn) = self.turn.as_mut() {
            turn.last_error = error;
            turn.phase = Phase::Cut;
        }
        self.cut_to_waiting(now);
    }

    fn exited(&mut self, how: String, actions: &mut Vec<Action>) {
        let generation = self.generation;
        if let Some(turn) = self.turn.as_mut() {
            turn.last_error = how;
            withdraw_questions(turn, actions);
            if matches!(turn.phase, Phase::Sent { .. }) {
                turn.phase = Phase::Cut;
            }
        }
        if self.process != Process::Dying {
            self.process = Process::Dying;
            actions.push(Action::KillTree(generation));
        }
    }

    fn emptied(&mut self, now: Instant, ended: u32, actions: &mut Vec<Action>) {
        let all_gone = self.process == Process::Dying;
        if all_gone {
            self.process = Process::Off;
        }
        let Some(turn) = self.turn.as_mut() else { return };
        match turn.phase.clone() {
            Phase::Sweeping { mut outcome } => {
                outcome.strays_ended = ended;
                self.begin_flush(now, outcome, actions);
            }
            Phase::Cut => self.cut_to_waiting(now),
            Phase::Interrupted { verdict, reason, .. } if all_gone => {
                let outcome = self.outcome_without_result(now, verdict, reason, None);
                self.begin_flush(now, outcome, actions);
            }
            Phase::Lost => self.turn = None,
            Phase::Claiming
            | Phase::Waiting { .. }
            | Phase::Sent { .. }
            | Phase::Interrupted { .. }
            | Phase::Recovering
            | Phase::Flushing { .. }
            | Phase::Suspended => {}
        }
    }

    /// After a cut: another start, later and later, until the model says something again.
    fn cut_to_waiting(&mut self, now: Instant) {
        let Some(turn) = self.turn.as_mut() else { return };
        turn.resumes += 1;
        turn.setbacks += 1;
        turn.tools.clear();
        turn.retrying = false;
        let delay = Duration::from_millis(100) * 2u32.pow(turn.setbacks.min(8));
        turn.phase = Phase::Waiting { start_at: now + delay };
    }

    fn recovered(&mut self, now: Instant, id: &PromptId, text: Option<String>, actions: &mut Vec<Action>) {
        if self.turn_of(id).is_none_or(|turn| turn.phase != Phase::Recovering) {
            return;
        }
        // The turn was cut at a point where claude remembers the message but not that it owes an answer: it is asked anew.
        if let Some(turn) = self.turn.as_mut().filter(|turn| text.is_none() && turn.forgotten == 0) {
            turn.forgotten += 1;
            turn.resumes += 1;
            turn.last_error = "the message was taken for answered".into();
            turn.phase = Phase::Waiting { start_at: now };
            return;
        }
        let mut outcome = match &text {
            Some(_) => self.outcome_without_result(now, Verdict::Done, "recovered", None),
            None => {
                let error = "claude took the prompt for answered, but its transcript has no answer".to_owned();
                self.outcome_without_result(now, Verdict::Failed, "no_answer", Some(error))
            }
        };
        outcome.text = text.unwrap_or_default();
        self.begin_sweep(now, outcome, actions);
    }

    fn flushed(&mut self, id: &PromptId, durability: Durability, actions: &mut Vec<Action>) {
        let Some(turn) = self.turn_of(id) else { return };
        let Phase::Flushing { outcome, .. } = &turn.phase else { return };
        let mut outcome = outcome.clone();
        outcome.durable = durability.durable;
        outcome.generation = durability.generation;
        outcome.pending = durability.pending;
        self.finish(outcome, actions);
    }
}

fn withdraw_questions(turn: &mut Turn, actions: &mut Vec<Action>) {
    for (question, _) in std::mem::take(&mut turn.questions) {
        let withdrawn = json!({"question": question, "withdrawn": true});
        actions.push(Action::Record(turn.prompt.id.clone(), Happening::Answer(withdrawn)));
    }
}
