//! One run from within: stages, probes, notices, and the ways to stop.

use crate::bench::Bench;
use crate::kit::*;
use sandkeep::supervisor::*;
use sandkeep::unit::*;
use std::time::Duration;

fn ready(kind: ProbeKind) -> Unit {
    Unit {
        probes: [probe(kind)].into(),
        ..unit("dev")
    }
}

#[test]
fn readiness_is_asked_often_until_it_passes_and_seldom_after() {
    let mut bench = Bench::new(vec![
        ready(ProbeKind::Readiness),
        Unit {
            requires: names(&["dev"]),
            ..unit("e2e")
        },
    ]);
    bench.spawned("dev");
    assert_eq!(bench.state("dev"), "activating/ready-wait");
    bench.pass(ms(0));
    assert_eq!(bench.done(), ["spawn dev", "probe dev readiness"]);
    bench.pass(secs(5));
    assert_eq!(bench.done(), nothing(), "one in flight");
    for _ in 0..40 {
        bench.probed("dev", ProbeKind::Readiness, false).pass(ms(250));
        assert_eq!(bench.done(), ["probe dev readiness"]);
    }
    bench.probed("dev", ProbeKind::Readiness, true);
    assert_eq!(bench.done(), ["spawn e2e"]);
    bench.spawned("e2e").pass(ms(9999));
    assert_eq!(bench.done(), nothing());
    for _ in 0..3 {
        assert_eq!(bench.state("dev"), "active/running*");
        bench.pass(secs(10)).probed("dev", ProbeKind::Readiness, false);
    }
    assert_eq!(bench.state("dev"), "active/running");
    assert_eq!(bench.state("e2e"), "active/running*", "nothing is restarted for readiness");
    bench.pass(secs(10)).probed("dev", ProbeKind::Readiness, true);
    assert_eq!(bench.state("dev"), "active/running*");
}

#[test]
fn before_the_first_pass_only_the_start_timeout_ends_the_wait() {
    let mut bench = Bench::new(vec![Unit {
        start_timeout: Some(secs(5)),
        ..ready(ProbeKind::Readiness)
    }]);
    bench.spawned("dev").pass(ms(4999));
    assert_eq!(bench.state("dev"), "activating/ready-wait");
    bench.pass(ms(1)).goes("dev");
    assert_eq!(bench.state("dev"), "failed/dead");
    assert_eq!(bench.status("dev").reason, "not ready within 5s (start_timeout)");
}

#[test]
fn liveness_restarts_and_http_falls_back_to_a_connect() {
    let http = Probe::new(ProbeCheck::Http {
        url: "http://localhost/".into(),
        always: false,
    });
    let dev = Unit {
        probes: [(ProbeKind::Liveness, http)].into(),
        restart: Restart::OnFailure,
        ..unit("dev")
    };
    let mut bench = Bench::new(vec![dev]);
    bench.spawned("dev").pass(ms(0));
    assert_eq!(bench.done(), ["spawn dev", "probe dev liveness"]);
    bench.probed("dev", ProbeKind::Liveness, true).pass(secs(10));
    assert_eq!(bench.done(), ["probe dev liveness connect"]);
    for _ in 0..3 {
        bench.probed("dev", ProbeKind::Liveness, false).pass(secs(10));
    }
    bench.goes("dev");
    assert_eq!(bench.state("dev"), "activating/auto-restart");
    assert_eq!(bench.status("dev").reason, "liveness probe failed: refused");
}

#[test]
fn a_startup_probe_holds_the_others_back() {
    let probes = [ProbeKind::Startup, ProbeKind::Readiness].map(probe);
    let mut bench = Bench::new(vec![Unit {
        probes: probes.into(),
        ..unit("dev")
    }]);
    bench.spawned("dev").pass(ms(0));
    assert_eq!(bench.done(), ["spawn dev", "probe dev startup"]);
    bench.probed("dev", ProbeKind::Startup, true).pass(ms(0));
    assert_eq!(bench.done(), ["probe dev readiness"]);
    bench.probed("dev", ProbeKind::Readiness, true).pass(secs(60));
    assert_eq!(bench.done(), ["probe dev readiness"]);
}

