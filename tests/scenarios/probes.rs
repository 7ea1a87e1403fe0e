//! Probes against real servers, and the ports that are found.

use crate::sandbox::{Sandbox, free_port};
use std::fs;

/// A server of three lines that every machine with node has.
fn serve(port: u16, host: &str, status: &str) -> String {
    format!("node -e \"require('http').createServer((q,r)=>{{r.statusCode={status};r.end('x')}}).listen({port},'{host}')\"")
}

#[test]
fn every_kind_of_readiness_probe() {
    let (http, tcp, listen) = (free_port(), free_port(), free_port());
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.http]\nexec = '''{}'''\nreadiness = {{ http = 'http://127.0.0.1:{http}/' }}\n\
         [unit.tcp]\nexec = '''{}'''\nreadiness = {{ tcp = '127.0.0.1:{tcp}' }}\n\
         [unit.listen]\nexec = '''{}'''\nreadiness = {{ listen = {listen} }}\n\
         [unit.exec]\nexec = 'sleep 0.3; touch ok; exec sleep 1000'\nreadiness = {{ exec = 'test -e ok' }}\n\
         [unit.log]\nexec = 'sleep 0.3; echo now serving; exec sleep 1000'\nreadiness = {{ log = 'now serv(ing)?' }}\n",
        serve(http, "127.0.0.1", "200"),
        serve(tcp, "127.0.0.1", "200"),
        serve(listen, "127.0.0.1", "200")
    ));
    sandbox.up().expect(0);
    for name in ["http", "tcp", "listen", "exec", "log"] {
        let unit = sandbox.unit(name);
        assert_eq!(unit["probes"]["readiness"], "passing", "{unit:#}");
    }
    let unit = sandbox.until_unit("listen", "its port is found", |unit| unit["ports"][0]["port"] == listen);
    assert_eq!(unit["ports"][0]["address"], "127.0.0.1");
    sandbox.down();
}

#[test]
fn a_server_that_answers_500_never_gets_ready() {
    let port = free_port();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.web]\nexec = '''{}'''\nreadiness = {{ http = 'http://127.0.0.1:{port}/' }}\nstart_timeout = '3s'\nrestart = 'no'\n",
        serve(port, "127.0.0.1", "500")
    ));
    sandbox.up().expect(1);
    let unit = sandbox.until_unit("web", "failed", |unit| unit["state"] == "failed");
    assert!(unit["last_exit"]["reason"].as_str().unwrap().contains("timeout"), "{unit:#}");
    let why = sandbox.run(&["why", "web"]).expect(0);
    assert!(why.stdout.contains("500"), "{why:#?}");
    sandbox.down();
}

#[test]
fn a_probe_to_nowhere_only_holds_its_unit() {
    let port = free_port();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nreadiness = {{ tcp = '127.0.0.1:{port}' }}\n[unit.b]\nexec = 'exec sleep 1000'\n"
    ));
    sandbox.run(&["up", "--detach", "--wait", "1s"]).expect(1);
    assert_eq!(sandbox.unit("b")["ready"], true);
    assert_eq!(sandbox.unit("a")["sub_state"], "ready-wait");
    let why = sandbox.run(&["why", "a"]).expect(0);
    assert!(why.stdout.contains(&port.to_string()), "{why:#?}");
    sandbox.down();
}

#[test]
fn liveness_restarts_a_hung_unit() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'touch alive; exec sleep 1000'\nrestart = 'always'\nrestart_delay = '1ms'\n\
         liveness = { exec = 'test -e alive', interval = '10s', failure_threshold = 1 }\n",
    );
    sandbox.up().expect(0);
    let pid = sandbox.pid("a");
    sandbox.until_unit("a", "alive", |unit| unit["probes"]["liveness"] == "passing");
    fs::remove_file(sandbox.project().join("alive")).unwrap();
    sandbox.until_unit("a", "another process", |unit| {
        unit["pid"].is_i64() && unit["pid"] != pid && unit["ready"] == true
    });
    sandbox.down();
}

#[test]
fn an_exec_probe_that_hangs_leaves_nothing() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nreadiness = { exec = 'sleep 4321 & sleep 4321', timeout = '200ms' }\n",
    );
    sandbox.run(&["up", "--detach", "--wait", "1500ms"]).expect(1);
    sandbox.run(&["stop", "a"]).expect(0);
    let left: Vec<_> = sandbox.processes().into_iter().filter(|(_, line)| line.contains("4321")).collect();
    assert!(left.is_empty(), "{left:#?}");
    sandbox.down();
}

#[test]
fn a_dev_server_on_loopback_alone_is_named() {
    let port = free_port();
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[sync]\nstore = ''\n[project]\ndev = '''{}'''\nport = {port}\n[unit.agent]\nenabled = false\n",
        serve(port, "127.0.0.1", "200")
    ));
    sandbox.up().expect(0);
    let seen = || sandbox.status()["preview"].clone();
    sandbox.eventually("the preview says so", || seen()["state"] == "loopback_only");
    assert!(seen()["reason"].as_str().unwrap().contains("0.0.0.0"), "{:#}", seen());
    sandbox.down();
}

#[test]
fn a_drifted_port_is_named() {
    let (port, other) = (free_port(), free_port());
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[project]\ndev = '''{}'''\nport = {port}\n[unit.agent]\nenabled = false\n",
        serve(other, "0.0.0.0", "200")
    ));
    sandbox.run(&["up", "--detach", "--wait", "3s"]).expect(1);
    sandbox.eventually("the preview says so", || sandbox.status()["preview"]["state"] == "port_drift");
    let why = sandbox.run(&["why", "dev"]).expect(0);
    assert!(why.stdout.contains(&other.to_string()), "{why:#?}");
    sandbox.down();
}

#[test]
fn a_stray_that_owns_the_port_is_named() {
    let port = free_port();
    let stray = std::process::Command::new("sh")
        .args(["-c", &format!("exec {}", serve(port, "0.0.0.0", "200"))])
        .spawn()
        .unwrap();
    let _reaped = Reaped(stray);
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[project]\ndev = 'exec sleep 1000'\nport = {port}\n[unit.agent]\nenabled = false\n"
    ));
    sandbox.run(&["up", "--detach", "--wait", "3s"]).expect(1);
    sandbox.eventually("the preview says so", || sandbox.status()["preview"]["state"] == "wrong_owner");
    let reason = sandbox.status()["preview"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("pid") || reason.contains("of another user"), "{reason}");
    sandbox.down();
}

struct Reaped(std::process::Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
