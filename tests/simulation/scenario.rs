//! Random lives: what units there are, what their processes do, and what happens to them meanwhile.

use crate::kit::*;
use proptest::prelude::*;
use proptest::sample::select;
use sandkeep::supervisor::ExitStatus;
use sandkeep::unit::*;
use std::time::Duration;

/// What a process does with its life. Times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) spawn_takes: u64,
    pub(crate) spawn: Spawning,
    pub(crate) ready_after: Option<u64>,
    pub(crate) exits_after: Option<(u64, ExitStatus)>,
    /// `None`: ignores the stop signal.
    pub(crate) stops_after: Option<u64>,
    /// Children that it leaves in its set, and whether they ignore the stop signal.
    pub(crate) leaves: Option<bool>,
    /// Pings the watchdog this often.
    pub(crate) pings_every: Option<u64>,
    pub(crate) says: Option<(u64, Says)>,
    /// Its probes pass from here on, but for this stretch.
    pub(crate) passes_from: Option<u64>,
    pub(crate) fails_between: (u64, u64),
    pub(crate) answers_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spawning {
    Works,
    FailsForNow,
    FailsForGood,
    Skipped,
    Satisfied,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    Stopping,
    Reloading,
    Extend(u64),
    MainPid,
    ReadyAgain,
}

/// What happens from outside.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Start(usize),
    Stop(usize),
    Restart(usize),
    Reload(usize),
    Wait(usize),
    WaitForAll,
    Kill(usize),
    Watch(usize),
    Retry(usize),
    Configure(usize),
    /// Time that nobody saw pass; whether somebody tells.
    Jump(u64, bool),
    /// Late news of an earlier run.
    Stale(usize),
    /// The main process pulls its watchdog's trigger.
    Trigger(usize),
}

#[derive(Clone)]
pub(crate) struct Scenario {
    /// The configuration to begin with, and those that reloads bring.
    pub(crate) configs: Vec<Vec<Unit>>,
    /// Drawn from in turn, one for each spawn.
    pub(crate) behaviours: Vec<Behaviour>,
    pub(crate) ops: Vec<(u64, Op)>,
    pub(crate) shutdown_at: u64,
    pub(crate) budget: u64,
    /// A second shutdown so long after the first.
    pub(crate) hurry_after: Option<u64>,
}

/// What differs from the defaults.
impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = |spec: &Unit| {
            let (it, default) = (serde_json::json!(spec), serde_json::json!(unit(spec.name.as_str())));
            let it = it.as_object().expect("a struct").iter();
            it.filter(|(key, value)| default[*key] != **value || *key == "name")
                .map(|(k, v)| format!("{k}={v}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (number, config) in self.configs.iter().enumerate() {
            writeln!(f, "\nconfig {number}:")?;
            config.iter().try_for_each(|spec| writeln!(f, "  {}", told(spec)))?;
        }
        self.behaviours.iter().try_for_each(|behaviour| writeln!(f, "{behaviour:?}"))?;
        writeln!(f, "{:?}", self.ops)?;
        write!(
            f,
            "shutdown at {}, budget {}, hurry after {:?}",
            self.shutdown_at, self.budget, self.hurry_after
        )
    }
}

fn duration(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn edges(id: usize, weight: f64) -> impl Strategy<Value = Vec<Name>> {
    let some = proptest::collection::vec(0..id.max(1), 1..3);
    proptest::option::weighted(if id == 0 { 0.001 } else { weight }, some).prop_map(move |ids| {
        let mut ids = ids.filter(|_| id > 0).unwrap_or_default();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(unit_name).collect()
    })
}

pub(crate) fn unit_name(id: usize) -> Name {
    name(&format!("u{id}"))
}

fn probes() -> impl Strategy<Value = std::collections::BTreeMap<ProbeKind, Probe>> {
    let one = |kind: ProbeKind, weight: f64| {
        let probe =
            (1u32..3, 1u32..4, 50u64..400, select(vec![0u64, 0, 300]), any::<bool>()).prop_map(move |(pass, fail, every, delay, http)| {
                let check = if http {
                    ProbeCheck::Http {
                        url: "http://x/".into(),
                        always: false,
                    }
                } else {
                    ProbeCheck::Listen(None)
                };
                let probe = Probe::new(check);
                (
                    kind,
                    Probe {
                        success_threshold: pass,
                        failure_threshold: fail,
                        interval: ms(every),
                        initial_delay: ms(delay),
                        ..probe
                    },
                )
            });
        proptest::option::weighted(weight, probe)
    };
    let all = (
        one(ProbeKind::Startup, 0.08),
        one(ProbeKind::Readiness, 0.3),
        one(ProbeKind::Liveness, 0.25),
    );
    all.prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect())
}

