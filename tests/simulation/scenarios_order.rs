//! Who waits for whom, who stops with whom, and who gets which answer.

use crate::bench::Bench;
use crate::kit::*;
use sandkeep::supervisor::*;
use sandkeep::unit::*;

fn requires(called: &str, deps: &[&str]) -> Unit {
    Unit {
        requires: names(deps),
        ..unit(called)
    }
}

#[test]
fn units_start_in_order_and_stop_in_reverse() {
    let mut bench = Bench::new(vec![oneshot("install"), notify("db"), requires("dev", &["install", "db"])]);
    assert_eq!(bench.done(), ["spawn install", "spawn db"]);
    bench.spawned("install").spawned("db").exited("install", 0);
    assert_eq!(bench.done(), ["signal install all 15", "empty install"]);
    bench.emptied("install");
    assert_eq!(bench.state("install"), "active/exited*");
    assert_eq!(bench.done(), nothing());
    bench.notice("db", Notice::Ready);
    assert_eq!(bench.done(), ["spawn dev"]);
    bench.spawned("dev");
    assert!(bench.supervisor.status().ready);
    bench.shutdown(secs(30));
    assert_eq!(bench.done(), ["signal dev all 15", "empty dev"]);
    bench.goes("dev");
    assert_eq!(bench.done(), ["signal db all 15", "empty db"]);
    bench.goes("db");
    assert_eq!(bench.done(), ["halt 0"]);
}

#[test]
fn a_crash_restarts_without_stopping_those_that_require_it() {
    let mut bench = Bench::new(vec![
        Unit {
            restart: Restart::Always,
            ..unit("db")
        },
        requires("dev", &["db"]),
    ]);
    bench.spawned("db").spawned("dev").ends("db", 1);
    assert_eq!(bench.state("dev"), "active/running*");
    bench.pass(ms(150)).spawned("db");
    assert_eq!((bench.state("db").as_str(), bench.invocation("dev")), ("active/running*", 1));
}

#[test]
fn what_is_bound_to_a_unit_stops_with_it_and_comes_back() {
    let mut bench = Bench::new(vec![
        Unit {
            restart: Restart::Always,
            ..unit("db")
        },
        Unit {
            binds_to: names(&["db"]),
            ..unit("dev")
        },
    ]);
    bench.spawned("db").spawned("dev");
    bench.done();
    bench.exited("db", 1);
    assert_eq!(bench.done(), ["signal db all 15", "empty db", "signal dev all 15", "empty dev"]);
    bench.emptied("db").goes("dev");
    assert_eq!(bench.state("dev"), "inactive/waiting");
    bench.pass(ms(150)).spawned("db");
    assert_eq!(bench.done(), ["spawn db", "spawn dev"]);
}

#[test]
fn a_failed_dependency_is_named_down_the_chain_and_its_return_starts_all() {
    let mut bench = Bench::new(vec![oneshot("install"), requires("dev", &["install"]), requires("e2e", &["dev"])]);
    let wait = bench.ask(Verb::Wait(vec![]));
    bench.spawned("install").ends("install", 1);
    for unit in ["dev", "e2e"] {
        assert_eq!(bench.state(unit), "failed/waiting");
    }
    assert_eq!(bench.status("dev").reason, "requires install, which failed: exit code 1");
    assert!(matches!(bench.reply(wait), Some(Outcome::Failed(failed)) if failed.len() == 3));
    let chain = bench.supervisor.status().why("e2e");
    let chain: Vec<_> = chain.iter().map(|cause| cause.unit.spec.name.to_string()).collect();
    assert_eq!(chain, ["e2e", "dev", "install"]);
    bench.start("install");
    bench.spawned("install").ends("install", 0).spawned("dev").spawned("e2e");
    assert!(bench.supervisor.status().ready);
}

#[test]
fn skipped_satisfies_all_but_binds_to() {
    let skip = Unit {
        skip: Some("no store".into()),
        ..unit("sync")
    };
    let bound = Unit {
        binds_to: names(&["sync"]),
        optional: true,
        ..unit("bound")
    };
    let mut bench = Bench::new(vec![skip, requires("dev", &["sync"]), bound]);
    assert_eq!(bench.done(), ["spawn dev"]);
    assert_eq!(bench.state("sync"), "skipped/dead");
    assert_eq!(bench.state("bound"), "inactive/waiting");
    assert!(bench.status("bound").reason.contains("skipped"));
    bench.spawned("dev");
    assert!(
        bench.supervisor.status().ready,
        "neither the skipped nor the optional one is required"
    );
    let start = bench.start("sync");
    assert_eq!(bench.reply(start), Some(Outcome::Done));
}

