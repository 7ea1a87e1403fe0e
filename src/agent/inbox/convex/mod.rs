//! The app's Convex deployment as an inbox: prompts are heard of in real time, every write goes over plain HTTP.
//!
//! `watch` hears, `http` calls, `courier` delivers a prompt's events; this joins them and speaks to the worker. The functions that are
//! called are in `config/convex/`.

pub mod courier;
pub mod http;
pub mod watch;

use super::{Inbox, Notice};
use crate::agent::outbox::{self, Progress, epoch_ms};
use crate::agent::prompt::{Origin, Outcome, Prompt, PromptId, session_flaw};
use crate::agent::settings::Options;
use crate::agent::transcript::replace;
use crate::tasks;
use courier::{Claim, Delivered, Delivery, End, whole};
use http::{Api, CallError, Counts};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch as value;
use watch::{Heard, Link};

/// The lease of a claim; renewed at a third of it.
const LEASE_MS: u64 = 60_000;
/// How often the agent says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Which deployment, as whom.
#[derive(Clone)]
pub struct Account {
    /// `CONVEX_URL`.
    pub url: String,
    /// `SANDBOX_ID`.
    pub sandbox: String,
    /// `SANDBOX_TOKEN`.
    pub token: String,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("url", &self.url)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

fn epoch_minute() -> u64 {
    epoch_ms() / 60_000
}

/// The inbox.
#[derive(Debug)]
pub struct Convex {
    api: Api,
    counts: Arc<Counts>,
    link: Arc<Link>,
    worker: String,
    directory: PathBuf,
    notices: UnboundedSender<Notice>,
    deliveries: BTreeMap<PromptId, value::Sender<Option<End>>>,
    desk: UnboundedSender<Value>,
    beat: value::Sender<Value>,
    trouble: value::Receiver<Option<String>>,
}

impl Convex {
    /// Starts it: from here on it hears and delivers.
    pub fn start(account: Account, state: &Path, notices: UnboundedSender<Notice>) -> io::Result<Self> {
        let directory = state.join("convex");
        std::fs::create_dir_all(&directory)?;
        let worker = worker_id(&directory)?;
        let counts = Arc::new(Counts::default());
        let link = Arc::new(Link::default());
        let api = Api::new(account.clone(), counts.clone()).map_err(io::Error::other)?;
        let (hear, heard) = mpsc::unbounded_channel();
        let (trouble, troubles) = value::channel(None);
        tasks::spawn(watch::watch(account, api.clone(), counts.clone(), link.clone(), hear, watch::HANG));
        tasks::spawn(listen(heard, worker.clone(), notices.clone(), trouble));
        let (desk, tasks) = mpsc::unbounded_channel();
        tasks::spawn(run_desk(api.clone(), tasks));
        let beat = value::Sender::new(Value::Null);
        tasks::spawn(run_heart(api.clone(), beat.subscribe()));
        let mut inbox = Self {
            api,
            counts,
            link,
            worker,
            directory,
            notices,
            deliveries: BTreeMap::new(),
            desk,
            beat,
            trouble: troubles,
        };
        inbox.deliver_leftovers(&state.join("outbox"))?;
        Ok(inbox)
    }

