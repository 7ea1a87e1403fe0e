//! The loop that joins the supervisor, the host and the doors: one task, one `select!`, the only caller of `step`.
//!
//! Whatever happens becomes an event, each event a step, each action a call. Nothing here decides anything about units, and nothing
//! here blocks: the journal has its own thread, facts are gathered on a thread for blocking work, probes and doors are tasks.

mod clock;
mod doors;
mod facts;
mod handover;
mod hands;
mod isolation;
mod last_message;
mod last_words;
mod logs;
mod probes;
mod publish;
mod recorder;
mod requests;
mod resume;
mod signals;
mod start;
mod upgrade;

pub use handover::HandoverError;
pub use logs::JournalLogs;
pub use requests::Origin;
pub use resume::{rehearse, resume};
pub use start::{DaemonError, Settings, run};
pub use upgrade::{Handover, READY};

use crate::control::{Command, DaemonHandle, EventLog};
use crate::host::runtime_dir::Lock;
use crate::supervisor::{Action, Event, Supervisor};
use crate::unit::{Config, Name};
use clock::Clock;
use doors::Doors;
use hands::Hands;
use last_message::LastMessage;
use probes::Answer;
use publish::Publisher;
use recorder::Recorder;
use requests::Requests;
use signals::{Asked, Signals};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use upgrade::Upgrading;

/// After a publication, the next one waits this long, so that a thousand units that start do not cost a million snapshots.
const PACE: Duration = Duration::from_millis(10);

/// For so long events are asked for one after the other before the doors and the clock get their turn. What is known is stepped for first.
const TURN: Duration = Duration::from_millis(5);

/// So many events have room for as long as the daemon lives.
const INBOX: usize = 32;

/// The daemon between its start and its end.
#[derive(Debug)]
struct Daemon {
    supervisor: Supervisor,
    hands: Hands,
    publisher: Publisher,
    requests: Requests,
    events: EventLog,
    clock: Clock,
    inbox: VecDeque<Event>,
    /// Since when the snapshot is older than the state, and when the last one was published.
    stale: bool,
    published: Instant,
    code: Option<u8>,
    doors: Doors,
    lock: Lock,
    handle: DaemonHandle,
    /// The words with which another image of this program takes over.
    arguments: Vec<OsString>,
    upgrading: Option<Upgrading>,
    /// Pipes that the next image gets.
    handed: Vec<OwnedFd>,
    /// Workers that are yet to be restarted.
    restarting: VecDeque<Name>,
    recorder: Option<Recorder>,
    last_message: LastMessage,
}

/// What the loop waits for beside the clock.
#[derive(Debug)]
struct Sources {
    signals: Signals,
    host: AsyncFd<OwnedFd>,
    commands: mpsc::Receiver<Command>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl Daemon {
    /// Turns until the supervisor has halted; its exit code.
    async fn turn(&mut self, sources: &mut Sources) -> u8 {
        loop {
            let cut = self.work();
            if self.upgrading.as_ref().is_some_and(|upgrading| upgrading.go) {
                self.change_image(sources).await;
            }
            if let Some(code) = self.code {
                return code;
            }
            let wake = self.next_wake();
            let busy = cut || self.hands.has_more();
            tokio::select! {
                asked = sources.signals.next() => self.asked(asked),
                ready = sources.host.readable() => if let Ok(mut ready) = ready { ready.clear_ready() },
                Some(command) = sources.commands.recv() => self.command(command),
                Some(answer) = sources.answers.recv() => self.answered(answer),
                () = sleep_until(wake) => {}
                // Everything else that is due gets its turn, and no more.
                () = tokio::task::yield_now(), if busy => {}
            }
            self.look_at_clock(wake);
            let impatient = self.last_message.impatient();
            self.release(impatient);
            while let Ok(answer) = sources.answers.try_recv() {
                self.answered(answer);
            }
            self.inbox.extend(self.hands.events());
        }
    }

    /// Steps until there is nothing left to step for, or others have waited for long enough: then `true`. Nothing is left in the inbox.
    fn work(&mut self) -> bool {
        let until = Instant::now() + TURN;
        let cut = loop {
            let event = match self.inbox.pop_front() {
                Some(event) => event,
                None if self.supervisor.next_deadline().is_some_and(|(at, _, _)| at <= Instant::now()) => Event::Deadline,
                None => break false,
            };
            self.hands.before(&event, &mut self.publisher, &self.clock);
            let now = Instant::now();
            let recorded = self.recorder.is_some().then(|| event.clone());
            let actions = self.supervisor.step(now, event);
            if let (Some(recorder), Some(event)) = (&mut self.recorder, recorded) {
                recorder.step(now, &event, &actions);
            }
            self.stale = true;
            for action in actions {
                self.perform(action);
            }
            if self.inbox.is_empty() {
                if now >= until {
                    break true;
                }
                self.inbox.extend(self.hands.events());
            }
        };
        // A thousand units that start leave a queue behind that is never needed again.
        self.inbox.shrink_to(INBOX);
        self.publish_if_due();
        cut
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Announce(transition) => {
                self.events.transition(self.clock.now(), &transition);
                self.hands.announce(&transition);
            }
            Action::Reply { request, outcome } => {
                // Whoever gets an answer sees in the snapshot what it says.
                self.publish();
                if self.requests.reply(request, outcome) {
                    self.restart_next_worker();
                }
            }
            Action::Halt { code, culprit } => {
                if let Some((unit, exit)) = culprit {
                    let how = exit.map_or_else(String::new, |exit| format!(" (exit code {exit})"));
                    self.notice(format!("ended by the start limit of {unit}{how}"));
                }
                self.publish();
                self.code = Some(code);
            }
            Action::Configured(config) => {
                self.rebind(&config);
                self.inbox.extend(self.hands.perform(Action::Configured(config)));
            }
            action => {
                let (hands, supervisor) = (&self.hands, &mut self.supervisor);
                let drains = |unit: &Name| hands.is_sync(unit) && supervisor.status().stopping;
                if let Some(action) = self.last_message.hold(action, drains) {
                    self.inbox.extend(self.hands.perform(action));
                }
            }
        }
    }

