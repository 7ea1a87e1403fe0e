//! Content that changes: reruns, restarts, retries.

use crate::sandbox::Sandbox;
use std::fs;

fn lines(sandbox: &Sandbox, name: &str) -> usize {
    fs::read_to_string(sandbox.project().join(name)).unwrap_or_default().lines().count()
}

#[test]
fn a_changed_manifest_runs_install_again_and_restarts_dev() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.install]\ntype = 'oneshot'\nexec = 'echo x >> installs; mkdir -p products'\nwatch = ['package.json']\ncreates = ['products']\n\
         [unit.dev]\nexec = 'echo x >> starts; exec sleep 1000'\nrequires = ['install']\npart_of = ['install']\n",
    );
    fs::write(sandbox.project().join("package.json"), "{}").unwrap();
    sandbox.up().expect(0);
    assert_eq!((lines(&sandbox, "installs"), lines(&sandbox, "starts")), (1, 1));
    fs::write(sandbox.project().join("package.json"), "{\"name\":\"x\"}").unwrap();
    sandbox.eventually("both ran again", || {
        (lines(&sandbox, "installs"), lines(&sandbox, "starts")) == (2, 2)
    });
    sandbox.down();
    // Its products are there and nothing has changed: it is not run again.
    sandbox.up().expect(0);
    assert_eq!((lines(&sandbox, "installs"), lines(&sandbox, "starts")), (2, 3));
    sandbox.down();
}

#[test]
fn a_repaired_file_ends_the_backoff() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.dev]\nexec = 'echo x >> starts; grep -q good config.js && exec sleep 1000; exit 1'\nrestart = 'always'\nrestart_delay = '1h'\nrestart_max_delay = '1h'\n\
         retry_on_change = ['*.js']\n",
    );
    fs::write(sandbox.project().join("config.js"), "bad").unwrap();
    sandbox.run(&["up", "--detach", "--wait", "10ms"]).expect(1);
    sandbox.until("dev", "auto-restart");
    fs::write(sandbox.project().join("config.js"), "good").unwrap();
    sandbox.until_unit("dev", "ready", |unit| unit["ready"] == true);
    assert_eq!(lines(&sandbox, "starts"), 2);
    sandbox.down();
}

#[test]
fn a_watch_never_wakes_a_stopped_unit() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo x >> starts; exec sleep 1000'\nwatch = ['conf']\n[unit.b]\nexec = 'echo x >> others; exec sleep 1000'\nwatch = ['conf']\n",
    );
    fs::write(sandbox.project().join("conf"), "1").unwrap();
    sandbox.up().expect(0);
    sandbox.run(&["stop", "a"]).expect(0);
    fs::write(sandbox.project().join("conf"), "2").unwrap();
    sandbox.eventually("the other one was restarted", || lines(&sandbox, "others") == 2);
    assert_eq!(lines(&sandbox, "starts"), 1);
    assert_eq!(sandbox.unit("a")["sub_state"], "dead");
    sandbox.down();
}
