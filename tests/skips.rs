//! The list of what may be skipped is true to the tests: each `skip!` is listed, and the helper refuses what is not.

#[path = "common/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::path::Path;

fn names_used(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a folder of the project").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("node_modules") {
            names_used(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("skip.rs") && !path.ends_with("skips.rs") {
            let text = std::fs::read_to_string(&path).expect("a source file");
            for mark in ["skip!(\"", "skip::here(\""] {
                found.extend(
                    text.split(mark)
                        .skip(1)
                        .filter_map(|rest| rest.split('"').next())
                        .map(str::to_owned),
                );
            }
        }
    }
}

#[test]
fn every_skip_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut used = BTreeSet::new();
    names_used(&root.join("tests"), &mut used);
    names_used(&root.join("src"), &mut used);
    let listed: toml::Table = toml::from_str(&std::fs::read_to_string(root.join("tests/skips.toml")).unwrap()).unwrap();
    let missing: Vec<_> = used.iter().filter(|name| !listed.contains_key(*name)).collect();
    assert!(missing.is_empty(), "tests/skips.toml does not list {missing:?}");
}

#[test]
#[should_panic(expected = "does not list `no-such-reason`")]
fn an_unlisted_skip_fails() {
    skip::here("no-such-reason");
}

#[test]
fn a_listed_skip_goes_by_its_condition() {
    assert_eq!(skip::here("needs-root"), !nix::unistd::geteuid().is_root());
}
