//! What a process finds when it begins, and why one could not begin.

use crate::alone::{As, alone};
use crate::world::World;
use sandkeep::supervisor::event::{Event, Stage};
use sandkeep::unit::{Command, Main};
use std::collections::BTreeMap;

const ALL: &[As] = &[As::Us, As::Nobody, As::Pid1];

fn facts(world: &mut World, unit: &sandkeep::unit::Unit) -> BTreeMap<String, String> {
    let pid = world.start(unit);
    world.wait_exit(pid);
    let output = world.output(unit.name.as_str());
    output
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_process_begins_clean() {
    alone(ALL, || {
        let mut world = World::new();
        let unit = world.unit("clean", "self");
        let facts = facts(&mut world, &unit);
        let pid = &facts["pid"];
        assert_eq!((&facts["session"], &facts["group"]), (pid, pid), "it leads a session of its own");
        assert_eq!(facts["blocked"], "0000000000000000");
        assert_eq!(
            facts["ignored"], "0000000000001000",
            "SIGPIPE alone, which Rust ignores at its own start"
        );
        assert_eq!(facts["stdin"], "/dev/null");
        assert_eq!(facts["descriptors"], "0 1 2");
        assert_eq!(facts["death_signal"], "15");
        assert_eq!(facts["directory"], world.dir().canonicalize().unwrap().display().to_string());
    });
}

#[test]
fn a_start_that_fails_says_where_and_why() {
    alone(ALL, || {
        let mut world = World::new();
        let argv = |words: &[&str]| Main::Exec(Command::Argv(words.iter().map(|word| (*word).to_owned()).collect()));
        let mut unit = world.unit("wrong", "");

        unit.main = argv(&["/no/such/program"]);
        let error = world.start_fails(&unit);
        assert_eq!(
            (error.message.as_str(), error.temporary),
            ("executing `/no/such/program`: not found", false)
        );

        unit.main = argv(&["no-such-program-anywhere"]);
        let error = world.start_fails(&unit);
        assert_eq!(error.message, "executing `no-such-program-anywhere`: not found");
        assert!(error.hint.unwrap().contains("PATH"));

        let script = world.path("script");
        std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
        unit.main = argv(&[&script.display().to_string()]);
        let error = world.start_fails(&unit);
        assert_eq!(error.message, format!("executing `{}`: permission denied", script.display()));

        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = world.start_fails(&unit);
        assert_eq!(error.message, format!("executing `{}`: not found", script.display()));
        assert_eq!(
            error.hint.unwrap(),
            "it exists, but its interpreter `/no/such/interpreter` does not"
        );

        unit.main = Main::Exec(world.puppet("exit 0"));
        unit.working_directory = "/no/such/directory".into();
        let error = world.start_fails(&unit);
        assert_eq!(
            (error.message.as_str(), error.temporary),
            ("changing to directory `/no/such/directory`: not found", false)
        );

        unit.working_directory = world.dir().to_path_buf();
        unit.user = Some("no-such-user".to_owned());
        let error = world.start_fails(&unit);
        assert_eq!(
            (error.message.as_str(), error.temporary),
            ("setting user `no-such-user`: no such user", false)
        );

        unit.user = None;
        unit.environment_file = vec![(false, "/no/such/file".into())];
        let error = world.start_fails(&unit);
        assert_eq!(error.message, "reading environment file `/no/such/file`: not found");
        assert!(world.host.events().is_empty(), "what was not started does not end");
    });
}

#[test]
fn conditions_are_looked_at_before_the_first_stage() {
    alone(&[As::Us], || {
        let mut world = World::given(&[("SET", "yes")]);
        let mut unit = world.unit("conditional", "exit 0");
        unit.condition_environment = vec!["SET".to_owned(), "SET=yes".to_owned(), "!UNSET".to_owned(), "!SET=no".to_owned()];
        let pid = world.start(&unit);
        world.wait_exit(pid);
        for (condition, reason) in [
            ("UNSET", "condition_environment: `UNSET` is not set"),
            ("!SET", "condition_environment: `SET` is set"),
            ("SET=no", "condition_environment: `SET` has another value"),
        ] {
            unit.condition_environment = vec![condition.to_owned()];
            match world.spawn_stage(&unit, 2, Stage::Main) {
                Event::Skipped { reason: seen, .. } => assert_eq!(seen, reason),
                other => panic!("{other:?}"),
            }
        }
    });
}
