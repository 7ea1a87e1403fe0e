//! Ends and what follows them: policies, backoff, limits, what is final.

use crate::bench::Bench;
use crate::kit::*;
use sandkeep::supervisor::*;
use sandkeep::unit::*;

fn always(called: &str) -> Unit {
    Unit {
        restart: Restart::Always,
        ..unit(called)
    }
}

#[test]
fn a_stop_in_the_backoff_gap_wins() {
    let mut bench = Bench::new(vec![always("web")]);
    bench.spawned("web").ends("web", 1);
    assert_eq!(bench.state("web"), "activating/auto-restart");
    let stop = bench.stop("web");
    assert_eq!(bench.reply(stop), Some(Outcome::Done));
    bench.done();
    bench.pass(secs(120));
    assert_eq!(bench.done(), nothing());
    assert_eq!(bench.state("web"), "inactive/dead");
}

#[test]
fn a_stop_while_the_last_run_is_cleared_away_prevents_the_restart() {
    let mut bench = Bench::new(vec![always("web")]);
    bench.spawned("web").exited("web", 1);
    let stop = bench.stop("web");
    assert_eq!(bench.reply(stop), None);
    bench.done();
    bench.emptied("web").pass(secs(120));
    assert_eq!(bench.reply(stop), Some(Outcome::Done));
    assert_eq!(bench.done(), [format!("reply {stop} Done")]);
}

#[test]
fn no_restart_once_a_shutdown_has_begun() {
    let mut bench = Bench::new(vec![always("web")]);
    bench.spawned("web").exited("web", 1);
    bench.shutdown(secs(30)).emptied("web");
    assert_eq!(bench.done().last().map(String::as_str), Some("halt 0"));
    assert!(bench.supervisor.halted());
    bench.pass(secs(60));
    assert_eq!(bench.done(), nothing());
}

#[test]
fn start_during_backoff_starts_at_once() {
    let mut bench = Bench::new(vec![always("web")]);
    for _ in 0..3 {
        bench.spawned("web").ends("web", 1).pass(secs(20));
    }
    bench.spawned("web").ends("web", 1);
    bench.done();
    bench.start("web");
    assert_eq!(bench.done(), ["spawn web"]);
}

#[test]
fn backoff_grows_for_a_unit_that_is_ready_at_once_and_starts_over_after_ten_seconds() {
    let mut bench = Bench::new(vec![Unit {
        start_limit_burst: 0,
        ..always("web")
    }]);
    let mut last = ms(0);
    for _ in 0..8 {
        bench.spawned("web");
        assert_eq!(bench.state("web"), "active/running*");
        bench.ends("web", 1);
        let wait = bench.status("web").restart_at.expect("it waits") - bench.now;
        assert!(wait > last || wait == secs(30), "{wait:?} after {last:?}");
        last = wait;
        bench.pass(wait);
    }
    assert_eq!(last, secs(30));
    bench.spawned("web").pass(secs(10)).ends("web", 1);
    let wait = bench.status("web").restart_at.expect("it waits") - bench.now;
    assert!(wait < ms(200), "{wait:?}");
}

#[test]
fn the_start_limit_fails_the_unit_and_a_start_by_hand_forgets_it() {
    let mut bench = Bench::new(vec![Unit {
        restart_max_delay: ms(100),
        ..always("web")
    }]);
    for _ in 0..5 {
        bench.spawned("web").ends("web", 3).pass(ms(100));
    }
    assert_eq!(bench.state("web"), "failed/dead");
    assert!(
        bench.status("web").reason.contains("start limit hit: 5 starts in 10s"),
        "{}",
        bench.status("web").reason
    );
    bench.done();
    bench.pass(secs(100));
    assert_eq!(bench.done(), nothing());
    bench.start("web");
    assert_eq!(bench.done(), ["spawn web"]);
    bench.spawned("web");
    assert_eq!(bench.state("web"), "active/running*");
}

#[test]
fn a_key_unit_that_gives_up_takes_the_sandbox_down_and_its_code_is_known() {
    let web = Unit {
        restart_max_delay: ms(100),
        start_limit_burst: 2,
        start_limit_action: StartLimitAction::Shutdown,
        ..always("web")
    };
    let mut bench = Bench::new(vec![unit("db"), web]);
    bench.spawned("db");
    for _ in 0..2 {
        bench.spawned("web").ends("web", 130).pass(ms(100));
    }
    assert!(bench.supervisor.shutting_down());
    bench.goes("db");
    assert_eq!(bench.done().last().map(String::as_str), Some("halt 1 web Some(130)"));
}

