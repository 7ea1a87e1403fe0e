//! What the supervisor decided is done here: the host, the journal and the probes behind one face.

use super::clock::Clock;
use super::facts;
use super::handover::{HandedHands, HandoverError};
use super::isolation::Isolation;
use super::last_words;
use super::probes::Helper;
use super::probes::{Answer, Probes};
use super::publish::Publisher;
use super::requests::Origin;
use crate::control::Reply;
use crate::control::why::PortHolder;
use crate::host::HandedHost;
use crate::host::image::Kept;
use crate::host::journal::{Handed, Journal, Limits, Reader};
use crate::host::preview::Watcher;
use crate::host::runtime_dir::Places;
use crate::host::{Host, Spawn};
use crate::supervisor::event::Notice;
use crate::supervisor::{Action, Event, Invocation, Pid, Stage, StartError, Supervisor, Transition};
use crate::tasks;
use crate::unit::{Config, Main, Name, Unit, Worker, WorkerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The drain deadline for everything where the configuration says nothing.
const BUDGET: Duration = Duration::from_secs(30);
/// The same as PID 1 of a container: `docker stop` kills after 10 s.
const BUDGET_OF_PID_1: Duration = Duration::from_secs(8);

/// Facts are good for so many times as long as it took to gather them, unless a unit goes on meanwhile; at most for this long.
const RARELY: u32 = 9;
const FRESH: Duration = Duration::from_millis(500);

/// How long the preview may take before the other facts are told without it.
const QUICK: Duration = Duration::from_millis(300);

/// The drain deadline for everything where the configuration names none.
pub(super) fn default_budget() -> Duration {
    if std::process::id() == 1 { BUDGET_OF_PID_1 } else { BUDGET }
}

/// Does what the supervisor decided.
#[derive(Debug)]
pub(super) struct Hands {
    host: Host,
    journal: Journal,
    reader: Reader,
    probes: Probes,
    answers: mpsc::UnboundedSender<Answer>,
    config: Arc<Config>,
    origin: Origin,
    /// Read and not yet taken over by the supervisor.
    proposed: Option<(String, Origin)>,
    units: BTreeMap<Name, Arc<Unit>>,
    /// The sections that runs were started from, while they go on.
    running: BTreeMap<(Name, Invocation), Arc<Unit>>,
    ourselves: Name,
    /// Since when facts are gathered, and until when those that were gathered last are good enough.
    gathering: Option<Instant>,
    fresh_until: Option<Instant>,
    isolation: Isolation,
    /// Failed, or waiting for a restart.
    retrying: BTreeSet<Name>,
    /// Away while it looks.
    watcher: Option<Watcher>,
}

impl Hands {
    pub(super) fn new(
        host: Host,
        journal: (Journal, Reader),
        config: Arc<Config>,
        origin: Origin,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Self {
        let (journal, reader) = journal;
        Self {
            host,
            journal,
            reader,
            probes: Probes::new(answers.clone()),
            answers,
            config,
            origin,
            proposed: None,
            units: BTreeMap::new(),
            running: BTreeMap::new(),
            ourselves: Name::new("sandkeep").expect("it has the form of a name"),
            gathering: None,
            fresh_until: None,
            isolation: Isolation::default(),
            retrying: BTreeSet::new(),
            watcher: Some(Watcher::default()),
        }
    }

    /// The hands that go on with what those of an earlier image held.
    pub(super) fn inherit(&mut self, handed: &mut HandedHands) -> Result<(), HandoverError> {
        for (name, invocation, unit) in handed.running()? {
            self.running.insert((name, invocation), Arc::new(unit));
        }
        self.retrying = std::mem::take(&mut handed.retrying);
        let config = Arc::clone(&self.config);
        // A unit that the configuration does not name any more is known by what it was started from.
        let running: Vec<_> = self
            .running
            .iter()
            .map(|((name, _), unit)| (name.clone(), Arc::clone(unit)))
            .collect();
        self.units.extend(running);
        self.configured(config);
        self.host.retry_on_change(&self.retrying);
        Ok(())
    }

    /// It is certain that this image stays: reads the pipes, and owns the processes.
    pub(super) fn stay(&mut self, pipes: Vec<Handed>, next_source: u32) {
        self.host.stay();
        self.journal.adopt(pipes, next_source);
        for ((_, invocation), unit) in &self.running {
            self.probes.watch_log(&self.journal, unit, *invocation);
        }
    }

    pub(super) fn hand_over(&self) -> HandedHands {
        let running = self.running.iter().map(|((name, invocation), unit)| {
            let unit = serde_json::to_value(&**unit).unwrap_or_default();
            (name.clone(), *invocation, unit)
        });
        HandedHands {
            origin: self.origin.clone(),
            running: running.collect(),
            retrying: self.retrying.clone(),
        }
    }

    pub(super) fn hand_over_host(&self, kept: &mut Kept) -> HandedHost {
        self.host.hand_over(kept)
    }

    /// Ends what probes and we ourselves started.
    pub(super) fn give_up_commands(&mut self) {
        self.host.give_up_commands();
    }

    /// The last that is asked of the journal.
    pub(super) async fn stop_reading(&self) -> Vec<Handed> {
        self.journal.hand_over().await
    }

    pub(super) fn next_source(&self) -> u32 {
        self.journal.next_source()
    }

    /// Starts a command of our own.
    pub(super) fn help(&mut self, command: &[OsString], input: BorrowedFd<'_>) -> Result<Helper, String> {
        super::probes::help(&mut self.host, &self.answers, command, input)
    }

    pub(super) fn answers(&self) -> mpsc::UnboundedSender<Answer> {
        self.answers.clone()
    }

    pub(super) fn places(&self) -> &Places {
        self.host.places()
    }

    /// This program, which workers execute in another role.
    pub(super) fn binary(&self) -> &Path {
        self.host.binary()
    }

    /// What the supervisor was given, secrets too.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        self.host.environment().all()
    }

    /// The same without secrets: what another image may show in `/proc/PID/environ`.
    pub(super) fn environment_for_ourselves(&self) -> Vec<(OsString, OsString)> {
        self.host.environment().without_secrets()
    }

    /// Says on stderr what can be said nowhere else.
    pub(super) fn complain(&self, text: &str) {
        tracing::error!("{text}");
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The environment that configurations are expanded with.
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        self.host.variables()
    }

    /// A variable that configurations are expanded with from now on.
    pub(super) fn set_variable(&mut self, name: &str, value: &str) {
        self.host.set_variable(name, value);
    }

    /// A configuration that was read: its origin holds once the supervisor has taken it over.
    pub(super) fn propose(&mut self, config: &Config, origin: Origin) {
        self.proposed = Some((config.hash.clone(), origin));
    }

    /// Whether a unit is the sync worker.
    pub(super) fn is_sync(&self, unit: &Name) -> bool {
        let unit = self.units.get(unit);
        unit.is_some_and(|unit| unit.main == Main::Worker(Worker::Sync))
    }

    /// Units that watch more than can be watched, and why.
    pub(super) fn unwatched(&self) -> Option<(Vec<Name>, &'static str)> {
        self.host.unwatched()
    }

    /// The drain deadline for everything.
    pub(super) fn budget(&self) -> Duration {
        self.config.shutdown_budget.unwrap_or_else(default_budget)
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        self.host.events()
    }

    /// Whether events are to be asked for again before anything is waited for.
    pub(super) fn has_more(&self) -> bool {
        self.host.has_more()
    }

    /// Whether every event that is known was given out.
    pub(super) fn is_told(&self) -> bool {
        self.host.is_told()
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.host.next_poll()
    }

    pub(super) fn unit_of(&mut self, pid: Pid) -> Option<Name> {
        self.host.unit_of(pid).map(|(unit, _)| unit)
    }

    pub(super) fn kill_probe(&mut self, pid: Pid) {
        self.host.kill_probe(pid);
    }

    pub(super) fn note(&self, text: &str) {
        self.journal.note(&self.ourselves, text);
    }

    /// A transition, as a line of the supervisor's own log. A unit that failed or waits for its restart is retried when its files change.
    pub(super) fn announce(&mut self, transition: &Transition) {
        let Transition {
            unit,
            from,
            state,
            to,
            reason,
            ..
        } = transition;
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        self.note(&format!("{unit}: {from} → {to} ({state}){why}"));
        self.fresh_until = None;
        let waits = *state == "failed" || *to == "auto-restart";
        let changed = if waits {
            self.retrying.insert(unit.clone())
        } else {
            self.retrying.remove(unit)
        };
        if changed {
            self.host.retry_on_change(&self.retrying);
        }
    }

    /// What an event tells beside what the supervisor makes of it.
    pub(super) fn before(&mut self, event: &Event, publisher: &mut Publisher, clock: &Clock) {
        match event {
            Event::Notified {
                unit,
                notice: Notice::Part(json),
                ..
            } => {
                if let Some(spec) = self.units.get(unit) {
                    publisher.parts.take(spec, json);
                }
            }
            Event::Probed { unit, kind, result, .. } => publisher.probed(unit, *kind, result, clock.now()),
            Event::Spawned {
                unit, stage: Stage::Main, ..
            } => publisher.started(unit),
            Event::Exited {
                unit,
                invocation,
                stage,
                status,
                ..
            } => {
                publisher.exited(unit);
                if last_words::may_have_said(*stage, *status) {
                    self.ask_last_words(unit.clone(), *invocation);
                }
            }
            Event::Emptied { unit, invocation, .. } => {
                self.probes.forget(unit, *invocation);
            }
            _ => {}
        }
    }

    /// Looks for what a process said before its exit failed, once all of it is in the file.
    fn ask_last_words(&self, unit: Name, invocation: Invocation) {
        let written = self.journal.finish(&unit, invocation);
        let reader = self.reader.clone();
        let answers = self.answers.clone();
        tasks::spawn(async move {
            written.await;
            let read = tasks::spawn_blocking(move || last_words::read(&reader, unit, invocation)).await;
            if let Ok(Some(words)) = read {
                let _ = answers.send(Answer::LastWords(words));
            }
        });
    }

    /// Does one thing; what it led to at once.
    pub(super) fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Configured(config) => self.configured(config),
            Action::Spawn { unit, invocation, stage } => return Some(self.spawn(unit, invocation, stage)),
            Action::Signal {
                unit,
                invocation,
                target,
                signal,
            } => self.host.signal(&unit, invocation, target, signal),
            Action::Empty { unit, invocation, kill } => self.host.empty(&unit, invocation, kill),
            Action::Probe {
                unit,
                invocation,
                kind,
                connect_only,
            } => {
                if let Some(spec) = self.units.get(&unit).cloned() {
                    self.probes.ask(&mut self.host, &spec, invocation, kind, connect_only);
                }
            }
            Action::TakeHashes { unit } => {
                if let Some(spec) = self.units.get(&unit) {
                    self.host.take_hashes(spec);
                }
            }
            Action::Announce(_) | Action::Reply { .. } | Action::Halt { .. } => {}
        }
        None
    }

    fn configured(&mut self, config: Arc<Config>) {
        if let Some((hash, origin)) = self.proposed.take()
            && hash == config.hash
        {
            self.origin = origin;
        }
        self.host.configure(&config);
        self.journal.limit(Limits {
            max_size: config.journal_max_size,
            keep: config.journal_keep,
            most: Limits::MOST,
        });
        for unit in &config.units {
            let known = self.units.get(&unit.name).is_some_and(|known| known.limits == unit.limits);
            for missing in self.host.capabilities().cgroup.missing(&unit.limits).iter().filter(|_| !known) {
                self.note(&format!("{}: {missing}", unit.name));
            }
            self.units.insert(unit.name.clone(), Arc::clone(unit));
        }
        self.config = config;
    }

    fn spawn(&mut self, unit: Name, invocation: Invocation, stage: Stage) -> Event {
        let key = (unit.clone(), invocation);
        let Some(spec) = self.running.get(&key).or_else(|| self.units.get(&unit)).cloned() else {
            return failed(unit, invocation, stage, "the unit is not configured".to_owned(), false);
        };
        let pipes = pipe().and_then(|out| Ok((out, pipe()?)));
        let ((out_read, out_write), (err_read, err_write)) = match pipes {
            Ok(pipes) => pipes,
            Err(error) => return failed(unit, invocation, stage, format!("making pipes for its output: {error}"), true),
        };
        let worker;
        let mut environment = Vec::new();
        if let Main::Worker(_) = spec.main {
            worker = WorkerConfig::new(&self.config, &self.host.places().state).to_json();
            environment.push((WorkerConfig::VARIABLE, worker.as_str()));
        }
        if stage == Stage::Main {
            self.probes.watch_log(&self.journal, &spec, invocation);
        }
        let event = self.host.spawn(&Spawn {
            unit: &spec,
            invocation,
            stage,
            stdout: out_write.as_fd(),
            stderr: err_write.as_fd(),
            environment: &environment,
        });
        if let Event::Spawned { .. } = event {
            self.journal.capture(&unit, invocation, out_read, err_read);
            // Kept until the next run: `exec_stop_post` comes when everything else of this one is over.
            self.running.retain(|(name, of), _| *name != unit || *of >= invocation);
            self.running.insert(key, spec);
        }
        event
    }

    /// Looks at the ports, the memory and the preview, on a thread for blocking work.
    /// Whoever asks while that goes on gets what comes of it.
    pub(super) fn gather_facts(&mut self, supervisor: &mut Supervisor) {
        if self.gathering.is_some() {
            return;
        }
        self.gathering = Some(Instant::now());
        self.isolation.look(supervisor, &mut self.host, &self.answers);
        let mut wanted = facts::Wanted::new(supervisor, &mut self.host, &self.config);
        let answers = self.answers.clone();
        let looking = self
            .watcher
            .take()
            .map(|watcher| facts::look(watcher, wanted.dev.take(), wanted.mains()));
        tasks::spawn(async move {
            let facts = tasks::spawn_blocking(move || facts::gather(&wanted)).await.unwrap_or_default();
            let mut facts = Some(Answer::Facts(Box::new(facts)));
            if let Some(looking) = looking {
                let mut looking = std::pin::pin!(looking);
                // A dev server that takes its time holds up the preview alone.
                let quick = tokio::time::timeout(QUICK, &mut looking).await;
                if quick.is_err() {
                    let _ = facts.take().map(|facts| answers.send(facts));
                }
                let preview = match quick {
                    Ok(preview) => preview,
                    Err(_) => looking.await,
                };
                let _ = answers.send(Answer::Preview(Box::new(preview)));
            }
            let _ = facts.map(|facts| answers.send(facts));
        });
    }

    /// The facts have come.
    pub(super) fn facts_gathered(&mut self) {
        let began = self.gathering.take();
        self.fresh_until = began.map(|began| Instant::now() + (began.elapsed() * RARELY).min(FRESH));
    }

    /// Whether the last facts still do: of a box with many processes they are not gathered for each who asks.
    pub(super) fn facts_are_fresh(&self) -> bool {
        self.gathering.is_none() && self.fresh_until.is_some_and(|until| Instant::now() < until)
    }

    /// So has the preview.
    pub(super) fn preview_seen(&mut self, watcher: Watcher) {
        self.watcher = Some(watcher);
    }

    /// Who listens on the ports that this unit is expected to listen on.
    pub(super) fn port_holders(&mut self, unit: &str, reply: Reply<Vec<PortHolder>>) {
        let ports = self
            .units
            .get(unit)
            .map(|unit| super::publish::expected_ports(unit, &self.config))
            .unwrap_or_default();
        let owners = facts::Owners::new(&mut self.host, self.running.keys());
        tasks::spawn(async move {
            let found = tasks::spawn_blocking(move || facts::holders(ports, &owners)).await;
            reply.send(found.unwrap_or_default());
        });
    }

    /// Everything is down: what is in the pipes goes into the files.
    pub(super) async fn close(self) {
        drop(self.host);
        self.journal.close().await;
    }
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
}

fn failed(unit: Name, invocation: Invocation, stage: Stage, message: String, temporary: bool) -> Event {
    Event::SpawnFailed {
        unit,
        invocation,
        stage,
        error: StartError {
            message,
            hint: None,
            temporary,
        },
    }
}
