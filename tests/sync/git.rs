//! The main flow: a fresh clone in a new box, and what the store keeps of the old one.

use crate::server::R2;
use crate::tree::{Sandbox, text};
use std::fs;
use std::path::Path;
use std::process::Command;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@example.com",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git is there");
    assert!(output.status.success(), "git {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

struct Upstream(tempfile::TempDir);

impl Upstream {
    fn new() -> Self {
        let upstream = Self(tempfile::tempdir().expect("a directory"));
        let path = upstream.0.path();
        git(path, &["init", "-q"]);
        for name in ["a.txt", "b.txt", "c.txt", "d.txt", "gone.txt", "both-gone.txt"] {
            fs::write(path.join(name), format!("{name} at first\n")).expect("written");
        }
        fs::write(path.join(".gitignore"), "ignored.txt\n").expect("written");
        upstream.commit("first");
        upstream
    }

    fn write(&self, name: &str, bytes: &str) {
        fs::write(self.0.path().join(name), bytes).expect("written");
    }

    fn commit(&self, message: &str) {
        git(self.0.path(), &["add", "-A"]);
        git(self.0.path(), &["commit", "-q", "-m", message]);
    }

    fn clone_into(&self, sandbox: &Sandbox) {
        git(&sandbox.root, &["clone", "-q", &self.0.path().to_string_lossy(), "."]);
    }

    /// As sandboxes like to do it: only the newest commit.
    fn clone_shallow_into(&self, sandbox: &Sandbox) {
        let url = format!("file://{}", self.0.path().display());
        git(&sandbox.root, &["clone", "-q", "--depth", "1", &url, "."]);
        assert_eq!(git(&sandbox.root, &["rev-parse", "--is-shallow-repository"]), "true");
    }
}

fn conflicts(r2: &R2) -> Vec<String> {
    let kept = r2.objects().into_keys().filter(|key| key.contains("/.sandkeep/conflicts/"));
    kept.map(|key| String::from_utf8(r2.read(&key).expect("there")).expect("text"))
        .collect()
}

#[test]
fn a_fresh_clone_is_a_baseline_and_no_edit() {
    let r2 = R2::start();
    let upstream = Upstream::new();
    let old = Sandbox::on(&r2);
    upstream.clone_into(&old);
    old.write("a.txt", "edited in the box\n");
    old.write("b.txt", "edited in the box too\n");
    fs::remove_file(old.path("gone.txt")).expect("removed");
    fs::remove_file(old.path("both-gone.txt")).expect("removed");
    old.write("new.txt", "new in the box\n");
    old.flush();
    let before = git(&old.root, &["status", "--porcelain"]);

    upstream.write("b.txt", "edited upstream\n");
    upstream.write("c.txt", "edited upstream alone\n");
    upstream.write("both-gone.txt", "edited upstream though\n");
    upstream.write("added.txt", "added upstream\n");
    fs::remove_file(upstream.0.path().join("d.txt")).expect("removed");
    upstream.commit("second");

    let new = Sandbox::on(&r2);
    upstream.clone_into(&new);
    let arrived = new.restore();
    assert_eq!(new.read("a.txt"), "edited in the box\n", "changed in the box alone: the store's");
    assert_eq!(new.read("b.txt"), "edited in the box too\n", "changed on both sides: the store's");
    assert_eq!(new.read("c.txt"), "edited upstream alone\n", "changed upstream alone: the clone's");
    assert_eq!(new.read("added.txt"), "added upstream\n");
    assert_eq!(new.read("new.txt"), "new in the box\n");
    for name in ["gone.txt", "both-gone.txt", "d.txt"] {
        assert!(!new.path(name).exists(), "{name}: {arrived}");
    }
    let mut kept = conflicts(&r2);
    kept.sort();
    assert_eq!(kept, ["edited upstream\n", "edited upstream though\n"]);
    assert_eq!(git(&new.root, &["status", "--porcelain"]), before, "{arrived}");
    // The next flush brings the store up to what is here.
    new.flush();
    assert_eq!(r2.read("p1/c.txt").as_deref(), Some(&b"edited upstream alone\n"[..]));
    assert_eq!(r2.read("p1/d.txt"), None);
}

#[test]
fn commits_branches_stash_and_index_that_were_never_pushed_come_back() {
    let r2 = R2::start();
    let upstream = Upstream::new();
    let old = Sandbox::on(&r2);
    upstream.clone_into(&old);
    git(&old.root, &["config", "user.name", "T"]);
    git(&old.root, &["config", "user.email", "t@example.com"]);
    old.write("stashed.txt", "x");
    old.write("c.txt", "in the stash\n");
    git(&old.root, &["stash", "push", "-q", "-m", "later"]);
    git(&old.root, &["branch", "idea"]);
    old.write("a.txt", "committed, not pushed\n");
    git(&old.root, &["commit", "-q", "-am", "unpushed work"]);
    git(&old.root, &["checkout", "-q", "-b", "feature"]);
    old.write("b.txt", "on the feature branch\n");
    git(&old.root, &["commit", "-q", "-am", "feature work"]);
    old.write("c.txt", "staged\n");
    git(&old.root, &["add", "c.txt"]);
    old.write("d.txt", "not staged\n");
    old.write("untracked.txt", "untracked\n");
    old.flush();
    let told = |sandbox: &Sandbox| {
        let status = git(&sandbox.root, &["status", "--porcelain", "-b"]);
        let branches = git(&sandbox.root, &["for-each-ref", "--format=%(refname) %(objectname)", "refs/heads"]);
        let stash = git(&sandbox.root, &["stash", "list", "--format=%H"]);
        // Whether a branch follows an upstream is not kept.
        (
            status.replace("...origin/main", "").lines().map(str::to_owned).collect::<Vec<_>>(),
            branches,
            stash,
        )
    };
    let before = told(&old);

    let new = Sandbox::on(&r2);
    upstream.clone_into(&new);
    let arrived = new.restore();
    assert_eq!(told(&new), before, "{arrived}");
    assert_eq!(git(&new.root, &["log", "--format=%s", "-3"]), "feature work\nunpushed work\nfirst");
    assert_eq!(new.read("d.txt"), "not staged\n");
    assert_eq!(git(&new.root, &["fsck", "--connectivity-only"]), "");
}

#[test]
fn what_git_tracks_is_kept_whatever_the_rules_say() {
    let r2 = R2::start();
    let sandbox = Sandbox::on(&r2);
    git(&sandbox.root, &["init", "-q"]);
    sandbox.write("package.json", "{}");
    sandbox.write(".gitignore", "*.gen\ndist/\n");
    sandbox.write("dist/tracked.js", "tracked");
    sandbox.write("dist/other.js", "other");
    sandbox.write("x.gen", "tracked");
    sandbox.write("y.gen", "other");
    sandbox.write("node_modules/patched/index.js", "tracked");
    sandbox.write("node_modules/other/index.js", "other");
    git(
        &sandbox.root,
        &["add", "-f", "dist/tracked.js", "x.gen", "node_modules/patched/index.js"],
    );
    sandbox.flush();
    let kept: Vec<_> = r2.files("p1/").into_keys().collect();
    assert_eq!(
        kept,
        [
            ".gitignore",
            "dist/tracked.js",
            "node_modules/patched/index.js",
            "package.json",
            "x.gen"
        ]
    );
}

#[test]
fn a_shallow_clone_is_a_baseline_too_and_gets_its_commits_back() {
    let r2 = R2::start();
    let upstream = Upstream::new();
    upstream.write("c.txt", "second\n");
    upstream.commit("second");
    let old = Sandbox::on(&r2);
    upstream.clone_shallow_into(&old);
    old.write("a.txt", "committed, not pushed\n");
    git(&old.root, &["commit", "-q", "-am", "unpushed work"]);
    old.write("b.txt", "not committed\n");
    old.flush();
    let told = |sandbox: &Sandbox| {
        (
            git(&sandbox.root, &["status", "--porcelain"]),
            git(&sandbox.root, &["rev-parse", "HEAD"]),
        )
    };

    let same = Sandbox::on(&r2);
    upstream.clone_shallow_into(&same);
    let arrived = same.restore();
    assert_eq!(told(&same), told(&old), "{arrived}");
    assert_eq!(same.read("b.txt"), "not committed\n");

    // Upstream has gone on: the commit that the bundle builds upon is not in the new clone.
    upstream.write("d.txt", "edited upstream alone\n");
    upstream.commit("third");
    let new = Sandbox::on(&r2);
    upstream.clone_shallow_into(&new);
    let arrived = new.restore();
    assert_eq!(new.read("d.txt"), "edited upstream alone\n", "changed upstream alone: the clone's");
    assert_eq!(
        (new.read("a.txt"), new.read("b.txt")),
        ("committed, not pushed\n".into(), "not committed\n".into())
    );
    let said = arrived["refused"]["git"].as_str().expect("the branches went apart");
    assert!(said.contains("`sandkeep/main`"), "{said}");
    assert_eq!(git(&new.root, &["log", "-1", "--format=%s", "sandkeep/main"]), "unpushed work");
    assert_eq!(git(&new.root, &["fsck", "--connectivity-only"]), "");
}

#[test]
fn a_restore_onto_a_clone_that_was_killed_is_still_one_onto_a_clone() {
    let r2 = R2::start();
    let upstream = Upstream::new();
    let old = Sandbox::on(&r2);
    upstream.clone_into(&old);
    // More than are remembered in one go while a restore runs, and too large for the pack.
    for n in 0..1100 {
        old.write(&format!("new/f{n:04}"), vec![b'x'; 65_537]);
    }
    git(&old.root, &["commit", "-q", "--allow-empty", "-m", "unpushed"]);
    old.flush();
    upstream.write("c.txt", "edited upstream alone\n");
    upstream.commit("second");
    let mut new = Sandbox::on(&r2);
    upstream.clone_into(&new);
    new.start_with(&["restore"]);
    let pid = new.pid();
    r2.faults(&format!(
        r#"[{{"operation":"GetObject","key":"f10","kind":"kill-after:{pid}","skip":60,"count":1}}]"#
    ));
    assert_eq!(new.ended(), None, "it was killed");
    r2.faults("[]");
    let arrived = new.restore();
    assert_eq!(new.read("c.txt"), "edited upstream alone\n", "{arrived}");
    assert_eq!(conflicts(&r2), Vec::<String>::new());
    assert_eq!(git(&new.root, &["log", "-1", "--format=%s", "sandkeep/main"]), "unpushed");
}
