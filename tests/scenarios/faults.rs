//! Bad input: each with a clear error or state, and nothing else taken down.

use crate::sandbox::Sandbox;
use std::fs;

#[test]
fn an_invalid_config_starts_nothing() {
    let sandbox = Sandbox::new("[unit.a]\nexec = 'touch started'\nrestrat = 'always'\nrequires = ['nobody']\n");
    let answer = sandbox.up().expect(2);
    for expected in ["restrat", "did you mean `restart`", "nobody", "sandkeep.toml:3:1"] {
        assert!(answer.stderr.contains(expected), "{expected}: {answer:#?}");
    }
    assert!(!sandbox.project().join("started").exists());
    sandbox.nothing_left();
}

#[test]
fn a_missing_config_names_the_file() {
    let sandbox = Sandbox::new("");
    let answer = sandbox.run(&["up", "-c", "nowhere.toml"]).expect(2);
    assert!(answer.stderr.contains("nowhere.toml"), "{answer:#?}");
}

#[test]
fn an_empty_directory_says_what_to_do() {
    let sandbox = Sandbox::new("");
    fs::remove_file(sandbox.project().join("sandkeep.toml")).unwrap();
    let answer = sandbox.run(&["up"]).expect(2);
    assert!(answer.stderr.contains("hint"), "{answer:#?}");
}

#[test]
fn commands_that_cannot_be_executed_fail_at_once_with_the_reason() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.missing]\nexec = ['/no/such/command']\nrestart = 'always'\n[unit.plain]\nexec = ['./data']\nrestart = 'always'\n\
         [unit.user]\nexec = ['sleep', '1000']\nuser = 'no-such-user'\nrestart = 'always'\n[unit.dir]\nexec = ['sleep', '1000']\nworking_directory = '/no/such/dir'\nrestart = 'always'\n\
         [unit.fine]\nexec = 'exec sleep 1000'\n",
    );
    fs::write(sandbox.project().join("data"), "").unwrap();
    let answer = sandbox.up().expect(1);
    assert!(answer.stderr.contains("missing"), "{answer:#?}");
    for (name, expected) in [
        ("missing", "/no/such/command"),
        ("plain", "./data"),
        ("user", "no-such-user"),
        ("dir", "/no/such/dir"),
    ] {
        let unit = sandbox.until_unit(name, "failed", |unit| unit["state"] == "failed");
        assert_eq!(unit["restarts"], 0, "{unit:#}");
        let why = sandbox.run(&["why", name]).expect(0);
        assert!(why.stdout.contains(expected), "{why:#?}");
    }
    assert_eq!(sandbox.unit("fine")["ready"], true);
    sandbox.down();
}

#[test]
fn a_runtime_directory_of_somebody_else_is_refused() {
    skip!("needs-root");
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n");
    fs::create_dir(sandbox.runtime_dir()).unwrap();
    std::os::unix::fs::chown(sandbox.runtime_dir(), Some(65534), Some(65534)).unwrap();
    let answer = sandbox.up().expect(1);
    assert!(answer.stderr.contains("run") && answer.stderr.contains("own"), "{answer:#?}");
}

#[test]
fn r2_variables_half_set_are_named() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[project]\nid = 'p'\ndev = 'exec sleep 1000'\nport = 3000\n");
    let mut command = sandbox.command(&["up", "--detach"]);
    command.env("R2_ENDPOINT", "http://127.0.0.1:1").env("R2_BUCKET_NAME", "b");
    let answer = sandbox.answer(command).expect(2);
    for expected in ["R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"] {
        assert!(answer.stderr.contains(expected), "{expected}: {answer:#?}");
    }
}

#[test]
fn a_store_without_a_project_is_refused() {
    let sandbox =
        Sandbox::new("[health]\nlisten = \"off\"\n[sync]\nstore = 'file://DIR/store'\n[project]\ndev = 'exec sleep 1000'\nport = 3000\n");
    let answer = sandbox.up().expect(2);
    assert!(answer.stderr.contains("project") && answer.stderr.contains("id"), "{answer:#?}");
}