fn policy() -> impl Strategy<Value = Restart> {
    use Restart::*;
    select(vec![
        No, OnSuccess, OnFailure, OnFailure, OnAbnormal, OnWatchdog, Always, Always, Always,
    ])
}

fn spec(id: usize) -> impl Strategy<Value = Unit> {
    let what = (
        0u8..10,
        probes(),
        policy(),
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.15),
    );
    let order = (edges(id, 0.45), edges(id, 0.15), edges(id, 0.12), edges(id, 0.2), edges(id, 0.2));
    let limits = (
        select(vec![0u32, 1, 3, 5]),
        proptest::bool::weighted(0.08),
        20u64..500,
        500u64..20_000,
        0u32..7,
    );
    let times = (
        proptest::option::weighted(0.6, duration(100..6000)),
        duration(10..4000),
        proptest::option::weighted(0.08, duration(500..30_000)),
        proptest::option::weighted(0.15, duration(500..5000)),
    );
    let stages = proptest::array::uniform5(proptest::bool::weighted(0.1));
    let stop = (
        any::<bool>(),
        proptest::option::weighted(0.25, Just(12)),
        proptest::option::weighted(0.2, Just(1)),
        any::<bool>(),
    );
    (what, order, limits, times, stages, stop).prop_map(move |(what, order, limits, times, stages, stop)| {
        let (kind, probes, restart, optional, no_remain) = what;
        let service = match kind {
            0..5 => Service::Simple,
            5..8 => Service::Notify,
            _ => Service::Oneshot {
                remain_after_exit: !no_remain,
            },
        };
        let main = if kind == 9 && optional {
            Main::Worker(Worker::Restore)
        } else {
            Main::Exec(shell("x"))
        };
        let command = |wanted: bool| if wanted { vec![shell("y"); 1 + id % 2] } else { vec![] };
        Unit {
            service,
            main,
            probes: if kind >= 8 { Default::default() } else { probes },
            restart,
            optional,
            requires: order.0,
            wants: order.1,
            binds_to: order.2,
            after: order.3,
            part_of: order.4,
            start_limit_burst: limits.0,
            start_limit_action: if limits.1 {
                StartLimitAction::Shutdown
            } else {
                StartLimitAction::None
            },
            restart_delay: ms(limits.2),
            restart_max_delay: ms(limits.3),
            restart_steps: limits.4,
            start_timeout: times.0,
            stop_timeout: times.1,
            runtime_max: times.2.filter(|_| kind < 8),
            watchdog: times.3.filter(|_| kind < 8),
            exec_start_pre: command(stages[0]),
            exec_start_post: command(stages[1]),
            exec_reload: command(stages[2]),
            exec_stop: command(stages[3]),
            exec_stop_post: command(stages[4]),
            kill_mode: if stop.0 { KillMode::ControlGroup } else { KillMode::Mixed },
            drain_signal: stop.1,
            reload_signal: stop.2,
            watch: if stop.3 { vec!["*".into()] } else { vec![] },
            ..unit(unit_name(id).as_str())
        }
    })
}

