//! `upgrade` in the middle of something: what was under way goes on, and who waits for it is answered.

use crate::sandbox::{Answer, Sandbox, alive};
use std::fs;

/// Runs a command that has to wait, upgrades meanwhile, lets it go on, and gives its answer.
fn across_an_upgrade(sandbox: &Sandbox, arguments: &[&str], under_way: impl Fn() -> bool, go: impl Fn()) -> Answer {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| sandbox.run(arguments));
        sandbox.eventually("it is under way", &under_way);
        sandbox.run(&["upgrade"]).expect(0);
        assert!(!waiting.is_finished(), "{:#?}", waiting.join());
        go();
        waiting.join().unwrap()
    })
}

fn touch(sandbox: &Sandbox, name: &str) {
    fs::write(sandbox.project().join(name), "").unwrap();
}

/// Ends when told to and there is a file.
const STUBBORN: &str = "exec = '''trap 'asked=1' TERM; touch up; while ! { test \"$asked\" && test -e go; }; do sleep 0.02; done'''\nreadiness = { exec = 'test -e up' }\nstop_timeout = '10min'\n";

#[test]
fn during_a_stop() {
    let sandbox = Sandbox::new(&format!("[health]\nlisten = \"off\"\n[unit.a]\n{STUBBORN}"));
    sandbox.up().expect(0);
    let pid = sandbox.pid("a");
    let stopping = || sandbox.unit("a")["state"] == "deactivating";
    let answer = across_an_upgrade(&sandbox, &["stop", "a"], stopping, || touch(&sandbox, "go")).expect(0);
    assert!(answer.stdout.contains("a: inactive"), "{answer:#?}");
    assert!(!alive(pid));
    sandbox.down();
}

#[test]
fn a_stop_timeout_that_began_before_ends_it() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = '''trap '' TERM; touch up; while :; do sleep 0.05; done'''\nreadiness = { exec = 'test -e up' }\nstop_timeout = '4s'\n",
    );
    sandbox.up().expect(0);
    let pid = sandbox.pid("a");
    let stopping = || sandbox.unit("a")["state"] == "deactivating";
    across_an_upgrade(&sandbox, &["stop", "a"], stopping, || {}).expect(0);
    assert!(!alive(pid));
    sandbox.down();
}

#[test]
fn during_a_start() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.db]\nexec = 'exec sleep 1000'\nreadiness = { exec = 'test -e go', interval = '50ms' }\n[unit.web]\nrequires = ['db']\nexec = 'exec sleep 1000'\n",
    );
    sandbox.run(&["up", "--detach", "--wait", "1s"]).expect(1);
    let db = sandbox.pid("db");
    let waiting = || sandbox.unit("db")["sub_state"] == "ready-wait";
    across_an_upgrade(&sandbox, &["wait", "web"], waiting, || touch(&sandbox, "go")).expect(0);
    assert_eq!(sandbox.pid("db"), db, "the same run");
    assert_eq!(sandbox.unit("web")["ready"], true);
    sandbox.down();
}

#[test]
fn with_a_restart_waiting() {
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.a]\n{STUBBORN}[unit.b]\nrequires = ['a']\nexec = 'exec sleep 1000'\n"
    ));
    sandbox.up().expect(0);
    let (a, b) = (sandbox.pid("a"), sandbox.pid("b"));
    let stopping = || sandbox.unit("a")["state"] == "deactivating";
    let answer = across_an_upgrade(&sandbox, &["restart", "a", "--json"], stopping, || touch(&sandbox, "go")).expect(0);
    assert_eq!(answer.json()["units"][0]["ready"], true, "{answer:#?}");
    assert_ne!(sandbox.pid("a"), a);
    sandbox.until_unit("b", "it runs again", |unit| unit["ready"] == true && unit["pid"] != b);
    assert_eq!(sandbox.unit("a")["invocation"], 2, "restarted once");
    sandbox.down();
}

#[test]
fn during_a_shutdown() {
    let mut sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[shutdown]\nbudget = '10min'\n[unit.a]\n{STUBBORN}"
    ));
    sandbox.spawn(&[]);
    sandbox.until("a", "running");
    let stopping = || sandbox.unit("a")["state"] == "deactivating";
    std::thread::scope(|scope| {
        let down = scope.spawn(|| sandbox.run(&["down"]));
        sandbox.eventually("it shuts down", stopping);
        let refused = sandbox.run(&["upgrade"]).expect(1);
        assert!(refused.stderr.contains("shuts down"), "{refused:#?}");
        touch(&sandbox, "go");
        down.join().unwrap().expect(0);
    });
    assert_eq!(sandbox.wait_exit(), 0);
    sandbox.nothing_left();
}

#[test]
fn a_log_probe_goes_on_looking() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo begun; while ! test -e go; do sleep 0.02; done; echo at your service; exec sleep 1000'\nreadiness = { log = 'at your' }\n",
    );
    sandbox.run(&["up", "--detach", "--wait", "1s"]).expect(1);
    let waiting = || sandbox.unit("a")["sub_state"] == "ready-wait";
    across_an_upgrade(&sandbox, &["wait", "a"], waiting, || touch(&sandbox, "go")).expect(0);
    sandbox.down();
}

#[test]
fn a_recording_goes_on_and_runs_again() {
    let mut sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nrestart = 'always'\nreadiness = { exec = 'true' }\nenvironment = { KEY = 'hunter2' }\n[unit.c]\nexec = 'exit 3'\nrestart = 'always'\nrestart_delay = '50ms'\noptional = true\n",
    );
    let recording = sandbox.path().join("recording");
    let path = recording.to_str().unwrap().to_owned();
    sandbox.spawn(&["--record", &path]);
    sandbox.until_unit("a", "it is ready", |unit| unit["ready"] == true);
    sandbox.until_unit("c", "it was restarted", |unit| unit["restarts"].as_i64() > Some(1));
    sandbox.run(&["restart", "a"]).expect(0);
    sandbox.run(&["upgrade"]).expect(0);
    sandbox.run(&["stop", "c"]).expect(0);
    sandbox.write_config("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n[unit.d]\nexec = 'exec sleep 1000'\n");
    sandbox.run(&["reload"]).expect(0);
    sandbox.until_unit("d", "it is ready", |unit| unit["ready"] == true);
    sandbox.run(&["down"]).expect(0);
    assert_eq!(sandbox.wait_exit(), 0);
    let text = fs::read_to_string(&recording).unwrap();
    assert!(text.contains("\"restored\"") && text.contains("\"halt\""), "{text}");
    assert!(!text.contains("hunter2"), "values stay here");
    let replayed = sandbox.run(&["replay", &path]).expect(0);
    assert!(replayed.stdout.contains("all decided as when they were recorded"), "{replayed:#?}");
    fs::write(&recording, text.replacen("\"signal\":15", "\"signal\":9", 1)).unwrap();
    let other = sandbox.run(&["replay", "--quiet", &path]).expect(1);
    assert!(other.stderr.contains("1 of"), "{other:#?}");
}
