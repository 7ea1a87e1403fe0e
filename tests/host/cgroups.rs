//! Each unit in a cgroup of its own, where cgroup v2 may be written.

use crate::alone::{As, alone};
use crate::world::{World, lives};
use sandkeep::supervisor::action::Target;
use sandkeep::supervisor::event::{Event, Pid, Stage};

const OURS: &[As] = &[As::Us, As::Pid1];

/// The cgroup of a process.
fn group_of(pid: Pid) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn whatever_a_unit_forks_is_in_its_cgroup_and_ends_with_it() {
    skip!("needs-cgroup2");
    alone(OURS, || {
        let mut world = World::new();
        assert!(world.host.capabilities().cgroup2, "{:?}", world.host.capabilities());
        // It lost its parent, its session, its environment and its mark: only the kernel knows whose it is.
        let unit = world.unit("web", "orphan-bare unmark ignore 15 touch-pid DIR/child forever -- forever");
        let main = world.start(&unit);
        let child = world.pid_in("child");
        assert!(group_of(main).ends_with("/web.unit"), "{}", group_of(main));
        assert_eq!(group_of(child), group_of(main));
        assert_eq!(world.host.unit_of(child), Some((unit.name.clone(), 1)));
        assert!(world.host.processes(&unit.name, 1).contains(&child));
        let directory = world.host.cgroup(&unit.name, 1).unwrap();
        world.host.signal(&unit.name, 1, Target::All, libc::SIGTERM);
        world.host.empty(&unit.name, 1, false);
        world.wait_exit(main);
        assert!(lives(child));
        world.host.empty(&unit.name, 1, true);
        assert_eq!(world.wait_emptied(&unit), Vec::<String>::new());
        assert!(!lives(child));
        drop(world);
        assert!(!directory.parent().unwrap().exists(), "{}", directory.display());
    });
}

#[test]
fn the_next_run_takes_the_cgroup_over() {
    skip!("needs-cgroup2");
    alone(&[As::Us], || {
        let mut world = World::new();
        let unit = world.unit("web", "exit 0");
        let main = world.start(&unit);
        let first = world.host.cgroup(&unit.name, 1);
        world.wait_exit(main);
        world.host.empty(&unit.name, 1, true);
        world.wait_emptied(&unit);
        let Event::Spawned { pid, .. } = world.spawn_stage(&unit, 2, Stage::Main) else {
            panic!("not started")
        };
        assert_eq!(world.host.cgroup(&unit.name, 2), first);
        assert_eq!(world.host.cgroup(&unit.name, 1), None);
        world.wait_exit(pid);
    });
}

#[test]
fn limits_that_cannot_be_enforced_are_said_or_with_strict_refused() {
    alone(&[As::Us, As::Nobody, As::Pid1], || {
        let mut world = World::new();
        let mut unit = world.unit("limited", "forever");
        unit.limits.memory_max = Some(64 << 20);
        unit.limits.tasks_max = Some(8);
        unit.limits.cpu_weight = Some(50);
        let missing = world.host.capabilities().cgroup.missing(&unit.limits);
        let Event::Spawned { pid, warnings, .. } = world.spawn_stage(&unit, 1, Stage::Main) else {
            panic!("not started")
        };
        assert_eq!(warnings, missing);
        if let Some(directory) = world.host.cgroup(&unit.name, 1) {
            let value = |file: &str| {
                std::fs::read_to_string(directory.join(file))
                    .ok()
                    .map(|text| text.trim().to_owned())
            };
            let has = |name: &str| world.host.capabilities().cgroup.controllers.iter().any(|one| one == name);
            assert_eq!(value("memory.max"), has("memory").then(|| (64 << 20).to_string()));
            assert_eq!(value("pids.max"), has("pids").then(|| "8".to_owned()));
            assert_eq!(value("cpu.weight"), has("cpu").then(|| "50".to_owned()));
        }
        world.host.signal(&unit.name, 1, Target::All, libc::SIGKILL);
        world.wait_exit(pid);

        unit.strict = true;
        match world.spawn_stage(&unit, 2, Stage::Main) {
            Event::SpawnFailed { error, .. } => {
                assert_eq!(Some(&error.message), missing.first());
                assert!(!error.temporary);
            }
            other => assert_eq!(missing, Vec::<String>::new(), "{other:?}"),
        }
    });
}
