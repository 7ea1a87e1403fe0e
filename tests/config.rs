//! Configurations: every bad one with what is said about it, and what holds for all of them.

use proptest::prelude::*;
use sandkeep::unit::{Flags, Paint, load_text};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The variables that a golden file asks for: `# env: NAME=value`.
fn environment(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# env: "));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn rendered(text: &str) -> Option<String> {
    let result = load_text(text, "sandkeep.toml", Path::new("/"), &Flags::default(), &environment(text));
    result.err().map(|diagnostics| diagnostics.render(Paint::Plain))
}

/// Rewrites them with `UPDATE=1`.
#[test]
fn every_bad_configuration_says_what_is_wrong() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config");
    let update = std::env::var_os("UPDATE").is_some();
    let mut different = Vec::new();
    let mut faults = 0;
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|end| end == "toml"));
    names.sort();
    for path in &names {
        let text = fs::read_to_string(path).unwrap();
        let said = rendered(&text).unwrap_or_else(|| panic!("{} is valid", path.display()));
        faults += said.lines().filter(|line| line.starts_with("error: ")).count();
        let golden = path.with_extension("stderr");
        if update {
            fs::write(&golden, &said).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != said {
            different.push(format!("{}:\n{said}", golden.display()));
        }
    }
    assert!(names.len() >= 40 && faults >= 100, "{} files, {faults} faults", names.len());
    assert!(
        different.is_empty(),
        "run with UPDATE=1 when this is meant:\n{}",
        different.join("\n")
    );
}

fn load(text: &str, environment: &BTreeMap<String, String>) -> Result<sandkeep::unit::Loaded, sandkeep::unit::Diagnostics> {
    load_text(text, "sandkeep.toml", Path::new("/"), &Flags::default(), environment)
}

/// Lines of which random configurations are made: most are valid, some are not.
const LINES: &[&str] = &[
    "[project]",
    "[unit.web]",
    "[unit.db]",
    "[unit.job]",
    "[sync]",
    "[agent]",
    "[health]",
    "[secrets]",
    "[control.allow]",
    "[unit.web.environment]",
    "[[unit]]",
    "exec = \"true\"",
    "exec = [\"a\", \"$X\", \"${A}\"]",
    "exec_start_pre = [[\"a\"], [\"b\", \"$$\"]]",
    "exec_stop = \"echo ${A} $$\"",
    "type = \"oneshot\"",
    "worker = \"sync\"",
    "dev = \"npm run dev\"",
    "install = \"npm install\"",
    "port = \"${PORT:-3000}\"",
    "port = 3000",
    "id = \"${A}\"",
    "requires = [\"db\"]",
    "before = [\"job\"]",
    "part_of = [\"web\"]",
    "after = []",
    "restart = \"always\"",
    "restart_delay = \"1.5s\"",
    "start_timeout = \"infinity\"",
    "stop_timeout = \"1min 30s\"",
    "umask = \"027\"",
    "kill_signal = \"INT\"",
    "drain_signal = \"SIGRTMIN+3\"",
    "success_exit_status = [3, \"SIGTERM\"]",
    "limit_nofile = 1024",
    "limit_core = \"infinity\"",
    "memory_max = \"1.5GiB\"",
    "readiness = { listen = true, interval = \"1s\" }",
    "liveness = { http = \"http://localhost:3000/\", always = true }",
    "startup = { log = 'ready \\d+$' }",
    "environment = { A = \"${SECRET}\", B = \"$$${A}\", C = 3, D = \"\\n\\t\\\"\" }",
    "environment_file = \"-.env\"",
    "A = \"${SECRET:-x}\"",
    "token = \"${SECRET}\"",
    "names = [\"SEC*\"]",
    "store = \"file:///store\"",
    "batch_interval = \"90s\"",
    "exclude = [\"**/*.log\"]",
    "model = \"opus\"",
    "max_budget_usd = 3",
    "env = { X = \"$$1\" }",
    "agent = [\"status\", \"restart:web\"]",
    "condition_path_exists = [\"!/x\", \"y\"]",
    "working_directory = \"sub/./dir\"",
    "watch = [\"a/**\", \"${A}\"]",
    "secrets = [\"SECRET\"]",
    "enabled = false",
    "optional = true",
    "nonsense",
    "x = [",
    "\"\" = 1",
    "a.b.c = { d = [[], {}] }",
];