    /// What was over when the agent last ended, but had not all arrived.
    fn deliver_leftovers(&mut self, outbox: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(id) = path.file_stem().and_then(|stem| stem.to_str()).and_then(PromptId::new) else {
                continue;
            };
            if let Some(claim) = courier::load(&self.directory, &id).filter(|claim| claim.end.is_some()) {
                let last_seq = claim.end.as_ref().map_or(0, |end| end.last_seq);
                let progress = Progress {
                    last_seq,
                    ended: true,
                    urgent: true,
                };
                self.deliver(&id, claim, outbox::path_of(outbox, &id), value::channel(progress).1);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, id: &PromptId, claim: Claim, events: PathBuf, progress: value::Receiver<Progress>) {
        let (end, ends) = value::channel(claim.end.clone());
        self.deliveries.insert(id.clone(), end);
        let delivery = Delivery {
            api: self.api.clone(),
            id: id.clone(),
            worker: self.worker.clone(),
            directory: self.directory.clone(),
            events,
            progress,
            end: ends,
            claim,
            troubled: false,
        };
        let (notices, id) = (self.notices.clone(), id.clone());
        tasks::spawn(async move {
            let attempt = delivery.claim.attempt;
            match delivery.run().await {
                Delivered::LeaseLost => {
                    let _ = notices.send(Notice::Renewed { id, attempt, held: false });
                }
                Delivered::Everything => {
                    let _ = notices.send(Notice::Delivered { id });
                }
                Delivered::Interrupted => {}
            }
        });
    }
}

/// The same as long as the state is the same: a restarted agent gets its claims back.
fn worker_id(directory: &Path) -> io::Result<String> {
    let path = directory.join("worker_id");
    if let Ok(known) = std::fs::read_to_string(&path) {
        return Ok(known);
    }
    let made = uuid::Uuid::new_v4().to_string();
    replace(&path, made.as_bytes())?;
    Ok(made)
}

/// Whether a prompt's events have not all reached Convex.
pub fn undelivered(state: &Path, id: &PromptId) -> bool {
    courier::path_of(&state.join("convex"), id).exists()
}

async fn listen(
    mut heard: UnboundedReceiver<Heard>,
    worker: String,
    notices: UnboundedSender<Notice>,
    trouble: value::Sender<Option<String>>,
) {
    let mut told = BTreeSet::new();
    while let Some(heard) = heard.recv().await {
        let now = match heard {
            Ok(inbox) => {
                told = tell(&inbox, &worker, &notices, &told);
                None
            }
            Err(error) => Some(error.to_string()),
        };
        trouble.send_if_modified(|before| {
            let changed = *before != now;
            if let Some(trouble) = now.as_ref().filter(|_| changed) {
                tracing::warn!("{trouble}");
            }
            *before = now;
            changed
        });
    }
}

/// Says what an inbox holds; answers and cancels once each.
fn tell(inbox: &Value, worker: &str, notices: &UnboundedSender<Notice>, told: &BTreeSet<String>) -> BTreeSet<String> {
    let rows = |key: &str| inbox[key].as_array().cloned().unwrap_or_default();
    let mut still = BTreeSet::new();
    let mut once = |what: String, notice: Notice| {
        if !told.contains(&what) {
            let _ = notices.send(notice);
        }
        still.insert(what);
    };
    for row in rows("claimed").iter().filter(|row| row["workerId"] == worker) {
        let Some((prompt, flaw)) = prompt_of(row) else { continue };
        let id = prompt.id.clone();
        let resumed = true;
        once(format!("open {id}"), Notice::Offer { prompt, resumed, flaw });
        if row["cancel"] == true {
            once(format!("cancel {id}"), Notice::Cancel { id: id.clone() });
        }
        for answer in row["answers"].as_array().into_iter().flatten() {
            let question = answer["question"].as_str().unwrap_or_default().to_owned();
            let text = answer["answer"].as_str().unwrap_or_default();
            let answer = serde_json::from_str(text).unwrap_or_default();
            once(format!("answer {id} {question}"), Notice::Answer { question, answer });
        }
    }
    for row in rows("pending") {
        if let Some((prompt, flaw)) = prompt_of(&row) {
            let resumed = false;
            let _ = notices.send(Notice::Offer { prompt, resumed, flaw });
        }
    }
    still
}

/// What the inbox says of a prompt, and why it cannot be run as it says; its text comes with the claim.
fn prompt_of(row: &Value) -> Option<(Box<Prompt>, Option<String>)> {
    let options = row["options"].as_str().map_or(Ok(Options::default()), serde_json::from_str);
    let session = row["session"].as_str()?;
    let flaw = options.as_ref().err().map(|error| format!("reading the prompt's options: {error}"));
    let flaw = flaw.or_else(|| session_flaw(session));
    let prompt = Prompt {
        id: PromptId::new(row["id"].as_str()?)?,
        origin: Origin::Convex,
        session: session.to_owned(),
        text: String::new(),
        options: options.unwrap_or_default(),
    };
    Some((Box::new(prompt), flaw))
}

/// Questions go out one after the other, so that none is settled before it is asked.
async fn run_desk(api: Api, mut tasks: UnboundedReceiver<Value>) {
    while let Some(task) = tasks.recv().await {
        if let Err(error) = api.insist("agent:ask", task).await {
            tracing::warn!("{error}");
        }
    }
}

/// That the agent lives, and, when that changed, how it is.
async fn run_heart(api: Api, mut beat: value::Receiver<Value>) {
    let boot = uuid::Uuid::new_v4().to_string();
    let mut said = Value::Null;
    loop {
        let now = beat.borrow_and_update().clone();
        let mut args = json!({"bootId": boot});
        if now != said {
            args["state"] = now["state"].clone();
            args["detail"] = now.to_string().into();
        }
        if (now == Value::Null || api.mutation("agent:heartbeat", args).await.is_ok()) && now != Value::Null {
            said = now;
        }
        let pause = HEARTBEAT.mul_f64(0.9 + fastrand::f64() * 0.2);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = beat.changed() => if changed.is_err() { return },
        }
    }
}

/// What of the status is worth a row: nothing that changes by itself.
fn coarse(part: &Value) -> Value {
    let running: Vec<Value> = part["running"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|running| json!({"prompt": running["prompt"], "session": running["session"], "state": running["state"]}))
        .collect();
    json!({
        "state": part["state"], "running": running, "queued": part["queued"], "done": part["done"], "failed": part["failed"],
        "version": part["version"],
    })
}

impl Inbox for Convex {
    fn claim(&mut self, id: &PromptId) {
        let (api, notices, id, directory) = (self.api.clone(), self.notices.clone(), id.clone(), self.directory.clone());
        let args = json!({"id": id, "workerId": self.worker, "leaseMs": LEASE_MS});
        tasks::spawn(async move {
            let answer = api.insist("agent:claim", args).await;
            let attempt = answer
                .as_ref()
                .ok()
                .filter(|answer| answer["ok"] == true)
                .and_then(|answer| whole(&answer["attempt"]));
            let notice = match (answer, attempt.and_then(|attempt| u32::try_from(attempt).ok())) {
                (Ok(mut answer), Some(attempt)) => {
                    let next = whole(&answer["nextSeq"]).unwrap_or(1);
                    let known = courier::load(&directory, &id).filter(|claim| claim.attempt == attempt);
                    let fresh = known.is_none();
                    let claim = known.unwrap_or(Claim {
                        attempt,
                        acknowledged: next - 1,
                        end: None,
                    });
                    courier::keep(&directory, &id, &claim);
                    Notice::Claimed {
                        id,
                        attempt,
                        first_seq: next,
                        text: answer["text"]
                            .as_str()
                            .is_some()
                            .then(|| answer["text"].take().as_str().unwrap_or_default().to_owned()),
                        fresh,
                    }
                }
                (Ok(_), None) => Notice::Refused { id },
                (Err(error), _) => {
                    tracing::warn!("claiming prompt {id}: {error}");
                    Notice::Refused { id }
                }
            };
            let _ = notices.send(notice);
        });
    }