#[test]
fn commands_run_in_order_and_a_failing_one_fails_the_start() {
    let dev = Unit {
        exec_start_pre: vec![shell("a"), shell("b")],
        exec_start_post: vec![shell("c")],
        exec_stop: vec![shell("d")],
        exec_stop_post: vec![shell("e")],
        ..unit("dev")
    };
    let ok = ExitStatus::Code(0);
    let mut bench = Bench::new(vec![dev]);
    for stage in [Stage::StartPre(0), Stage::StartPre(1)] {
        assert_eq!(bench.state("dev"), "activating/start-pre");
        bench.stage_spawned("dev", stage).stage_exited("dev", stage, ok);
    }
    bench.spawned("dev");
    assert_eq!(bench.state("dev"), "activating/ready-wait");
    bench
        .stage_spawned("dev", Stage::StartPost(0))
        .stage_exited("dev", Stage::StartPost(0), ok);
    assert_eq!(bench.state("dev"), "active/running*");
    bench.done();
    bench.stop("dev");
    assert_eq!(bench.done(), ["spawn dev exec_stop[0]"]);
    bench.stage_spawned("dev", Stage::Stop(0)).stage_exited("dev", Stage::Stop(0), ok);
    assert_eq!(bench.done(), ["signal dev all 15", "empty dev"]);
    bench.goes("dev");
    assert_eq!(bench.done(), ["spawn dev exec_stop_post[0]"]);
    bench
        .stage_spawned("dev", Stage::StopPost(0))
        .stage_exited("dev", Stage::StopPost(0), ok)
        .emptied("dev");
    assert_eq!(bench.state("dev"), "inactive/dead");

    bench.start("dev");
    bench
        .stage_spawned("dev", Stage::StartPre(0))
        .stage_exited("dev", Stage::StartPre(0), ExitStatus::Code(4))
        .emptied("dev");
    bench
        .stage_spawned("dev", Stage::StopPost(0))
        .stage_exited("dev", Stage::StopPost(0), ok)
        .emptied("dev");
    assert_eq!(
        (bench.state("dev"), bench.status("dev").reason),
        ("failed/dead".into(), "exec_start_pre[0]: exit code 4".into())
    );
}

#[test]
fn one_grace_for_all_and_no_waiting_when_nothing_is_left() {
    let mut bench = Bench::new(vec![unit("dev")]);
    bench.spawned("dev");
    bench.stop("dev");
    bench.done();
    bench.killed("dev", 15).pass(ms(9999));
    assert_eq!(bench.done(), nothing(), "a child of it ignores the signal");
    bench.pass(ms(1));
    assert_eq!(bench.done(), ["kill dev"]);
    bench.emptied("dev");
    assert_eq!(bench.state("dev"), "inactive/dead");
}

#[test]
fn mixed_signals_the_main_process_alone_and_kills_the_rest_when_it_is_gone() {
    let mut bench = Bench::new(vec![Unit {
        kill_mode: KillMode::Mixed,
        ..unit("agent")
    }]);
    bench.spawned("agent");
    bench.done();
    bench.stop("agent");
    assert_eq!(bench.done(), ["signal agent main 15", "empty agent"]);
    bench.killed("agent", 15);
    assert_eq!(bench.done(), ["kill agent"]);
}

#[test]
fn a_shutdown_drains_at_once_and_keeps_half_the_budget_for_those_that_drain() {
    let sync = Unit {
        stop_timeout: secs(15),
        drain_signal: Some(12),
        ..unit("sync")
    };
    let dev = Unit {
        after: names(&["sync"]),
        stop_timeout: secs(10),
        ..unit("dev")
    };
    for (budget, grace) in [(secs(30), ms(10_000)), (secs(20), ms(8000)), (secs(8), ms(3200))] {
        let mut bench = Bench::new(vec![sync.clone(), dev.clone()]);
        bench.spawned("sync").spawned("dev");
        bench.done();
        bench.shutdown(budget);
        assert_eq!(bench.done(), ["signal sync main 12", "signal dev all 15", "empty dev"]);
        let (at, _, _) = bench.supervisor.next_deadline().expect("the kill");
        assert_eq!(at - bench.now, grace, "of {budget:?}");
        bench.pass(grace).killed("dev", 9).emptied("dev");
        let (at, _, _) = bench.supervisor.next_deadline().expect("the kill");
        assert_eq!(at - bench.now, (budget - grace).min(secs(15)));
    }
    let long = Unit {
        stop_timeout: secs(100),
        ..dev
    };
    let mut bench = Bench::new(vec![sync, long]);
    bench.spawned("sync").spawned("dev").shutdown(secs(10));
    let (at, _, _) = bench.supervisor.next_deadline().expect("the kill");
    assert_eq!(at - bench.now, secs(5), "at least half for the one that drains");
}

