//! Bringing files back, by hand.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, text, tree};
use std::fs;

#[test]
fn a_tree_comes_back_as_it_was() {
    let r2 = R2::start();
    let from = Sandbox::on(&r2);
    from.write("package.json", "{}");
    from.write("src/app/page.tsx", "export default 1");
    from.write("bin/run.sh", "#!/bin/sh\n");
    from.chmod("bin/run.sh", 0o755);
    from.write("secret.key", "k");
    from.chmod("secret.key", 0o600);
    from.write("empty.txt", "");
    from.write("big.bin", vec![5; 9 << 20]);
    from.write("node_modules/x/index.js", "left out");
    from.write(".env", "LEFT=out");
    fs::create_dir_all(from.path("an/empty/one")).expect("made");
    std::os::unix::fs::symlink("../src/app/page.tsx", from.path("bin/link")).expect("linked");
    let flushed = from.flush();
    assert_eq!((&flushed["durable"], &flushed["generation"]), (&true.into(), &1.into()));
    let object = &r2.files("p1/")["src/app/page.tsx"];
    assert_eq!(object.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(object.metadata["sha256"], object.sha256);

    let to = Sandbox::on(&r2);
    let arrived = to.restore();
    assert_eq!(arrived["downloaded"], 7);
    fs::remove_dir_all(from.path("node_modules")).expect("removed");
    fs::remove_file(from.path(".env")).expect("removed");
    assert_eq!(differences(&tree(&from.root), &tree(&to.root)), Vec::<String>::new());
    for (name, mode) in [("bin/run.sh", 0o755), ("secret.key", 0o600)] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(to.path(name)).expect("there").permissions().mode() & 0o777, mode);
    }
    assert!(to.path("an/empty/one").is_dir());
    assert_eq!(
        fs::read_link(to.path("bin/link")).expect("a link").to_string_lossy(),
        "../src/app/page.tsx"
    );
    let mtime = |sandbox: &Sandbox| {
        fs::metadata(sandbox.path("package.json"))
            .and_then(|meta| meta.modified())
            .expect("a time")
    };
    assert_eq!(mtime(&from), mtime(&to));

    // A second one finds everything as it is.
    r2.forget_counts();
    assert_eq!(to.restore()["downloaded"], 0);
    // The owner, the manifest, one listing.
    assert_eq!(r2.counts().values().sum::<u64>(), 3, "{:?}", r2.counts());
}

#[test]
fn only_what_differs_is_brought_and_local_work_stays() {
    let r2 = R2::start();
    let (a, b) = (Sandbox::on(&r2), Sandbox::on(&r2));
    for n in 0..20 {
        a.write(&format!("f{n}"), format!("{n}"));
    }
    a.flush();
    b.restore();
    a.write("f1", "changed there");
    fs::remove_file(a.path("f2")).expect("removed");
    a.write("new", "new");
    a.flush();
    b.write("f3", "changed here");
    b.write("own", "own");
    let arrived = b.restore();
    assert_eq!((&arrived["downloaded"], &arrived["removed"]), (&2.into(), &1.into()), "{arrived}");
    assert_eq!(
        (b.read("f1"), b.read("f3"), b.read("own")),
        ("changed there".into(), "changed here".into(), "own".into())
    );
    assert!(!b.path("f2").exists());
    b.flush();
    assert_eq!(differences(&tree(&b.root), &store(&r2, "p1")), Vec::<String>::new());
}

#[test]
fn both_sides_changed_keeps_both() {
    let r2 = R2::start();
    let (a, b) = (Sandbox::on(&r2), Sandbox::on(&r2));
    a.write("f", "base");
    a.flush();
    b.restore();
    a.write("f", "theirs");
    a.flush();
    b.write("f", "ours!");
    let arrived = b.restore();
    assert_eq!(arrived["conflicts"], 1, "{arrived}");
    assert_eq!(b.read("f"), "ours!");
    b.flush();
    let objects = r2.objects();
    assert_eq!(r2.read("p1/f").as_deref(), Some(&b"ours!"[..]));
    let kept = objects
        .keys()
        .find(|key| key.starts_with("p1/.sandkeep/conflicts/"))
        .expect("the other is kept");
    assert_eq!(r2.read(kept).as_deref(), Some(&b"theirs"[..]));
}

#[test]
fn a_strangers_edit_comes_in() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("index.html", "<h1>");
    a.write("keep", "keep");
    a.flush();
    r2.write("p1/index.html", b"<h2>");
    r2.write("p1/added/by hand.txt", b"hello");
    let b = Sandbox::on(&r2);
    b.restore();
    assert_eq!((b.read("index.html"), b.read("added/by hand.txt")), ("<h2>".into(), "hello".into()));
    a.restore();
    assert_eq!(a.read("index.html"), "<h2>");
    // It is in the next manifest, so that nobody takes it for a stranger's again.
    b.write("keep", "kept");
    b.flush();
    let c = Sandbox::on(&r2);
    assert_eq!(c.restore()["downloaded"], 3);
    assert_eq!(differences(&tree(&c.root), &store(&r2, "p1")), Vec::<String>::new());
}

