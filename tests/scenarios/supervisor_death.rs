//! The supervisor is killed: its units end, and the next one finds what survived.

use crate::sandbox::{Sandbox, alive};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn kill_supervisor(sandbox: &Sandbox) {
    let pid = i32::try_from(sandbox.status()["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    sandbox.eventually("it is gone", || !sandbox.processes().iter().any(|&(found, _)| found == pid));
}

#[test]
fn units_end_with_it() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n");
    sandbox.up().expect(0);
    kill_supervisor(&sandbox);
    sandbox.nothing_left();
}

#[test]
fn survivors_are_ended_before_anything_starts_twice() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = '''trap '' TERM; (setsid sleep 1000 &); while :; do sleep 0.1; done'''\nstop_timeout = '1s'\n",
    );
    sandbox.up().expect(0);
    let first = sandbox.pid("a");
    kill_supervisor(&sandbox);
    assert!(alive(first), "it ignores SIGTERM");
    sandbox.up().expect(0);
    assert!(!alive(first), "the survivor was ended");
    let mains = sandbox.processes().into_iter().filter(|(_, line)| line.contains("trap")).count();
    assert_eq!(mains, 1, "{:#?}", sandbox.processes());
    sandbox.down();
}

#[test]
fn a_second_supervisor_is_refused_while_the_first_lives() {
    let mut sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n");
    sandbox.spawn(&[]);
    sandbox.until("a", "running");
    let second = sandbox.run(&["up", "--json"]);
    assert_eq!(second.code, 0, "{second:#?}");
    assert_eq!(second.json()["action"], "running");
    let supervisors = sandbox
        .processes()
        .into_iter()
        .filter(|(_, line)| line.contains("sandkeep up"))
        .count();
    assert_eq!(supervisors, 1);
    sandbox.down();
}
