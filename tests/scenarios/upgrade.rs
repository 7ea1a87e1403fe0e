//! `upgrade` in place: what runs does not notice, and what is asked is answered.

use crate::sandbox::{Sandbox, alive, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const SLEEPERS: &str =
    "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nrestart = 'always'\n[unit.b]\nexec = 'exec sleep 1000'\n";

fn upgrade(sandbox: &Sandbox) {
    sandbox.run(&["upgrade"]).expect(0);
}

fn pids(sandbox: &Sandbox, units: &[&str]) -> Vec<i32> {
    units.iter().map(|unit| sandbox.pid(unit)).collect()
}

/// Every line that a unit wrote, from its files, oldest first.
fn lines(sandbox: &Sandbox, unit: &str) -> Vec<String> {
    let directory = sandbox.path().join("state/default/logs");
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.retain(|path| name(path).starts_with(&format!("{unit}.")) && name(path).contains("log"));
    assert_eq!(files.len(), 1, "not rotated: {files:?}");
    fs::read_to_string(&files[0]).unwrap().lines().map(ToOwned::to_owned).collect()
}

/// Asks for `/readyz` again and again until it is told to stop.
fn poll(
    over: &Arc<AtomicBool>,
    asked: &Arc<AtomicUsize>,
    connect: impl Fn() -> std::io::Result<Box<dyn Stream>> + Send + 'static,
) -> std::thread::JoinHandle<Vec<String>> {
    let (over, asked) = (Arc::clone(over), Arc::clone(asked));
    std::thread::spawn(move || {
        let mut faults = Vec::new();
        while !over.load(Ordering::SeqCst) {
            let answered = connect().and_then(|mut stream| {
                stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text)
            });
            match answered {
                Ok(text) if text.starts_with("HTTP/1.1 200") => {}
                Ok(text) => faults.push(format!("answered {text:?}")),
                Err(error) => faults.push(error.to_string()),
            }
            asked.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(1));
        }
        faults
    })
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

#[test]
fn nothing_of_a_flood_is_lost_and_both_doors_stay_open() {
    let port = free_port();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = '127.0.0.1:{port}'\n[journal]\nmax_size = '1GiB'\n\
         [unit.flood]\nexec = 'i=0; while :; do echo $i; i=$((i+1)); done'\n\
         [unit.half]\nexec = \"printf 'first half, '; while ! test -e go; do sleep 0.02; done; echo second half; exec sleep 1000\"\n\
         [unit.a]\nexec = 'exec sleep 1000'\n[unit.b]\nexec = '(setsid sleep 1000 &); exec sleep 1000'\n"
    ));
    sandbox.up().expect(0);
    let units = ["flood", "half", "a", "b"];
    let before = (sandbox.status()["pid"].clone(), pids(&sandbox, &units));
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let tcp = poll(&over, &asked, move || Ok(Box::new(TcpStream::connect(("127.0.0.1", port))?)));
    let socket = sandbox.runtime_dir().join("default/control.sock");
    let unix = poll(&over, &asked, move || Ok(Box::new(UnixStream::connect(&socket)?)));
    sandbox.eventually("the doors are asked", || asked.load(Ordering::SeqCst) > 20);
    for _ in 0..3 {
        upgrade(&sandbox);
    }
    let so_far = asked.load(Ordering::SeqCst);
    sandbox.eventually("the doors are asked after it", || asked.load(Ordering::SeqCst) > so_far + 20);
    over.store(true, Ordering::SeqCst);
    assert_eq!(tcp.join().unwrap(), Vec::<String>::new());
    assert_eq!(unix.join().unwrap(), Vec::<String>::new());
    assert_eq!((sandbox.status()["pid"].clone(), pids(&sandbox, &units)), before);
    fs::write(sandbox.project().join("go"), "").unwrap();
    sandbox.eventually("the rest of the line is there", || {
        lines(&sandbox, "half") == ["first half, second half"]
    });
    let shown = sandbox.run(&["logs", "half", "--plain"]).expect(0).stdout;
    assert_eq!(shown, "first half, second half\n");
    sandbox.run(&["stop", "flood"]).expect(0);
    let flood = lines(&sandbox, "flood");
    assert!(flood.len() > 1000, "{}", flood.len());
    for (expected, line) in flood.iter().enumerate() {
        assert_eq!(*line, expected.to_string(), "none lost, repeated or reordered");
    }
    sandbox.down();
}

