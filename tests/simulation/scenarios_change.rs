//! Changes of content and of the config: what runs again, what restarts, what stays as it is.

use crate::bench::Bench;
use crate::kit::*;
use sandkeep::supervisor::*;
use sandkeep::unit::*;

fn install_and_dev() -> Bench {
    let install = Unit {
        watch: vec!["package.json".into()],
        ..oneshot("install")
    };
    let dev = Unit {
        requires: names(&["install"]),
        part_of: names(&["install"]),
        ..unit("dev")
    };
    let mut bench = Bench::new(vec![install, dev]);
    bench.spawned("install").ends("install", 0).spawned("dev");
    assert_eq!(bench.done()[3..], ["hashes install", "spawn dev"]);
    bench
}

fn package_json() -> Event {
    Event::WatchChanged {
        unit: name("install"),
        path: "package.json".into(),
    }
}

#[test]
fn a_change_runs_install_again_and_dev_restarts_once_it_succeeded() {
    let mut bench = install_and_dev();
    bench.event(package_json());
    assert_eq!(bench.done(), ["spawn install"]);
    assert_eq!(bench.state("dev"), "active/running*", "it runs on meanwhile");
    bench.spawned("install").event(package_json()).exited("install", 0);
    bench.done();
    bench.emptied("install");
    assert_eq!(
        bench.done(),
        ["hashes install", "signal dev all 15", "empty dev"],
        "and no second run"
    );
    bench.goes("dev");
    assert_eq!(bench.done(), ["spawn dev"]);
}

#[test]
fn a_rerun_that_fails_leaves_dev_alone_and_one_that_is_satisfied_too() {
    let mut bench = install_and_dev();
    bench.event(package_json()).spawned("install").ends("install", 1);
    assert_eq!(
        (bench.state("install").as_str(), bench.state("dev").as_str()),
        ("failed/dead", "active/running*")
    );
    bench.event(package_json());
    let invocation = bench.invocation("install");
    bench.event(Event::Satisfied {
        unit: name("install"),
        invocation,
    });
    assert_eq!((bench.state("install").as_str(), bench.invocation("dev")), ("active/exited*", 1));
}

#[test]
fn a_rerun_that_is_tried_again_restarts_dev_when_it_succeeds_and_not_before() {
    let install = Unit {
        watch: vec!["package.json".into()],
        restart: Restart::OnFailure,
        ..oneshot("install")
    };
    let mut bench = Bench::new(vec![
        install,
        Unit {
            part_of: names(&["install"]),
            ..unit("dev")
        },
    ]);
    bench.spawned("install").ends("install", 0).spawned("dev");
    bench.event(package_json()).spawned("install").ends("install", 1);
    assert_eq!(bench.state("install"), "activating/auto-restart");
    assert_eq!(bench.state("dev"), "active/running*");
    bench.pass(secs(1)).spawned("install").ends("install", 0);
    assert_eq!(bench.state("dev"), "deactivating/stop-term");
}

#[test]
fn a_change_during_a_run_that_fails_is_reason_to_try_again_at_once() {
    let mut bench = install_and_dev();
    bench.event(package_json()).spawned("install").event(package_json());
    bench.done();
    bench.ends("install", 1);
    assert_eq!(bench.done().last().map(String::as_str), Some("spawn install"));
}

#[test]
fn nothing_that_changes_resurrects_a_stopped_unit() {
    let mut bench = install_and_dev();
    bench.stop("install");
    bench.goes("dev");
    bench.done();
    bench
        .event(package_json())
        .event(Event::RetryChanged {
            unit: name("dev"),
            path: "x".into(),
        })
        .pass(secs(60));
    assert_eq!(bench.done(), nothing());
}

#[test]
fn a_watching_service_reloads_if_it_can_and_restarts_if_not() {
    let watch = vec!["*.conf".to_string()];
    let web = Unit {
        watch: watch.clone(),
        reload_signal: Some(1),
        ..unit("web")
    };
    let api = Unit { watch, ..unit("api") };
    let mut bench = Bench::new(vec![
        web,
        api,
        Unit {
            part_of: names(&["api"]),
            ..unit("helper")
        },
    ]);
    bench.spawned("web").spawned("api").spawned("helper");
    bench.done();
    for unit in ["web", "api"] {
        bench.event(Event::WatchChanged {
            unit: name(unit),
            path: "a.conf".into(),
        });
    }
    let expected = [
        "signal web main 1",
        "hashes web",
        "signal api all 15",
        "empty api",
        "signal helper all 15",
        "empty helper",
    ];
    assert_eq!(bench.done(), expected);
}