    /// What waited for the last message goes on.
    fn release(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.inbox.extend(self.hands.perform(action));
        }
    }

    /// `[health] listen` and the token may have changed.
    fn rebind(&mut self, config: &Config) {
        let places = self.hands.places().clone();
        let token = start::token(config, &places);
        let rebound = token.and_then(|token| self.doors.rebind(config.listen, token, &self.handle));
        if let Err(error) = rebound {
            self.notice(format!("{error}; the health endpoint stays where it was"));
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let supervisor = self.supervisor.next_deadline().map(|(at, _, _)| at);
        let publication = self.stale.then(|| self.published + PACE);
        [supervisor, publication, self.hands.next_wake(), self.last_message.patience()]
            .into_iter()
            .flatten()
            .min()
    }

    fn publish_if_due(&mut self) {
        if self.stale && self.published.elapsed() >= PACE {
            self.publish();
        }
    }

    fn publish(&mut self) {
        if self.stale {
            if let Some(news) = self.publisher.watching(self.hands.unwatched()) {
                self.hands.note(&news);
            }
            self.publisher.publish(&mut self.supervisor, &self.clock, self.hands.config());
            self.stale = false;
            self.published = Instant::now();
        }
    }

    /// A machine that stood still: what was counted in time is looked at again.
    fn look_at_clock(&mut self, due: Option<Instant>) {
        if let Some(away) = self.clock.look(due) {
            self.notice(format!("the machine was paused for {} s", away.as_secs()));
            self.inbox.push_back(Event::Resumed { away });
            self.hands.gather_facts(&mut self.supervisor);
        }
    }

    fn asked(&mut self, asked: Asked) {
        match asked {
            Asked::Shutdown => self.inbox.push_back(Event::Shutdown {
                request: 0,
                budget: self.hands.budget(),
            }),
            Asked::Reload => self.reload(crate::control::ReloadRequest::default(), requests::Waiting::Nobody),
            Asked::Tell => self.tell(),
        }
    }

    /// SIGUSR1: the state of everything into the log.
    fn tell(&mut self) {
        for unit in self.supervisor.status().units {
            let name = &unit.spec.name;
            let pid = unit.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
            self.hands.note(&format!(
                "state of {name}: {} ({}){pid}, run {}: {}",
                unit.state, unit.sub_state, unit.invocation, unit.reason
            ));
        }
    }

    fn notice(&mut self, message: String) {
        self.hands.note(&message);
        self.events.notice(self.clock.now(), message);
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Probed(event) => self.inbox.push_back(event),
            Answer::KillProbe(pid) => self.hands.kill_probe(pid),
            Answer::Upgrade(step) => self.upgrade_step(step),
            Answer::Facts(facts) => {
                self.publisher.take_facts(*facts);
                self.stale = true;
                self.publish();
                self.hands.facts_gathered();
                self.requests.refreshed();
            }
            Answer::Isolation(finding) => {
                self.publisher.isolation = finding;
                self.stale = true;
            }
            Answer::Drained => {
                let waited = self.last_message.written();
                self.release(waited);
            }
            Answer::LastWords(words) => {
                self.publisher.last_words(words);
                self.stale = true;
            }
            Answer::Preview(preview) => {
                let facts::Preview { shown, watcher } = *preview;
                self.publisher.preview = shown;
                self.hands.preview_seen(watcher);
                self.stale = true;
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