#[test]
fn each_policy_restarts_what_it_names() {
    use Restart::*;
    let cases = [
        (No, [false, false, false]),
        (OnSuccess, [true, false, false]),
        (OnFailure, [false, true, true]),
        (OnAbnormal, [false, false, true]),
        (OnWatchdog, [false, false, false]),
        (Always, [true, true, true]),
    ];
    for (policy, expected) in cases {
        let ends = [
            ExitStatus::Code(0),
            ExitStatus::Code(1),
            ExitStatus::Signal { signal: 9, core: false },
        ];
        for (end, expected) in ends.into_iter().zip(expected) {
            let mut bench = Bench::new(vec![Unit {
                restart: policy,
                ..unit("web")
            }]);
            bench.spawned("web").stage_exited("web", Stage::Main, end).emptied("web");
            assert_eq!(bench.state("web") == "activating/auto-restart", expected, "{policy:?} after {end}");
        }
    }
}

#[test]
fn a_listed_code_is_a_success_and_a_listed_signal_too() {
    let success_exit_status = ExitStatuses {
        codes: vec![42],
        signals: vec![10],
    };
    let web = Unit {
        restart: Restart::OnFailure,
        success_exit_status,
        ..unit("web")
    };
    for end in [ExitStatus::Code(42), ExitStatus::Signal { signal: 10, core: false }] {
        let mut bench = Bench::new(vec![web.clone()]);
        bench.spawned("web").stage_exited("web", Stage::Main, end).emptied("web");
        assert_eq!(bench.state("web"), "inactive/dead");
        assert_eq!(bench.status("web").last_exit.expect("it ended").reason, "success");
    }
}

#[test]
fn wrong_configuration_is_final_in_every_stage() {
    let pre = Unit {
        exec_start_pre: vec![shell("x")],
        ..always("pre")
    };
    let mut bench = Bench::new(vec![always("web"), pre]);
    bench.spawned("web").ends("web", 78);
    bench
        .stage_spawned("pre", Stage::StartPre(0))
        .stage_exited("pre", Stage::StartPre(0), ExitStatus::Code(78))
        .emptied("pre");
    for unit in ["web", "pre"] {
        assert_eq!(bench.state(unit), "failed/dead");
    }
    assert_eq!(bench.supervisor.next_deadline().map(|(_, _, timer)| timer), None);
}

#[test]
fn a_missing_command_is_final_and_a_full_process_table_is_not() {
    let mut bench = Bench::new(vec![
        always("web"),
        Unit {
            restart: Restart::No,
            ..unit("db")
        },
        always("sh"),
    ]);
    let error = StartError {
        message: "executing `nope`: no such file".into(),
        hint: Some("is it on PATH?".into()),
        temporary: false,
    };
    let busy = StartError {
        message: "fork: resource temporarily unavailable".into(),
        hint: None,
        temporary: true,
    };
    bench.event(Event::SpawnFailed {
        unit: name("web"),
        invocation: 1,
        stage: Stage::Main,
        error,
    });
    bench.event(Event::SpawnFailed {
        unit: name("db"),
        invocation: 1,
        stage: Stage::Main,
        error: busy,
    });
    assert_eq!(bench.state("web"), "failed/dead");
    let web = bench.status("web");
    assert_eq!(web.reason, "executing `nope`: no such file");
    assert_eq!(web.last_exit.expect("kept").hint.as_deref(), Some("is it on PATH?"));
    assert_eq!(bench.state("db"), "activating/auto-restart");
    bench.spawned("sh").ends("sh", 127);
    assert_eq!(bench.state("sh"), "failed/dead");
}

#[test]
fn the_oom_killer_is_named() {
    let mut bench = Bench::new(vec![unit("web")]);
    bench.spawned("web");
    let (unit, status) = (name("web"), ExitStatus::Signal { signal: 9, core: false });
    bench
        .event(Event::Exited {
            unit,
            invocation: 1,
            stage: Stage::Main,
            pid: 101,
            status,
            oom: true,
        })
        .emptied("web");
    assert_eq!(bench.status("web").reason, "out of memory: killed by the kernel");
    assert_eq!(bench.status("web").last_exit.expect("it ended").reason, "oom-kill");
}

#[test]
fn a_stop_that_was_asked_for_makes_the_death_by_its_signal_clean() {
    let mut bench = Bench::new(vec![always("web")]);
    bench.spawned("web");
    bench.stop("web");
    bench.goes("web");
    let last = bench.status("web").last_exit.expect("it ended");
    assert_eq!((last.reason, last.signal), ("success", Some(15)));
    assert_eq!(bench.state("web"), "inactive/dead");
}

#[test]
fn a_notify_unit_that_ends_before_it_said_so_has_failed() {
    let mut bench = Bench::new(vec![Unit {
        restart: Restart::OnFailure,
        ..notify("web")
    }]);
    let start = bench.start("web");
    bench.spawned("web").ends("web", 0);
    assert_eq!(bench.state("web"), "activating/auto-restart");
    assert_eq!(bench.status("web").last_exit.expect("it ended").reason, "protocol");
    assert!(matches!(bench.reply(start), Some(Outcome::Failed(_))));
}

