//! Restart policies, backoff and limits, and that a stop wins.

use crate::sandbox::Sandbox;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

fn starts(sandbox: &Sandbox, file: &str) -> usize {
    fs::read_to_string(sandbox.project().join(file)).unwrap_or_default().lines().count()
}

#[test]
fn killed_and_back() {
    let sandbox =
        Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nrestart = 'always'\nrestart_delay = '1ms'\n");
    sandbox.up().expect(0);
    let first = sandbox.pid("a");
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let unit = sandbox.until_unit("a", "another process", |unit| {
        unit["pid"].is_i64() && unit["pid"] != first && unit["ready"] == true
    });
    assert_eq!((unit["restarts"].as_u64(), unit["invocation"].as_u64()), (Some(1), Some(2)));
    assert_eq!(unit["last_exit"]["signal"], 9);
    sandbox.down();
}

#[test]
fn the_start_limit_ends_a_storm() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo x >> starts; exit 3'\nrestart = 'always'\nrestart_delay = '1ms'\nrestart_max_delay = '2ms'\n\
         start_limit_burst = 4\nstart_limit_interval = '60s'\n",
    );
    let answer = sandbox.up().expect(1);
    assert!(answer.stderr.contains('a'), "{answer:#?}");
    let unit = sandbox.until_unit("a", "failed", |unit| unit["state"] == "failed");
    assert_eq!(unit["last_exit"]["code"], 3);
    assert_eq!(starts(&sandbox, "starts"), 4);
    let why = sandbox.run(&["why", "a"]).expect(0);
    assert!(why.stdout.contains("start limit"), "{why:#?}");
    // A start by hand sets it back.
    sandbox.run(&["start", "a"]);
    sandbox.eventually("it was started again", || starts(&sandbox, "starts") > 4);
    sandbox.down();
}

#[test]
fn the_start_limit_may_end_the_sandbox() {
    let mut sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.keeper]\nexec = 'exec sleep 1000'\n[unit.a]\nexec = 'sleep 0.2; exit 3'\nrestart = 'always'\nrestart_delay = '1ms'\n\
         start_limit_burst = 2\nstart_limit_interval = '60s'\nstart_limit_action = 'shutdown'\n",
    );
    sandbox.spawn(&[]);
    assert_eq!(sandbox.wait_exit(), 1);
    sandbox.nothing_left();
}

#[test]
fn exit_78_is_final() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo x >> starts; exit 78'\nrestart = 'always'\nrestart_delay = '1ms'\n",
    );
    sandbox.up().expect(1);
    let unit = sandbox.until_unit("a", "failed", |unit| unit["state"] == "failed");
    assert_eq!(unit["last_exit"]["code"], 78);
    assert_eq!(starts(&sandbox, "starts"), 1);
    sandbox.down();
}

#[test]
fn a_listed_exit_code_is_success() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\ntype = 'oneshot'\nexec = 'exit 130'\nsuccess_exit_status = [130]\n");
    sandbox.up().expect(0);
    assert_eq!(sandbox.unit("a")["ready"], true);
    sandbox.down();
}

#[test]
fn a_stop_in_the_backoff_wins() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo x >> starts; exit 1'\nrestart = 'always'\nrestart_delay = '1h'\nrestart_max_delay = '1h'\nrestart_steps = 0\n",
    );
    sandbox.run(&["up", "--detach", "--wait", "1ms"]).expect(1);
    sandbox.until("a", "auto-restart");
    sandbox.run(&["stop", "a"]).expect(0);
    assert_eq!(sandbox.unit("a")["sub_state"], "dead");
    assert_eq!(starts(&sandbox, "starts"), 1);
    sandbox.down();
}

#[test]
fn a_start_in_the_backoff_starts_at_once() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = '''echo x >> starts; [ $(wc -l < starts) -gt 1 ] && exec sleep 1000; exit 1'''\nrestart = 'always'\n\
         restart_delay = '1h'\nrestart_max_delay = '1h'\n",
    );
    sandbox.run(&["up", "--detach", "--wait", "1ms"]).expect(1);
    sandbox.until("a", "auto-restart");
    sandbox.run(&["start", "a"]).expect(0);
    assert_eq!(starts(&sandbox, "starts"), 2);
    sandbox.down();
}

#[test]
fn twenty_restarts_at_once_leave_one_process() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nstart_limit_burst = 0\n");
    sandbox.up().expect(0);
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let mut command = sandbox.command(&["restart", "a"]);
            std::thread::spawn(move || command.output().unwrap())
        })
        .collect();
    for thread in threads {
        let output = thread.join().unwrap();
        assert!(output.status.code().is_some(), "{output:?}");
    }
    sandbox.until_unit("a", "ready", |unit| unit["ready"] == true);
    let sleepers = sandbox.processes().into_iter().filter(|(_, line)| line.contains("sleep")).count();
    assert_eq!(sleepers, 1, "{:#?}", sandbox.processes());
    sandbox.down();
}

#[test]
fn a_unit_may_restart_itself() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[control]\nallow = { a = ['restart:a'] }\n[unit.a]\n\
         exec = '''echo x >> starts; [ $(wc -l < starts) -eq 1 ] && SANDKEEP restart a; exec sleep 1000'''\n"
            .replace("SANDKEEP", &crate::sandbox::binary().display().to_string())
            .as_str(),
    );
    sandbox.up().expect(0);
    sandbox.until_unit("a", "its second run", |unit| unit["invocation"] == 2 && unit["ready"] == true);
    assert_eq!(starts(&sandbox, "starts"), 2);
    sandbox.down();
}

#[test]
fn runtime_max_ends_a_run() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nruntime_max = '300ms'\nrestart = 'no'\n");
    sandbox.up();
    sandbox.until_unit("a", "failed", |unit| unit["state"] == "failed");
    sandbox.down();
}
