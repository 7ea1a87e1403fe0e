//! What a sandbox tells at last: the postmortem of the drain is carried out by sync, which flushes last.

use crate::sandbox::Sandbox;
use nix::sys::stat::Mode;
use serde_json::Value;
use std::fs;

fn sandbox(more: &str) -> Sandbox {
    let sandbox = Sandbox::new(&format!(
        "[project]\nid = 'p'\n[sandbox]\nid = 'box'\n[health]\nlisten = \"off\"\n[sync]\nstore = 'file://DIR/store'\n\
         [unit.sync]\nworker = 'sync'\ndrain_signal = 'SIGUSR2'\n{more}"
    ));
    sandbox.up().expect(0);
    sandbox
}

#[test]
fn the_postmortem_of_a_drain_is_in_the_store() {
    // However slow the machine is: `dev` takes until the postmortem is there, and sync ends after it.
    let sandbox = sandbox(
        "[unit.dev]\nexec = 'echo the last that it said; exec sleep 1000'\nafter = ['sync']\n\
         exec_stop = 'while ! test -e DIR/state/default/postmortem/drain.json; do sleep 0.02; done'\nstop_timeout = '60s'\n\
         [shutdown]\nbudget = '120s'\n",
    );
    sandbox.eventually("its line is written", || {
        sandbox.run(&["logs", "dev", "--plain"]).stdout.contains("the last that it said")
    });
    sandbox.down();
    let stored = fs::read_to_string(sandbox.path().join("store/p/.sandkeep/postmortem/box/drain.json")).unwrap();
    let here = fs::read_to_string(sandbox.path().join("state/default/postmortem/drain.json")).unwrap();
    assert_eq!(stored, here);
    let units: Vec<Value> = serde_json::from_str(&stored).unwrap();
    let dev = units
        .iter()
        .find(|unit| unit["why"]["unit"] == "dev")
        .unwrap_or_else(|| panic!("{stored}"));
    assert!(dev["why"].to_string().contains("the last that it said"), "{dev:#}");
    assert!(units.iter().any(|unit| unit["why"]["unit"] == "sync"), "{stored}");
}

#[test]
fn a_postmortem_that_cannot_be_written_keeps_nobody_from_the_flush() {
    let sandbox = sandbox("");
    let directory = sandbox.path().join("state/default/postmortem");
    fs::create_dir_all(&directory).unwrap();
    // Opening it for writing takes for ever, as on a disk that hangs.
    nix::unistd::mkfifo(&directory.join("drain.json.new"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    fs::write(sandbox.project().join("late.txt"), "late").unwrap();
    sandbox.down();
    assert_eq!(fs::read_to_string(sandbox.path().join("store/p/late.txt")).unwrap(), "late");
    assert!(!directory.join("drain.json").exists());
}
