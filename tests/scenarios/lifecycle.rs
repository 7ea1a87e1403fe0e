//! `up`, `down` and what lies between.

use crate::sandbox::Sandbox;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SLEEPER: &str = "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n";

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

#[test]
fn up_is_idempotent_and_says_what_it_did() {
    let sandbox = Sandbox::new(SLEEPER);
    let action = |answer: &crate::sandbox::Answer| answer.json()["action"].as_str().unwrap().to_owned();
    let first = sandbox.run(&["up", "--detach", "--json"]).expect(0);
    assert_eq!(action(&first), "started");
    assert_eq!(first.json()["ready"], true);
    let pid = sandbox.pid("a");
    let again = sandbox.run(&["up", "--detach", "--json"]).expect(0);
    assert_eq!(action(&again), "running");
    sandbox.write_config(&format!("{SLEEPER}[unit.b]\nexec = 'exec sleep 1000'\n"));
    let other = sandbox.run(&["up", "--detach", "--json"]).expect(0);
    assert_eq!(action(&other), "reloaded");
    assert_eq!(sandbox.unit("b")["ready"], true);
    assert_eq!(sandbox.pid("a"), pid, "an unchanged unit keeps running");
    sandbox.down();
}

#[test]
fn down_is_idempotent() {
    let sandbox = Sandbox::new(SLEEPER);
    sandbox.run(&["down"]).expect(0);
    sandbox.up().expect(0);
    sandbox.down();
    sandbox.run(&["down"]).expect(0);
}

#[test]
fn without_a_supervisor_the_exit_code_is_3() {
    let sandbox = Sandbox::new(SLEEPER);
    for verb in [&["status"][..], &["start", "a"], &["why", "a"], &["wait"], &["events"]] {
        let answer = sandbox.run(verb).expect(3);
        assert!(answer.stderr.contains("hint"), "{answer:#?}");
    }
}

#[test]
fn an_unknown_unit_is_exit_code_4() {
    let sandbox = Sandbox::new(SLEEPER);
    sandbox.up().expect(0);
    for verb in ["start", "stop", "restart", "why", "status"] {
        sandbox.run(&[verb, "nobody"]).expect(4);
    }
    sandbox.down();
}

#[test]
fn foreground_up_ended_by_a_signal_exits_0() {
    for end in [Signal::SIGTERM, Signal::SIGINT] {
        let mut sandbox = Sandbox::new(SLEEPER);
        let pid = sandbox.spawn(&[]);
        sandbox.until("a", "running");
        signal(pid, end);
        assert_eq!(sandbox.wait_exit(), 0);
        sandbox.nothing_left();
    }
}

#[test]
fn a_second_signal_hurries() {
    let mut sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[shutdown]\nbudget = '10min'\n[unit.a]\nexec = '''trap '' TERM; while :; do sleep 0.1; done'''\nstop_timeout = '10min'\n",
    );
    let pid = sandbox.spawn(&[]);
    sandbox.until("a", "running");
    signal(pid, Signal::SIGTERM);
    sandbox.until_unit("a", "stopping", |unit| unit["state"] == "deactivating");
    signal(pid, Signal::SIGTERM);
    sandbox.wait_exit();
    sandbox.nothing_left();
}

#[test]
fn hangup_reloads_and_usr1_tells() {
    let mut sandbox = Sandbox::new(SLEEPER);
    let pid = sandbox.spawn(&[]);
    sandbox.until("a", "running");
    sandbox.write_config(&format!("{SLEEPER}[unit.b]\nexec = 'exec sleep 1000'\n"));
    signal(pid, Signal::SIGHUP);
    sandbox.eventually("b is there", || {
        let status = sandbox.status();
        status["units"]
            .as_array()
            .unwrap()
            .iter()
            .any(|unit| unit["name"] == "b" && unit["ready"] == true)
    });
    signal(pid, Signal::SIGUSR1);
    sandbox.eventually("the state is told", || sandbox.story().contains("state of a"));
    signal(pid, Signal::SIGTERM);
    assert_eq!(sandbox.wait_exit(), 0);
}

