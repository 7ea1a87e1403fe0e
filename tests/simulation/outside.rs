//! What happens to the supervisor from outside.

use crate::kit::*;
use crate::scenario::Op;
use crate::world::World;
use sandkeep::supervisor::*;
use sandkeep::unit::{Name, ProbeKind};

impl World<'_> {
    /// Has it happen.
    pub(crate) fn op(&mut self, op: Op) {
        let units: Vec<Name> = self
            .supervisor
            .config()
            .map(|config| config.units.iter().map(|u| u.name.clone()).collect())
            .unwrap_or_default();
        let pick = |id: usize| units.get(id % units.len().max(1)).map(|name| vec![name.to_string()]);
        let verb = match op {
            Op::Start(id) => pick(id).map(Verb::Start),
            Op::Stop(id) => pick(id).map(Verb::Stop),
            Op::Restart(id) => pick(id).map(Verb::Restart),
            Op::Reload(id) => pick(id).map(Verb::Reload),
            Op::Wait(id) => pick(id).map(Verb::Wait),
            Op::WaitForAll => Some(Verb::Wait(vec![])),
            Op::Kill(id) => pick(id).map(|unit| Verb::Kill {
                unit: unit[0].clone(),
                signal: 10,
            }),
            Op::Watch(_) | Op::Retry(_) | Op::Configure(_) | Op::Jump(..) | Op::Stale(_) | Op::Trigger(_) => {
                return self.other_op(op, &units);
            }
        };
        if let Some(verb) = verb {
            self.next_request += 1;
            self.step(Event::Request(Request {
                id: self.next_request,
                verb,
            }));
        }
    }

    fn other_op(&mut self, op: Op, units: &[Name]) {
        let pick = |id: usize| units.get(id % units.len().max(1)).cloned();
        match op {
            Op::Watch(id) => {
                let config = self.supervisor.config().cloned();
                let watches = |name: &Name| {
                    config
                        .as_ref()
                        .and_then(|config| config.unit(name.as_str()))
                        .is_some_and(|unit| !unit.watch.is_empty())
                };
                if let Some(unit) = pick(id).filter(watches) {
                    self.step(Event::WatchChanged {
                        unit,
                        path: "package.json".into(),
                    });
                }
            }
            Op::Retry(id) => {
                if let Some(unit) = pick(id) {
                    self.step(Event::RetryChanged {
                        unit,
                        path: "vite.config.js".into(),
                    });
                }
            }
            Op::Configure(which) => {
                self.next_request += 1;
                let config = config(self.scenario.configs[which].clone());
                self.step(Event::Configure {
                    config,
                    request: self.next_request,
                });
            }
            Op::Jump(away, told) => {
                if !self.told.shutdown {
                    self.now += ms(away);
                    self.step(if told { Event::Resumed { away: ms(away) } } else { Event::Deadline });
                }
            }
            Op::Stale(id) => pick(id).into_iter().for_each(|unit| self.stale(&unit)),
            Op::Trigger(id) => {
                if let Some(unit) = pick(id) {
                    let invocation = self.facts.get(&unit).map_or(0, |facts| facts.invocation);
                    self.step(Event::Notified {
                        unit,
                        invocation,
                        notice: Notice::WatchdogTrigger,
                    });
                }
            }
            _ => unreachable!("dealt with before"),
        }
    }

    /// News of an earlier run, and of a process that is not the unit's.
    fn stale(&mut self, unit: &Name) {
        let Some(current) = self.facts.get(unit).map(|facts| facts.invocation) else {
            return;
        };
        let invocation = current.saturating_sub(1);
        let (kind, result) = (
            ProbeKind::Liveness,
            ProbeResult {
                passed: false,
                message: "late".into(),
            },
        );
        let status = ExitStatus::Code(0);
        let (unit, stage) = (unit.clone(), Stage::Main);
        let late = [
            Event::Spawned {
                unit: unit.clone(),
                invocation,
                stage,
                pid: 5,
                warnings: vec![],
            },
            Event::Notified {
                unit: unit.clone(),
                invocation,
                notice: Notice::Ready,
            },
            Event::Probed {
                unit: unit.clone(),
                invocation,
                kind,
                result: result.clone(),
            },
            Event::Probed {
                unit: unit.clone(),
                invocation,
                kind: ProbeKind::Readiness,
                result: ProbeResult { passed: true, ..result },
            },
            Event::Exited {
                unit: unit.clone(),
                invocation,
                stage,
                pid: 5,
                status,
                oom: false,
            },
            Event::Emptied {
                unit: unit.clone(),
                invocation,
                left: vec![],
            },
            Event::Satisfied {
                unit: unit.clone(),
                invocation,
            },
            Event::Skipped {
                unit: unit.clone(),
                invocation,
                reason: "late".into(),
            },
        ];
        for event in late {
            self.step(event);
        }
        if !self.spawning.contains_key(&unit) {
            self.step(Event::Exited {
                unit,
                invocation: current,
                stage,
                pid: 5,
                status,
                oom: false,
            });
        }
    }
}
