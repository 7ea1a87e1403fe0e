//! Nothing is left of a unit, whatever it did.

use crate::alone::{As, alone};
use crate::world::{World, lives};
use sandkeep::supervisor::action::Target;
use sandkeep::supervisor::event::{Event, Pid};
use sandkeep::unit::{Command, Main};

const ALL: &[As] = &[As::Us, As::Nobody, As::Pid1];

/// Stops a unit as the supervisor does: the signal to all, and SIGKILL to what is left when the main process is gone.
fn stop(world: &mut World, unit: &sandkeep::unit::Unit, main: Pid) -> Vec<String> {
    world.host.signal(&unit.name, 1, Target::All, libc::SIGTERM);
    world.host.empty(&unit.name, 1, false);
    world.wait_exit(main);
    world.host.empty(&unit.name, 1, true);
    world.wait_emptied(unit)
}

#[test]
fn all_shapes_of_leftovers_go() {
    alone(ALL, || {
        for (shape, script) in [
            (
                "background",
                "background touch-pid DIR/child forever -- wait-file DIR/child forever",
            ),
            ("setsid", "setsid touch-pid DIR/child forever -- wait-file DIR/child forever"),
            ("orphan", "orphan touch-pid DIR/child forever -- wait-file DIR/child forever"),
            ("bare", "orphan-bare touch-pid DIR/child forever -- wait-file DIR/child forever"),
            (
                "stubborn",
                "orphan-bare ignore 15 touch-pid DIR/child forever -- wait-file DIR/child forever",
            ),
            (
                "nested",
                "setsid orphan-bare touch-pid DIR/child forever -- -- wait-file DIR/child forever",
            ),
        ] {
            let mut world = World::new();
            let unit = world.unit(shape, script);
            let main = world.start(&unit);
            let child = world.pid_in("child");
            let left = stop(&mut world, &unit, main);
            assert_eq!((left, lives(child)), (Vec::new(), false), "{shape}");
        }
    });
}

#[test]
fn the_child_of_a_shell_goes_with_it() {
    alone(ALL, || {
        let mut world = World::new();
        let mut unit = world.unit("wrapper", "");
        let puppet = world.path("puppet").display().to_string();
        unit.main = Main::Exec(Command::Shell(format!("{puppet} touch-pid child forever; echo after")));
        let main = world.start(&unit);
        let child = world.pid_in("child");
        assert_ne!(main, child);
        assert_eq!(stop(&mut world, &unit, main), Vec::<String>::new());
        assert!(!lives(child));
    });
}

#[test]
fn leftovers_of_a_main_process_that_ended_by_itself_go() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = world.unit(
            "short",
            "orphan-bare ignore 15 touch-pid DIR/child forever -- wait-file DIR/child exit 3",
        );
        let main = world.start(&unit);
        let child = world.pid_in("child");
        world.wait_exit(main);
        world.host.empty(&unit.name, 1, false);
        world.turn(std::time::Duration::from_millis(50));
        assert!(lives(child), "only who asks for it kills");
        world.host.empty(&unit.name, 1, true);
        assert_eq!(world.wait_emptied(&unit), Vec::<String>::new());
        assert!(!lives(child));
        let answers = world.events.iter().filter(|event| matches!(event, Event::Emptied { .. })).count();
        assert_eq!(answers, 1);
    });
}

#[test]
fn nothing_is_waited_for_when_nothing_is_left() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = world.unit("short", "exit 0");
        let main = world.start(&unit);
        world.wait_exit(main);
        world.host.empty(&unit.name, 1, false);
        let events = world.host.events();
        assert!(
            matches!(&events[..], [Event::Emptied { left, .. }] if left.is_empty()),
            "{events:?}"
        );
        world.host.empty(&unit.name, 7, false);
        assert!(
            matches!(&world.host.events()[..], [Event::Emptied { invocation: 7, .. }]),
            "a run that never was is empty"
        );
    });
}

#[test]
fn a_fork_bomb_ends() {
    alone(&[As::Us, As::Nobody], || {
        let mut world = World::new();
        let mut unit = world.unit("bomb", "var SANDKEEP_INVOCATION_ID fork-bomb 4 forever");
        unit.limits.rlimits.insert("cpu", Some(60));
        let main = world.start(&unit);
        world.until("it to spread", |world| world.host.processes(&unit.name, 1).len() > 4);
        assert_eq!(stop(&mut world, &unit, main), Vec::<String>::new());
        let mark = format!("SANDKEEP_INVOCATION_ID={}", world.output("bomb").trim());
        assert!(mark.len() > 30);
        let alive = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        });
        assert_eq!(alive.count(), 0);
    });
}

#[test]
fn other_units_are_left_alone() {
    alone(ALL, || {
        let mut world = World::new();
        let other = world.unit("other", "orphan-bare touch-pid DIR/theirs forever -- forever");
        let other_main = world.start(&other);
        let theirs = world.pid_in("theirs");
        let unit = world.unit("unit", "orphan-bare touch-pid DIR/child forever -- forever");
        let main = world.start(&unit);
        let child = world.pid_in("child");
        stop(&mut world, &unit, main);
        assert_eq!((lives(child), lives(theirs), lives(other_main)), (false, true, true));
        assert_eq!(world.host.unit_of(theirs), Some((other.name.clone(), 1)));
        stop(&mut world, &other, other_main);
        assert!(!lives(theirs));
    });
}