fn surroundings() -> BTreeMap<String, String> {
    let pairs = [
        ("A", "a$b${c}"),
        ("SECRET", "hush-hush"),
        ("EMPTY", ""),
        ("SANDKEEP_TOKEN", "token-of-mine"),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// What holds for every configuration that is valid.
fn expands_to_the_same(text: &str, environment: &BTreeMap<String, String>) -> bool {
    let Ok(first) = load(text, environment) else { return false };
    let again = load(&first.expanded, environment)
        .unwrap_or_else(|said| panic!("{text}\nexpands to\n{}\nof which is said\n{said}", first.expanded));
    assert_eq!(again.config, first.config, "{text}\n{}", first.expanded);
    assert_eq!(again.expanded, first.expanded, "{text}");
    assert!(
        !first.expanded.contains("hush-hush") && !first.expanded.contains("token-of-mine"),
        "{}",
        first.expanded
    );
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Err(said) = load(&text, &surroundings()) {
            prop_assert!(!said.to_string().is_empty());
        }
    }

    #[test]
    fn random_lines_never_panic(lines in proptest::collection::vec(proptest::sample::select(LINES), 0..24)) {
        if let Err(said) = load(&lines.join("\n"), &surroundings()) {
            prop_assert!(!said.to_string().is_empty());
        }
    }

    #[test]
    fn cut_and_mangled_files_never_panic(index in 0_usize..4, cut in 0_usize..4000, byte in any::<u8>()) {
        let mut bytes = VALID[index].as_bytes().to_vec();
        let at = cut % bytes.len();
        bytes[at] = byte;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let _ = load(&text, &surroundings());
        let _ = load(&text.chars().take(at).collect::<String>(), &surroundings());
    }

    #[test]
    fn what_is_valid_expands_to_the_same(
        project in proptest::bool::ANY,
        lines in proptest::collection::vec(proptest::sample::select(UNIT_LINES), 0..8),
    ) {
        let mut seen = std::collections::BTreeSet::new();
        let mut body: Vec<&str> = lines.into_iter().filter(|line| seen.insert(line.split(' ').next().map(str::to_owned))).collect();
        let mut text = vec!["[secrets]", "names = [\"SEC*\", \"SANDKEEP_*\"]"];
        if project {
            text.extend(["[project]", "id = \"p_${A}\"", "dev = \"npm run dev -- ${X}\"", "port = 3000", "[unit.dev]"]);
        } else {
            text.extend(["[unit.db]", "exec = \"db\"", "[unit.web]", "exec = [\"web\", \"$1\"]", "after = [\"db\"]"]);
        }
        text.append(&mut body);
        let environment = [("A", "a"), ("SECRET", "hush-hush")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        prop_assert!(expands_to_the_same(&text.join("\n"), &environment), "{}\n{}", text.join("\n"), load(&text.join("\n"), &environment).unwrap_err());
    }
}

/// Keys that any unit with a command can have, all at once.
const UNIT_LINES: &[&str] = &[
    "description = \"costs 5$, or $${A}; ${A}\"",
    "exec_start_pre = [[\"a\"], [\"b\", \"$$\"]]",
    "exec_start_post = [\"a\", \"${A}\"]",
    "exec_stop = \"echo ${A} $$\"",
    "exec_stop_post = [[\"only one\"]]",
    "wants = []",
    "restart = \"on-abnormal\"",
    "restart_delay = \"1.5s\"",
    "restart_steps = 0",
    "start_timeout = \"infinity\"",
    "stop_timeout = \"1min 30s\"",
    "watchdog = \"infinity\"",
    "umask = 0o27",
    "kill_mode = \"mixed\"",
    "kill_signal = \"INT\"",
    "drain_signal = \"SIGRTMIN+3\"",
    "success_exit_status = [3, \"SIGTERM\", \"SIGRTMIN+1\"]",
    "limit_nofile = 1024",
    "limit_core = \"infinity\"",
    "memory_max = \"1.5GiB\"",
    "tasks_max = 100",
    "cpu_weight = 7",
    "readiness = { listen = true, interval = \"1s\" }",
    "liveness = { http = \"http://localhost:3000/\", always = true }",
    "startup = { log = 'ready \\d+$' }",
    "environment = { A = \"${SECRET}\", B = \"$$${A}\", C = 3, D = \"\\n\\t\\\"\\u0001\", \"E F\" = \"${SECRET:-x}${NONE:-$$}\" }",
    "environment_file = \"-.env\"",
    "condition_path_exists = [\"!/x\", \"y\"]",
    "condition_environment = [\"!X\", \"Y=z w\"]",
    "working_directory = \"sub/./dir\"",
    "watch = [\"a/**\", \"${A}\"]",
    "secrets = [\"SECRET\"]",
    "optional = true",
    "nice = -3",
    "user = \"${A}\"",
];

const VALID: [&str; 4] = [
    "[project]\nid = \"p\"\ninstall = \"npm install\"\ndev = \"npm run dev\"\nport = 3000\n[unit.dev]\nrestart_delay = \"1s\"\n[unit.agent]\nenabled = false\n",
    "[unit.a]\nexec = \"a\"\nbefore = [\"b\"]\n[unit.b]\nexec = [\"b\", \"c\"]\nreadiness = { tcp = \"localhost:3000\" }\n",
    "[unit.a]\nworker = \"agent\"\n[unit.b]\ntype = \"oneshot\"\nexec = \"x\"\ncreates = [\"y\"]\n[sync]\nstore = \"off\"\ninclude = [\"*\"]\n[agent]\nmodel = \"m\"\nenv = { A = \"1\" }\n",
    "[secrets]\nnames = [\"S*\"]\n[health]\nlisten = \"0.0.0.0:1\"\ntoken = \"${SECRET}\"\n[control]\nallow = { a = [\"*\"] }\n[unit.a]\nexec = \"x\"\nenvironment = { S = \"${SECRET}\" }\n",
];

#[test]
fn valid_configurations_expand_to_the_same() {
    for text in VALID {
        let environment = surroundings();
        assert!(expands_to_the_same(text, &environment), "{}", load(text, &environment).unwrap_err());
    }
}
