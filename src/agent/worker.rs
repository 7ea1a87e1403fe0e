//! The worker: one task that owns all sessions and joins them with claude, the inboxes, the outbox and the door.

mod act;
mod status;
mod wishes;

use super::children::{self, Leaders, Ticks};
use super::claude::{Claude, Output, Surroundings};
use super::door::Knock;
use super::inbox::local::Local;
use super::inbox::{Inbox, Notice};
use super::outbox::{Outbox, OutboxError};
use super::probe::Features;
use super::prompt::{Happening, Origin, Outcome, Prompt, PromptId, Verdict};
use super::session::{Event, Offer, Rules, Session};
use super::settings::Settings;
use super::transcript::{Record, Transcripts};
use super::tree::{self, Scope, Target};
use crate::host::mask::Masker;
use crate::ordered::Order;
use crate::sd_notify;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How long the agent takes at most to end, once it was asked to.
const DRAIN: Duration = Duration::from_secs(8);
/// How often its part of the status goes out at most.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What the worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// `[agent]`.
    pub settings: Settings,
    /// What is the same for every claude.
    pub surroundings: Surroundings,
    /// claude's version.
    pub version: Option<String>,
    /// `<state>/agent`.
    pub directory: PathBuf,
    /// The supervisor's control socket.
    pub control: Option<PathBuf>,
    /// The conversations.
    pub transcripts: Transcripts,
    /// What versions can do.
    pub features: Features,
    /// The events.
    pub outbox: Outbox,
    /// The queue on this disk.
    pub local: Local,
    /// The app's inbox.
    pub convex: Option<Box<dyn Inbox>>,
    /// What the inboxes say.
    pub notices: mpsc::UnboundedReceiver<Notice>,
    /// What comes through the door.
    pub knocks: mpsc::UnboundedReceiver<Knock>,
    /// Hides secrets.
    pub masker: Masker,
}

