//! What depends on files: products, watched content, retries.

use crate::alone::{As, alone};
use crate::world::World;
use sandkeep::supervisor::event::{Event, Stage};
use sandkeep::unit::{Config, Service, Unit};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn configure(world: &mut World, units: &[&Unit]) -> PathBuf {
    let root = world.path("root");
    std::fs::create_dir_all(&root).unwrap();
    let mut config = Config::of_units(units.iter().map(|unit| (*unit).clone()).collect());
    config.root.clone_from(&root);
    world.host.configure(&config);
    root
}

fn install(world: &World) -> Unit {
    let mut unit = world.unit("install", "exit 0");
    unit.service = Service::Oneshot { remain_after_exit: true };
    unit.watch = vec!["package.json".to_owned(), "package-lock.json".to_owned()];
    unit.creates = vec![world.path("root/node_modules")];
    unit
}

#[test]
fn a_oneshot_whose_products_are_there_is_not_run_again() {
    alone(&[As::Us, As::Nobody], || {
        let mut world = World::new();
        let unit = install(&world);
        let root = configure(&mut world, &[&unit]);
        std::fs::write(root.join("package.json"), "1").unwrap();
        let pid = world.start(&unit);
        world.wait_exit(pid);
        std::fs::create_dir(root.join("node_modules")).unwrap();
        let verdict = |world: &mut World, invocation| world.spawn_stage(&unit, invocation, Stage::Main);
        assert!(
            matches!(verdict(&mut world, 2), Event::Spawned { .. }),
            "nothing was remembered yet"
        );
        world.host.take_hashes(&unit);
        assert!(matches!(verdict(&mut world, 3), Event::Satisfied { invocation: 3, .. }));
        std::fs::write(root.join("package-lock.json"), "2").unwrap();
        assert!(matches!(verdict(&mut world, 4), Event::Spawned { .. }), "there is a new file");
        world.host.take_hashes(&unit);
        assert!(matches!(verdict(&mut world, 5), Event::Satisfied { .. }));
        std::fs::remove_dir(root.join("node_modules")).unwrap();
        assert!(matches!(verdict(&mut world, 6), Event::Spawned { .. }), "the product is gone");
    });
}

#[test]
fn changed_content_is_told_once_it_is_quiet() {
    alone(&[As::Us], || {
        let mut world = World::new();
        let unit = install(&world);
        let root = configure(&mut world, &[&unit]);
        std::fs::write(root.join("package.json"), "1").unwrap();
        world.host.take_hashes(&unit);
        // The same content, and files that are none of the unit's.
        std::fs::write(root.join("package.json"), "1").unwrap();
        std::fs::write(root.join("other.json"), "1").unwrap();
        world.until("the change to settle", |world| {
            assert!(world.host.events().is_empty());
            world.host.next_poll().is_none()
        });
        for n in 0..5 {
            std::fs::write(root.join("package.json"), format!("new {n}")).unwrap();
        }
        let path = world.wait("the change", |event| match event {
            Event::WatchChanged { unit, path } if unit.as_str() == "install" => Some(path.clone()),
            _ => None,
        });
        assert_eq!(path, "package.json");
        assert_eq!(world.host.next_poll(), None, "told once");
    });
}

#[test]
fn a_package_manager_is_waited_for() {
    alone(&[As::Us], || {
        let mut world = World::new();
        let unit = install(&world);
        let mut npm = world.unit("agent", "");
        let root = configure(&mut world, &[&unit]);
        std::fs::copy(world.path("puppet"), world.path("npm")).unwrap();
        // `npm install …` as far as anyone can see: the words after it are passed over by the puppet's own reading.
        npm.main = sandkeep::unit::Main::Exec(sandkeep::unit::Command::Argv(
            [
                world.path("npm").display().to_string().as_str(),
                "install",
                "wait-file",
                &world.path("done").display().to_string(),
            ]
            .map(str::to_owned)
            .to_vec(),
        ));
        npm.working_directory.clone_from(&root);
        world.start(&npm);
        std::fs::write(root.join("package.json"), "1").unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(3500) {
            let told = world.turn(std::time::Duration::from_millis(100));
            assert!(told.is_empty(), "{told:?}");
        }
        std::fs::write(world.path("done"), "").unwrap();
        world.wait("the change", |event| matches!(event, Event::WatchChanged { .. }).then_some(()));
    });
}

#[test]
fn retries_are_watched_for_only_while_wanted() {
    alone(&[As::Us], || {
        let mut world = World::new();
        let mut unit = world.unit("dev", "exit 1");
        unit.retry_on_change = vec!["**".to_owned()];
        let root = configure(&mut world, &[&unit]);
        std::fs::create_dir_all(root.join("src/deep")).unwrap();
        std::fs::create_dir_all(root.join("node_modules/x")).unwrap();
        std::fs::write(root.join("src/a.ts"), "").unwrap();
        assert!(
            world.host.events().is_empty() && world.host.next_poll().is_none(),
            "nobody waits for it"
        );

        world.host.retry_on_change(&BTreeSet::from([unit.name.clone()]));
        std::fs::write(root.join("node_modules/x/index.js"), "").unwrap();
        std::fs::write(root.join("server.log"), "").unwrap();
        assert!(
            world.host.events().is_empty() && world.host.next_poll().is_none(),
            "these never count"
        );
        std::fs::write(root.join("src/deep/b.ts"), "").unwrap();
        let retry = |event: &Event| match event {
            Event::RetryChanged { path, .. } => Some(path.clone()),
            _ => None,
        };
        assert_eq!(world.wait("the retry", retry), "src/deep/b.ts");

        world.events.clear();
        std::fs::create_dir_all(root.join("fresh")).unwrap();
        std::fs::write(root.join("fresh/c.ts"), "").unwrap();
        assert_eq!(world.wait("the retry", retry), "fresh/c.ts");

        world.events.clear();
        world.host.retry_on_change(&BTreeSet::new());
        std::fs::write(root.join("src/a.ts"), "again").unwrap();
        assert!(world.host.events().is_empty() && world.host.next_poll().is_none());
    });
}
