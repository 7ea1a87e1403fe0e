//! The one task that owns the operations: takes what is asked for, has it done by tasks of their own, and writes down how far they are.
//!
//! Nothing is started before it is on disk, so that whoever got a 202 finds the operation again, whatever becomes of this process; one that
//! was under way when the server ended is taken up by the next. A sandbox has one start or stop at a time, and a stop wins.

use super::attempt::Start;
use super::book::{Book, BookError, Page};
use super::desk::{Ask, DeskPolicy, Ended, News, Taken, TargetOf};
use super::events::{Event, EventLog, OperationEvent, OperationState, StepEvent, StepState, WarningEvent};
use super::numbers::Numbers;
use super::operation::{Operation, Outcome, StartResult};
use super::order::{Environment, Order};
use super::problem::{Problem, ProblemCode};
use super::sandboxes::{Known, Sandboxes};
use crate::control::document::Time;
use crate::ordered::IntoMap;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::fleet::FleetHandle;
use crate::sandbox::plan::Step;
use crate::sandbox::progress::Told;
use crate::sandbox::stop::Stopped;
use crate::tasks;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

/// Operations that are remembered after they are over, and with them their idempotency keys.
const REMEMBERED: usize = 2000;
/// Lines of output that are kept of one operation.
const NOTES: usize = 400;
/// Operations that may wait or go on.
const ROOM: usize = 1000;

struct Running {
    operation_id: String,
    abort: AbortHandle,
    /// Who waits for the stop that overtook it.
    stops: Vec<oneshot::Sender<Result<Stopped, Problem>>>,
}

/// The clerk.
pub(super) struct Clerk {
    book: Book,
    log: EventLog,
    sandboxes: Arc<dyn Sandboxes>,
    target: TargetOf,
    policy: DeskPolicy,
    permits: Arc<Semaphore>,
    /// By operation. Those that are over have no events in memory.
    pages: BTreeMap<String, Page>,
    /// By sandbox.
    running: BTreeMap<String, Running>,
    /// By sandbox: who waits.
    stopping: BTreeMap<String, Vec<oneshot::Sender<Result<Stopped, Problem>>>>,
    tell: mpsc::UnboundedSender<News>,
    numbers: Numbers,
}

impl Clerk {
    /// Reads the book.
    pub(super) fn open(
        book: Book,
        policy: DeskPolicy,
        sandboxes: Arc<dyn Sandboxes>,
        target: TargetOf,
    ) -> Result<(Self, EventLog, mpsc::UnboundedReceiver<News>), BookError> {
        let mut pages: BTreeMap<String, Page> = BTreeMap::new();
        let mut events = Vec::new();
        for mut page in book.load()? {
            events.extend(page.events.iter().cloned());
            if page.operation.state.is_over() {
                page.events = Vec::new();
            }
            pages.insert(page.operation.operation_id.clone(), page);
        }
        let log = EventLog::new(jiff::Timestamp::now(), events);
        let (tell, news) = mpsc::unbounded_channel();
        let clerk = Self {
            book,
            log: log.clone(),
            sandboxes,
            target,
            permits: Arc::new(Semaphore::new(policy.starts_at_once.max(1))),
            policy,
            pages,
            running: BTreeMap::new(),
            stopping: BTreeMap::new(),
            tell,
            numbers: Numbers::default(),
        };
        Ok((clerk, log, news))
    }

