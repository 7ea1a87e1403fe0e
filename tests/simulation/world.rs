//! A made-up world in virtual time: it does what the supervisor wants, as its processes please, and tells it what happened.

use crate::facts::{Facts, Told};
use crate::kit::*;
use crate::scenario::{Behaviour, Op, Says, Scenario, Spawning};
use sandkeep::supervisor::*;
use sandkeep::unit::{Name, ProbeKind, Service, Unit};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A process that lives. Those without a stage are children that a main process left.
pub(crate) struct Process {
    pub(crate) unit: Name,
    pub(crate) invocation: Invocation,
    pub(crate) stage: Option<Stage>,
    stops_after: Option<u64>,
}

/// What will happen of its own accord.
enum Thing {
    SpawnDone {
        unit: Name,
        invocation: Invocation,
        stage: Stage,
        behaviour: usize,
    },
    Dies {
        pid: Pid,
        status: ExitStatus,
    },
    Says {
        pid: Pid,
        notice: Notice,
    },
    Pings {
        pid: Pid,
        every: u64,
    },
    Emptied {
        unit: Name,
        invocation: Invocation,
        left: Vec<String>,
    },
    Answers {
        unit: Name,
        invocation: Invocation,
        kind: ProbeKind,
        passed: bool,
    },
    Happens(Op),
    Event(Event),
}

pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) supervisor: Supervisor,
    pub(crate) now: Instant,
    pub(crate) epoch: Instant,
    queue: BTreeMap<(Instant, u64), Thing>,
    sequence: u64,
    drawn: usize,
    next_pid: Pid,
    pub(crate) next_request: RequestId,
    pub(crate) processes: BTreeMap<Pid, Process>,
    /// Who is being spawned.
    pub(crate) spawning: BTreeMap<Name, (Invocation, Stage)>,
    /// Who wants to know when nothing is left of a unit.
    emptying: BTreeMap<Name, Invocation>,
    pub(crate) facts: BTreeMap<Name, Facts>,
    pub(crate) told: Told,
    /// How things were before this step.
    pub(crate) earlier: Option<Status>,
    /// Whether it keeps a log.
    talks: bool,
    pub(crate) log: Vec<String>,
    pub(crate) steps: usize,
    pub(crate) halted: bool,
}

/// Runs a life to its end; every invariant holds after every step, or this panics.
pub(crate) fn run(scenario: &Scenario, talks: bool) -> World<'_> {
    let epoch = Instant::now();
    let mut world = World {
        scenario,
        supervisor: Supervisor::new(epoch, 7).with_budget(ms(scenario.budget)),
        now: epoch,
        epoch,
        queue: BTreeMap::new(),
        sequence: 0,
        drawn: 0,
        next_pid: 100,
        next_request: 1,
        processes: BTreeMap::new(),
        spawning: BTreeMap::new(),
        emptying: BTreeMap::new(),
        facts: BTreeMap::new(),
        told: Told::default(),
        earlier: None,
        talks: talks || std::env::var_os("SIMULATION_LOG").is_some(),
        log: vec![],
        steps: 0,
        halted: false,
    };
    world.later(0, Thing::Happens(Op::Configure(0)));
    for (at, op) in scenario.ops.iter().filter(|(at, _)| *at < scenario.shutdown_at) {
        world.later(*at, Thing::Happens(op.clone()));
    }
    let shutdown = |request| Event::Shutdown {
        request,
        budget: ms(scenario.budget),
    };
    for (request, at) in [(1_000_001, Some(0)), (1_000_002, scenario.hurry_after)] {
        if let Some(after) = at {
            world.later(scenario.shutdown_at + after, Thing::Event(shutdown(request)));
        }
    }
    while !world.halted {
        world.turn();
        assert!(world.steps < 60_000, "never halted");
    }
    world.after_halt();
    world
}

