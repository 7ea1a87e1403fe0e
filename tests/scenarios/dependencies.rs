//! Order, readiness between units, failures that pass on.

use crate::sandbox::Sandbox;
use std::fs;

#[test]
fn a_unit_starts_when_what_it_requires_is_ready() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.b]\nexec = 'cat ready > seen; exec sleep 1000'\nrequires = ['a']\n\
         [unit.a]\nexec = 'sleep 0.5; echo yes > ready; exec sleep 1000'\nreadiness = { exec = 'test -e ready' }\n",
    );
    sandbox.up().expect(0);
    let seen = || fs::read_to_string(sandbox.project().join("seen")).unwrap_or_default();
    sandbox.eventually("it has looked", || !seen().is_empty() || sandbox.unit("b")["state"] == "failed");
    assert_eq!(seen(), "yes\n");
    sandbox.down();
}

#[test]
fn after_orders_even_the_slower_first() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.b]\ntype = 'oneshot'\nexec = 'echo b >> order'\nafter = ['a']\n\
         [unit.a]\ntype = 'oneshot'\nexec = 'sleep 0.5; echo a >> order'\n[unit.z]\ntype = 'oneshot'\nexec = 'echo z >> order'\nbefore = ['a']\n",
    );
    sandbox.up().expect(0);
    assert_eq!(fs::read_to_string(sandbox.project().join("order")).unwrap(), "z\na\nb\n");
    sandbox.down();
}

#[test]
fn a_failed_requirement_holds_and_releases_its_dependents() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.install]\ntype = 'oneshot'\nexec = 'test -e fixed'\n[unit.dev]\nexec = 'exec sleep 1000'\nrequires = ['install']\n",
    );
    let answer = sandbox.up().expect(1);
    assert!(answer.stderr.contains("install"), "{answer:#?}");
    sandbox.until_unit("dev", "failed", |unit| unit["state"] == "failed");
    let why = sandbox.run(&["why", "dev"]).expect(0);
    assert!(why.stdout.contains("install"), "{why:#?}");
    fs::write(sandbox.project().join("fixed"), "").unwrap();
    sandbox.run(&["start", "install"]).expect(0);
    sandbox.until_unit("dev", "ready by itself", |unit| unit["ready"] == true);
    sandbox.down();
}

#[test]
fn stop_takes_dependents_first() {
    let stopping = |name: &str| format!("exec = '''trap 'echo {name} >> order; exit 0' TERM; while :; do sleep 0.05; done'''\n");
    let sandbox = Sandbox::new(&format!(
        "[health]\nlisten = \"off\"\n[unit.a]\n{}[unit.b]\nrequires = ['a']\n{}[unit.c]\nrequires = ['b']\n{}",
        stopping("a"),
        stopping("b"),
        stopping("c")
    ));
    sandbox.up().expect(0);
    sandbox.run(&["stop", "a"]).expect(0);
    assert_eq!(fs::read_to_string(sandbox.project().join("order")).unwrap(), "c\nb\na\n");
    assert_eq!(sandbox.unit("c")["sub_state"], "dead");
    sandbox.down();
}

#[test]
fn a_crash_leaves_dependents_alone_but_binds_to_stops() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\nrestart = 'always'\nrestart_delay = '300ms'\n\
         [unit.loose]\nexec = 'exec sleep 1000'\nrequires = ['a']\n[unit.bound]\nexec = 'exec sleep 1000'\nbinds_to = ['a']\n",
    );
    sandbox.up().expect(0);
    let (loose, bound) = (sandbox.pid("loose"), sandbox.pid("bound"));
    sandbox.run(&["kill", "-s", "KILL", "a"]).expect(0);
    sandbox.until_unit("bound", "another run", |unit| {
        unit["pid"].is_i64() && unit["pid"] != bound && unit["ready"] == true
    });
    assert_eq!(sandbox.pid("loose"), loose);
    sandbox.down();
}

#[test]
fn a_skipped_unit_satisfies_its_dependents() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\ncondition_path_exists = ['/no/such/path']\n[unit.b]\nexec = 'exec sleep 1000'\nrequires = ['a']\n",
    );
    sandbox.up().expect(0);
    assert_eq!(sandbox.unit("a")["state"], "skipped");
    assert_eq!(sandbox.unit("b")["ready"], true);
    sandbox.down();
}

#[test]
fn a_optional_failure_only_degrades() {
    let sandbox =
        Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n[unit.b]\nexec = 'exit 78'\noptional = true\n");
    sandbox.up().expect(0);
    sandbox.until_unit("b", "failed", |unit| unit["state"] == "failed");
    let status = sandbox.status();
    assert_eq!(
        (status["status"].as_str(), status["ready"].as_bool()),
        (Some("degraded"), Some(true))
    );
    sandbox.down();
}

#[test]
fn pre_and_post_commands_run_in_order() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec_start_pre = [['sh', '-c', 'echo pre1 >> order'], ['sh', '-c', 'echo pre2 >> order']]\nexec = 'echo main >> order; exec sleep 1000'\n\
         exec_start_post = 'while ! grep -q main order; do sleep 0.05; done; echo post >> order'\nexec_stop = 'echo stop >> order'\nexec_stop_post = 'echo stop-post >> order'\n",
    );
    sandbox.up().expect(0);
    sandbox.run(&["stop", "a"]).expect(0);
    assert_eq!(
        fs::read_to_string(sandbox.project().join("order")).unwrap(),
        "pre1\npre2\nmain\npost\nstop\nstop-post\n"
    );
    sandbox.down();
}

#[test]
fn a_failing_pre_command_fails_the_start() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec_start_pre = 'exit 4'\nexec = 'touch main; exec sleep 1000'\n");
    sandbox.up().expect(1);
    sandbox.until_unit("a", "failed", |unit| unit["state"] == "failed");
    assert!(!sandbox.project().join("main").exists());
    sandbox.down();
}