#[test]
fn what_is_left_of_a_run_ends_before_the_next_begins() {
    let mut bench = Bench::new(vec![always("web")]);
    bench.spawned("web").exited("web", 1);
    assert_eq!(bench.done(), ["spawn web", "signal web all 15", "empty web"]);
    bench.pass(secs(9));
    assert_eq!(bench.done(), nothing());
    bench.pass(secs(1));
    assert_eq!(bench.done(), ["kill web"]);
    bench.emptied("web").pass(ms(150));
    assert_eq!(bench.done(), ["spawn web"]);
}

#[test]
fn restore_is_tried_again_until_its_start_timeout() {
    let restore = Unit {
        start_timeout: Some(secs(60)),
        ..Unit::new(name("restore"), Main::Worker(Worker::Restore))
    };
    let mut bench = Bench::new(vec![
        restore.clone(),
        Unit {
            requires: names(&["restore"]),
            ..unit("dev")
        },
    ]);
    let wait = bench.ask(Verb::Wait(vec!["dev".into()]));
    let began = bench.now;
    while bench.state("restore") != "failed/dead" {
        if bench.state("restore") == "activating/start" {
            bench.spawned("restore").ends("restore", 1);
        }
        let (at, _, _) = bench.supervisor.next_deadline().expect("it goes on");
        bench.pass(at - bench.now);
    }
    assert_eq!(bench.now - began, secs(60));
    assert!(bench.invocation("restore") > 5);
    assert_eq!(bench.state("dev"), "failed/waiting");
    assert!(matches!(bench.reply(wait), Some(Outcome::Failed(_))));

    let mut bench = Bench::new(vec![restore]);
    bench.spawned("restore").ends("restore", 78);
    assert_eq!(bench.state("restore"), "failed/dead");
}

#[test]
fn runtime_max_ends_a_run() {
    let mut bench = Bench::new(vec![Unit {
        runtime_max: Some(secs(5)),
        restart: Restart::OnFailure,
        ..unit("web")
    }]);
    bench.spawned("web").pass(secs(4));
    assert_eq!(bench.state("web"), "active/running*");
    bench.pass(secs(1)).goes("web");
    assert_eq!(bench.status("web").last_exit.expect("it ended").reason, "timeout");
    assert_eq!(bench.state("web"), "activating/auto-restart");
}

#[test]
fn the_watchdog_counts_from_ready_and_bites() {
    let mut bench = Bench::new(vec![Unit {
        watchdog: Some(secs(2)),
        restart: Restart::OnWatchdog,
        ..notify("web")
    }]);
    bench.spawned("web").pass(secs(60));
    assert_eq!(bench.state("web"), "activating/start");
    bench
        .notice("web", Notice::Ready)
        .pass(ms(1900))
        .notice("web", Notice::Watchdog)
        .pass(ms(1900));
    assert_eq!(bench.state("web"), "active/running*");
    bench.done();
    bench.pass(ms(100));
    assert_eq!(bench.done(), ["signal web all 6", "empty web"]);
    bench.killed("web", 6).emptied("web");
    assert_eq!(bench.state("web"), "activating/auto-restart");
    assert_eq!(bench.status("web").last_exit.expect("it ended").reason, "watchdog");
}

#[test]
fn a_pause_of_the_machine_is_nobodys_fault() {
    let (kind, liveness) = probe(ProbeKind::Liveness);
    let liveness = Probe {
        failure_threshold: 1,
        ..liveness
    };
    let web = Unit {
        watchdog: Some(secs(2)),
        probes: [(kind, liveness)].into(),
        ..always("web")
    };
    let mut bench = Bench::new(vec![web]);
    bench
        .spawned("web")
        .pass(ms(0))
        .probed("web", kind, true)
        .notice("web", Notice::Watchdog);
    bench.now += secs(6 * 3600);
    bench.event(Event::Resumed { away: secs(6 * 3600) });
    bench.done();
    for _ in 0..3 {
        bench.probed("web", kind, false).pass(ms(300));
        assert_eq!(bench.done(), ["probe web liveness"], "soon asked again");
    }
    assert_eq!(bench.state("web"), "active/running*");
    bench.probed("web", kind, true).notice("web", Notice::Watchdog).pass(secs(12));
    assert_eq!(bench.state("web"), "deactivating/stop-term");
    assert_eq!(bench.status("web").reason, "watchdog: no sign of life");
}

#[test]
fn a_pause_that_nobody_tells_of_is_noticed_by_the_deadline_that_was_missed() {
    let mut bench = Bench::new(vec![Unit {
        watchdog: Some(secs(2)),
        ..always("web")
    }]);
    bench.spawned("web");
    bench.now += secs(3600);
    bench.event(Event::Deadline);
    assert_eq!(bench.state("web"), "active/running*");
}
