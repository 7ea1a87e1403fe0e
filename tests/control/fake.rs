//! A daemon that does as it is told: what the doors see of the real one.

use sandkeep::control::document::{Time, UnitState, UnitStatus};
use sandkeep::control::{
    Command, DaemonHandle, EventLog, LogLine, LogPage, LogQuery, Logs, ReadLogsError, ReloadReply, Reply, Snapshot, UnitSnapshot,
};
use sandkeep::supervisor::{Outcome, Verb};
use sandkeep::unit::Name;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};

/// What every text of the fake contains and nobody may see.
pub(crate) const SECRET: &str = "hunter2hunter2";

pub(crate) fn at(text: &str) -> Time {
    Time(text.parse().unwrap())
}

pub(crate) fn unit(name: &str, state: UnitState, sub_state: &str) -> UnitSnapshot {
    UnitSnapshot {
        status: UnitStatus {
            name: name.into(),
            kind: "simple".into(),
            state,
            sub_state: sub_state.into(),
            reason: Some(format!("because of {SECRET}")),
            ready: state == UnitState::Active,
            required: true,
            invocation: 1,
            since: Some(at("2026-02-03T14:02:11Z")),
            ..UnitStatus::default()
        },
        ..UnitSnapshot::default()
    }
}

pub(crate) fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::empty(7, at("2026-02-03T14:00:00Z"));
    snapshot.units = vec![
        unit("install", UnitState::Active, "exited").into(),
        unit("dev", UnitState::Active, "running").into(),
    ];
    let given = ["status", "why", "logs", "wait", "restart:dev"].map(str::to_owned).to_vec();
    snapshot.allow = Arc::new([("agent".to_owned(), given)].into());
    snapshot
}

#[derive(Default)]
pub(crate) struct FakeLogs {
    lines: Mutex<Vec<LogLine>>,
    changed: watch::Sender<u64>,
}

impl FakeLogs {
    pub(crate) fn write(&self, unit: &str, text: &str) {
        let mut lines = self.lines.lock().unwrap();
        let cursor = format!("c{}", lines.len() + 1);
        lines.push(LogLine {
            unit: unit.into(),
            at: at("2026-02-03T14:02:11Z"),
            stream: "stdout".into(),
            invocation: 1,
            text: text.into(),
            cursor,
        });
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Logs for FakeLogs {
    fn read(&self, query: &LogQuery) -> Result<LogPage, ReadLogsError> {
        if let Some(name) = query.units.iter().find(|name| !["install", "dev"].contains(&name.as_str())) {
            return Err(ReadLogsError::NoSuchUnit(name.clone()));
        }
        let lines = self.lines.lock().unwrap();
        let place = |cursor: &String| cursor.strip_prefix('c').and_then(|n| n.parse::<usize>().ok());
        let start = match &query.after {
            Some(cursor) => place(cursor).ok_or_else(|| ReadLogsError::BadCursor(cursor.clone()))?,
            None => 0,
        };
        let wanted = |line: &&LogLine| {
            (query.units.is_empty() || query.units.contains(&line.unit)) && query.grep.as_ref().is_none_or(|grep| grep.is_match(&line.text))
        };
        let mut found: Vec<LogLine> = lines.iter().skip(start).filter(wanted).cloned().collect();
        if let Some(tail) = query.tail {
            found.drain(..found.len().saturating_sub(tail));
        }
        let more = found.len() > query.limit;
        found.truncate(query.limit);
        let end = format!("c{}", lines.len());
        let cursor = found.last().filter(|_| more).map_or(end, |line| line.cursor.clone());
        Ok(LogPage {
            lines: found,
            cursor,
            more,
        })
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// What the fake answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Willing,
    Failing,
    /// Takes commands and never answers.
    Silent,
}

pub(crate) struct Fake {
    pub(crate) handle: DaemonHandle,
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(crate) events: EventLog,
    pub(crate) logs: Arc<FakeLogs>,
    /// What was asked, in words.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    pub(crate) fn new(runtime_dir: &Path, mood: Mood) -> Self {
        let (snapshot, snapshots) = watch::channel(Arc::new(snapshot()));
        let events = EventLog::new(at("2026-02-03T14:00:00Z"));
        let logs = Arc::new(FakeLogs::default());
        let mask = Arc::new(|text: &str| text.replace(SECRET, "***"));
        let (handle, commands) = DaemonHandle::new(snapshots, events.reader(), logs.clone(), mask, runtime_dir.to_owned());
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(answer(commands, asked.clone(), mood));
        Self {
            handle,
            snapshot,
            events,
            logs,
            asked,
        }
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(mut commands: mpsc::Receiver<Command>, asked: Arc<Mutex<Vec<String>>>, mood: Mood) {
    let mut unanswered: Vec<Command> = Vec::new();
    while let Some(command) = commands.recv().await {
        if mood == Mood::Silent {
            asked.lock().unwrap().push("?".into());
            unanswered.push(command);
            continue;
        }
        let said = match command {
            Command::Ping { reply } => {
                reply.send(());
                continue;
            }
            Command::Verb { verb, reply } => {
                let said = words(&verb);
                outcome(reply, mood);
                said
            }
            Command::Reload { request, reply } => {
                let said = format!("configure {:?}", request.file);
                reply.send(match mood {
                    Mood::Failing => ReloadReply::Invalid(format!("sandkeep.toml:1:1: {SECRET}")),
                    Mood::Willing | Mood::Silent => ReloadReply::Applied {
                        changed: true,
                        config_hash: "abc".into(),
                    },
                });
                said
            }
            Command::Shutdown { budget, reply } => {
                outcome(reply, mood);
                format!("shutdown {budget:?}")
            }
            Command::Refresh { reply } => {
                reply.send(());
                continue;
            }
            Command::UnitOf { reply, .. } => {
                reply.send(None);
                continue;
            }
            Command::PortHolders { reply, .. } => {
                reply.send(vec![]);
                continue;
            }
            Command::Resume { reply, .. } => {
                reply.send(None);
                continue;
            }
            Command::Upgrade { binary, workers, reply } => {
                reply.send(Outcome::Done);
                format!("upgrade {binary:?} {workers}")
            }
        };
        asked.lock().unwrap().push(said);
    }
}

fn words(verb: &Verb) -> String {
    match verb {
        Verb::Start(units) => format!("start {}", units.join(" ")),
        Verb::Stop(units) => format!("stop {}", units.join(" ")),
        Verb::Restart(units) => format!("restart {}", units.join(" ")),
        Verb::Reload(units) => format!("reload {}", units.join(" ")),
        Verb::Kill { unit, signal } => format!("kill {unit} {signal}"),
        Verb::Wait(units) => format!("wait {}", units.join(" ")),
    }
}

fn outcome(reply: Reply<Outcome>, mood: Mood) {
    reply.send(match mood {
        Mood::Failing => Outcome::Failed(vec![(Name::new("dev").unwrap(), format!("exit code 1 {SECRET}"))]),
        Mood::Willing | Mood::Silent => Outcome::Done,
    });
}