#[test]
fn a_second_shutdown_hurries() {
    let mut bench = Bench::new(vec![
        unit("db"),
        Unit {
            requires: names(&["db"]),
            ..unit("dev")
        },
    ]);
    bench.spawned("db").spawned("dev").shutdown(secs(30));
    bench.done();
    bench.shutdown(secs(30));
    assert_eq!(bench.done(), ["kill dev", "kill db"]);
}

#[test]
fn a_timeout_is_extended_on_request_within_the_budget() {
    let mut bench = Bench::new(vec![Unit {
        start_timeout: Some(secs(5)),
        ..notify("dev")
    }]);
    bench
        .spawned("dev")
        .pass(secs(4))
        .notice("dev", Notice::ExtendTimeout(secs(10)))
        .pass(secs(9));
    assert_eq!(bench.state("dev"), "activating/start");
    bench
        .notice("dev", Notice::Ready)
        .shutdown(secs(12))
        .notice("dev", Notice::ExtendTimeout(secs(60)));
    let (at, _, _) = bench.supervisor.next_deadline().expect("the kill");
    assert_eq!(at - bench.now, secs(12));
}

#[test]
fn main_may_hand_over_and_a_reload_is_seen() {
    let mut bench = Bench::new(vec![
        Unit {
            reload_signal: Some(1),
            ..notify("dev")
        },
        Unit {
            exec_reload: vec![shell("r")],
            ..unit("web")
        },
    ]);
    bench
        .spawned("dev")
        .spawned("web")
        .notice("dev", Notice::Ready)
        .notice("dev", Notice::MainPid(4711));
    bench.exited("dev", 0);
    assert_eq!(
        (bench.state("dev").as_str(), bench.status("dev").pid),
        ("active/running*", Some(4711))
    );
    bench.done();
    let reload = bench.ask(Verb::Reload(vec!["dev".into()]));
    assert_eq!(bench.done(), ["signal dev main 1".into(), format!("reply {reload} Done")]);
    bench.notice("dev", Notice::Reloading);
    assert_eq!(bench.state("dev"), "reloading/running*");
    bench.notice("dev", Notice::Ready);
    assert_eq!(bench.state("dev"), "active/running*");
    let reload = bench.ask(Verb::Reload(vec!["web".into()]));
    bench
        .stage_spawned("web", Stage::Reload(0))
        .stage_exited("web", Stage::Reload(0), ExitStatus::Code(2));
    assert_eq!(
        bench.reply(reload),
        Some(Outcome::Failed(vec![(name("web"), "exec_reload[0]: exit code 2".into())]))
    );
    assert_eq!(bench.state("web"), "active/running*");
}

#[test]
fn a_oneshot_that_does_not_remain_is_done_and_runs_again_when_asked() {
    let once = Unit {
        service: Service::Oneshot { remain_after_exit: false },
        ..unit("seed")
    };
    let mut bench = Bench::new(vec![
        once,
        Unit {
            requires: names(&["seed"]),
            ..unit("dev")
        },
    ]);
    bench.spawned("seed").ends("seed", 0);
    assert_eq!(bench.state("seed"), "inactive/dead*");
    assert_eq!(bench.done().last().map(String::as_str), Some("spawn dev"));
    bench.start("seed");
    assert_eq!(bench.done(), ["spawn seed"]);
}

#[test]
fn a_oneshot_that_remains_is_torn_down_by_its_exec_stop() {
    let net = Unit {
        exec_stop: vec![shell("down")],
        ..oneshot("net")
    };
    let mut bench = Bench::new(vec![net]);
    bench.spawned("net").ends("net", 0);
    bench.done();
    bench.shutdown(Duration::from_secs(5));
    assert_eq!(bench.done(), ["spawn net exec_stop[0]"]);
    bench
        .stage_spawned("net", Stage::Stop(0))
        .stage_exited("net", Stage::Stop(0), ExitStatus::Code(0))
        .emptied("net");
    assert_eq!(bench.done().last().map(String::as_str), Some("halt 0"));
}