    fn begun(&mut self, id: &PromptId, events: PathBuf, progress: value::Receiver<Progress>) {
        if let Some(claim) = courier::load(&self.directory, id) {
            self.deliver(id, claim, events, progress);
        }
    }

    fn renew(&mut self, id: &PromptId, attempt: u32) {
        let (api, notices, id) = (self.api.clone(), self.notices.clone(), id.clone());
        let args = json!({"id": id, "workerId": self.worker, "attempt": attempt, "leaseMs": LEASE_MS});
        tasks::spawn(async move {
            // Without an answer the claim counts as held: who took it meanwhile is found out at the next one.
            let held = match api.mutation("agent:renew", args).await {
                Ok(answer) => answer["ok"] == true,
                Err(CallError::Refused(_)) => false,
                Err(_) => return,
            };
            let _ = notices.send(Notice::Renewed { id, attempt, held });
        });
    }

    fn ask(&mut self, id: &PromptId, attempt: u32, question: &str, body: &Value) {
        let args = json!({"id": id, "workerId": self.worker, "attempt": attempt, "question": question, "body": body.to_string()});
        let _ = self.desk.send(args);
    }

    fn settle(&mut self, id: &PromptId, attempt: u32, question: &str) {
        let args = json!({"id": id, "workerId": self.worker, "attempt": attempt, "question": question});
        let _ = self.desk.send(args);
    }

    fn finish(&mut self, id: &PromptId, outcome: &Outcome, last_seq: u64) {
        let end = End {
            status: outcome.status.as_str().into(),
            result: serde_json::to_string(outcome).unwrap_or_default(),
            last_seq,
            told: false,
        };
        let Some(mut claim) = courier::load(&self.directory, id) else {
            return;
        };
        if claim.end.is_none() {
            claim.end = Some(end.clone());
            courier::keep(&self.directory, id, &claim);
        }
        match self.deliveries.get(id) {
            Some(delivery) => drop(delivery.send_replace(Some(end))),
            None => tracing::warn!("prompt {id} ended before it was claimed"),
        }
    }

    fn delivered(&mut self, id: &PromptId) {
        self.deliveries.remove(id);
    }

    fn report(&mut self, part: &Value) {
        self.link.busy.store(part["state"] != "idle", Ordering::Relaxed);
        let now = coarse(part);
        self.beat.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn pending_deliveries(&self) -> usize {
        self.deliveries.len()
    }

    fn status(&self) -> Value {
        let connected = self.link.connected.load(Ordering::Relaxed);
        let failing_since = self.counts.failing_since();
        let state = match (connected, failing_since) {
            (_, Some(_)) => "offline",
            (true, None) => "connected",
            (false, None) => "polling",
        };
        let error = self.trouble.borrow().clone().or_else(|| self.counts.problem());
        json!({
            "state": state, "offline_since": failing_since, "error": error, "calls_last_hour": self.counts.last_hour(),
            "undelivered": self.deliveries.len(),
        })
    }
}