#[test]
fn after_waits_for_the_outcome_and_not_for_success() {
    let web = Unit {
        after: names(&["migrate"]),
        wants: names(&["cache"]),
        ..unit("web")
    };
    let mut bench = Bench::new(vec![
        oneshot("migrate"),
        Unit {
            restart: Restart::Always,
            ..notify("cache")
        },
        web,
    ]);
    bench.done();
    bench.spawned("migrate").spawned("cache").ends("migrate", 1);
    assert_eq!(bench.state("web"), "inactive/waiting");
    bench.done();
    bench.ends("cache", 1);
    assert_eq!(bench.done(), ["signal cache all 15", "empty cache", "spawn web"]);
}

#[test]
fn a_stop_by_command_takes_those_that_require_it_first_and_a_start_does_not_bring_them_back() {
    let mut bench = Bench::new(vec![
        unit("db"),
        requires("dev", &["db"]),
        Unit {
            part_of: names(&["dev"]),
            ..unit("helper")
        },
    ]);
    bench.spawned("db").spawned("dev").spawned("helper");
    bench.done();
    let stop = bench.stop("db");
    assert_eq!(
        bench.done(),
        ["signal dev all 15", "empty dev", "signal helper all 15", "empty helper"]
    );
    bench.goes("dev").goes("helper");
    assert_eq!(bench.done(), ["signal db all 15", "empty db"]);
    bench.goes("db");
    assert_eq!(bench.done(), [format!("reply {stop} Done")]);
    bench.start("db");
    assert_eq!(bench.done(), ["spawn db"]);
    bench.spawned("db");
    assert_eq!(bench.state("dev"), "inactive/dead");
    let wait = bench.ask(Verb::Wait(vec![]));
    assert!(
        matches!(bench.reply(wait), Some(Outcome::Failed(_))),
        "stopped by hand is not ready"
    );
    bench.start("dev");
    assert_eq!(bench.done().last().map(String::as_str), Some("spawn dev"));
}