#[test]
fn an_end_right_after_it_is_noticed() {
    let sandbox = Sandbox::new(SLEEPERS);
    sandbox.up().expect(0);
    let (a, b) = (sandbox.pid("a"), sandbox.pid("b"));
    let exits = std::thread::scope(|scope| {
        let upgrading = scope.spawn(|| upgrade(&sandbox));
        // Anywhere between the check and the first look of the new image.
        std::thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(b), Signal::SIGKILL).unwrap();
        upgrading.join()
    });
    exits.unwrap();
    let b = sandbox.until_unit("b", "its end was seen", |unit| unit["pid"].is_null());
    assert_eq!(b["last_exit"]["signal"], 9);
    kill(Pid::from_raw(a), Signal::SIGKILL).unwrap();
    let a = sandbox.until_unit("a", "it runs again", |unit| unit["sub_state"] == "running" && unit["pid"] != a);
    assert_eq!((a["restarts"].as_i64(), a["last_exit"]["signal"].as_i64()), (Some(1), Some(9)));
    upgrade(&sandbox);
    assert_eq!(sandbox.unit("a")["restarts"], 1, "counted on");
    sandbox.down();
}

#[test]
fn waits_counters_and_limits_survive() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n\
         [unit.backs]\nexec = 'exit 3'\nrestart = 'always'\nrestart_delay = '10min'\nrestart_max_delay = '10min'\noptional = true\n\
         [unit.limited]\nexec = 'exec sleep 1000'\nrestart = 'always'\nrestart_delay = '10ms'\nrestart_max_delay = '10ms'\nstart_limit_burst = 2\nstart_limit_interval = '1h'\n\
         [unit.ready]\nexec = 'exec sleep 1000'\nreadiness = { exec = 'test -e go' }\n[unit.off]\nexec = 'exec sleep 1000'\n",
    );
    fs::write(sandbox.project().join("go"), "").unwrap();
    sandbox.up().expect(0);
    sandbox.run(&["stop", "off"]).expect(0);
    sandbox.until("backs", "auto-restart");
    kill(Pid::from_raw(sandbox.pid("limited")), Signal::SIGKILL).unwrap();
    sandbox.until_unit("limited", "it runs again", |unit| {
        unit["restarts"] == 1 && unit["sub_state"] == "running"
    });
    let of = |unit: &Value| ["state", "sub_state", "since", "restarts", "invocation", "last_exit", "reason"].map(|key| unit[key].clone());
    let before: Vec<_> = ["limited", "ready", "off", "backs"]
        .iter()
        .map(|unit| of(&sandbox.unit(unit)))
        .collect();
    let next = || sandbox.run(&["why", "backs", "--json"]).expect(0).json()["next"].clone();
    let started = sandbox.status()["started_at"].clone();
    let planned = next();
    assert!(planned.as_str().unwrap().contains("starts again by itself at"), "{planned}");
    upgrade(&sandbox);
    assert_eq!(next(), planned, "the wait goes on");
    let after: Vec<_> = ["limited", "ready", "off", "backs"]
        .iter()
        .map(|unit| of(&sandbox.unit(unit)))
        .collect();
    let cut = |all: &[[Value; 7]]| -> Vec<Vec<String>> {
        // To the second.
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), |text| text.chars().take(19).collect())
        };
        all.iter()
            .map(|unit| [0, 1, 2, 3, 4, 6].map(|at| text(&unit[at])).to_vec())
            .collect()
    };
    assert_eq!(cut(&after), cut(&before));
    assert_eq!(sandbox.status()["started_at"], started);
    assert_eq!(sandbox.unit("ready")["ready"], true);
    kill(Pid::from_raw(sandbox.pid("limited")), Signal::SIGKILL).unwrap();
    let limited = sandbox.until("limited", "dead");
    assert!(limited["reason"].as_str().unwrap().contains("start limit"), "{limited:#}");
    sandbox.down();
}

