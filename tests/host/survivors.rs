//! A supervisor that was killed, and the next one.

use crate::alone::{As, alone};
use crate::world::{PATIENCE, World, given, host_in, lives, places};
use sandkeep::host::end_survivors;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const ALL: &[As] = &[As::Us, As::Nobody, As::Pid1];
const DIRECTORY: &str = "SANDKEEP_TEST_DIRECTORY";

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same test again as the first supervisor, which is to be killed.
fn first_supervisor(dir: &Path) -> Child {
    let arguments = std::env::args().skip(1);
    let executable = std::env::current_exe().unwrap();
    // In a group of its own, so that nobody mistakes it for one of the tests' processes.
    Command::new(executable)
        .args(arguments)
        .env(DIRECTORY, dir)
        .process_group(0)
        .spawn()
        .unwrap()
}

/// Runs these units until killed, when this is the first supervisor.
fn be_first(units: &[(&str, &str)]) {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let mut world = World::in_directory(Path::new(&dir));
    for (name, script) in units {
        let unit = world.unit(name, script);
        world.start(&unit);
        world.host.events();
    }
    loop {
        world.turn(Duration::from_secs(1));
    }
}

fn pid_in(path: &Path) -> i32 {
    wait_for(&format!("{}", path.display()), || path.exists());
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

#[test]
fn units_get_sigterm_when_their_supervisor_is_killed() {
    alone(ALL, || {
        be_first(&[("polite", "touch-pid DIR/pid forever")]);
        let dir = crate::world::directory();
        let mut first = first_supervisor(dir.path());
        let pid = pid_in(&dir.path().join("pid"));
        first.kill().unwrap();
        first.wait().unwrap();
        wait_for("the unit to end", || !lives(pid));
        end_survivors(&places(dir.path()), Duration::ZERO);
    });
}

#[test]
fn the_next_supervisor_ends_what_survived() {
    alone(ALL, || {
        be_first(&[
            ("stubborn", "ignore 15 touch-pid DIR/main forever"),
            ("setsid", "setsid ignore 15 touch-pid DIR/setsid forever -- forever"),
            ("orphan", "orphan touch-pid DIR/orphan forever -- forever"),
            ("bare", "orphan-bare ignore 15 touch-pid DIR/bare forever -- forever"),
        ]);
        let dir = crate::world::directory();
        let mut first = first_supervisor(dir.path());
        let pids = ["main", "setsid", "orphan", "bare"].map(|name| pid_in(&dir.path().join(name)));
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(lives(pids[0]) && lives(pids[3]), "they ignore SIGTERM");
        let found = end_survivors(&places(dir.path()), Duration::from_millis(300));
        assert_eq!(pids.map(lives), [false; 4], "{found:?}");
        assert!(found.iter().any(|text| text.starts_with("stubborn: pid ")), "{found:?}");
        drop(host_in(dir.path(), given(&[])));
        assert_eq!(end_survivors(&places(dir.path()), Duration::ZERO), Vec::<String>::new());
    });
}

#[test]
fn a_recycled_pid_is_not_touched() {
    alone(&[As::Us, As::Nobody], || {
        let dir = crate::world::directory();
        drop(host_in(dir.path(), given(&[])));
        let mut innocent = Command::new(dir.path().join("puppet")).arg("forever").spawn().unwrap();
        let record = places(dir.path()).runs();
        let mut text = std::fs::read_to_string(&record).unwrap();
        text += &format!("{} 1 0123456789abcdef 0 web\n", innocent.id());
        std::fs::write(&record, text).unwrap();
        assert_eq!(end_survivors(&places(dir.path()), Duration::ZERO), Vec::<String>::new());
        assert!(innocent.try_wait().unwrap().is_none());
        innocent.kill().unwrap();
        innocent.wait().unwrap();
    });
}

#[test]
fn who_hid_from_everything_is_found_in_the_old_cgroups() {
    skip!("needs-cgroup2");
    alone(&[As::Us, As::Pid1], || {
        be_first(&[("hidden", "orphan-bare unmark ignore 15 touch-pid DIR/hidden forever -- forever")]);
        let dir = crate::world::directory();
        let mut first = first_supervisor(dir.path());
        let pid = pid_in(&dir.path().join("hidden"));
        first.kill().unwrap();
        first.wait().unwrap();
        assert!(lives(pid), "it ignores SIGTERM");
        let record = places(dir.path()).runtime.join("cgroup");
        let tree = std::fs::read_to_string(&record).unwrap();
        let found = end_survivors(&places(dir.path()), Duration::from_millis(100));
        assert!(found.iter().any(|text| text.starts_with("hidden: pid ")), "{found:?}");
        assert!(!lives(pid), "{found:?}");
        assert!(!Path::new(&tree).exists() && !record.exists(), "{tree}");
    });
}