#[test]
fn what_is_to_stop_is_not_woken_by_a_change() {
    let web = Unit {
        watch: vec!["*.conf".into()],
        reload_signal: Some(1),
        ..unit("web")
    };
    let follower = Unit {
        requires: names(&["web"]),
        ..unit("follower")
    };
    let change = || Event::WatchChanged {
        unit: name("web"),
        path: "a.conf".into(),
    };
    let mut bench = Bench::new(vec![web, follower]);
    bench.spawned("web").spawned("follower");
    let stop = bench.ask(Verb::Stop(vec!["web".into()]));
    bench.done();
    bench.event(change());
    assert_eq!(bench.done(), [""; 0], "it runs only because its follower has to go first");
    bench.goes("follower").event(change()).goes("web").event(change());
    assert_eq!(
        bench.done(),
        ["signal web all 15".into(), "empty web".into(), format!("reply {stop} Done")]
    );
    assert_eq!(bench.state("web"), "inactive/dead");
}

#[test]
fn a_repaired_config_starts_what_failed_at_once() {
    let dev = Unit {
        restart: Restart::Always,
        retry_on_change: vec!["**".into()],
        ..unit("dev")
    };
    let mut bench = Bench::new(vec![dev]);
    let retry = || Event::RetryChanged {
        unit: name("dev"),
        path: "vite.config.ts".into(),
    };
    bench.spawned("dev").ends("dev", 1);
    bench.done();
    bench.event(retry());
    assert_eq!(bench.done(), ["spawn dev"]);
    bench.spawned("dev").event(retry());
    assert_eq!(bench.done(), nothing(), "running: nothing to repair");
    bench.ends("dev", 78).event(retry());
    assert_eq!(bench.state("dev"), "activating/start");
}

fn configure(bench: &mut Bench, units: Vec<Unit>) {
    bench.done();
    bench.event(Event::Configure {
        config: config(units),
        request: 9,
    });
}

#[test]
fn a_reload_touches_only_what_changed() {
    let helper = Unit {
        part_of: names(&["web"]),
        ..unit("helper")
    };
    let units = [
        unit("db"),
        unit("web"),
        helper,
        unit("old"),
        unit("off"),
        Unit {
            requires: names(&["web"]),
            ..unit("e2e")
        },
    ];
    let mut bench = Bench::new(units.to_vec());
    for unit in ["db", "web", "helper", "old", "off", "e2e"] {
        bench.spawned(unit);
    }
    bench.stop("off");
    bench.goes("off");
    let mut new = units.to_vec();
    new[0].description = "the database".into();
    new[0].stop_timeout = secs(3);
    new[0].probes = [probe(ProbeKind::Readiness)].into();
    new[1].environment.insert("A".into(), "b".into());
    new[4].environment.insert("A".into(), "b".into());
    new[3] = unit("new");
    configure(&mut bench, new);
    let expected = ["signal old all 15", "empty old"];
    let done = bench.done();
    assert!(
        done.contains(&"spawn new".to_string()) && expected.iter().all(|e| done.contains(&e.to_string())),
        "{done:?}"
    );
    assert_eq!((bench.state("db").as_str(), bench.invocation("db")), ("active/running*", 1));
    assert_eq!(bench.state("e2e"), "active/running*");
    assert_eq!(bench.state("off"), "inactive/dead", "stopped by hand stays stopped");
    for unit in ["web", "helper"] {
        assert_eq!(bench.state(unit), "deactivating/stop-term");
        bench.goes(unit).spawned(unit);
    }
    bench.spawned("new").goes("old");
    assert!(bench.supervisor.status().unit("old").is_none());
    assert_eq!(bench.status("web").spec.environment.len(), 1);
    assert_eq!(bench.reply(9), Some(Outcome::Done));
    bench.stop("db");
    assert_eq!(bench.supervisor.next_deadline().map(|(at, _, _)| at - bench.now), Some(secs(3)));
}

#[test]
fn a_config_of_another_project_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(vec![unit("dev")]);
    bench.spawned("dev");
    let other = Config {
        root: "/other".into(),
        ..Config::of_units(vec![])
    };
    bench.event(Event::Configure {
        config: other.into(),
        request: 9,
    });
    assert!(matches!(bench.reply(9), Some(Outcome::Refused(_))));
    assert_eq!(bench.state("dev"), "active/running*");
    configure(&mut bench, vec![unit("dev")]);
    assert_eq!(bench.done(), ["reply 9 Done"], "the same again: nothing to do");
}

#[test]
fn a_unit_that_comes_back_is_not_taken_for_its_former_self() {
    let mut bench = Bench::new(vec![unit("dev")]);
    bench.spawned("dev");
    configure(&mut bench, vec![]);
    bench.goes("dev");
    configure(&mut bench, vec![unit("dev")]);
    bench.event(Event::Exited {
        unit: name("dev"),
        invocation: 1,
        stage: Stage::Main,
        pid: 101,
        status: ExitStatus::Code(0),
        oom: false,
    });
    assert_eq!((bench.invocation("dev"), bench.state("dev").as_str()), (2, "activating/start"));
}
