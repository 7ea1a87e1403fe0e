//! Who gets which variables, and that secrets stay where they belong.

use crate::sandbox::Sandbox;
use std::fs;

const SECRET: &str = "s3cr3t-value-of-the-test";

fn up(sandbox: &Sandbox) -> crate::sandbox::Answer {
    let mut command = sandbox.command(&["up", "--detach"]);
    command.env("R2_SECRET_ACCESS_KEY", SECRET).env("PLAIN", "plain");
    sandbox.answer(command)
}

#[test]
fn a_secret_reaches_only_the_unit_that_names_it() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.with]\ntype = 'oneshot'\nexec = 'env > with.env'\nsecrets = ['R2_*']\n[unit.without]\ntype = 'oneshot'\nexec = 'env > without.env'\nenvironment = { OWN = '1' }\n",
    );
    up(&sandbox).expect(0);
    let read = |name: &str| fs::read_to_string(sandbox.project().join(name)).unwrap();
    assert!(read("with.env").contains(SECRET));
    let without = read("without.env");
    assert!(!without.contains(SECRET) && !without.contains("R2_"), "{without}");
    for expected in [
        "OWN=1",
        "SANDKEEP_UNIT=without",
        "SANDKEEP_INVOCATION_ID=",
        "SANDKEEP_SOCKET=",
        "PLAIN=plain",
    ] {
        assert!(without.contains(expected), "{expected}: {without}");
    }
    sandbox.down();
}

#[test]
fn the_supervisor_scrubs_its_own_environment() {
    let sandbox = Sandbox::new("[health]\nlisten = \"off\"\n[unit.a]\nexec = 'exec sleep 1000'\n");
    up(&sandbox).expect(0);
    let pid = sandbox.status()["pid"].as_i64().unwrap();
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
    assert!(!String::from_utf8_lossy(&environ).contains(SECRET));
    sandbox.down();
}

#[test]
fn a_secret_is_masked_wherever_text_leaves() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\nexec = 'echo the key is $R2_SECRET_ACCESS_KEY; exec sleep 1000'\nsecrets = ['R2_*']\n\
         [unit.bad]\nexec = 'echo $R2_SECRET_ACCESS_KEY >&2; exit 78'\nsecrets = ['R2_*']\noptional = true\n",
    );
    up(&sandbox).expect(0);
    sandbox.eventually("it was captured", || sandbox.run(&["logs", "a"]).stdout.contains("the key is"));
    sandbox.until_unit("bad", "failed", |unit| unit["state"] == "failed");
    for arguments in [
        &["logs"][..],
        &["logs", "--json"],
        &["status", "--json"],
        &["why", "bad"],
        &["why", "bad", "--json"],
        &["events"],
        &["doctor"],
    ] {
        let answer = sandbox.run(arguments);
        assert!(
            !answer.stdout.contains(SECRET) && !answer.stderr.contains(SECRET),
            "{arguments:?}: {answer:#?}"
        );
    }
    sandbox.down();
}

#[test]
fn environment_files_come_before_the_environment() {
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\ntype = 'oneshot'\nexec = 'echo \"$ONE-$TWO-$THREE\" > seen'\nenvironment = { TWO = 'unit' }\nenvironment_file = ['vars', '-missing']\n",
    );
    fs::write(
        sandbox.project().join("vars"),
        "# a comment\nONE=file\nTWO=file\nTHREE=\"with spaces\"\n",
    )
    .unwrap();
    sandbox.up().expect(0);
    assert_eq!(
        fs::read_to_string(sandbox.project().join("seen")).unwrap(),
        "file-unit-with spaces\n"
    );
    sandbox.down();
}

#[test]
fn a_unit_of_another_user_in_its_own_surroundings() {
    skip!("needs-root");
    let sandbox = Sandbox::new(
        "[health]\nlisten = \"off\"\n[unit.a]\ntype = 'oneshot'\nuser = 'nobody'\numask = '027'\nnice = 5\nlimit_nofile = 77\nworking_directory = '/tmp'\nremain_after_exit = true\n\
         exec = 'id -un; umask; nice; ulimit -n; pwd; grep NoNewPrivs /proc/self/status'\nno_new_privileges = true\n",
    );
    sandbox.up().expect(0);
    let text = sandbox.run(&["logs", "a"]).expect(0).stdout;
    for expected in ["nobody", "0027", "5", "77", "/tmp", "NoNewPrivs:\t1"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    sandbox.down();
}
