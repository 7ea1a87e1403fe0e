//! Commands that probes run.

use crate::alone::{As, alone};
use crate::world::{World, lives};
use sandkeep::supervisor::event::{ExitStatus, Pid};
use std::fs::File;
use std::os::fd::AsFd;
use tokio::sync::oneshot;

const ALL: &[As] = &[As::Us, As::Nobody, As::Pid1];

fn probe(world: &mut World, script: &str) -> (Pid, oneshot::Receiver<ExitStatus>) {
    let unit = world.unit("web", "forever");
    let output = File::create(world.path("probe.out")).unwrap();
    let probe = world.host.spawn_probe(&unit, 1, &world.puppet(script), output.as_fd()).unwrap();
    (probe.pid, probe.exit)
}

#[test]
fn the_end_of_a_probe_is_told_to_who_asked() {
    alone(ALL, || {
        let mut world = World::new();
        let (_, mut exit) = probe(&mut world, "print one exit 3");
        let mut status = None;
        world.until("the probe to end", |_| {
            status = exit.try_recv().ok();
            status.is_some()
        });
        assert_eq!(status, Some(ExitStatus::Code(3)));
        assert_eq!(world.output("probe"), "one\n");
        assert!(world.events.is_empty(), "{:?}", world.events);
    });
}

#[test]
fn a_probe_that_hangs_is_ended_with_all_that_it_started() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = world.unit("web", "forever");
        world.start(&unit);
        let (pid, _exit) = probe(
            &mut world,
            "background touch-pid DIR/child forever -- touch-pid DIR/probe ignore 15 forever",
        );
        let (seen, child) = (world.pid_in("probe"), world.pid_in("child"));
        assert_eq!(seen, pid);
        world.host.kill_probe(pid);
        world.until("both to be gone", |_| !lives(pid) && !lives(child));
        world.until("the unit alone to live", |world| world.host.processes(&unit.name, 1).len() == 1);
    });
}

#[test]
fn what_an_ended_probe_left_is_ended() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = world.unit("web", "forever");
        world.start(&unit);
        let (pid, mut exit) = probe(&mut world, "background touch-pid DIR/child forever -- wait-file DIR/child exit 0");
        let child = world.pid_in("child");
        world.until("the probe to end", |_| exit.try_recv().is_ok());
        world.host.kill_probe(pid);
        world.until("its child to be gone", |_| !lives(child));
        assert_eq!(world.host.processes(&unit.name, 1).len(), 1);
    });
}
