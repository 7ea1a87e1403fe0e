//! Environment, users, limits: what a unit's section says of its processes' surroundings.

use crate::alone::{As, NOBODY, alone};
use crate::world::World;
use sandkeep::supervisor::event::{Event, Stage};
use std::collections::BTreeMap;

const ALL: &[As] = &[As::Us, As::Nobody, As::Pid1];

fn pairs(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Runs the unit to its end and reads `name=value` lines from its output.
fn run(world: &mut World, unit: &sandkeep::unit::Unit) -> BTreeMap<String, String> {
    let pid = world.start(unit);
    world.wait_exit(pid);
    pairs(&world.output(unit.name.as_str()))
}

#[test]
fn secrets_reach_only_units_that_name_them() {
    alone(ALL, || {
        let given = [
            ("R2_KEY", "k"),
            ("GITHUB_TOKEN", "t"),
            ("PLAIN", "p"),
            ("NOTIFY_SOCKET", "n"),
            ("SANDKEEP_UNIT", "outer"),
            ("PWD", "/o"),
        ];
        let mut world = World::given(&given);
        let unit = world.unit("plain", "env");
        let seen = run(&mut world, &unit);
        assert_eq!(seen["PLAIN"], "p");
        for absent in ["R2_KEY", "GITHUB_TOKEN", "NOTIFY_SOCKET"] {
            assert!(!seen.contains_key(absent), "{absent}");
        }
        assert_eq!(seen["SANDKEEP_UNIT"], "plain");
        assert_eq!(seen["SANDKEEP_SOCKET"], world.host.places().control_socket().display().to_string());
        assert_eq!(seen["SANDKEEP_INVOCATION_ID"].len(), 32);
        assert_eq!(seen["PWD"], world.dir().display().to_string());

        let mut unit = world.unit("trusted", "env");
        unit.secrets = vec!["R2_*".to_owned()];
        let seen = run(&mut world, &unit);
        assert_eq!(seen["R2_KEY"], "k");
        assert!(!seen.contains_key("GITHUB_TOKEN"));
    });
}

#[test]
fn the_stronger_source_of_a_variable_wins() {
    alone(&[As::Us], || {
        let mut world = World::given(&[("A", "given"), ("B", "given"), ("C", "given"), ("SANDKEEP_UNIT", "given")]);
        std::fs::write(world.path("one.env"), "B=one\nC=one\n").unwrap();
        std::fs::write(world.path("two.env"), "C=two\n").unwrap();
        let mut unit = world.unit("layers", "env");
        unit.environment_file = vec![
            (false, world.path("one.env")),
            (true, world.path("missing.env")),
            (false, world.path("two.env")),
        ];
        unit.environment = BTreeMap::from([("C".to_owned(), "unit".to_owned()), ("SANDKEEP_UNIT".to_owned(), "unit".to_owned())]);
        let seen = run(&mut world, &unit);
        assert_eq!(
            [&seen["A"], &seen["B"], &seen["C"], &seen["SANDKEEP_UNIT"]],
            ["given", "one", "unit", "layers"]
        );
    });
}

#[test]
fn each_run_has_an_id_of_its_own_and_its_stages_share_it() {
    alone(&[As::Us], || {
        let mut world = World::new();
        let mut unit = world.unit("runs", "var SANDKEEP_INVOCATION_ID");
        unit.exec_start_pre = vec![world.puppet("var SANDKEEP_INVOCATION_ID")];
        for (invocation, stage) in [(1, Stage::StartPre(0)), (1, Stage::Main), (2, Stage::Main)] {
            let Event::Spawned { pid, .. } = world.spawn_stage(&unit, invocation, stage) else {
                panic!("not started")
            };
            world.wait_exit(pid);
        }
        let output = world.output("runs");
        let ids: Vec<&str> = output.lines().collect();
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[1], ids[2]);
    });
}

#[test]
fn limits_umask_and_privileges_are_set() {
    alone(ALL, || {
        let mut world = World::new();
        let mut unit = world.unit("limited", "self");
        unit.limits.rlimits.insert("nofile", Some(77));
        unit.limits.rlimits.insert("core", Some(0));
        unit.umask = Some(0o027);
        unit.no_new_privileges = true;
        unit.nice = Some(7);
        unit.oom_score_adjust = Some(555);
        unit.strict = true;
        let seen = run(&mut world, &unit);
        let of = |name: &str| seen[name].as_str();
        assert_eq!(
            [
                of("nofile"),
                of("core"),
                of("umask"),
                of("no_new_privs"),
                of("nice"),
                of("oom_score_adj")
            ],
            ["77 77", "0 0", "0027", "1", "7", "555"]
        );
    });
}

