//! kill -9 at every step: each record of the intent log, each write of the index, each request. The same work each time, killed at
//! the next point, until it comes to its end; afterwards tree, store and a fresh restore are compared by this test's own reading.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, tree};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A box in step, and then everything that can happen to a file.
fn prepared(r2: &R2) -> Sandbox {
    let sandbox = Sandbox::on(r2);
    for n in 0..4 {
        sandbox.write(&format!("d/f{n}"), format!("{n}"));
    }
    sandbox.write("moves", vec![b'm'; 5000]);
    sandbox.flush();
    sandbox.write("d/f0", "edited");
    fs::remove_file(sandbox.path("d/f1")).expect("removed");
    fs::rename(sandbox.path("moves"), sandbox.path("moved")).expect("renamed");
    sandbox.write("new/deep/f", "new");
    sandbox.chmod("d/f2", 0o755);
    sandbox
}

/// A flush without a kill brings everything in step, and has nothing to keep twice.
fn converges(r2: &R2, sandbox: &Sandbox, point: &str) {
    let flushed = sandbox.flush();
    assert_eq!(flushed["durable"], true, "{point}: {flushed}");
    let here = tree(&sandbox.root);
    assert_eq!(
        differences(&here, &store(r2, "p1")),
        Vec::<String>::new(),
        "{point}: the store is as the tree"
    );
    let fresh = Sandbox::on(r2);
    fresh.restore();
    assert_eq!(
        differences(&here, &tree(&fresh.root)),
        Vec::<String>::new(),
        "{point}: a restore is as the tree"
    );
    let twice = r2.objects().into_keys().find(|key| key.contains("/.sandkeep/conflicts/"));
    assert_eq!(twice, None, "{point}: one's own half-finished writes are no conflicts");
}

/// Whether it came to its end.
fn flush_that_may_be_killed(mut command: Command, point: &str) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let status = command.output().expect("it runs").status;
    assert!(status.success() || status.signal() == Some(9), "{point}: {status}");
    status.success()
}

fn shim(directory: &Path) -> PathBuf {
    let (source, library) = (
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sync/fatal.c"),
        directory.join("fatal.so"),
    );
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .status();
    assert!(built.expect("cc is there").success());
    library
}

fn killed_at_every_record(torn: &[(&str, &str)]) {
    let directory = tempfile::tempdir().expect("a directory");
    let library = shim(directory.path());
    for at in 1.. {
        let (r2, point) = (R2::start(), format!("step {at} {torn:?}"));
        let sandbox = prepared(&r2);
        let mut command = sandbox.command(&["flush"]);
        command
            .env("LD_PRELOAD", &library)
            .env("FATAL_AT", at.to_string())
            .envs(torn.iter().copied());
        let came_to_its_end = flush_that_may_be_killed(command, &point);
        converges(&r2, &sandbox, &point);
        if came_to_its_end {
            assert!(at > 8, "only {at} steps: the shim does not see them");
            return;
        }
    }
}

#[test]
fn killed_at_every_record_it_converges() {
    killed_at_every_record(&[]);
}

#[test]
fn killed_in_the_middle_of_every_record_it_converges() {
    killed_at_every_record(&[("FATAL_TORN", "1")]);
}

#[test]
fn killed_at_every_request_it_converges() {
    for at in 0.. {
        let (r2, point) = (R2::start(), format!("request {at}"));
        let sandbox = prepared(&r2);
        sandbox.write("large", vec![7; 9 << 20]);
        let kind = if at % 2 == 0 { "kill-after" } else { "kill-before" };
        // The process is there, and waits until the order is given.
        let gate = sandbox.home.path().join("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let script = format!("read x <'{}'; exec \"$0\" \"$@\"", gate.display());
        let inner = sandbox.command(&["flush"]);
        let mut command = crate::tree::wrapped(&inner, "/bin/sh", &["-c", &script]);
        let mut child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        r2.faults(&format!(
            r#"[{{"operation":"*","kind":"{kind}:{}","skip":{at},"count":1}}]"#,
            child.id()
        ));
        fs::write(&gate, "go\n").expect("written");
        let came_to_its_end = child.wait().expect("it ends").success();
        r2.faults("[]");
        converges(&r2, &sandbox, &point);
        if came_to_its_end {
            assert!(at > 15, "only {at} requests");
            return;
        }
    }
}
