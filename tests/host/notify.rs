//! What processes of units say.

use crate::alone::{As, alone};
use crate::world::World;
use sandkeep::supervisor::action::Target;
use sandkeep::supervisor::event::{Event, ExitStatus, Notice, Stage};
use sandkeep::unit::Service;
use std::os::unix::net::UnixDatagram;

const ALL: &[As] = &[As::Us, As::Nobody, As::Pid1];

fn notifying(world: &World, name: &str, script: &str) -> sandkeep::unit::Unit {
    let mut unit = world.unit(name, script);
    unit.service = Service::Notify;
    unit
}

#[test]
fn any_process_of_the_unit_may_speak() {
    alone(ALL, || {
        for (shape, script) in [
            ("main", "notify READY=1 forever"),
            ("background", "background notify READY=1 forever -- forever"),
            ("orphan", "orphan notify READY=1 forever -- forever"),
        ] {
            let mut world = World::new();
            let unit = notifying(&world, shape, script);
            world.start(&unit);
            let (seen, invocation) = world.wait("READY=1", |event| match event {
                Event::Notified {
                    unit,
                    invocation,
                    notice: Notice::Ready,
                } => Some((unit.clone(), *invocation)),
                _ => None,
            });
            assert_eq!((seen, invocation), (unit.name, 1));
        }
    });
}

#[test]
fn nobody_else_may_speak() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = notifying(&world, "unit", "wait-file DIR/go notify STATUS=mine forever");
        world.start(&unit);
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"READY=1", world.host.places().notify_socket()).unwrap();
        std::fs::write(world.path("go"), "").unwrap();
        world.wait_notice(&Notice::Status("mine".to_owned()));
        assert!(
            !world
                .events
                .iter()
                .any(|event| matches!(event, Event::Notified { notice: Notice::Ready, .. }))
        );
    });
}

#[test]
fn only_who_is_asked_for_words_gets_the_socket() {
    alone(&[As::Us], || {
        let mut world = World::given(&[("NOTIFY_SOCKET", "/the/supervisors/own"), ("WATCHDOG_USEC", "1")]);
        let unit = world.unit("simple", "var NOTIFY_SOCKET var WATCHDOG_USEC");
        let pid = world.start(&unit);
        world.wait_exit(pid);
        assert_eq!(world.output("simple"), "(unset)\n(unset)\n");
        let mut unit = world.unit("watched", "var NOTIFY_SOCKET var WATCHDOG_USEC");
        unit.watchdog = Some(std::time::Duration::from_millis(1500));
        let pid = world.start(&unit);
        world.wait_exit(pid);
        let socket = world.host.places().notify_socket().display().to_string();
        assert_eq!(world.output("watched"), format!("{socket}\n1500000\n"));
    });
}

#[test]
fn another_process_of_the_unit_can_become_its_main_process() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = notifying(
            &world,
            "daemon",
            "orphan touch-pid DIR/child notify MAINPID=PID wait-file DIR/go exit 5 -- wait-file DIR/old exit 0",
        );
        let old = world.start(&unit);
        let new = world.pid_in("child");
        world.wait_notice(&Notice::MainPid(new));
        std::fs::write(world.path("old"), "").unwrap();
        world.until("the old one to be reaped", |_| {
            !std::path::Path::new(&format!("/proc/{old}")).exists()
        });
        assert!(
            !world.events.iter().any(|event| matches!(event, Event::Exited { .. })),
            "{:?}",
            world.events
        );
        std::fs::write(world.path("go"), "").unwrap();
        let (stage, status) = world.wait("its end", |event| match event {
            Event::Exited { pid, stage, status, .. } if *pid == new => Some((*stage, *status)),
            _ => None,
        });
        assert_eq!((stage, status), (Stage::Main, ExitStatus::Code(5)));
    });
}

#[test]
fn a_main_process_that_is_somebody_elses_child_is_noticed_too() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = notifying(
            &world,
            "forked",
            "background touch-pid DIR/child notify MAINPID=PID forever -- forever",
        );
        world.start(&unit);
        let child = world.pid_in("child");
        world.wait_notice(&Notice::MainPid(child));
        world.host.signal(&unit.name, 1, Target::Main, libc::SIGTERM);
        world.wait_exit(child);
    });
}

#[test]
fn a_process_of_another_unit_cannot_be_named_main() {
    alone(ALL, || {
        let mut world = World::new();
        let other = world.unit("other", "forever");
        let theirs = world.start(&other);
        let unit = notifying(&world, "unit", &format!("notify MAINPID={theirs}\\nSTATUS=said forever"));
        world.start(&unit);
        world.wait_notice(&Notice::Status("said".to_owned()));
        assert!(!world.events.iter().any(|event| matches!(
            event,
            Event::Notified {
                notice: Notice::MainPid(_),
                ..
            }
        )));
    });
}

#[test]
fn junk_is_no_harm() {
    alone(&[As::Us], || {
        let mut world = World::new();
        let script = "notify = notify \\n\\n notify READY=maybe notify MAINPID=-1 notify STATUS=\u{1b}[31mred notify READY=1 forever";
        let unit = notifying(&world, "junk", script);
        world.start(&unit);
        world.wait_notice(&Notice::Ready);
        let notices: Vec<_> = world
            .events
            .iter()
            .filter(|event| matches!(event, Event::Notified { .. }))
            .collect();
        assert_eq!(notices.len(), 2, "{notices:?}");
    });
}
