//! A supervisor on the bench: one thing happens at a time, by hand.
#![allow(dead_code, reason = "a kit, not every piece of which is in use")]

use crate::kit::*;
use sandkeep::supervisor::*;
use sandkeep::unit::{Name, ProbeKind, Unit};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A supervisor, the time it is told, and everything that it wanted done since it was last asked.
pub(crate) struct Bench {
    pub(crate) supervisor: Supervisor,
    pub(crate) now: Instant,
    pub(crate) actions: Vec<Action>,
    pids: BTreeMap<(Name, Stage), Pid>,
    next_pid: Pid,
    next_request: RequestId,
}

impl Bench {
    pub(crate) fn new(units: Vec<Unit>) -> Self {
        let now = Instant::now();
        let mut bench = Self {
            supervisor: Supervisor::new(now, 7),
            now,
            actions: vec![],
            pids: BTreeMap::new(),
            next_pid: 100,
            next_request: 1,
        };
        bench.event(Event::Configure {
            config: config(units),
            request: 0,
        });
        bench
    }

    pub(crate) fn event(&mut self, event: Event) -> &mut Self {
        self.actions.extend(self.supervisor.step(self.now, event));
        self
    }

    /// Lets time pass; every deadline on the way is kept.
    pub(crate) fn pass(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while let Some((at, _, _)) = self.supervisor.next_deadline()
            && at <= end
        {
            self.now = at;
            self.event(Event::Deadline);
        }
        self.now = end;
        self.event(Event::Deadline)
    }

    pub(crate) fn invocation(&mut self, unit: &str) -> Invocation {
        self.status(unit).invocation
    }

    pub(crate) fn spawned(&mut self, unit: &str) -> &mut Self {
        self.stage_spawned(unit, Stage::Main)
    }

    pub(crate) fn stage_spawned(&mut self, unit: &str, stage: Stage) -> &mut Self {
        self.next_pid += 1;
        let (pid, invocation) = (self.next_pid, self.invocation(unit));
        self.pids.insert((name(unit), stage), pid);
        self.event(Event::Spawned {
            unit: name(unit),
            invocation,
            stage,
            pid,
            warnings: vec![],
        })
    }

    pub(crate) fn exited(&mut self, unit: &str, code: u8) -> &mut Self {
        self.stage_exited(unit, Stage::Main, ExitStatus::Code(code))
    }

    pub(crate) fn killed(&mut self, unit: &str, signal: i32) -> &mut Self {
        self.stage_exited(unit, Stage::Main, ExitStatus::Signal { signal, core: false })
    }

    pub(crate) fn stage_exited(&mut self, unit: &str, stage: Stage, status: ExitStatus) -> &mut Self {
        let (pid, invocation) = (self.pids[&(name(unit), stage)], self.invocation(unit));
        self.event(Event::Exited {
            unit: name(unit),
            invocation,
            stage,
            pid,
            status,
            oom: false,
        })
    }

    pub(crate) fn emptied(&mut self, unit: &str) -> &mut Self {
        let invocation = self.invocation(unit);
        self.event(Event::Emptied {
            unit: name(unit),
            invocation,
            left: vec![],
        })
    }

    /// The main process ends by itself and nothing is left of it.
    pub(crate) fn ends(&mut self, unit: &str, code: u8) -> &mut Self {
        self.exited(unit, code).emptied(unit)
    }

    /// A stop that goes as it should.
    pub(crate) fn goes(&mut self, unit: &str) -> &mut Self {
        self.killed(unit, 15).emptied(unit)
    }

    pub(crate) fn notice(&mut self, unit: &str, notice: Notice) -> &mut Self {
        let invocation = self.invocation(unit);
        self.event(Event::Notified {
            unit: name(unit),
            invocation,
            notice,
        })
    }

    pub(crate) fn probed(&mut self, unit: &str, kind: ProbeKind, passed: bool) -> &mut Self {
        let invocation = self.invocation(unit);
        let result = ProbeResult {
            passed,
            message: if passed { "ok" } else { "refused" }.into(),
        };
        self.event(Event::Probed {
            unit: name(unit),
            invocation,
            kind,
            result,
        })
    }

    /// Asks for something; the number under which it is answered.
    pub(crate) fn ask(&mut self, verb: Verb) -> RequestId {
        self.next_request += 1;
        let id = self.next_request;
        self.event(Event::Request(Request { id, verb }));
        id
    }

    pub(crate) fn start(&mut self, unit: &str) -> RequestId {
        self.ask(Verb::Start(vec![unit.into()]))
    }

    pub(crate) fn stop(&mut self, unit: &str) -> RequestId {
        self.ask(Verb::Stop(vec![unit.into()]))
    }

    pub(crate) fn restart(&mut self, unit: &str) -> RequestId {
        self.ask(Verb::Restart(vec![unit.into()]))
    }

    pub(crate) fn shutdown(&mut self, budget: Duration) -> &mut Self {
        self.event(Event::Shutdown { request: 0, budget })
    }

    pub(crate) fn status(&mut self, unit: &str) -> UnitStatus {
        (**self.supervisor.status().unit(unit).expect("a unit of that name")).clone()
    }

    /// `state/sub_state` of a unit, with `*` when it is ready.
    pub(crate) fn state(&mut self, unit: &str) -> String {
        let status = self.status(unit);
        format!("{}/{}{}", status.state, status.sub_state, if status.ready { "*" } else { "" })
    }

    /// What was wanted since the last time, in short: announcements left out.
    pub(crate) fn done(&mut self) -> Vec<String> {
        std::mem::take(&mut self.actions).iter().filter_map(short).collect()
    }

    /// The answer to a request, if there was one since [`done`](Self::done) was last called.
    pub(crate) fn reply(&self, id: RequestId) -> Option<Outcome> {
        self.actions.iter().find_map(|action| match action {
            Action::Reply { request, outcome } if *request == id => Some(outcome.clone()),
            _ => None,
        })
    }
}

/// An action in a few words; `None` for an announcement or an accepted configuration.
pub(crate) fn short(action: &Action) -> Option<String> {
    Some(match action {
        Action::Spawn {
            unit, stage: Stage::Main, ..
        } => format!("spawn {unit}"),
        Action::Spawn { unit, stage, .. } => format!("spawn {unit} {stage}"),
        Action::Signal { unit, target, signal, .. } => {
            let target = match target {
                Target::Main => "main".into(),
                Target::All => "all".into(),
                Target::Control(stage) => stage.to_string(),
            };
            format!("signal {unit} {target} {signal}")
        }
        Action::Empty { unit, kill: false, .. } => format!("empty {unit}"),
        Action::Empty { unit, kill: true, .. } => format!("kill {unit}"),
        Action::Probe {
            unit, kind, connect_only, ..
        } => {
            format!(
                "probe {unit} {}{}",
                format!("{kind:?}").to_lowercase(),
                if *connect_only { " connect" } else { "" }
            )
        }
        Action::TakeHashes { unit } => format!("hashes {unit}"),
        Action::Reply { request, outcome } => format!("reply {request} {outcome:?}"),
        Action::Halt { code, culprit } => match culprit {
            None => format!("halt {code}"),
            Some((unit, exit)) => format!("halt {code} {unit} {exit:?}"),
        },
        Action::Announce(_) | Action::Configured(_) => return None,
    })
}
