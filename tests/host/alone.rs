//! A host reaps every child of its process and is subreaper, so each test runs in a process of its own: the test program again, for that
//! one test.
#![allow(unsafe_code, reason = "undoes what the kernel does to a process that changes its user")]

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use std::any::type_name;
use std::process::Command;

/// As whom a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// As whoever runs the tests.
    Us,
    /// As `nobody`, where we are root.
    Nobody,
    /// As process 1 of a pid namespace.
    Pid1,
}

const WHO: &str = "SANDKEEP_TEST_ALONE";
/// Debian's and everyone's `nobody`.
pub(crate) const NOBODY: u32 = 65534;

/// Runs the test's body in a process of its own, once for each way. Must be the test function's only statement, for its name is taken
/// from the body's.
pub(crate) fn alone<F: FnOnce()>(ways: &[As], body: F) {
    if let Ok(who) = std::env::var(WHO) {
        if who == format!("{:?}", As::Nobody) {
            become_nobody();
        }
        // What a supervisor finds when it is started, and not what the test runner added for itself.
        body();
        return;
    }
    let path = type_name::<F>();
    let name = path
        .trim_end_matches("::{{closure}}")
        .split_once("::")
        .map_or(path, |(_, rest)| rest);
    let executable = std::env::current_exe().expect("we run from a file");
    for way in ways {
        let mut command = match way {
            As::Pid1 => {
                let mut command = Command::new("unshare");
                command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(&executable);
                command
            }
            As::Us | As::Nobody => Command::new(&executable),
        };
        let output = command
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(WHO, format!("{way:?}"))
            .output()
            .expect("the test program runs again");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{name} as {way:?}: {}\n{text}",
            output.status
        );
    }
}

fn become_nobody() {
    if !Uid::effective().is_root() {
        return;
    }
    setgroups(&[]).expect("root may");
    setresgid(Gid::from_raw(NOBODY), Gid::from_raw(NOBODY), Gid::from_raw(NOBODY)).expect("root may");
    setresuid(Uid::from_raw(NOBODY), Uid::from_raw(NOBODY), Uid::from_raw(NOBODY)).expect("root may");
    // Having changed its user, a process may not look at its own /proc until it executes something: we have nothing to hide.
    // SAFETY: this prctl takes integers alone.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
}
