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

#[test]
fn more_directories_than_are_watched_are_said() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.wide]\nexec = 'exec sleep 1000'\nwatch = ['src/**/*.rs']\n\
         [unit.narrow]\nexec = 'exec sleep 1000'\nwatch = ['package.json']\n",
    );
    for n in 0..8200 {
        std::fs::create_dir_all(sandbox.project().join(format!("src/{n}"))).unwrap();
    }
    sandbox.up().expect(0);
    let warned = |name: &str| {
        sandbox.unit(name)["warnings"]
            .to_string()
            .contains("changes in the rest are not seen")
    };
    assert!(warned("wide"), "{:#}", sandbox.unit("wide"));
    assert!(!warned("narrow"), "{:#}", sandbox.unit("narrow"));
    let log = sandbox.run(&["logs", "sandkeep"]).expect(0).stdout;
    assert!(log.contains("wide: ") && log.contains("changes in the rest are not seen"), "{log}");
    sandbox.down();
}

#[test]
fn a_file_that_is_written_as_it_was_retries_nothing() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'grep -q good config'\nrestart = 'no'\nretry_on_change = ['config']\noptional = true\n\
         [unit.b]\nexec = 'exec sleep 1000'\n",
    );
    let config = sandbox.project().join("config");
    std::fs::write(&config, "bad").unwrap();
    sandbox.up().expect(0);
    let first = sandbox.until_unit("a", "failed", |unit| unit["state"] == "failed");
    std::fs::write(&config, "bad").unwrap();
    std::fs::write(sandbox.project().join("other"), "").unwrap();
    // Longer than the quiet that a change is waited for; what follows shows that changes are seen.
    let asked = std::time::Instant::now();
    sandbox.eventually("the quiet is over", || asked.elapsed() > std::time::Duration::from_millis(700));
    assert_eq!(sandbox.unit("a")["invocation"], first["invocation"]);
    std::fs::write(&config, "good").unwrap();
    sandbox.until_unit("a", "a second run", |unit| {
        unit["invocation"].as_u64() > first["invocation"].as_u64()
    });
    sandbox.down();
}
