//! Reload by difference.

use crate::sandbox::Sandbox;

const BASE: &str = "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n[unit.b]\nexec = 'exec sleep 1001'\n";

#[test]
fn only_what_changed_is_restarted() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    let (a, b) = (sandbox.pid("a"), sandbox.pid("b"));
    sandbox.write_config(
        &BASE
            .replace("1001", "1002")
            .replace("[unit.a]", "[unit.a]\ndescription = 'another'\nstop_timeout = '3s'"),
    );
    sandbox.run(&["reload"]).expect(0);
    let unit = sandbox.until_unit("b", "another process", |unit| {
        unit["pid"].is_i64() && unit["pid"] != b && unit["ready"] == true
    });
    assert_ne!(unit["pid"], b);
    assert_eq!(sandbox.pid("a"), a, "description and timeouts apply live");
    sandbox.down();
}

#[test]
fn removed_units_stop_and_stopped_units_stay_stopped() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    sandbox.run(&["stop", "a"]).expect(0);
    sandbox.write_config("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1003'\n");
    sandbox.run(&["reload"]).expect(0);
    sandbox.eventually("b is gone", || sandbox.status()["units"].as_array().unwrap().len() == 1);
    assert_eq!(sandbox.unit("a")["sub_state"], "dead");
    sandbox.eventually("b's process is gone", || {
        !sandbox.processes().iter().any(|(_, line)| line.contains("1001"))
    });
    sandbox.down();
}

#[test]
fn an_invalid_file_changes_nothing() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    let a = sandbox.pid("a");
    sandbox.write_config("[unit.a]\nexce = 'exec sleep 1000'\n");
    let answer = sandbox.run(&["reload"]).expect(2);
    assert!(answer.stderr.contains("exce"), "{answer:#?}");
    assert_eq!(sandbox.pid("a"), a);
    sandbox.down();
}

#[test]
fn a_changed_root_is_refused() {
    let sandbox = Sandbox::new(BASE);
    sandbox.up().expect(0);
    sandbox.write_config(&format!("[project]\nroot = '..'\n{BASE}"));
    let answer = sandbox.run(&["reload"]).expect(1);
    assert!(answer.stderr.contains("root"), "{answer:#?}");
    sandbox.down();
}
