//! The profiles in `config/`: each is valid, does what its comments say, and expands to the same.

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the scenarios' sandbox, of which this needs a part"
)]
#[path = "../scenarios/sandbox.rs"]
mod sandbox;

mod start;

use sandkeep::unit::{Config, Flags, Source, load};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn config_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

/// Every TOML file that is one of ours: the profiles, and the `sandkeep.toml` of each example project.
fn profiles() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(config_directory()).expect("config/ is there");
    let mut profiles: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .map(|path| if path.is_dir() { path.join("sandkeep.toml") } else { path })
        .filter(|path| path.extension().is_some_and(|end| end == "toml") && path.is_file())
        .collect();
    profiles.sort();
    profiles
}

fn read(path: &Path) -> Config {
    let loaded = load(&Source::File(path.to_owned()), &Flags::default(), &BTreeMap::new());
    let loaded = loaded.unwrap_or_else(|said| panic!("{}\n{said}", path.display()));
    assert!(loaded.warnings.is_empty(), "{}\n{}", path.display(), loaded.warnings);
    loaded.config
}

#[test]
fn every_profile_is_valid_without_any_variable() {
    let profiles = profiles();
    assert!(profiles.len() >= 8, "{profiles:?}");
    for path in profiles {
        let config = read(&path);
        assert!(!config.units.is_empty(), "{}", path.display());
    }
}

#[test]
fn every_profile_says_what_it_is_for() {
    for path in profiles() {
        let text = std::fs::read_to_string(&path).expect("it can be read");
        assert!(text.starts_with("# "), "{} begins with a comment", path.display());
    }
}

#[test]
fn projects_have_the_standard_units() {
    for name in [
        "vite.toml",
        "nextjs.toml",
        "python.toml",
        "python-venv.toml",
        "vite/sandkeep.toml",
        "fastapi/sandkeep.toml",
    ] {
        let config = read(&config_directory().join(name));
        let names: Vec<&str> = config.units.iter().map(|unit| unit.name.as_str()).collect();
        assert_eq!(names, ["restore", "sync", "install", "dev", "agent"], "{name}");
        let install = config.unit("install").expect("it is one of them");
        assert!(
            !install.creates.is_empty() && !install.watch.is_empty(),
            "{name}: install is run when it has to be"
        );
        assert!(config.port.is_some(), "{name}");
    }
}

#[test]
fn the_worker_bundle_gets_its_keys() {
    let config = read(&config_directory().join("worker.toml"));
    let worker = config.unit("worker").expect("it is there");
    assert!(worker.secrets.iter().any(|name| name == "R2_*"));
    assert_eq!(config.units.len(), 1);
}

#[test]
fn the_examples_keep_their_files_where_they_are_told_to() {
    let environment = [("SANDKEEP_STORE".to_owned(), "file:///tmp/store".to_owned())].into();
    for (name, id) in [("vite", "vite-example"), ("fastapi", "fastapi-example")] {
        let source = Source::in_directory(&config_directory().join(name));
        let config = load(&source, &Flags::default(), &environment).expect("it is valid").config;
        assert_eq!(config.sync.store.as_deref(), Some("file:///tmp/store"), "{name}");
        assert_eq!(config.project_id, id);
        assert!(config.units.iter().all(|unit| unit.skip.is_none()), "{name}");
    }
}

#[test]
fn the_lock_file_names_no_registry() {
    let lock = std::fs::read_to_string(config_directory().join("vite/package-lock.json")).expect("it can be read");
    assert!(!lock.contains("\"resolved\""));
}