#[test]
fn hostile_keys_are_refused_and_named() {
    let r2 = R2::start();
    let outside = tempfile::tempdir().expect("a directory");
    let a = Sandbox::on(&r2);
    for key in [
        "../../etc/passwd",
        "/abs",
        "a/../../x",
        "a//b",
        ".git/hooks/post-checkout",
        "x/.git/config",
        ".",
    ] {
        r2.write(&format!("p1/{key}"), b"evil");
    }
    r2.write("p1/good", b"good");
    r2.write("p1/door/inside", b"evil");
    std::os::unix::fs::symlink(outside.path(), a.path("door")).expect("linked");
    let arrived = a.restore();
    assert_eq!(arrived["refused"].as_object().map(serde_json::Map::len), Some(8), "{arrived}");
    assert_eq!(a.read("good"), "good");
    assert_eq!(fs::read_dir(outside.path()).expect("read").count(), 0);
    assert!(!a.path(".git").exists());
}

#[test]
fn a_beside_a_slash_b_keeps_one_and_names_the_other() {
    let r2 = R2::start();
    r2.write("p1/a", b"file");
    r2.write("p1/a/b", b"below");
    let a = Sandbox::on(&r2);
    let arrived = a.restore();
    assert_eq!(arrived["downloaded"], 1, "{arrived}");
    assert_eq!(arrived["refused"].as_object().map(serde_json::Map::len), Some(1), "{arrived}");
    a.flush();
    assert_eq!(r2.files("p1/").len(), 2, "nothing is lost in the store");
}

#[test]
fn wrong_keys_no_bucket_and_a_strangers_prefix_are_final() {
    let r2 = R2::start();
    let mut wrong = Sandbox::on(&r2);
    wrong.variables[1].1 = "wrong".into();
    let mut nowhere = Sandbox::on(&r2);
    nowhere.store = nowhere.store.replace("bucket", "no-such");
    let owner = Sandbox::on(&r2);
    owner.write("f", "x");
    owner.flush();
    r2.write("p2/.sandkeep/owner", &r2.read("p1/.sandkeep/owner").expect("claimed"));
    let mut thief = Sandbox::on(&r2);
    thief.project = "p2".into();
    thief.write("f", "y");
    for (sandbox, said) in [
        (wrong, "refuses the credentials"),
        (nowhere, "does not exist"),
        (thief, "belongs to the project `p1`, not to `p2`"),
    ] {
        for verb in ["restore", "run", "flush"] {
            let output = sandbox.sync(&[verb]);
            assert_eq!(output.status.code(), Some(78), "{verb}: {}", text(&output.stderr));
            assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
        }
    }
    assert_eq!(r2.files("p2/").len(), 0);
}

#[test]
fn a_store_without_a_project_id_and_half_a_store_are_final() {
    let r2 = R2::start();
    let mut nameless = Sandbox::on(&r2);
    nameless.project = String::new();
    let output = nameless.sync(&["restore"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("no project id"), "{}", text(&output.stderr));
    let mut half = Sandbox::new("");
    half.variables.push(("R2_ENDPOINT".into(), r2.endpoint()));
    let output = half.sync(&["restore"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("R2_BUCKET_NAME not set"), "{}", text(&output.stderr));
}

#[test]
fn a_store_that_is_down_for_a_while_is_waited_for() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    for n in 0..30 {
        a.write(&format!("f{n}"), "x");
    }
    a.flush();
    let b = Sandbox::on(&r2);
    r2.faults(
        r#"[{"operation":"ListObjectsV2","kind":"status:503","count":40},{"operation":"GetObject","kind":"reset","skip":5,"count":12}]"#,
    );
    assert_eq!(b.restore()["downloaded"], 30);
    assert_eq!(differences(&tree(&a.root), &tree(&b.root)), Vec::<String>::new());
}

#[test]
fn a_directory_as_a_store() {
    let shelf = tempfile::tempdir().expect("a directory");
    let url = format!("file://{}", shelf.path().display());
    let a = Sandbox::new(&url);
    a.write("src/x.ts", "x");
    a.write("run", "r");
    a.chmod("run", 0o755);
    std::os::unix::fs::symlink("src/x.ts", a.path("link")).expect("linked");
    a.flush();
    assert_eq!(fs::read_to_string(shelf.path().join("p1/src/x.ts")).expect("browsable"), "x");
    let b = Sandbox::new(&url);
    b.restore();
    assert_eq!(differences(&tree(&a.root), &tree(&b.root)), Vec::<String>::new());
    fs::write(shelf.path().join("p1/src/x.ts"), "edited").expect("written");
    b.restore();
    assert_eq!(b.read("src/x.ts"), "edited");
}