    /// Takes up what was under way, and works until nobody can ask any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Ask>, mut news: mpsc::UnboundedReceiver<News>, fleet: FleetHandle) {
        self.take_up();
        loop {
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(ask) => self.answer(ask),
                    None => return,
                },
                Some(news) = news.recv() => self.hear(news, &fleet).await,
            }
        }
    }

    /// Goes on with what an earlier server left.
    fn take_up(&mut self) {
        let open = self.pages.values().filter(|page| !page.operation.state.is_over());
        let open: Vec<Operation> = open.map(|page| page.operation.clone()).collect();
        for operation in open {
            let names = &operation.request.environment_names;
            if names.is_empty() {
                self.begin(&operation, Vec::new());
                continue;
            }
            // Values are nowhere on disk: they went with the process that knew them.
            let fault = Fault::new(
                Code::BadRequest,
                format!(
                    "the server was restarted during the start, and the values of {} went with it",
                    names.join(", ")
                ),
            )
            .hint(format!(
                "ask again with `sandboxId` \"{}\": it goes on where it was",
                operation.sandbox_id
            ));
            self.finish(&operation.operation_id, &Outcome::Failed(fault));
        }
    }

    fn answer(&mut self, ask: Ask) {
        // Whoever asked may have gone away: then nobody is answered.
        match ask {
            Ask::Start(order, environment, key, reply) => {
                let taken = self.take(order, environment, key);
                let _ = reply.send(taken);
            }
            Ask::Stop(sandbox, reply) => self.stop(sandbox, reply),
            Ask::Operation(id, reply) => {
                let _ = reply.send(self.pages.get(&id).map(|page| page.operation.clone()));
            }
            Ask::LastOf(sandbox, reply) => {
                let of = self.pages.values().filter(|page| page.operation.sandbox_id == sandbox);
                let last = of.max_by_key(|page| page.operation.created_at);
                let _ = reply.send(last.map(|page| page.operation.clone()));
            }
            Ask::Latest(reply) => {
                let _ = reply.send(self.latest());
            }
            Ask::Events(id, after, reply) => {
                let _ = reply.send(self.events(&id, after));
            }
            Ask::Scrape(registry, reply) => {
                let _ = reply.send(self.numbers.register(registry, &self.pages));
            }
        }
    }

    fn take(&mut self, order: Order, environment: Environment, key: Option<String>) -> Result<Taken, Problem> {
        let fingerprint = order.fingerprint();
        let taken = |page: &Page| Taken {
            operation_id: page.operation.operation_id.clone(),
            sandbox_id: page.operation.sandbox_id.clone(),
            replayed: true,
        };
        let same_key = |page: &&Page| key.is_some() && page.key == key;
        if let Some(page) = self.pages.values().find(same_key) {
            if page.fingerprint == fingerprint {
                return Ok(taken(page));
            }
            let detail = "this Idempotency-Key was used for another request";
            return Err(Problem::new(ProblemCode::IdempotencyMismatch, detail).hint("make a new key for each start"));
        }
        let sandbox_id = order.sandbox_id.clone().unwrap_or_else(|| random_id("sb"));
        if self.stopping.contains_key(&sandbox_id) {
            return Err(
                Problem::new(ProblemCode::Busy, format!("sandbox `{sandbox_id}` is being stopped")).hint("ask again when it is stopped")
            );
        }
        if let Some(running) = self.running.get(&sandbox_id) {
            let page = self.pages.get(&running.operation_id);
            return match page.filter(|page| page.fingerprint == fingerprint) {
                Some(page) => Ok(taken(page)),
                None => {
                    let detail = format!(
                        "sandbox `{sandbox_id}` is being started otherwise by operation `{}`",
                        running.operation_id
                    );
                    Err(Problem::new(ProblemCode::Busy, detail))
                }
            };
        }
        if self.running.len() >= ROOM {
            return Err(Problem::new(ProblemCode::TooManyStarts, format!("{ROOM} starts wait already")));
        }
        let now = Time(jiff::Timestamp::now());
        let operation = Operation::new(random_id("op"), sandbox_id, order, now);
        let page = Page::new(operation.clone(), key, fingerprint);
        self.book
            .save(&page)
            .map_err(|error| Problem::new(ProblemCode::Record, error.to_string()))?;
        self.forget_the_oldest();
        self.pages.insert(operation.operation_id.clone(), page);
        self.begin(&operation, environment);
        Ok(Taken {
            operation_id: operation.operation_id,
            sandbox_id: operation.sandbox_id,
            replayed: false,
        })
    }

    fn forget_the_oldest(&mut self) {
        while self.pages.len() >= REMEMBERED {
            let over = self.pages.values().filter(|page| page.operation.state.is_over());
            let oldest = over.min_by_key(|page| page.operation.created_at);
            let Some(id) = oldest.map(|page| page.operation.operation_id.clone()) else {
                return;
            };
            self.pages.remove(&id);
            self.book.remove(&id);
        }
    }

    fn latest(&self) -> BTreeMap<String, (String, OperationState)> {
        let mut latest: BTreeMap<&str, &Operation> = BTreeMap::new();
        for page in self.pages.values() {
            let known = latest.entry(&page.operation.sandbox_id).or_insert(&page.operation);
            if known.created_at < page.operation.created_at {
                *known = &page.operation;
            }
        }
        let owned = |(sandbox, last): (&str, &Operation)| (sandbox.to_owned(), (last.operation_id.clone(), last.state));
        latest.into_iter().map(owned).into_map()
    }

    fn events(&self, id: &str, after: u64) -> Option<(Vec<Event>, bool)> {
        let page = self.pages.get(id)?;
        let over = page.operation.state.is_over();
        // An event of the future: the clock was set back.
        let after = if after > self.log.newest() { 0 } else { after };
        let later = |events: Vec<Event>| events.into_iter().filter(|event| event.id() > after).collect();
        if !over {
            return Some((later(page.events.clone()), false));
        }
        let kept = self.book.read(id).map(|page| page.events);
        Some((later(kept.unwrap_or_default()), true))
    }

    /// Has an operation done by a task of its own.
    fn begin(&mut self, operation: &Operation, environment: Environment) {
        self.state(&operation.operation_id, OperationState::Pending, None);
        let (id, tell) = (operation.operation_id.clone(), self.tell.clone());
        let start = Start {
            operation_id: id.clone(),
            sandbox_id: operation.sandbox_id.clone(),
            order: operation.request.clone(),
            environment,
            sandboxes: self.sandboxes.clone(),
            permits: self.permits.clone(),
            retry: self.policy.retry,
            tell: tell.clone(),
        };
        let task = tasks::spawn(start.run());
        let running = Running {
            operation_id: id.clone(),
            abort: task.abort_handle(),
            stops: Vec::new(),
        };
        self.running.insert(operation.sandbox_id.clone(), running);
        tasks::spawn(async move {
            let ended = match task.await {
                Ok(Ok(started)) => Ended::Started(Box::new(started)),
                Ok(Err(fault)) => Ended::Failed(fault),
                Err(error) if error.is_cancelled() => Ended::Cancelled,
                Err(error) => Ended::Failed(Fault::new(Code::CommandFailed, format!("the start came to a bad end: {error}"))),
            };
            let _ = tell.send(News::Ended(id, ended));
        });
    }

    async fn hear(&mut self, news: News, fleet: &FleetHandle) {
        match news {
            News::Began(id) => {
                if let Some(page) = self.pages.get_mut(&id) {
                    page.operation.attempts += 1;
                }
                self.state(&id, OperationState::Running, None);
                self.save(&id);
            }
            News::Told(id, told) => self.told(&id, told),
            News::Ended(id, ended) => self.ended(&id, ended, fleet).await,
            News::Stopped(sandbox, result) => {
                if result.is_ok() {
                    // The keeper is gone only when the program ends.
                    let _ = fleet.stopped(&sandbox).await;
                }
                for reply in self.stopping.remove(&sandbox).unwrap_or_default() {
                    let _ = reply.send(result.clone().map_err(Problem::from));
                }
            }
        }
    }

    fn told(&mut self, id: &str, told: Told) {
        match told {
            Told::Began { step, detail } => {
                self.step(id, step, StepState::Began, detail, None);
                self.save(id);
            }
            Told::Note { step, line } => self.note(id, step, line),
            Told::Done(done) => {
                let state = if done.skipped { StepState::Skipped } else { StepState::Done };
                self.numbers.step(done.step, done.duration_ms);
                self.step(id, done.step, state, done.detail, Some(done.duration_ms));
                self.save(id);
            }
            Told::Warning { message } => self.event(id, |id, at, operation| {
                Event::Warning(WarningEvent {
                    id,
                    at,
                    operation_id: operation.operation_id.clone(),
                    sandbox_id: operation.sandbox_id.clone(),
                    message,
                })
            }),
            // The answer of the start says the same.
            Told::Failed { .. } => {}
        }
    }

    fn note(&mut self, id: &str, step: Step, line: String) {
        let is_note = |event: &&Event| matches!(event, Event::Step(step) if step.state == StepState::Note);
        let kept = self.pages.get(id).map_or(0, |page| page.events.iter().filter(is_note).count());
        let line = match kept {
            0..NOTES => line,
            NOTES => "… (more lines are in the sandbox's own logs)".to_owned(),
            _ => return,
        };
        self.step_event(id, step, StepState::Note, line, None);
    }

    fn step(&mut self, id: &str, step: Step, state: StepState, detail: String, duration_ms: Option<u64>) {
        if let Some(page) = self.pages.get_mut(id) {
            page.operation.step(step, state, &detail, duration_ms);
        }
        self.step_event(id, step, state, detail, duration_ms);
    }

    fn step_event(&mut self, id: &str, step: Step, state: StepState, detail: String, duration_ms: Option<u64>) {
        self.event(id, |id, at, operation| {
            Event::Step(StepEvent {
                id,
                at,
                operation_id: operation.operation_id.clone(),
                sandbox_id: operation.sandbox_id.clone(),
                step,
                state,
                detail,
                duration_ms,
            })
        });
    }

    fn state(&mut self, id: &str, state: OperationState, result: Option<&StartResult>) {
        if let Some(page) = self.pages.get_mut(id) {
            page.operation.state = state;
        }
        let preview_url = result.and_then(|result| result.preview_url.clone());
        self.event(id, |id, at, operation| {
            Event::Operation(OperationEvent {
                id,
                at,
                operation_id: operation.operation_id.clone(),
                sandbox_id: operation.sandbox_id.clone(),
                state,
                preview_url,
                failure: operation.failure.clone(),
            })
        });
    }

    /// Into the log and onto the operation's page.
    fn event(&mut self, operation: &str, make: impl FnOnce(u64, Time, &Operation) -> Event) {
        let Some(page) = self.pages.get_mut(operation) else { return };
        let event = self.log.push(|id, at| make(id, at, &page.operation));
        page.events.push(event.as_ref().clone());
    }

    fn save(&self, id: &str) {
        let Some(page) = self.pages.get(id) else { return };
        if let Err(error) = self.book.save(page) {
            tracing::error!("how far operation `{id}` is, is not written down: {error}");
        }
    }

    async fn ended(&mut self, id: &str, ended: Ended, fleet: &FleetHandle) {
        let Some(sandbox) = self.pages.get(id).map(|page| page.operation.sandbox_id.clone()) else {
            return;
        };
        let outcome = match ended {
            Ended::Started(started) => {
                let target = (self.target)(&sandbox, started.health_url.as_deref());
                let _ = fleet.add(&sandbox, Some(target)).await;
                Outcome::Started(Box::new(StartResult::from(started.as_ref())))
            }
            Ended::Failed(fault) => {
                self.forget_if_gone(&sandbox, fleet).await;
                Outcome::Failed(fault)
            }
            Ended::Cancelled => Outcome::Cancelled,
        };
        self.finish(id, &outcome);
        let stops = self.running.remove(&sandbox).map(|running| running.stops).unwrap_or_default();
        if !stops.is_empty() {
            self.begin_stop(sandbox, stops);
        }
    }

    /// A sandbox may have reported while it was being started; when the start took it away again, nothing of it stays here.
    async fn forget_if_gone(&self, sandbox: &str, fleet: &FleetHandle) {
        let gone = |known: Vec<Known>| !known.iter().any(|known| known.sandbox_id == sandbox);
        if self.sandboxes.known().is_ok_and(gone) {
            // The keeper is gone only when the program ends.
            let _ = fleet.remove(sandbox).await;
        }
    }

    fn finish(&mut self, id: &str, outcome: &Outcome) {
        let Some(page) = self.pages.get_mut(id) else { return };
        let now = Time(jiff::Timestamp::now());
        page.operation.finish(now, outcome);
        self.numbers.ended(&page.operation);
        let (state, result) = (page.operation.state, page.operation.result.clone());
        if let Outcome::Failed(Fault {
            step: Some(step), message, ..
        }) = outcome
        {
            self.step_event(id, *step, StepState::Failed, message.clone(), None);
        }
        self.state(id, state, result.as_ref());
        self.save(id);
        if let Some(page) = self.pages.get_mut(id) {
            page.events = Vec::new();
        }
    }

    fn stop(&mut self, sandbox: String, reply: oneshot::Sender<Result<Stopped, Problem>>) {
        if let Some(running) = self.running.get_mut(&sandbox) {
            running.abort.abort();
            running.stops.push(reply);
        } else if let Some(waiting) = self.stopping.get_mut(&sandbox) {
            waiting.push(reply);
        } else {
            self.begin_stop(sandbox, vec![reply]);
        }
    }

    fn begin_stop(&mut self, sandbox: String, replies: Vec<oneshot::Sender<Result<Stopped, Problem>>>) {
        self.stopping.insert(sandbox.clone(), replies);
        let (stop, tell) = (self.sandboxes.stop(sandbox.clone()), self.tell.clone());
        let task = tasks::spawn(stop);
        tasks::spawn(async move {
            let bad_end = |error| Err(Fault::new(Code::CommandFailed, format!("the stop came to a bad end: {error}")));
            let result = task.await.unwrap_or_else(bad_end);
            let _ = tell.send(News::Stopped(sandbox, result));
        });
    }
}

fn random_id(prefix: &str) -> String {
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}-{}", &id[..16])
}
