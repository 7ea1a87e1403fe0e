//! What keeps one unit's secrets from another: measured, not claimed.

use crate::sandbox::Sandbox;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A sandbox that every user may enter, as a real one's directories are.
fn open(config: &str) -> Sandbox {
    let sandbox = Sandbox::new(&format!("[health]\nlisten = \"off\"\n{config}"));
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = sandbox.command(&["up", "--detach"]);
    command.env("R2_SECRET_ACCESS_KEY", "k");
    sandbox.answer(command).expect(0);
    sandbox
}

/// What the status says once it was measured.
fn isolation(sandbox: &Sandbox) -> (String, String) {
    let mut said = (String::new(), String::new());
    sandbox.eventually("it was measured", || {
        let status = sandbox.status();
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        said = (text("secret_isolation"), text("secret_isolation_reason"));
        !said.1.starts_with("not measured")
    });
    said
}

#[test]
fn units_of_root_have_none() {
    skip!("needs-root");
    let sandbox = open("[unit.dev]\nexec = 'exec sleep 1000'\n");
    assert_eq!(isolation(&sandbox), ("none".to_owned(), "`dev` runs as root".to_owned()));
    sandbox.down();
}

#[test]
fn users_of_their_own_are_separate() {
    skip!("needs-root");
    let sandbox = open(
        "[unit.keeper]\nexec = 'exec sleep 1000'\nsecrets = ['R2_*']\nuser = 'auto'\n[unit.dev]\nexec = 'exec sleep 1000'\nuser = 'auto'\n",
    );
    assert_eq!(isolation(&sandbox), ("separate-uid".to_owned(), String::new()));
    sandbox.down();
}

#[test]
fn one_user_for_both_is_told() {
    skip!("needs-root");
    let sandbox = open(
        "[unit.keeper]\nexec = 'exec sleep 1000'\nsecrets = ['R2_*']\nuser = 'nobody'\n[unit.dev]\nexec = 'exec sleep 1000'\nuser = 'nobody'\n",
    );
    let (isolation, reason) = isolation(&sandbox);
    assert_eq!(isolation, "same-uid", "{reason}");
    sandbox.down();
}

#[test]
fn a_workers_keys_are_not_in_its_environ_file() {
    let sandbox = Sandbox::new(
        "[project]\nid = 'p'\n[health]\nlisten = \"off\"\n[sync]\nstore = 'file:///DIR/store'\n[unit.sync]\nworker = 'sync'\nsecrets = ['R2_*']\n",
    );
    let mut command = sandbox.command(&["up", "--detach"]);
    command.env("R2_SECRET_ACCESS_KEY", "hunter2-of-this-test");
    sandbox.answer(command).expect(0);
    let pid = sandbox.unit("sync")["pid"].as_i64().unwrap();
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let shown = String::from_utf8_lossy(&environ);
    assert!(!shown.contains("hunter2"), "{shown}");
    // What the kernel keeps for root is what nobody else may open.
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{pid}/environ")).unwrap());
    assert_eq!(owner, 0);
    sandbox.down();
}

#[test]
fn sudo_without_a_password_makes_it_worthless() {
    skip!("needs-root");
    let sandbox = Sandbox::new("");
    let sudo = sandbox.path().join("sudo");
    fs::write(&sudo, "#!/bin/sh\n[ \"$1\" = -n ]\n").unwrap();
    fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.write_config(
        "[health]\nlisten = \"off\"\n[unit.dev]\nexec = 'exec sleep 1000'\nuser = 'auto'\nenvironment = { PATH = 'DIR:/usr/bin:/bin' }\n",
    );
    sandbox.up().expect(0);
    let (isolation, reason) = isolation(&sandbox);
    assert_eq!(isolation, "none", "{reason}");
    assert_eq!(reason, "`dev` may become root: sudo asks it for no password");
    sandbox.down();
}

/// As whom the unit's main process runs.
fn uid(sandbox: &Sandbox, unit: &str) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{}", sandbox.pid(unit))).unwrap())
}

#[test]
fn users_of_their_own_stay_through_an_upgrade() {
    skip!("needs-root");
    let unit = |name: &str| format!("[unit.{name}]\nexec = 'exec sleep 1000'\nuser = 'auto'\n");
    let sandbox = open(&(unit("web") + &unit("api")));
    let of = |units: &[&str]| -> Vec<u32> { units.iter().map(|unit| uid(&sandbox, unit)).collect() };
    let pids = [sandbox.pid("web"), sandbox.pid("api")];
    let before = of(&["web", "api"]);
    assert!(
        before.iter().all(|uid| (61185..=65519).contains(uid)) && before[0] != before[1],
        "{before:?}"
    );
    sandbox.run(&["upgrade"]).expect(0);
    assert_eq!([sandbox.pid("web"), sandbox.pid("api")], pids);
    assert_eq!(of(&["web", "api"]), before);
    // By its name alone, `kbq` would get the uid of `web`; and `api` is still to be told from it when it is gone from the file.
    sandbox.write_config(&format!(
        "[health]\nlisten = \"off\"\n{}{}{}",
        unit("kbq"),
        unit("new"),
        unit("web")
    ));
    sandbox.run(&["reload"]).expect(0);
    sandbox.run(&["wait", "--timeout", "60s"]).expect(0);
    let after = of(&["web", "kbq", "new"]);
    assert_eq!(after[0], before[0]);
    let different: std::collections::BTreeSet<u32> = after.iter().copied().collect();
    assert_eq!(different.len(), 3, "{after:?}");
    sandbox.run(&["upgrade"]).expect(0);
    sandbox.run(&["restart", "web", "kbq", "new"]).expect(0);
    assert_ne!(sandbox.pid("web"), pids[0]);
    assert_eq!(of(&["web", "kbq", "new"]), after, "in the run after it too");
    // Each is still alone with what is its own.
    for (unit, uid) in ["web", "kbq", "new"].iter().zip(&after) {
        let home = fs::metadata(sandbox.path().join("state/default/home").join(unit)).unwrap();
        assert_eq!(
            (std::os::unix::fs::MetadataExt::uid(&home), home.permissions().mode() & 0o777),
            (*uid, 0o700)
        );
    }
    sandbox.down();
}