#[test]
fn a_restart_stops_dependents_first_and_starts_them_last() {
    let mut bench = Bench::new(vec![unit("db"), requires("dev", &["db"])]);
    bench.spawned("db").spawned("dev");
    bench.done();
    let restart = bench.restart("db");
    assert_eq!(bench.done(), ["signal dev all 15", "empty dev"]);
    bench.goes("dev");
    assert_eq!(bench.done(), ["signal db all 15", "empty db"]);
    bench.goes("db");
    assert_eq!(bench.done(), ["spawn db"]);
    bench.spawned("db");
    assert_eq!(
        bench.done(),
        [format!("reply {restart} Done"), "spawn dev".into()]
            .iter()
            .rev()
            .cloned()
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_restart_while_waiting_for_a_dependency_starts_once() {
    let mut bench = Bench::new(vec![notify("db"), requires("dev", &["db"])]);
    let restart = bench.restart("dev");
    bench.spawned("db").notice("db", Notice::Ready);
    assert_eq!(bench.done(), ["spawn db", "spawn dev"]);
    bench.spawned("dev");
    assert_eq!((bench.reply(restart), bench.invocation("dev")), (Some(Outcome::Done), 1));
}

#[test]
fn a_later_stop_answers_a_waiting_start() {
    let mut bench = Bench::new(vec![notify("db"), requires("dev", &["db"])]);
    let start = bench.start("dev");
    bench.stop("dev");
    assert!(matches!(bench.reply(start), Some(Outcome::Cancelled(_))));
    bench.spawned("db").notice("db", Notice::Ready);
    assert_eq!(bench.state("dev"), "inactive/dead");
}

#[test]
fn twenty_restarts_at_once_leave_one_process_and_nobody_waiting() {
    let mut bench = Bench::new(vec![unit("dev")]);
    bench.spawned("dev");
    let asked: Vec<_> = (0..20).map(|_| bench.restart("dev")).collect();
    bench.goes("dev").spawned("dev");
    assert_eq!((bench.state("dev").as_str(), bench.invocation("dev")), ("active/running*", 2));
    for request in asked {
        assert_eq!(bench.reply(request), Some(Outcome::Done));
    }
}

#[test]
fn an_unknown_unit_is_named_and_nothing_is_done() {
    let mut bench = Bench::new(vec![unit("dev")]);
    bench.spawned("dev");
    bench.done();
    let stop = bench.ask(Verb::Stop(vec!["dev".into(), "nope".into()]));
    assert_eq!(bench.reply(stop), Some(Outcome::NoSuchUnit("nope".into())));
    assert_eq!(bench.state("dev"), "active/running*");
}

#[test]
fn a_start_is_answered_by_the_first_attempt_that_fails() {
    let mut bench = Bench::new(vec![Unit {
        restart: Restart::Always,
        start_limit_burst: 0,
        ..notify("dev")
    }]);
    let start = bench.start("dev");
    bench.spawned("dev").ends("dev", 1);
    let Some(Outcome::Failed(failed)) = bench.reply(start) else {
        panic!("not answered")
    };
    assert!(
        failed[0].1.starts_with("exit code 1 before it said READY=1; tried again in"),
        "{failed:?}"
    );
}

#[test]
fn a_shutdown_answers_everyone() {
    let mut bench = Bench::new(vec![notify("dev")]);
    let (start, wait) = (bench.start("dev"), bench.ask(Verb::Wait(vec![])));
    bench.spawned("dev").event(Event::Shutdown {
        request: 77,
        budget: secs(5),
    });
    for request in [start, wait] {
        assert!(matches!(bench.reply(request), Some(Outcome::Cancelled(_))));
    }
    bench.goes("dev");
    let done = bench.done();
    assert_eq!(done[done.len() - 2..], ["reply 77 Done", "halt 0"]);
}

#[test]
fn what_cannot_be_ended_is_said() {
    let mut bench = Bench::new(vec![unit("dev")]);
    bench.spawned("dev");
    let stop = bench.stop("dev");
    bench.pass(secs(10)).event(Event::Emptied {
        unit: name("dev"),
        invocation: 1,
        left: vec!["pid 7 (in D state)".into()],
    });
    assert_eq!(
        bench.reply(stop),
        Some(Outcome::Failed(vec![(name("dev"), "not ended: pid 7 (in D state)".into())]))
    );
    assert!(bench.status("dev").warnings.contains(&"not ended: pid 7 (in D state)".into()));
}

#[test]
fn news_of_an_earlier_run_changes_nothing() {
    let mut bench = Bench::new(vec![Unit {
        restart: Restart::Always,
        ..notify("dev")
    }]);
    bench.spawned("dev").ends("dev", 1).pass(ms(150)).spawned("dev");
    bench.event(Event::Notified {
        unit: name("dev"),
        invocation: 1,
        notice: Notice::Ready,
    });
    assert_eq!(bench.state("dev"), "activating/start");
    bench.notice("dev", Notice::Ready);
    assert_eq!(bench.state("dev"), "active/running*");
}

#[test]
fn a_thousand_units_come_up_and_go_down() {
    let chain = |id: usize| Unit {
        requires: if id.is_multiple_of(10) {
            vec![]
        } else {
            names(&[&format!("u{}", id - 1)])
        },
        ..unit(&format!("u{id}"))
    };
    let mut bench = Bench::new((0..1000).map(chain).collect());
    let wait = bench.ask(Verb::Wait(vec![]));
    for round in 0..10 {
        for id in (0..1000).filter(|id| id % 10 == round) {
            bench.event(Event::Spawned {
                unit: name(&format!("u{id}")),
                invocation: 1,
                stage: Stage::Main,
                pid: 7,
                warnings: vec![],
            });
        }
    }
    assert_eq!(bench.reply(wait), Some(Outcome::Done));
    bench.shutdown(secs(300));
    for round in (0..10).rev() {
        for id in (0..1000).filter(|id| id % 10 == round) {
            let (unit, status) = (name(&format!("u{id}")), ExitStatus::Code(0));
            bench.event(Event::Exited {
                unit: unit.clone(),
                invocation: 1,
                stage: Stage::Main,
                pid: 7,
                status,
                oom: false,
            });
            bench.event(Event::Emptied {
                unit,
                invocation: 1,
                left: vec![],
            });
        }
    }
    assert_eq!(bench.done().last().map(String::as_str), Some("halt 0"));
}

#[test]
fn what_ends_by_itself_is_waited_for_by_what_it_needs() {
    let web = Unit {
        binds_to: names(&["db"]),
        ..unit("web")
    };
    let page = Unit {
        requires: names(&["web"]),
        ..unit("page")
    };
    let mut bench = Bench::new(vec![unit("db"), web, page]);
    bench.spawned("db").spawned("web").spawned("page").goes("page").exited("web", 1);
    bench.ask(Verb::Restart(vec!["db".into()]));
    // The restart of `web` is taken back, the end that it is at is not.
    bench.ask(Verb::Stop(vec!["web".into()]));
    bench.ask(Verb::Start(vec!["page".into()]));
    assert!(!bench.done().contains(&"signal db all 15".into()), "web still lives");
    bench.emptied("web");
    assert_eq!(bench.done()[..2], ["signal db all 15", "empty db"]);
}

#[test]
fn a_start_at_the_end_of_a_run_comes_whatever_the_policy() {
    let mut bench = Bench::new(vec![Unit {
        restart: Restart::No,
        ..unit("web")
    }]);
    bench.spawned("web").exited("web", 1);
    let start = bench.ask(Verb::Start(vec!["web".into()]));
    bench.done();
    bench.emptied("web");
    assert_eq!(bench.done(), ["spawn web"]);
    bench.spawned("web");
    assert_eq!(bench.reply(start), Some(Outcome::Done));
}
