//! Skipping a test honestly: only what `tests/skips.toml` lists, and only where its condition holds.
//!
//! ```ignore
//! #[macro_use]
//! #[path = "common/skip.rs"]
//! mod skip; // at the root of the test crate
//!
//! #[test]
//! fn changes_the_user() {
//!     skip!("needs-root"); // first line; no condition of the test's own: it is in the list
//!     …
//! }
//! ```
//!
//! A test that does not return `()` says `if skip::here("needs-root") { return Ok(()); }`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};

/// Ends the test, saying why, if the list has this name and its condition holds here.
#[allow(unused_macros)]
macro_rules! skip {
    ($name:literal) => {
        if $crate::skip::here($name) {
            return;
        }
    };
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    when: String,
    reason: String,
}

/// Whether the test may be skipped on this machine; fails the test if the list does not have the name.
#[allow(
    unreachable_pub,
    clippy::print_stderr,
    reason = "shared by several test crates; the test runner shows what is printed"
)]
pub fn here(name: &str) -> bool {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/skips.toml");
    let text = std::fs::read_to_string(list).expect("tests/skips.toml is committed");
    let skips: BTreeMap<String, Skip> = toml::from_str(&text).expect("tests/skips.toml is a table of { when, reason }");
    let Some(skip) = skips.get(name) else {
        panic!("tests/skips.toml does not list `{name}`: a test that cannot run where it is fails, or is listed with its reason");
    };
    if !holds(&skip.when) {
        return false;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("skipped {test}: {name}: {}", skip.reason);
    note(&format!("{test}: {name}: {}\n", skip.reason));
    true
}

fn holds(condition: &str) -> bool {
    Command::new("/bin/sh")
        .args(["-c", condition])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("/bin/sh runs")
        .success()
}

/// The test command reads this file to say what was skipped.
fn note(line: &str) {
    if let Some(path) = std::env::var_os("SANDKEEP_SKIPPED") {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("SANDKEEP_SKIPPED names a writable file");
        file.write_all(line.as_bytes()).expect("the list of skipped tests is written");
    }
}
