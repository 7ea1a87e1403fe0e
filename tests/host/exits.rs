//! How the host hears of the ends of processes.

use crate::alone::{As, alone};
use crate::world::{World, lives};
use sandkeep::supervisor::action::Target;
use sandkeep::supervisor::event::{Event, ExitStatus, Notice, Stage};
use sandkeep::unit::Service;

const ALL: &[As] = &[As::Us, As::Nobody, As::Pid1];

#[test]
fn codes_signals_and_core_dumps_are_told_apart() {
    alone(ALL, || {
        let mut world = World::new();
        for (name, script, expected) in [
            ("zero", "print done", ExitStatus::Code(0)),
            ("seven", "exit 7", ExitStatus::Code(7)),
            ("killed", "raise 9", ExitStatus::Signal { signal: 9, core: false }),
            ("realtime", "raise 40", ExitStatus::Signal { signal: 40, core: false }),
        ] {
            let unit = world.unit(name, script);
            let pid = world.start(&unit);
            assert_eq!(world.wait_exit(pid), expected, "{name}");
        }
        let mut unit = world.unit("abort", "abort");
        unit.limits.rlimits.insert("core", Some(0));
        let pid = world.start(&unit);
        assert!(matches!(world.wait_exit(pid), ExitStatus::Signal { signal: 6, .. }));
    });
}

#[test]
fn what_was_said_comes_before_the_end() {
    alone(ALL, || {
        let mut world = World::new();
        for round in 0..20 {
            let mut unit = world.unit(&format!("u{round}"), "notify READY=1\\nSTATUS=last_words");
            unit.service = Service::Notify;
            let pid = world.start(&unit);
            // Nothing is taken before it is dead: then both are there at once.
            let begun = std::time::Instant::now();
            while lives(pid) && begun.elapsed() < crate::world::PATIENCE {
                std::thread::yield_now();
            }
            let events = world.host.events();
            let at = |wanted: fn(&Event) -> bool| events.iter().position(wanted).expect("it was told");
            let ready = at(|event| matches!(event, Event::Notified { notice: Notice::Ready, .. }));
            let status = at(|event| matches!(event, Event::Notified { notice: Notice::Status(text), .. } if text == "last_words"));
            let exited = at(|event| matches!(event, Event::Exited { .. }));
            assert!(ready < status && status < exited, "{events:?}");
        }
    });
}

#[test]
fn orphans_are_reaped_in_silence() {
    alone(ALL, || {
        let mut world = World::new();
        let script = "orphan exit 3 -- ".repeat(100) + "forever";
        let unit = world.unit("parent", &script);
        world.start(&unit);
        world.until("all orphans to be gone", |_| {
            let me = std::process::id();
            let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap_or_default();
            let tasks = std::fs::read_dir("/proc/self/task").expect("ours").flatten();
            let all = tasks
                .map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default())
                .collect::<String>();
            drop(children);
            all.split_ascii_whitespace().count() == 1 && all.trim().parse::<i32>().is_ok_and(lives)
        });
        assert!(
            !world.events.iter().any(|event| matches!(event, Event::Exited { .. })),
            "{:?}",
            world.events
        );
    });
}

#[test]
fn each_stage_ends_under_its_own_name() {
    alone(ALL, || {
        let mut world = World::new();
        let mut unit = world.unit("stages", "forever");
        unit.exec_start_pre = vec![world.puppet("exit 1"), world.puppet("exit 2")];
        unit.exec_stop = vec![world.puppet("var MAINPID")];
        unit.exec_stop_post = vec![world.puppet("var EXIT_CODE var EXIT_STATUS")];
        for n in 0..2 {
            let Event::Spawned { pid, .. } = world.spawn_stage(&unit, 1, Stage::StartPre(n)) else {
                panic!("not started")
            };
            assert_eq!(world.wait_exit(pid), ExitStatus::Code(u8::try_from(n + 1).unwrap()));
        }
        let main = world.start(&unit);
        let Event::Spawned { pid, .. } = world.spawn_stage(&unit, 1, Stage::Stop(0)) else {
            panic!("not started")
        };
        world.wait_exit(pid);
        world.host.signal(&unit.name, 1, Target::Main, 15);
        assert_eq!(world.wait_exit(main), ExitStatus::Signal { signal: 15, core: false });
        let Event::Spawned { pid, .. } = world.spawn_stage(&unit, 1, Stage::StopPost(0)) else {
            panic!("not started")
        };
        world.wait_exit(pid);
        assert_eq!(world.output("stages"), format!("{main}\nkilled\nTERM\n"));
        let stages: Vec<Stage> = world
            .events
            .iter()
            .filter_map(|e| if let Event::Exited { stage, .. } = e { Some(*stage) } else { None })
            .collect();
        assert_eq!(
            stages,
            [
                Stage::StartPre(0),
                Stage::StartPre(1),
                Stage::Stop(0),
                Stage::Main,
                Stage::StopPost(0)
            ]
        );
    });
}
