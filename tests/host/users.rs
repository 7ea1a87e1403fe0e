//! `user = "auto"`: a user for each unit, and files that they share.

use crate::alone::{As, alone};
use crate::world::{World, given, host_in};
use sandkeep::supervisor::event::Event;
use sandkeep::unit::{Config, Unit};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// What it says of itself, once it has ended.
fn said(world: &mut World, unit: &Unit) -> BTreeMap<String, String> {
    let pid = world.start(unit);
    world.wait_exit(pid);
    let output = world.output(unit.name.as_str());
    let pairs = output.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn auto(world: &World, name: &str, script: &str) -> Unit {
    let mut unit = world.unit(name, script);
    unit.user = Some("auto".to_owned());
    unit.working_directory = world.path("project");
    unit
}

fn configure(world: &mut World, units: &[&Unit]) {
    let mut config = Config::of_units(units.iter().map(|unit| (*unit).clone()).collect());
    config.root = world.path("project");
    world.host.configure(&config);
}

#[test]
fn each_unit_has_a_user_of_its_own_and_they_share_the_project() {
    skip!("needs-root");
    alone(&[As::Us, As::Pid1], || {
        let mut world = World::new();
        std::fs::create_dir_all(world.path("project/src")).unwrap();
        std::fs::write(world.path("project/src/theirs"), "x").unwrap();
        let one = auto(&world, "one", "self env append src/theirs more write src/new one");
        let two = auto(&world, "two", "self env append src/new two");
        configure(&mut world, &[&one, &two]);
        let first = said(&mut world, &one);
        let second = said(&mut world, &two);
        let uid = |seen: &BTreeMap<String, String>| seen["uid"].split(' ').next().unwrap().parse::<u32>().unwrap();
        for seen in [&first, &second] {
            assert!((61185..=65519).contains(&uid(seen)), "{}", seen["uid"]);
            assert_eq!((seen["groups"].as_str(), seen["umask"].as_str()), ("61184", "0002"));
        }
        assert_ne!(uid(&first), uid(&second));
        assert_eq!((first["USER"].as_str(), first["LOGNAME"].as_str()), ("one", "one"));
        let home = std::fs::metadata(&first["HOME"]).unwrap();
        assert_eq!((home.uid(), home.permissions().mode() & 0o777), (uid(&first), 0o700));
        assert_eq!(first["GIT_CONFIG_VALUE_0"], world.path("project").display().to_string());
        assert_eq!(std::fs::read_to_string(world.path("project/src/theirs")).unwrap(), "xmore\n");
        assert_eq!(std::fs::read_to_string(world.path("project/src/new")).unwrap(), "onetwo\n");

        // The next supervisor gives the same.
        let dir = world.dir().to_path_buf();
        drop(std::mem::replace(&mut world.host, host_in(&dir, given(&[]))));
        configure(&mut world, &[&two, &one]);
        let three = Unit {
            name: one.name.clone(),
            ..auto(&world, "three", "write who x")
        };
        said(&mut world, &three);
        assert_eq!(std::fs::metadata(world.path("project/who")).unwrap().uid(), uid(&first));
    });
}

#[test]
fn without_root_it_is_a_warning_or_with_strict_an_error() {
    alone(&[As::Nobody], || {
        let mut world = World::new();
        std::fs::create_dir(world.path("project")).unwrap();
        let mut unit = auto(&world, "one", "exit 0");
        match world.spawn_stage(&unit, 1, sandkeep::supervisor::event::Stage::Main) {
            Event::Spawned { pid, warnings, .. } => {
                assert_eq!(warnings, ["making its user: only root can, and it runs as the supervisor's own"]);
                world.wait_exit(pid);
            }
            other => panic!("not started: {other:?}"),
        }
        unit.strict = true;
        assert!(world.start_fails(&unit).message.starts_with("making its user: only root can"));
    });
}