fn status() -> impl Strategy<Value = ExitStatus> {
    prop_oneof![
        5 => Just(ExitStatus::Code(0)),
        5 => Just(ExitStatus::Code(1)),
        1 => Just(ExitStatus::Code(78)),
        1 => Just(ExitStatus::Code(127)),
        2 => Just(ExitStatus::Signal { signal: 11, core: true }),
        1 => Just(ExitStatus::Signal { signal: 15, core: false }),
    ]
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    use Spawning::*;
    let spawn = prop_oneof![16 => Just(Works), 1 => Just(FailsForNow), 1 => Just(FailsForGood), 1 => Just(Skipped), 1 => Just(Satisfied)];
    let says = prop_oneof![
        2 => Just(Says::Stopping), 2 => Just(Says::Reloading), 2 => (0u64..5000).prop_map(Says::Extend), 1 => Just(Says::MainPid),
        2 => Just(Says::ReadyAgain),
    ];
    let life = (
        prop_oneof![2 => Just(0u64), 2 => 0u64..200, 1 => 0u64..2000],
        spawn,
        proptest::option::weighted(0.85, prop_oneof![Just(0), 0u64..2000]),
        proptest::option::weighted(0.6, (prop_oneof![0u64..300, 0u64..8000, 0u64..40_000], status())),
        proptest::option::weighted(0.75, prop_oneof![Just(0u64), 0u64..4000]),
        proptest::option::weighted(0.2, any::<bool>()),
    );
    let talk = (
        proptest::option::weighted(0.6, 100u64..900),
        proptest::option::weighted(0.2, (0u64..6000, says)),
        proptest::option::weighted(0.85, 0u64..1500),
        (0u64..30_000, 0u64..60_000),
        0u64..300,
    );
    (life, talk).prop_map(|(life, talk)| Behaviour {
        spawn_takes: life.0,
        spawn: life.1,
        ready_after: life.2,
        exits_after: life.3,
        stops_after: life.4,
        leaves: life.5,
        pings_every: talk.0,
        says: talk.1,
        passes_from: talk.2,
        fails_between: talk.3,
        answers_after: talk.4,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let unit = 0usize..8;
    prop_oneof![
        4 => unit.clone().prop_map(Op::Start),
        4 => unit.clone().prop_map(Op::Stop),
        4 => unit.clone().prop_map(Op::Restart),
        2 => unit.clone().prop_map(Op::Reload),
        2 => unit.clone().prop_map(Op::Wait),
        1 => Just(Op::WaitForAll),
        1 => unit.clone().prop_map(Op::Kill),
        3 => unit.clone().prop_map(Op::Watch),
        2 => unit.clone().prop_map(Op::Retry),
        3 => (0usize..4).prop_map(Op::Configure),
        1 => (0u64..30_000_000, any::<bool>()).prop_map(|(ms, told)| Op::Jump(ms, told)),
        2 => unit.clone().prop_map(Op::Stale),
        1 => unit.prop_map(Op::Trigger),
    ]
}

/// Changes a configuration: what `code` says of each unit, in base 5.
fn change(units: &[Unit], mut code: u32) -> Vec<Unit> {
    let mut gone = Vec::new();
    let mut changed = units.to_vec();
    for unit in &mut changed {
        match code % 5 {
            1 => unit.description.push('!'),
            2 => unit.environment.insert("A".into(), code.to_string()).map_or((), drop),
            3 => gone.push(unit.name.clone()),
            4 => (unit.stop_timeout, unit.start_timeout) = (ms(u64::from(code % 997)), Some(ms(500 + u64::from(code % 4001)))),
            _ => {}
        }
        code /= 5;
    }
    changed.retain(|unit| !gone.contains(&unit.name));
    for unit in &mut changed {
        for edges in [
            &mut unit.requires,
            &mut unit.wants,
            &mut unit.binds_to,
            &mut unit.after,
            &mut unit.part_of,
        ] {
            edges.retain(|name| !gone.contains(name));
        }
    }
    changed
}

pub(crate) fn scenario() -> impl Strategy<Value = Scenario> {
    (1usize..7).prop_flat_map(|count| {
        let specs: Vec<_> = (0..count).map(spec).collect();
        let ops = proptest::collection::vec((prop_oneof![0u64..6000, 0u64..40_000], op()), 0..12);
        let times = (
            prop_oneof![3 => 1u64..40_000, 1 => 1u64..300_000],
            prop_oneof![1 => 50u64..4000, 2 => 1000u64..40_000],
            proptest::option::weighted(0.15, 0u64..3000),
        );
        let codes = proptest::array::uniform3(prop_oneof![1 => Just(0u32), 5 => 0u32..15_625]);
        (specs, proptest::collection::vec(behaviour(), 1..12), ops, times, codes).prop_map(|(specs, behaviours, ops, times, codes)| {
            Scenario {
                configs: std::iter::once(specs.clone())
                    .chain(codes.map(|code| change(&specs, code)))
                    .collect(),
                behaviours,
                ops,
                shutdown_at: times.0,
                budget: times.1,
                hurry_after: times.2,
            }
        })
    })
}