impl World<'_> {
    fn later(&mut self, wait: u64, thing: Thing) {
        self.sequence += 1;
        self.queue.insert((self.now + ms(wait), self.sequence), thing);
    }

    /// The next thing that happens, or the deadline that comes before it.
    fn turn(&mut self) {
        let due = self.supervisor.next_deadline().map(|(at, _, _)| at);
        let next = self.queue.keys().next().map(|(at, _)| *at);
        match (due, next) {
            (Some(due), next) if next.is_none_or(|next| due < next) => {
                self.now = self.now.max(due);
                self.step(Event::Deadline);
            }
            (_, Some(next)) => {
                self.now = self.now.max(next);
                let (_, thing) = self.queue.pop_first().expect("there is a next");
                self.happens(thing);
            }
            (_, None) => panic!("stuck: nothing due, nothing to come, not halted: {:#?}", self.supervisor.status()),
        }
    }

    fn happens(&mut self, thing: Thing) {
        match thing {
            Thing::SpawnDone {
                unit,
                invocation,
                stage,
                behaviour,
            } => self.spawn_done(unit, invocation, stage, behaviour),
            Thing::Dies { pid, status } => self.dies(pid, status),
            Thing::Says { pid, notice } => {
                if let Some(Process { unit, invocation, .. }) = self.processes.get(&pid) {
                    let (unit, invocation) = (unit.clone(), *invocation);
                    self.step(Event::Notified { unit, invocation, notice });
                }
            }
            Thing::Pings { pid, every } => {
                if self.processes.contains_key(&pid) {
                    self.happens(Thing::Says {
                        pid,
                        notice: Notice::Watchdog,
                    });
                    self.later(every, Thing::Pings { pid, every });
                }
            }
            Thing::Emptied { unit, invocation, left } => {
                if !left.is_empty() {
                    // What cannot be ended is nobody's any more.
                    self.processes.retain(|_, process| process.unit != unit);
                }
                self.step(Event::Emptied { unit, invocation, left });
            }
            Thing::Answers {
                unit,
                invocation,
                kind,
                passed,
            } => {
                let result = ProbeResult {
                    passed,
                    message: if passed { "passed" } else { "refused" }.into(),
                };
                self.step(Event::Probed {
                    unit,
                    invocation,
                    kind,
                    result,
                });
            }
            Thing::Happens(op) => self.op(op),
            Thing::Event(event) => self.step(event),
        }
    }

    pub(crate) fn step(&mut self, event: Event) {
        if self.halted {
            return;
        }
        self.steps += 1;
        let before = self.supervisor.status();
        self.note(&event, &before);
        self.say(|| format!("> {event:?}"));
        self.earlier = Some(before.clone());
        let actions = self.supervisor.step(self.now, event.clone());
        let after = self.supervisor.status();
        self.note_reload(&event, &before, &after);
        for action in &actions {
            if !matches!(action, Action::Configured(_)) {
                self.say(|| format!("  {action:?}"));
            }
            assert!(!self.halted, "{action:?} after the halt");
            self.check_action(action, &event, &before, &after);
            self.perform(action);
        }
        self.check(&event, &before, &after);
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if !self.talks {
            return;
        }
        let (at, line) = ((self.now - self.epoch).as_secs_f64(), line());
        let line = if line.starts_with("> Configure") { "> Configure" } else { &line };
        #[expect(clippy::print_stdout, reason = "asked for")]
        if std::env::var_os("SIMULATION_LOG").is_some() {
            println!("{at:9.3} {line}");
        }
        self.log.push(format!("{at:9.3} {line}"));
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::Spawn { unit, invocation, stage } => {
                self.drawn += 1;
                let behaviour = self.drawn % self.scenario.behaviours.len();
                self.spawning.insert(unit.clone(), (*invocation, *stage));
                let takes = self.scenario.behaviours[behaviour].spawn_takes;
                self.later(
                    takes,
                    Thing::SpawnDone {
                        unit: unit.clone(),
                        invocation: *invocation,
                        stage: *stage,
                        behaviour,
                    },
                );
            }
            Action::Signal { unit, target, signal, .. } => self.signal(unit, *target, *signal),
            Action::Empty { unit, invocation, kill } => {
                self.emptying.insert(unit.clone(), *invocation);
                if *kill {
                    let pids: Vec<Pid> = self.of(unit).collect();
                    let status = ExitStatus::Signal { signal: 9, core: false };
                    pids.into_iter()
                        .for_each(|pid| self.later(u64::from(pid.unsigned_abs()) % 20, Thing::Dies { pid, status }));
                }
                self.if_empty(unit);
            }
            Action::Probe {
                unit, invocation, kind, ..
            } => {
                let facts = &self.facts[unit];
                let behaviour = &self.scenario.behaviours[facts.behaviour];
                let age = u64::try_from((self.now - facts.spawned_at).as_millis()).expect("small");
                let (from, to) = behaviour.fails_between;
                let passed = behaviour.passes_from.is_some_and(|at| age >= at) && !(from..to).contains(&age);
                let answer = Thing::Answers {
                    unit: unit.clone(),
                    invocation: *invocation,
                    kind: *kind,
                    passed,
                };
                self.later(behaviour.answers_after, answer);
            }
            Action::Halt { .. } => self.halted = true,
            Action::Configured(_) | Action::TakeHashes { .. } | Action::Announce(_) | Action::Reply { .. } => {}
        }
    }

    pub(crate) fn of<'b>(&'b self, unit: &'b Name) -> impl Iterator<Item = Pid> + 'b {
        self.processes
            .iter()
            .filter(move |(_, process)| process.unit == *unit)
            .map(|(pid, _)| *pid)
    }

    fn signal(&mut self, unit: &Name, target: Target, signal: i32) {
        let hit = |process: &Process| match target {
            Target::All => true,
            Target::Main => process.stage == Some(Stage::Main),
            Target::Control(stage) => process.stage == Some(stage),
        };
        let dying: Vec<_> = self
            .processes
            .iter()
            .filter(|(_, p)| p.unit == *unit && hit(p))
            .map(|(pid, p)| (*pid, p.stops_after))
            .collect();
        for (pid, stops_after) in dying {
            let status = ExitStatus::Signal { signal, core: false };
            match (signal, stops_after) {
                (9, _) => self.later(1, Thing::Dies { pid, status }),
                (15 | 6, Some(after)) => self.later(after, Thing::Dies { pid, status }),
                _ => {}
            }
        }
    }

    /// Says so when nothing is left of a unit and somebody wants to know.
    fn if_empty(&mut self, unit: &Name) {
        if self.of(unit).next().is_none()
            && let Some(invocation) = self.emptying.remove(unit)
        {
            self.later(
                0,
                Thing::Emptied {
                    unit: unit.clone(),
                    invocation,
                    left: vec![],
                },
            );
        }
    }

    fn dies(&mut self, pid: Pid, status: ExitStatus) {
        let Some(Process {
            unit, invocation, stage, ..
        }) = self.processes.remove(&pid)
        else {
            return;
        };
        if let Some(stage) = stage {
            self.step(Event::Exited {
                unit: unit.clone(),
                invocation,
                stage,
                pid,
                status,
                oom: false,
            });
        }
        self.if_empty(&unit);
    }

    fn spawn_done(&mut self, unit: Name, invocation: Invocation, stage: Stage, behaviour: usize) {
        self.spawning.remove(&unit);
        let drawn = self.scenario.behaviours[behaviour].clone();
        let spec = self.supervisor.status().unit(unit.as_str()).expect("it spawns").spec.clone();
        let first = stage
            == if spec.exec_start_pre.is_empty() {
                Stage::Main
            } else {
                Stage::StartPre(0)
            };
        let oneshot = matches!(spec.service, Service::Oneshot { .. });
        match drawn.spawn {
            Spawning::FailsForNow | Spawning::FailsForGood => {
                let error = StartError {
                    message: "no".into(),
                    hint: None,
                    temporary: drawn.spawn == Spawning::FailsForNow,
                };
                self.step(Event::SpawnFailed {
                    unit,
                    invocation,
                    stage,
                    error,
                });
            }
            Spawning::Skipped if first => self.step(Event::Skipped {
                unit,
                invocation,
                reason: "no such variable".into(),
            }),
            Spawning::Satisfied if first && oneshot => self.step(Event::Satisfied { unit, invocation }),
            Spawning::Works | Spawning::Skipped | Spawning::Satisfied => self.lives(unit, invocation, stage, &spec, behaviour, &drawn),
        }
    }

    /// A process begins its life.
    fn lives(&mut self, unit: Name, invocation: Invocation, stage: Stage, spec: &Unit, number: usize, drawn: &Behaviour) {
        let pid = self.add(&unit, invocation, Some(stage), drawn.stops_after);
        let main = stage == Stage::Main;
        if main {
            let facts = self.facts.get_mut(&unit).expect("its start was seen");
            (facts.behaviour, facts.spawned_at) = (number, self.now);
        }
        match (main, drawn.exits_after) {
            (true, Some((after, status))) => self.later(after, Thing::Dies { pid, status }),
            (true, None) if matches!(spec.service, Service::Oneshot { .. }) => {}
            (true, None) => {}
            // Commands are short as a rule.
            (false, Some((after, status))) => self.later(after % 1000, Thing::Dies { pid, status }),
            (false, None) => self.later(
                10,
                Thing::Dies {
                    pid,
                    status: ExitStatus::Code(0),
                },
            ),
        }
        if main && let Some(after) = drawn.ready_after {
            self.later(
                after,
                Thing::Says {
                    pid,
                    notice: Notice::Ready,
                },
            );
        }
        if main && let Some(every) = drawn.pings_every {
            self.later(0, Thing::Pings { pid, every });
        }
        if let Some(ignores) = drawn.leaves {
            self.add(&unit, invocation, None, (!ignores).then_some(3));
        }
        if main && let Some((after, says)) = drawn.says {
            let notice = match says {
                Says::Stopping => Notice::Stopping,
                Says::Reloading => Notice::Reloading,
                Says::Extend(by) => Notice::ExtendTimeout(ms(by)),
                Says::MainPid => Notice::MainPid(pid),
                Says::ReadyAgain => Notice::Ready,
            };
            self.later(after, Thing::Says { pid, notice });
        }
        self.step(Event::Spawned {
            unit,
            invocation,
            stage,
            pid,
            warnings: vec![],
        });
    }

    fn add(&mut self, unit: &Name, invocation: Invocation, stage: Option<Stage>, stops_after: Option<u64>) -> Pid {
        self.next_pid += 1;
        self.processes.insert(
            self.next_pid,
            Process {
                unit: unit.clone(),
                invocation,
                stage,
                stops_after,
            },
        );
        self.next_pid
    }

    /// How long everything may take to end beyond the budget: processes that are slow to come, commands after the end.
    pub(crate) fn slack(&self) -> Duration {
        secs(12 * u64::try_from(self.scenario.configs[0].len()).expect("few"))
    }
}
