//! Who may use whom: ARCHITECTURE.md's table, held by reading every `crate::` path of the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What both workers may name.
const WORKER: &[&str] = &[
    "unit",
    "backoff",
    "ordered",
    "control::client",
    "sd_notify",
    "host::mask",
    "tasks",
    "web",
];

/// Module, and the modules that its files may name. `cli` is everyone's entry and may name all; the names of `supervisor::event` and
/// `supervisor::action` may be taken from where `supervisor` offers them again.
const MAY_USE: &[(&str, &[&str])] = &[
    ("unit", &["ordered"]),
    ("backoff", &[]),
    ("ordered", &[]),
    ("sd_notify", &[]),
    ("tasks", &[]),
    ("web", &["tasks"]),
    ("supervisor", &["unit", "backoff", "ordered"]),
    (
        "host",
        &["unit", "supervisor::event", "supervisor::action", "backoff", "ordered", "sd_notify"],
    ),
    (
        "control",
        &["unit", "supervisor", "host::journal", "host::mask", "ordered", "tasks", "web"],
    ),
    (
        "daemon",
        &["unit", "supervisor", "host", "control", "ordered", "sd_notify", "tasks"],
    ),
    ("sync", WORKER),
    ("agent", WORKER),
    ("mcp", &["unit", "control::client"]),
    (
        "sandbox",
        &[
            "unit",
            "control::document",
            "control::client",
            "host::mask",
            "backoff",
            "ordered",
            "tasks",
            "web",
        ],
    ),
];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a readable folder").flatten() {
            sources(&entry.path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// Every path after `crate::` outside comments, with a group's members each on its own: `crate::unit::{Name, Unit}` is two.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n");
    let mut paths = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        expand("", rest, &mut paths);
    }
    paths
}

/// Reads one path from the start of `rest` and returns what follows it.
fn expand<'a>(prefix: &str, rest: &'a str, paths: &mut BTreeSet<String>) -> &'a str {
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(rest.len());
        let (path, after) = rest.split_at(end);
        let path = format!("{prefix}{path}");
        if after.starts_with('{') {
            return expand(&path, after, paths);
        }
        paths.insert(path);
        return after;
    };
    let mut rest = group;
    loop {
        rest = rest.trim_start().trim_start_matches(',').trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return after;
        }
        let before = rest.len();
        rest = expand(prefix, rest, paths);
        rest = rest.trim_start();
        if let Some(renamed) = rest.strip_prefix("as ") {
            rest = renamed.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        }
        if rest.is_empty() || rest.len() == before {
            return rest;
        }
    }
}

fn allowed(path: &str, module: &str, table: &[&str]) -> bool {
    let within = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with("::"));
    within(module) || table.iter().any(|root| within(root))
}

/// The names that `supervisor` offers again, each with where it is from: `supervisor::Pid`, `supervisor::event::Pid`.
fn offered_again(src: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(src.join("supervisor/mod.rs")).expect("src/supervisor/mod.rs");
    let mut names = BTreeMap::new();
    for rest in text.split("pub use ").skip(1) {
        let mut paths = BTreeSet::new();
        expand("", rest, &mut paths);
        for path in paths {
            let name = path.rsplit("::").next().unwrap_or(&path);
            names.insert(format!("supervisor::{name}"), format!("supervisor::{path}"));
        }
    }
    names
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let offered = offered_again(&src);
    let mut wrong = Vec::new();
    for (module, table) in MAY_USE {
        let mut files = Vec::new();
        sources(&src.join(module), &mut files);
        sources(&src.join(format!("{module}.rs")), &mut files);
        for file in files.iter().filter(|file| file.exists()) {
            for path in crate_paths(&std::fs::read_to_string(file).expect("a source file")) {
                let origin = offered.get(&path).unwrap_or(&path);
                if !allowed(origin, module, table) {
                    let file = file.strip_prefix(&src).expect("a file under src").display();
                    wrong.push(format!("src/{file}: `{module}` may not use `crate::{path}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("src/lib.rs");
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let unknown: Vec<_> = modules
        .filter(|name| *name != "cli" && !MAY_USE.iter().any(|(module, _)| module == name))
        .collect();
    assert!(unknown.is_empty(), "the table of tests/architecture.rs has no row for {unknown:?}");
}

#[test]
fn paths_are_read_from_groups_and_calls() {
    let found = crate_paths(
        "use crate::unit::{Name, spec::{A as B, C}};\nlet x = crate::backoff::next(1); // crate::comment::only\nuse crate::{host, sync::plan};",
    );
    let expected = [
        "unit::Name",
        "unit::spec::A",
        "unit::spec::C",
        "backoff::next",
        "host",
        "sync::plan",
    ];
    assert_eq!(found, expected.into_iter().map(str::to_owned).collect());
}
