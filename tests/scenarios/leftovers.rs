//! Nothing is left, whatever a unit did.

use crate::sandbox::{Sandbox, alive};
use std::fs;
use std::time::{Duration, Instant};

/// Starts one unit, waits until it has written its processes' pids, stops it, and asserts that they are gone.
fn stopped_completely(exec: &str, pids: usize) {
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = '''{exec}'''\nstop_timeout = \"2s\"\n"
    ));
    sandbox.up().expect(0);
    let file = sandbox.project().join("pids");
    let read = || {
        fs::read_to_string(&file)
            .unwrap_or_default()
            .split_whitespace()
            .map(|p| p.parse().unwrap())
            .collect::<Vec<i32>>()
    };
    sandbox.eventually("the pids are written", || read().len() == pids);
    assert!(read().iter().all(|&pid| alive(pid)), "{:?}", read());
    sandbox.run(&["stop", "a"]).expect(0);
    for pid in read() {
        assert!(!alive(pid), "{pid} is left after the stop");
    }
    assert_eq!(sandbox.unit("a")["state"], "inactive");
    sandbox.down();
}

#[test]
fn a_wrapper_and_its_child() {
    // The shape of `npm run dev`: the shell stays between.
    stopped_completely("sh -c 'echo $$ >> pids; sleep 1000; true'; true", 1);
}

#[test]
fn a_background_child() {
    stopped_completely("sleep 1000 & echo $! >> pids; echo $$ >> pids; exec sleep 1000", 2);
}

#[test]
fn a_background_child_in_a_group_of_its_own() {
    stopped_completely("set -m; sleep 1000 & echo $! >> pids; exec sleep 1000", 1);
}

#[test]
fn a_grandchild_in_a_session_of_its_own() {
    stopped_completely("setsid sh -c 'echo $$ >> pids; exec sleep 1000' & exec sleep 1000", 1);
}

#[test]
fn a_double_forked_orphan() {
    stopped_completely("(setsid sh -c 'echo $$ >> pids; exec sleep 1000' &) ; exec sleep 1000", 1);
}

#[test]
fn a_double_forked_orphan_without_environment() {
    stopped_completely(
        "(setsid env -i sh -c 'echo $$ >> pids; exec sleep 1000' </dev/null >/dev/null 2>&1 &) ; exec sleep 1000",
        1,
    );
}

#[test]
fn a_whole_family_that_ignores_term() {
    let family = "trap '' TERM; (setsid sh -c 'echo $$ >> pids; while :; do sleep 1; done' &); sh -c 'echo $$ >> pids; while :; do sleep 1; done' & \
                  echo $$ >> pids; while :; do sleep 1; done";
    stopped_completely(family, 3);
}

#[test]
fn one_grace_for_all_that_ignore_term() {
    let exec =
        "trap '' TERM; for i in 1 2 3; do setsid sh -c 'echo $$ >> pids; while :; do sleep 1; done' & done; while :; do sleep 1; done";
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = '''{exec}'''\nstop_timeout = \"2s\"\n"
    ));
    sandbox.up().expect(0);
    sandbox.eventually("they run", || {
        fs::read_to_string(sandbox.project().join("pids"))
            .unwrap_or_default()
            .lines()
            .count()
            == 3
    });
    let start = Instant::now();
    sandbox.run(&["stop", "a"]).expect(0);
    assert!(
        start.elapsed() >= Duration::from_millis(1900),
        "killed before the stop timeout: {:?}",
        start.elapsed()
    );
    sandbox.down();
}

#[test]
fn a_grandchild_that_holds_the_pipe_delays_nothing() {
    // It has left the session and ignores SIGTERM; the main process ends by itself.
    let exec = "(setsid sh -c \"trap '' TERM; echo \\$\\$ >> pids; while :; do sleep 1; done\" &); exit 0";
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.a]\ntype = \"oneshot\"\nexec = '''{exec}'''\nstop_timeout = \"1s\"\n"
    ));
    sandbox.up().expect(0);
    let unit = sandbox.until("a", "exited");
    assert_eq!(unit["ready"], true);
    sandbox.down();
}

#[test]
fn hundreds_of_orphans_leave_no_zombie() {
    let exec = "i=0; while [ $i -lt 300 ]; do (sleep 0.01 &); i=$((i+1)); done; echo done > done; exec sleep 1000";
    let mut sandbox = Sandbox::new(&format!("[health]\nlisten = \"off\"\n[unit.a]\nexec = '''{exec}'''\n"));
    let supervisor = sandbox.spawn(&[]);
    sandbox.eventually("all were forked", || sandbox.project().join("done").exists());
    let zombies = || {
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
        children
            .split_whitespace()
            .filter(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z ")))
            .count()
    };
    sandbox.eventually("all are reaped", || zombies() == 0);
    sandbox.down();
}
