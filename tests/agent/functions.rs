//! The functions of `config/convex/` have tests and types of their own.

use std::path::Path;
use std::process::Command;

fn node(script: &str, arguments: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/convex");
    let output = Command::new("node")
        .arg(folder.join("node_modules").join(script))
        .args(arguments)
        .current_dir(&folder)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}\nhint: tests/agent/setup installs what is needed");
}

#[test]
fn their_own_tests_pass() {
    node("vitest/vitest.mjs", &["run"]);
}

#[test]
fn their_types_fit() {
    node("typescript/bin/tsc", &["--noEmit"]);
}