#[test]
fn a_unit_that_exits_at_once_for_ever_takes_nothing_down() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exit 1'\nrestart = 'always'\nrestart_delay = '1ms'\nrestart_max_delay = '20ms'\nstart_limit_burst = 0\noptional = true\n\
         [unit.b]\nexec = 'exec sleep 1000'\n",
    );
    sandbox.up().expect(0);
    sandbox.until_unit("a", "many restarts", |unit| unit["restarts"].as_u64() > Some(20));
    assert_eq!(sandbox.unit("b")["ready"], true);
    sandbox.down();
}

#[test]
fn a_unit_that_forks_strays_for_ever_is_ended_whole() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'while :; do (setsid sleep 1000 &); sleep 0.02; done'\nstop_timeout = '1s'\n",
    );
    sandbox.up().expect(0);
    sandbox.eventually("there are strays", || sandbox.processes().len() > 20);
    sandbox.down();
}

#[test]
fn the_status_shows_what_a_process_said_before_its_exit_failed() {
    let script = "echo starting; echo 'error: a needs b, token open-sesame-7' >&2; echo 'hint: npm install b' >&2; exit";
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[secrets]\nnames = [\"SECRET\"]\n[unit.final]\nexec = \"{script} 78\"\n\
         [unit.again]\nexec = \"{script} 1\"\nrestart = 'always'\nrestart_delay = '1h'\nrestart_max_delay = '1h'\n\
         [unit.mute]\nexec = 'echo fine; exit 1'\nrestart = 'no'\n[unit.good]\ntype = 'oneshot'\nexec = 'echo error: none >&2'\n"
    ));
    let mut command = sandbox.command(&["up", "--detach"]);
    command.env("SECRET", "open-sesame-7");
    sandbox.answer(command).expect(1);
    for name in ["final", "again"] {
        let unit = sandbox.until_unit(name, "its last words", |unit| unit["last_exit"]["message"].is_string());
        assert_eq!(unit["last_exit"]["message"], "error: a needs b, token ***", "{unit:#}");
        let table = sandbox.run(&["status", name]).expect(3).stdout;
        assert!(table.contains("    error: a needs b, token ***\n"), "{table}");
    }
    for name in ["mute", "good"] {
        let unit = sandbox.until_unit(name, "its end", |unit| unit["sub_state"] == "dead" || unit["sub_state"] == "exited");
        assert_eq!(unit["last_exit"].get("message"), None, "{unit:#}");
    }
    sandbox.down();
}

#[test]
fn a_flood_of_notifications_keeps_nobody_else_waiting() {
    skip!("needs-root");
    skip!("needs-pid-namespace");
    let mut sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.flood]\ntype = 'notify'\nexec = ['python3', 'flood.py']\n\
         [unit.other]\nexec = 'exec sleep 1000'\nrestart = 'always'\n",
    );
    let flood = "import os, socket\nname = os.environ['NOTIFY_SOCKET']\nfor _ in range(3):\n    if os.fork() == 0: break\n\
                 s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.connect(name)\ns.send(b'READY=1')\nwhile True: s.send(b'STATUS=more')\n";
    fs::write(sandbox.project().join("flood.py"), flood).unwrap();
    // As much waits in a socket as systemd lets it; where that cannot be set, less.
    let script = "echo 512 > /proc/sys/net/unix/max_dgram_qlen; exec \"$@\"";
    sandbox.spawn_within(&["unshare", "--net", "sh", "-c", script, "sh"]);
    let pid = sandbox.pid("other");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    sandbox.until_unit("other", "its end is seen and it runs again", |unit| {
        unit["sub_state"] == "running" && unit["pid"] != pid
    });
    sandbox.run(&["upgrade"]).expect(0);
    assert_eq!(sandbox.unit("flood")["ready"], true);
    sandbox.run(&["down"]).expect(0);
    assert_eq!(sandbox.wait_exit(), 0);
    sandbox.nothing_left();
}