#[test]
fn twenty_in_a_row_leave_nothing_open() {
    let sandbox = Sandbox::new(SLEEPERS);
    sandbox.up().expect(0);
    let supervisor = sandbox.status()["pid"].as_i64().unwrap();
    let units = pids(&sandbox, &["a", "b"]);
    let open = || {
        let mut kinds: Vec<String> = fs::read_dir(format!("/proc/{supervisor}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .map(|target| target.to_string_lossy().split([':', '[']).next().unwrap_or_default().to_owned())
            .collect();
        kinds.sort();
        kinds
    };
    upgrade(&sandbox);
    let mut first = open();
    for _ in 0..19 {
        upgrade(&sandbox);
    }
    let status = sandbox.status();
    assert_eq!(status["upgrade"]["count"], 20);
    assert_eq!(status["pid"].as_i64(), Some(supervisor));
    assert_eq!(pids(&sandbox, &["a", "b"]), units);
    sandbox.eventually("as much is open as after the first", || {
        let again = open();
        first.retain(|kind| !kind.starts_with("/proc"));
        again.len() <= first.len() + 1
    });
    let zombies = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let children: Vec<i32> = zombies.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(children.len(), 2, "{children:?}");
    sandbox.down();
}

#[test]
fn it_does_not_read_the_configuration_again() {
    let sandbox = Sandbox::new(SLEEPERS);
    sandbox.up().expect(0);
    let (hash, a) = (sandbox.status()["config_hash"].clone(), sandbox.pid("a"));
    sandbox.write_config("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 2000'\n");
    upgrade(&sandbox);
    assert_eq!((sandbox.status()["config_hash"].clone(), sandbox.pid("a")), (hash, a));
    assert!(sandbox.unit("b")["ready"].as_bool().unwrap());
    sandbox.run(&["reload"]).expect(0);
    sandbox.until_unit("a", "it was restarted with the new configuration", |unit| {
        unit["ready"] == true && unit["pid"] != a
    });
    sandbox.down();
}

#[test]
fn who_follows_goes_on() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done'\n");
    sandbox.up().expect(0);
    let out = sandbox.path().join("followed");
    let mut follower = sandbox
        .command(&["logs", "a", "-f", "-n", "1000", "--plain"])
        .stdout(fs::File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let seen = || fs::read_to_string(&out).unwrap().lines().count();
    sandbox.eventually("lines are followed", || seen() > 5);
    upgrade(&sandbox);
    let then = seen();
    sandbox.eventually("and after it", || seen() > then + 10);
    sandbox.down();
    assert!(follower.wait().unwrap().success());
    for (expected, line) in fs::read_to_string(&out).unwrap().lines().enumerate() {
        assert_eq!(line, expected.to_string());
    }
}

#[test]
fn as_pid_1() {
    skip!("needs-root");
    skip!("needs-pid-namespace");
    let mut sandbox = Sandbox::new(SLEEPERS);
    sandbox.spawn_as_pid_1();
    let before = pids(&sandbox, &["a", "b"]);
    upgrade(&sandbox);
    assert_eq!(sandbox.status()["pid"], 1);
    assert_eq!(pids(&sandbox, &["a", "b"]), before);
    let out = fs::read_to_string(sandbox.path().join("up.out")).unwrap();
    assert_eq!(out.matches("started, pid").count(), 1, "the console begins once:\n{out}");
    assert!(out.contains("upgraded from"), "{out}");
    sandbox.run(&["down"]).expect(0);
    assert_eq!(sandbox.wait_exit(), 0);
    sandbox.nothing_left();
}

#[test]
fn a_signal_that_comes_meanwhile_is_not_lost() {
    let mut sandbox = Sandbox::new(SLEEPERS);
    let pid = Pid::from_raw(sandbox.spawn(&[]).cast_signed());
    sandbox.until("a", "running");
    let mut upgrading = sandbox.command(&["upgrade"]).spawn().unwrap();
    sandbox.eventually("the image changes", || {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("--handover") || upgrading.try_wait().unwrap().is_some()
    });
    kill(pid, Signal::SIGTERM).unwrap();
    let _ = upgrading.wait().unwrap();
    assert_eq!(sandbox.wait_exit(), 0, "an ordered shutdown");
    sandbox.nothing_left();
}

#[test]
fn workers_are_restarted_onto_it() {
    let sandbox = Sandbox::new(
        "[project]\nid = 'p'\n[health]\nlisten = \"off\"\n[sync]\nstore = 'file://DIR/store'\n[unit.sync]\nworker = 'sync'\n[unit.a]\nexec = 'exec sleep 1000'\n",
    );
    sandbox.up().expect(0);
    let (a, sync) = (sandbox.pid("a"), sandbox.pid("sync"));
    fs::write(sandbox.project().join("late.txt"), "late").unwrap();
    upgrade(&sandbox);
    assert_eq!((sandbox.pid("a"), sandbox.pid("sync")), (a, sync), "only with --workers");
    let binary = sandbox.path().join("sandkeep-next");
    fs::copy(env!("CARGO_BIN_EXE_sandkeep"), &binary).unwrap();
    sandbox.run(&["upgrade", binary.to_str().unwrap(), "--workers"]).expect(0);
    assert_eq!(sandbox.pid("a"), a);
    let next = sandbox.pid("sync");
    assert!(next != sync && !alive(sync));
    assert_eq!(fs::read_link(format!("/proc/{next}/exe")).unwrap(), binary);
    assert_eq!(sandbox.unit("sync")["ready"], true);
    let stored = fs::read_to_string(sandbox.path().join("store/p/late.txt")).unwrap();
    assert_eq!(stored, "late", "drained before it was restarted");
    sandbox.down();
}