#[test]
fn what_cannot_be_had_is_a_warning_or_with_strict_an_error() {
    alone(&[As::Nobody], || {
        let mut world = World::new();
        let mut unit = world.unit("greedy", "self");
        unit.nice = Some(-10);
        unit.user = Some("root".to_owned());
        let Event::Spawned { pid, warnings, .. } = world.spawn_stage(&unit, 1, Stage::Main) else {
            panic!("not started")
        };
        world.wait_exit(pid);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("setting user `root`: only root can"), "{warnings:?}");
        assert_eq!(warnings[1], "setting nice value -10: permission denied");
        assert_eq!(pairs(&world.output("greedy"))["nice"], "0");

        unit.strict = true;
        assert!(world.start_fails(&unit).message.starts_with("setting user `root`: only root can"));
        unit.user = None;
        let error = world.start_fails(&unit);
        assert_eq!(
            (error.message.as_str(), error.temporary),
            ("setting nice value -10: permission denied", false)
        );
    });
}

#[test]
fn root_runs_a_unit_as_its_user() {
    skip!("needs-root");
    alone(&[As::Us, As::Pid1], || {
        let mut world = World::given(&[("HOME", "/root"), ("USER", "root")]);
        let mut unit = world.unit("app", "self var HOME var USER");
        unit.user = Some("nobody".to_owned());
        let seen = run(&mut world, &unit);
        let id = NOBODY.to_string();
        assert_eq!(seen["uid"], [id.as_str(); 4].join(" "));
        assert_eq!(seen["gid"], [id.as_str(); 4].join(" "));
        assert_eq!(seen["groups"], id);
        assert_eq!(seen["death_signal"], "15", "set again after the change of user");
        let output = world.output("app");
        assert!(output.ends_with("/nonexistent\nnobody\n"), "{output}");

        let mut unit = world.unit("numbers", "self");
        unit.user = Some("12345".to_owned());
        unit.group = Some("54321".to_owned());
        let seen = run(&mut world, &unit);
        assert_eq!(
            (seen["uid"].as_str(), seen["gid"].as_str()),
            ("12345 12345 12345 12345", "54321 54321 54321 54321")
        );

        let mut unit = world.unit("badgroup", "self");
        unit.group = Some("no-such-group".to_owned());
        assert_eq!(world.start_fails(&unit).message, "setting group `no-such-group`: no such group");
    });
}

#[test]
fn a_unit_of_another_user_can_notify() {
    skip!("needs-root");
    alone(&[As::Us, As::Pid1], || {
        let mut world = World::new();
        let mut unit = world.unit("app", "notify READY=1 forever");
        unit.user = Some("nobody".to_owned());
        unit.service = sandkeep::unit::Service::Notify;
        world.start(&unit);
        world.wait_notice(&sandkeep::supervisor::event::Notice::Ready);
    });
}

#[test]
fn a_limit_on_processes_is_a_temporary_failure() {
    alone(&[As::Nobody], || {
        let mut world = World::new();
        let nproc = nix::sys::resource::Resource::RLIMIT_NPROC;
        let (soft, hard) = nix::sys::resource::getrlimit(nproc).unwrap();
        nix::sys::resource::setrlimit(nproc, 0, hard).unwrap();
        let unit = world.unit("many", "exit 0");
        let error = world.start_fails(&unit);
        assert_eq!(
            error.message,
            "making a process: no more processes can be made (a limit is reached)"
        );
        assert!(error.temporary);
        nix::sys::resource::setrlimit(nproc, soft, hard).unwrap();
        let pid = world.start(&unit);
        world.wait_exit(pid);
    });
}

#[test]
fn a_program_that_is_being_written_is_a_temporary_failure() {
    alone(&[As::Us], || {
        let mut world = World::new();
        std::fs::copy(world.path("puppet"), world.path("fresh")).unwrap();
        let writer = std::fs::OpenOptions::new().append(true).open(world.path("fresh")).unwrap();
        let mut unit = world.unit("fresh", "");
        unit.main = sandkeep::unit::Main::Exec(sandkeep::unit::Command::Argv(vec![world.path("fresh").display().to_string()]));
        let error = world.start_fails(&unit);
        assert!(error.temporary && error.message.ends_with("text file busy"), "{error:?}");
        drop(writer);
        let pid = world.start(&unit);
        world.wait_exit(pid);
    });
}