#[test]
fn stopped_by_hand_is_not_ready() {
    let sandbox = Sandbox::new(SLEEPER);
    sandbox.up().expect(0);
    sandbox.run(&["wait", "--timeout", "10s"]).expect(0);
    sandbox.run(&["stop", "a"]).expect(0);
    assert_eq!(sandbox.status()["ready"], false);
    sandbox.run(&["wait", "--timeout", "100ms"]).expect(1);
    sandbox.run(&["start", "a"]).expect(0);
    assert_eq!(sandbox.status()["ready"], true);
    sandbox.down();
}

#[test]
fn the_shutdown_budget_bounds_everything() {
    let stubborn = "exec = '''trap '' TERM; while :; do sleep 0.1; done'''\nstop_timeout = '10min'\n";
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[shutdown]\nbudget = '2s'\n[unit.a]\n{stubborn}[unit.b]\nrequires = ['a']\n{stubborn}"
    ));
    sandbox.up().expect(0);
    let start = std::time::Instant::now();
    sandbox.run(&["down"]).expect(0);
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    sandbox.nothing_left();
}

#[test]
fn a_drain_signal_comes_first() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.store]\ndrain_signal = 'SIGUSR2'\nexec = '''trap 'echo drain >> order' USR2; trap 'echo store >> order; exit 0' TERM; touch up; while :; do sleep 0.05; done'''\n\
         [unit.dev]\nrequires = ['store']\nexec = '''trap 'sleep 0.5; echo dev >> order; exit 0' TERM; while :; do sleep 0.05; done'''\nreadiness = { exec = 'test -e up' }\n",
    );
    sandbox.up().expect(0);
    sandbox.down();
    let order = std::fs::read_to_string(sandbox.project().join("order")).unwrap();
    assert_eq!(order, "drain\ndev\nstore\n");
}

#[test]
fn as_pid_1_of_a_container() {
    skip!("needs-root");
    skip!("needs-pid-namespace");
    let mut sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = '(setsid sleep 1000 &); exec sleep 1000'\n");
    sandbox.spawn_as_pid_1();
    let status = sandbox.status();
    assert_eq!(
        (status["pid"].as_i64(), status["capabilities"]["pid1"].as_bool()),
        (Some(1), Some(true))
    );
    sandbox.run(&["down"]).expect(0);
    assert_eq!(sandbox.wait_exit(), 0);
    sandbox.nothing_left();
}

#[test]
fn closed_standard_streams_are_dev_null() {
    let sandbox = Sandbox::new(SLEEPER);
    let mut command = std::process::Command::new("sh");
    sandbox.surroundings(&mut command);
    let line = format!("exec {} up <&- >&- 2>&-", crate::sandbox::binary().display());
    let mut child = command.args(["-c", &line]).spawn().unwrap();
    sandbox.eventually("it is ready", || sandbox.run(&["wait", "--timeout", "1s"]).code == 0);
    for number in 0..3 {
        let target = std::fs::read_link(format!("/proc/{}/fd/{number}", child.id())).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"), "{number}");
    }
    sandbox.down();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn postmortems_are_carried_out_of_the_box() {
    let sandbox = Sandbox::new(
        "[project]\nid = 'p'\n[sandbox]\nid = 'box 1'\n[health]\nlisten = \"off\"\n[sync]\nstore = 'file://DIR/store'\n\
         [unit.sync]\nworker = 'sync'\ndrain_signal = 'SIGUSR2'\n[unit.bad]\nexec = 'echo so long; exit 3'\noptional = true\n",
    );
    sandbox.up().expect(0);
    sandbox.until("bad", "dead");
    let kept = sandbox.path().join("state/default/postmortem");
    let names = |directory: &std::path::Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| name.ends_with(".json"));
        names.sort();
        names
    };
    sandbox.eventually("the failure is kept", || names(&kept).len() == 1);
    sandbox.run(&["sync", "flush"]).expect(0);
    let boxes = sandbox.path().join("store/p/.sandkeep/postmortem");
    let stored = std::fs::read_dir(boxes).unwrap().next().unwrap().unwrap().path();
    assert_eq!(names(&stored), names(&kept));
    sandbox.down();
    let text = std::fs::read_to_string(stored.join(&names(&stored)[0])).unwrap();
    assert!(text.contains("so long"), "{text}");
}