/// Running the worker: what ended it.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A signal could not be listened to.
    #[error("listening to signals: {0}")]
    Signal(#[from] std::io::Error),
    /// The outbox could not be written. Nothing is acknowledged that is not on disk, so there is no going on.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

#[derive(Debug)]
struct Slot {
    session: Session,
    claude: Option<Claude>,
    record: Record,
    used: Instant,
    /// When its prompt was claimed.
    claimed: Ticks,
}

#[derive(Debug, Default)]
struct Counters {
    done: u64,
    failed: u64,
    cancelled: u64,
    cost_usd: f64,
    turns: u64,
    duration_ms: u64,
    last: Value,
}

/// What comes back from what was begun.
type Inner = (String, Event);

#[derive(Debug)]
struct Worker {
    parts: Parts,
    slots: BTreeMap<String, Slot>,
    leaders: Leaders,
    waiting: VecDeque<(Prompt, bool)>,
    ending: BTreeMap<PromptId, (Prompt, Outcome)>,
    events: VecDeque<Inner>,
    inner: mpsc::UnboundedSender<Inner>,
    counters: Counters,
    draining: bool,
    reported: Value,
    changed: bool,
    report_at: Instant,
}

enum Woken {
    Notice(Notice),
    Knock(Knock),
    Inner(Inner),
    Drain,
    Time,
}

/// Runs until it is told to end.
pub async fn run(parts: Parts) -> Result<(), WorkerError> {
    let (inner, mut from_inside) = mpsc::unbounded_channel();
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let watchdog = sd_notify::watchdog_interval();
    let mut worker = Worker {
        parts,
        slots: BTreeMap::new(),
        leaders: Leaders::default(),
        waiting: VecDeque::new(),
        ending: BTreeMap::new(),
        events: VecDeque::new(),
        inner,
        counters: Counters::default(),
        draining: false,
        reported: Value::Null,
        changed: true,
        report_at: Instant::now(),
    };
    if let Err(error) = children::adopt(worker.leaders.clone()) {
        tracing::warn!("orphans of claude are not given to the agent: {error}");
    }
    end_leftovers(&worker.parts.directory, &worker.leaders).await;
    sd_notify::ready();
    let mut give_up = None;
    loop {
        worker.turn()?;
        sd_notify::watchdog();
        if worker.draining && worker.slots.values().all(|slot| slot.session.drained()) {
            // What has ended is told while there is time; what is not is told after the next start.
            let told = worker
                .parts
                .convex
                .as_ref()
                .is_none_or(|inbox| inbox.pending_deliveries() == 0 || inbox.status()["state"] == "offline");
            let patient = give_up.is_some_and(|at| Instant::now() + DRAIN / 2 < at);
            if told || !patient || worker.slots.values().any(|slot| slot.session.running()) {
                break;
            }
        }
        if give_up.is_some_and(|at| Instant::now() >= at) {
            tracing::warn!("ending although claude has not ended");
            end_leftovers(&worker.parts.directory, &worker.leaders).await;
            break;
        }
        let wake_at = worker
            .next_deadline()
            .into_iter()
            .chain(give_up)
            .chain(watchdog.map(|every| Instant::now() + every))
            .min();
        match next(&mut worker.parts, &mut from_inside, &mut term, &mut interrupt, wake_at).await {
            Woken::Notice(notice) => worker.noticed(notice),
            Woken::Knock(knock) => worker.knocked(knock),
            Woken::Inner(event) => worker.events.push_back(event),
            Woken::Time => worker.tick(),
            Woken::Drain => {
                sd_notify::stopping();
                worker.drain();
                give_up.get_or_insert(Instant::now() + DRAIN);
            }
        }
        // What is there already is taken in one go, so that a flood is written in one go.
        for _ in 0..512 {
            let Ok(event) = from_inside.try_recv() else { break };
            worker.events.push_back(event);
        }
    }
    // Sync takes both; it is stopped after the agent.
    worker.parts.outbox.rest()?;
    if let Err(error) = worker.parts.transcripts.rest() {
        tracing::warn!("writing the transcripts to the disk: {error}");
    }
    worker.report(Instant::now(), true);
    Ok(())
}

async fn next(
    parts: &mut Parts,
    from_inside: &mut mpsc::UnboundedReceiver<Inner>,
    term: &mut Signal,
    interrupt: &mut Signal,
    wake_at: Option<Instant>,
) -> Woken {
    let sleep = async {
        match wake_at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = term.recv() => Woken::Drain,
        _ = interrupt.recv() => Woken::Drain,
        Some(knock) = parts.knocks.recv() => Woken::Knock(knock),
        Some(notice) = parts.notices.recv() => Woken::Notice(notice),
        Some(event) = from_inside.recv() => Woken::Inner(event),
        () = sleep => Woken::Time,
    }
}

impl Worker {
    /// Lets everything that is there have its effects, and puts it on the disk.
    fn turn(&mut self) -> Result<(), WorkerError> {
        loop {
            while let Some((name, event)) = self.events.pop_front() {
                self.step(&name, event)?;
            }
            if !self.admit() {
                break;
            }
        }
        let now = Instant::now();
        self.parts.outbox.commit(now)?;
        self.report(now, false);
        Ok(())
    }

    fn step(&mut self, name: &str, event: Event) -> Result<(), WorkerError> {
        let now = Instant::now();
        let Some(slot) = self.slots.get_mut(name) else { return Ok(()) };
        slot.used = now;
        self.changed = true;
        for action in slot.session.step(now, event) {
            self.act(now, name, action)?;
        }
        Ok(())
    }

    fn tick(&mut self) {
        self.events.extend(self.slots.keys().map(|name| (name.clone(), Event::Tick)));
    }

    fn drain(&mut self) {
        self.draining = true;
        self.waiting.clear();
        self.events.extend(self.slots.keys().map(|name| (name.clone(), Event::Drain)));
    }

    fn next_deadline(&self) -> Option<Instant> {
        let sessions = self.slots.values().filter_map(|slot| slot.session.next_deadline());
        let report = self.changed.then_some(self.report_at);
        sessions.chain(self.parts.outbox.next_deadline()).chain(report).min()
    }

    fn noticed(&mut self, notice: Notice) {
        match notice {
            Notice::Offer { prompt, resumed, flaw } => self.offered(*prompt, resumed, flaw),
            Notice::Claimed {
                id,
                attempt,
                first_seq,
                text,
                fresh,
            } => self.claimed(id, attempt, first_seq, text, fresh),
            Notice::Refused { id } => {
                self.ending.remove(&id);
                self.tell_owner(&id.clone(), Event::Refused { id });
            }
            Notice::Delivered { id } => {
                if let Some(inbox) = self.parts.convex.as_mut() {
                    inbox.delivered(&id);
                }
                self.changed = true;
            }
            Notice::Renewed { id, attempt, held } => self.tell_owner(&id.clone(), Event::Renewed { id, attempt, held }),
            Notice::Cancel { id } => self.cancel(&id),
            Notice::Answer { question, answer } => {
                if let Err(problem) = self.answer(None, Some(&question), &answer) {
                    tracing::warn!("an answer from the inbox: {}", problem.detail);
                }
            }
        }
    }

    fn offered(&mut self, prompt: Prompt, resumed: bool, flaw: Option<String>) {
        let known = self.slots.values().any(|slot| slot.session.knows(&prompt.id))
            || self.ending.contains_key(&prompt.id)
            || self.waiting.iter().any(|(waiting, _)| waiting.id == prompt.id);
        if known || self.draining {
            return;
        }
        // The end is on disk, and the inbox has not heard of it yet.
        if self.parts.outbox.progress(&prompt.id).is_some_and(|progress| progress.ended) {
            return self.tell_end_again(&prompt);
        }
        if let Some(flaw) = flaw {
            return self.refuse(prompt, &flaw);
        }
        match resumed {
            true => self.waiting.push_front((prompt, resumed)),
            false => self.waiting.push_back((prompt, resumed)),
        }
    }

    fn tell_end_again(&mut self, prompt: &Prompt) {
        let Some((path, _)) = self.parts.outbox.follow(&prompt.id) else {
            return;
        };
        let events = super::outbox::read(&path, 0, usize::MAX).unwrap_or_default();
        let Some(last) = events.last() else { return };
        if let (Ok(outcome), Some(inbox)) = (serde_json::from_value::<Outcome>(last.data.clone()), self.inbox(prompt.origin)) {
            inbox.finish(&prompt.id, &outcome, last.seq);
        }
    }

    /// Gives waiting prompts to their sessions, as many sessions as may run at once. False = nothing moved.
    fn admit(&mut self) -> bool {
        let running = self.slots.values().filter(|slot| slot.session.busy()).count();
        let limit = self.parts.settings.max_sessions.max(1);
        let free = running < limit;
        let of_busy = |(prompt, _): &(Prompt, bool)| self.slots.get(&prompt.session).is_some_and(|slot| slot.session.busy());
        let Some(at) = self.waiting.iter().position(|waiting| free || of_busy(waiting)) else {
            return false;
        };
        let Some((prompt, resumed)) = self.waiting.remove(at) else {
            return false;
        };
        self.rest_others(&prompt.session, limit);
        self.ensure_slot(&prompt.session);
        match self.parts.settings.launch(&prompt.options) {
            Ok(launch) => {
                let time_limit = self.parts.settings.time_limit(&prompt.options);
                let name = prompt.session.clone();
                let offer = Offer {
                    prompt,
                    launch,
                    time_limit,
                    resumed,
                };
                self.events.push_back((name, Event::Offered(Box::new(offer))));
            }
            Err(refusal) => self.refuse(prompt, &refusal.to_string()),
        }
        true
    }

    /// Idle claudes of other sessions make room: each holds some 200 MB.
    fn rest_others(&mut self, session: &str, limit: usize) {
        let mut idle: Vec<(&String, &Slot)> = self
            .slots
            .iter()
            .filter(|(name, slot)| name.as_str() != session && slot.claude.is_some() && !slot.session.busy())
            .collect();
        let processes = self.slots.values().filter(|slot| slot.claude.is_some()).count();
        idle.order_by_key(|(_, slot)| slot.used);
        let surplus = (processes + 1).saturating_sub(limit);
        self.events
            .extend(idle.into_iter().take(surplus).map(|(name, _)| (name.clone(), Event::Rest)));
    }

    /// A prompt whose options are not taken ends without claude.
    fn refuse(&mut self, prompt: Prompt, why: &str) {
        let outcome = Outcome::without_claude(Verdict::Failed, "refused", Some(why.to_owned()));
        self.end_early(prompt, outcome);
    }

    fn ensure_slot(&mut self, name: &str) {
        if self.slots.contains_key(name) {
            return;
        }
        let record = self.parts.transcripts.record(name);
        let fifo = self
            .parts
            .version
            .as_deref()
            .is_none_or(|version| self.parts.features.fifo(version));
        let slot = Slot {
            session: Session::new(self.rules(), fifo, record.total_cost_usd),
            claude: None,
            record,
            used: Instant::now(),
            claimed: Ticks::NEVER,
        };
        self.slots.insert(name.to_owned(), slot);
    }

    fn rules(&self) -> Rules {
        let settings = &self.parts.settings;
        Rules {
            stall_timeout: settings.stall_timeout,
            tool_timeout: settings.tool_timeout,
            idle_timeout: settings.idle_timeout,
            keep_background: settings.background,
            prompt_bytes_max: settings.max_prompt_bytes,
            ..Rules::default()
        }
    }

    fn claimed(&mut self, id: PromptId, attempt: u32, first_seq: u64, text: Option<String>, fresh: bool) {
        let forgotten = if fresh { self.parts.outbox.forget(&id) } else { Ok(()) };
        if let Err(error) = forgotten.and_then(|()| self.parts.outbox.begin(&id, first_seq)) {
            tracing::error!("{error}");
            return self.tell_owner(&id.clone(), Event::Refused { id });
        }
        if let (Some(inbox), Some((events, progress)), false) = (
            self.parts.convex.as_mut(),
            self.parts.outbox.follow(&id),
            self.parts.local.entry(&id).is_some(),
        ) {
            inbox.begun(&id, events, progress);
        }
        self.withdraw_questions(&id, attempt);
        if let Some((prompt, mut outcome)) = self.ending.remove(&id) {
            outcome.attempt = attempt;
            return self.end_prompt(prompt, outcome);
        }
        if let Some(slot) = self.owner(&id).and_then(|name| self.slots.get_mut(&name)) {
            slot.claimed = Ticks::now();
        }
        self.tell_owner(&id.clone(), Event::Claimed { id, attempt, text });
    }

    /// The claude that asked them is gone, with the agent that ended without a word; what it still wants to know is asked again.
    fn withdraw_questions(&mut self, id: &PromptId, attempt: u32) {
        let local = self.parts.local_has(id);
        for question in self.parts.outbox.open_questions(id) {
            if let Some(inbox) = self.parts.convex.as_mut().filter(|_| !local) {
                inbox.settle(id, attempt, &question);
            }
            let withdrawn = Happening::withdrawn(&question, "the agent was started again");
            self.parts.outbox.record(Instant::now(), id, withdrawn);
        }
    }

    /// Ends a prompt that claude has no part in. The app's has to be claimed first: only who holds a claim may end it.
    fn end_early(&mut self, prompt: Prompt, outcome: Outcome) {
        match prompt.origin {
            Origin::Local => self.end_prompt(prompt, outcome),
            Origin::Convex => {
                let id = prompt.id.clone();
                self.ending.insert(id.clone(), (prompt, outcome));
                if let Some(inbox) = self.inbox(Origin::Convex) {
                    inbox.claim(&id);
                }
            }
        }
    }

    fn tell_owner(&mut self, id: &PromptId, event: Event) {
        if let Some(name) = self.owner(id) {
            self.events.push_back((name, event));
        }
    }

    fn owner(&self, id: &PromptId) -> Option<String> {
        self.slots
            .iter()
            .find(|(_, slot)| slot.session.knows(id))
            .map(|(name, _)| name.clone())
    }

    fn inbox(&mut self, origin: Origin) -> Option<&mut (dyn Inbox + '_)> {
        match origin {
            Origin::Local => Some(&mut self.parts.local),
            Origin::Convex => self.parts.convex.as_deref_mut().map(|inbox| inbox as &mut dyn Inbox),
        }
    }

    fn heard(name: &str, generation: u64, output: Output) -> Inner {
        let event = match output {
            Output::Line(line) => Event::Said { generation, line },
            Output::Exited(how) => Event::Exited { generation, how },
        };
        (name.to_owned(), event)
    }
}

fn marks_path(directory: &std::path::Path) -> PathBuf {
    directory.join("marks.json")
}

/// Ends what a life of this agent that was cut short has left.
async fn end_leftovers(directory: &std::path::Path, leaders: &Leaders) {
    let path = marks_path(directory);
    let marks: Vec<String> = std::fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    for mark in marks {
        let target = Target {
            mark,
            leader: 0,
            scope: Scope::Everything,
            orphans_before: Ticks::FOREVER,
        };
        let ended = tree::end(&target, leaders).await;
        if ended > 0 {
            tracing::info!("ended {ended} processes that an earlier agent had left");
        }
    }
}
