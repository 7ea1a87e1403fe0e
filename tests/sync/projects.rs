//! Real trees, as the tools make them that users begin with.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, text, tree};
use std::fs;
use std::process::{Command, Stdio};

/// Runs a program of `tests/sync/node_modules`.
fn create(sandbox: &Sandbox, program: &str, arguments: &[&str]) {
    let bin = format!("{}/tests/sync/node_modules/.bin/{program}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(bin)
        .args(arguments)
        .current_dir(sandbox.home.path())
        .env("HOME", sandbox.home.path())
        .env("CI", "1")
        .env("NEXT_TELEMETRY_DISABLED", "1")
        .stdin(Stdio::null())
        .output();
    let output = output.expect("it is installed");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

/// Every file of the template is kept, nothing of what is built, and it comes back the same.
fn goes_and_comes_back(sandbox: &mut Sandbox, ignored: &[&str], made: &[&str]) {
    let r2 = R2::start();
    sandbox.store = r2.url("");
    let mut kept = tree(&sandbox.root);
    // The template's own .gitignore says so.
    kept.retain(|name, _| !ignored.contains(&name.as_str()));
    assert!(kept.len() > 8, "{kept:?}");
    for name in made {
        sandbox.write(name, "made by a tool");
    }
    sandbox.start();
    sandbox.wait("exactly the template is there", |_| {
        differences(&kept, &store(&r2, "p1")).is_empty()
    });
    assert_eq!(sandbox.stop(), Some(0));
    let fresh = Sandbox::on(&r2);
    fresh.restore();
    assert_eq!(differences(&kept, &tree(&fresh.root)), Vec::<String>::new());
}

#[test]
fn a_vite_project() {
    skip!("needs-create-apps");
    let mut sandbox = Sandbox::new("");
    fs::remove_dir(&sandbox.root).expect("removed");
    create(&sandbox, "create-vite", &["tree", "--template", "react-ts"]);
    goes_and_comes_back(
        &mut sandbox,
        &[],
        &[
            "node_modules/react/index.js",
            "dist/index.html",
            "node_modules/.vite/deps/x.js",
            "npm-debug.log",
        ],
    );
}

#[test]
fn a_next_project() {
    skip!("needs-create-apps");
    let mut sandbox = Sandbox::new("");
    fs::remove_dir(&sandbox.root).expect("removed");
    let arguments = [
        "tree",
        "--yes",
        "--skip-install",
        "--disable-git",
        "--typescript",
        "--app",
        "--tailwind",
        "--eslint",
    ];
    create(&sandbox, "create-next-app", &arguments);
    goes_and_comes_back(
        &mut sandbox,
        &["next-env.d.ts"],
        &[
            ".next/cache/x.pack",
            "node_modules/next/package.json",
            "out/index.html",
            "coverage/lcov.info",
            ".env.local",
        ],
    );
}
