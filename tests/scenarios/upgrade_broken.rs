//! `upgrade` to what cannot take over: nothing changes, and it is said why.

use crate::sandbox::Sandbox;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

const UNITS: &str = "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done'\n[unit.b]\nexec = 'exec sleep 1000'\n";

/// What a supervisor and its units are, as far as an upgrade could change it.
fn facts(sandbox: &Sandbox) -> Vec<serde_json::Value> {
    let status = sandbox.status();
    let mut facts = vec![status["pid"].clone(), status["ready"].clone(), status["started_at"].clone()];
    for unit in status["units"].as_array().unwrap() {
        facts.extend(["pid", "invocation", "restarts", "sub_state"].map(|key| unit[key].clone()));
    }
    facts
}

fn script(sandbox: &Sandbox, name: &str, text: &str) -> PathBuf {
    let path = sandbox.path().join(name);
    fs::write(&path, text.replace("REAL", env!("CARGO_BIN_EXE_sandkeep"))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// It is refused with these words, in the answer, in the status and in the events.
fn refused(sandbox: &Sandbox, binary: &std::path::Path, words: &str) {
    let before = facts(sandbox);
    let answer = sandbox.run(&["upgrade", binary.to_str().unwrap()]).expect(1);
    assert!(answer.stderr.contains(words), "`{words}` is not in {answer:#?}");
    assert_eq!(facts(sandbox), before, "{words}");
    let status = sandbox.status();
    assert!(
        status["upgrade"]["error"].as_str().is_some_and(|error| error.contains(words)),
        "{status:#}"
    );
    let events = sandbox.run(&["events"]).expect(0).stdout;
    assert!(events.contains(words), "`{words}` is not in {events}");
}

/// The numbered lines are all there, and more come.
fn lines_go_on(sandbox: &Sandbox) {
    let read = || fs::read_to_string(sandbox.path().join("state/default/logs/a.log")).unwrap();
    let so_far = read().lines().count();
    sandbox.eventually("lines go on", || read().lines().count() > so_far + 5);
    let text = read();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (expected, line) in whole.lines().enumerate() {
        assert_eq!(line, expected.to_string());
    }
}

#[test]
fn what_is_no_sandkeep_is_refused() {
    let sandbox = Sandbox::new(UNITS);
    sandbox.up().expect(0);
    refused(&sandbox, &sandbox.path().join("missing"), "No such file");
    let text = sandbox.path().join("text");
    fs::write(&text, "not a program").unwrap();
    refused(&sandbox, &text, "permission denied");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    refused(&sandbox, &text, "not a program");
    refused(
        &sandbox,
        &script(&sandbox, "true", "#!/bin/sh\nexit 0\n"),
        "does not say that it can take over",
    );
    refused(
        &sandbox,
        &script(&sandbox, "exits", "#!/bin/sh\necho no such luck >&2\nexit 1\n"),
        "exit code 1): no such luck",
    );
    refused(&sandbox, &script(&sandbox, "crashes", "#!/bin/sh\nkill -SEGV $$\n"), "signal 11");
    refused(&sandbox, sandbox.path(), "Is a directory");
    lines_go_on(&sandbox);
    sandbox.down();
}

#[test]
fn what_does_not_come_up_in_a_rehearsal_is_refused() {
    let sandbox = Sandbox::new(UNITS);
    sandbox.up().expect(0);
    let late = script(
        &sandbox,
        "late",
        "#!/bin/sh\nif test \"$1\" = check; then exec REAL \"$@\"; fi\nsleep 0.2; exit 7\n",
    );
    refused(&sandbox, &late, "exit code 7");
    let foreign = script(
        &sandbox,
        "foreign",
        "#!/bin/sh\nif test \"$1\" = check; then exec REAL \"$@\"; fi\nkill -ABRT $$\n",
    );
    refused(&sandbox, &foreign, "signal 6");
    lines_go_on(&sandbox);
    sandbox.down();
}

#[test]
fn what_fails_after_the_exec_gives_way_to_the_old_image() {
    let sandbox = Sandbox::new(UNITS);
    sandbox.up().expect(0);
    let socket = sandbox.runtime_dir().join("default/control.sock");
    // Rehearsed well; in earnest it may open no descriptor more.
    let starved = script(
        &sandbox,
        "starved",
        "#!/bin/sh\ncase \"$*\" in *--handover\\ 0|check*) ;; *) ulimit -Sn 12 ;; esac\nexec REAL \"$@\"\n",
    );
    refused(&sandbox, &starved, "Too many open files");
    assert!(socket.exists());
    lines_go_on(&sandbox);
    // And an upgrade that works still works, and units are still ours to restart.
    sandbox.run(&["upgrade", env!("CARGO_BIN_EXE_sandkeep")]).expect(0);
    assert_eq!(sandbox.status()["upgrade"]["error"], serde_json::Value::Null);
    lines_go_on(&sandbox);
    let b = sandbox.pid("b");
    sandbox.run(&["restart", "b"]).expect(0);
    assert_ne!(sandbox.pid("b"), b);
    sandbox.down();
}

#[test]
fn a_binary_that_is_put_in_the_old_ones_place_is_taken() {
    let sandbox = Sandbox::new(UNITS);
    let binary = sandbox.path().join("sandkeep");
    fs::copy(env!("CARGO_BIN_EXE_sandkeep"), &binary).unwrap();
    let mut up = std::process::Command::new(&binary);
    sandbox.surroundings(&mut up);
    assert_eq!(
        sandbox
            .answer({
                up.args(["up", "--detach"]);
                up
            })
            .code,
        0
    );
    let pid = sandbox.status()["pid"].as_i64().unwrap();
    fs::remove_file(&binary).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_sandkeep"), &binary).unwrap();
    let exe = || fs::read_link(format!("/proc/{pid}/exe")).unwrap().to_string_lossy().into_owned();
    assert!(exe().ends_with("(deleted)"), "{}", exe());
    sandbox.run(&["upgrade"]).expect(0);
    assert_eq!(exe(), binary.to_str().unwrap());
    lines_go_on(&sandbox);
    sandbox.down();
}

/// The image that comes, waiting for its state, with a script for the image before it.
fn coming(sandbox: &Sandbox) -> std::process::Child {
    let back = script(sandbox, "back", "#!/bin/sh\necho $$ $SANDKEEP_TAKEN_BACK\n");
    let mut command = std::process::Command::new("sh");
    sandbox.surroundings(&mut command);
    let line = format!(
        "exec 9<{}; exec {} up --handover 0:9",
        back.display(),
        env!("CARGO_BIN_EXE_sandkeep")
    );
    let command = command.args(["-c", &line]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_crash_or_no_progress_before_it_is_up_leads_back() {
    let sandbox = Sandbox::new(UNITS);
    for (signal, why) in [
        (Signal::SIGSEGV, "it crashed"),
        (Signal::SIGABRT, "it crashed"),
        (Signal::SIGALRM, "it did not come up within"),
    ] {
        let child = coming(&sandbox);
        let pid = child.id().cast_signed();
        sandbox.eventually("it handles the signal", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
            let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
            caught & (1 << (Signal::SIGALRM as u64 - 1)) != 0
        });
        kill(Pid::from_raw(pid), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with(&format!("{pid} {why}")), "{signal}: {said:?}");
    }
}

#[test]
fn a_state_that_cannot_be_read_leads_back() {
    let sandbox = Sandbox::new(UNITS);
    for (state, why) in [
        ("{}", "it has no format"),
        ("nonsense", "reading the handover"),
        ("{\"format\":99}", "has format 99, and version"),
        ("{\"format\":1}", "missing field"),
    ] {
        let mut child = coming(&sandbox);
        let pid = child.id();
        child.stdin.take().unwrap().write_all(state.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.starts_with(&pid.to_string()) && said.contains(why), "{state}: {said:?}");
    }
}
