//! The vendor's SDK and command line.

use crate::double::Double;
use std::path::Path;
use std::process::Command;

/// A repository with one commit, for `source: git`.
fn repository(dir: &Path) -> String {
    let script =
        "git init -q -b main . && echo hello > README && git add . && git -c user.name=t -c user.email=t@example.com commit -q -m first";
    let status = Command::new("sh").args(["-c", script]).current_dir(dir).status().unwrap();
    assert!(status.success());
    format!("file://{}", dir.display())
}

/// Runs a file of node tests, and shows what it says if one fails.
pub(crate) fn passes(file: &str, surroundings: &[(&str, &str)]) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vercel");
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=spec", file]).current_dir(here);
    let output = node.envs(surroundings.iter().copied()).output().expect("node runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("pass 0"), "{said}");
}

fn against_the_double(file: &str) {
    let double = Double::start();
    let repo = tempfile::tempdir().unwrap();
    let repo = repository(repo.path());
    passes(
        file,
        &[
            ("VERCEL_FAKE_API", &double.api),
            ("VERCEL_FAKE_ADMIN", &double.admin),
            ("VERCEL_TEST_REPO", &repo),
        ],
    );
}

#[test]
fn the_vendors_sdk_is_satisfied() {
    skip!("needs-sandbox-namespaces");
    skip!("needs-vercel-sdk");
    against_the_double("sdk.test.mjs");
}

#[test]
fn the_vendors_command_line_is_satisfied() {
    skip!("needs-sandbox-namespaces");
    skip!("needs-vercel-sdk");
    against_the_double("cli.test.mjs");
}

#[test]
fn the_service_itself_passes_the_same() {
    skip!("needs-vercel-token");
    skip!("needs-vercel-sdk");
    passes("sdk.test.mjs", &[]);
    passes("cli.test.mjs", &[]);
}
