//! What nobody wishes for: each with a clear answer, and nothing lost on either side.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, text, tree};
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn a_manifest_that_is_garbage_leaves_the_objects_the_truth() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("f", "f");
    a.write("bin/g", "g");
    a.chmod("bin/g", 0o755);
    a.flush();
    r2.write("p1/.sandkeep/manifest", b"<html>not found</html>");
    let b = Sandbox::on(&r2);
    b.restore();
    assert_eq!(differences(&tree(&a.root), &tree(&b.root)), Vec::<String>::new());
    b.write("h", "h");
    b.flush();
    assert_eq!(b.json(&["verify", "--deep", "--json"])["good"], 3);
    assert_eq!(differences(&tree(&b.root), &store(&r2, "p1")), Vec::<String>::new());
}

#[test]
fn a_manifest_from_a_newer_version_is_final() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("f", "f");
    a.flush();
    let newer = zstd::encode_all(&br#"{"v":99}"#[..], 1).expect("packed");
    r2.write("p1/.sandkeep/manifest", &newer);
    for verb in ["restore", "run", "flush"] {
        let output = a.sync(&[verb]);
        assert_eq!(output.status.code(), Some(78), "{verb}");
        let said = text(&output.stderr);
        assert!(
            said.contains("the manifest has version 99") && said.contains("hint: update sandkeep"),
            "{said}"
        );
    }
    assert_eq!(r2.read("p1/.sandkeep/manifest"), Some(newer));
}

#[test]
fn files_that_change_while_they_are_read_are_read_again() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("busy", "0");
    a.start();
    a.wait_in_step(&r2);
    for n in 0..300 {
        a.write("busy", format!("{n} ").repeat(n));
    }
    a.write("busy", "the end");
    a.wait_in_step(&r2);
    assert_eq!(a.stop(), Some(0));
    assert_eq!(r2.read("p1/busy").as_deref(), Some(&b"the end"[..]));
}

#[test]
fn a_root_that_is_a_link_is_its_target() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("f", "f");
    let link = a.home.path().join("link");
    symlink(&a.root, &link).expect("linked");
    let real = std::mem::replace(&mut a.root, link);
    a.flush();
    assert_eq!(store(&r2, "p1").len(), 1);
    // The link is turned to an empty directory: that is another root, and empties nothing.
    let empty = a.home.path().join("empty");
    fs::create_dir(&empty).expect("made");
    fs::remove_file(&a.root).expect("removed");
    symlink(&empty, &a.root).expect("linked");
    a.flush();
    assert_eq!(store(&r2, "p1").len(), 1);
    assert!(real.join("f").exists());
}

#[test]
fn a_root_that_vanishes_while_it_is_watched_empties_nothing() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    for n in 0..8 {
        a.write(&format!("f{n}"), "x");
    }
    a.start();
    a.wait_in_step(&r2);
    fs::rename(&a.root, a.home.path().join("elsewhere")).expect("renamed");
    fs::create_dir(&a.root).expect("made");
    assert!(a.flush_fails()["held_deletes"].is_u64());
    assert_eq!(a.stop(), Some(0), "{}", a.log());
    assert_eq!(store(&r2, "p1").len(), 8);
}

#[test]
fn links_that_lead_out_are_neither_kept_nor_made() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("dir/f", "f");
    symlink("/etc/passwd", a.path("absolute")).expect("linked");
    symlink("../../../etc/passwd", a.path("dir/relative")).expect("linked");
    symlink("f", a.path("dir/good")).expect("linked");
    a.flush();
    assert_eq!(r2.files("p1/").into_keys().collect::<Vec<_>>(), ["dir/f", "dir/good"]);
}

#[test]
fn odd_names_are_named_and_never_fatal() {
    use std::os::unix::ffi::OsStrExt;
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("good", "x");
    a.write("cafe\u{301}", "decomposed");
    a.write("caf\u{e9}", "composed");
    fs::write(a.root.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").expect("written");
    nix::unistd::mkfifo(&a.path("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    let deep = format!("{}/f", vec!["d".repeat(200); 6].join("/"));
    a.write(&deep, "x");
    a.start();
    a.wait("the good ones arrive", |_| r2.files("p1/").len() == 2);
    let odd = a.status().expect("it answers")["odd"].clone();
    assert_eq!(odd.as_object().map(serde_json::Map::len), Some(4), "{odd}");
    assert_eq!(a.stop(), Some(0));
    assert_eq!(r2.read("p1/caf\u{e9}").as_deref(), Some(&b"composed"[..]));
}

#[test]
fn a_full_disk_while_restoring_loses_nothing() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("small", "s");
    a.write("large", vec![7; 3 << 20]);
    a.flush();
    let b = Sandbox::on(&r2);
    // A file may have a mebibyte at most: what a full disk does, without one.
    let output = std::process::Command::new("/bin/sh")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 1024; exec \"$0\" sync restore")
        .arg(env!("CARGO_BIN_EXE_sandkeep"))
        .env("SANDKEEP_CONFIG_JSON", b.config().to_string())
        .env("SANDKEEP_RUNTIME_DIR", b.home.path().join("run"))
        .envs(b.variables.iter().cloned())
        .current_dir(&b.root)
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("writing `large`"), "{}", text(&output.stderr));
    assert!(!b.path("large").exists());
    assert!(
        tree(&b.root).keys().all(|name| !name.contains(".sandkeep-tmp-")),
        "nothing half-written stays"
    );
    b.restore();
    assert_eq!(differences(&tree(&a.root), &tree(&b.root)), Vec::<String>::new());
}

#[test]
fn a_read_only_tree_is_kept_and_a_restore_says_that_it_cannot_write() {
    skip!("needs-mount-namespace");
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("f", "f");
    let read_only = |verb: &str| {
        let script = "mount --bind . . && mount -o remount,ro,bind \"$PWD\" && cd \"$PWD\" && exec \"$0\" \"$@\"";
        let inner = a.command(&[verb]);
        crate::tree::wrapped(&inner, "unshare", &["--mount", "/bin/sh", "-c", script])
            .output()
            .expect("it runs")
    };
    let flushed = read_only("flush");
    assert!(flushed.status.success(), "{}", text(&flushed.stderr));
    r2.write("p1/g", b"a stranger's");
    let restored = read_only("restore");
    assert_eq!(restored.status.code(), Some(1), "{}", text(&restored.stderr));
    let said = text(&restored.stderr);
    assert!(
        said.contains("writing `g`: Read-only file system") && said.contains("hint: "),
        "{said}"
    );
    assert_eq!(
        (a.read("f"), r2.read("p1/f"), a.path("g").exists()),
        ("f".into(), Some(b"f".to_vec()), false)
    );
    a.restore();
    assert_eq!(a.read("g"), "a stranger's");
}

#[test]
fn a_clock_that_is_an_hour_off_changes_nothing() {
    for ahead in [3600, -3600] {
        let r2 = R2::start();
        r2.clock_ahead(ahead);
        let mut a = Sandbox::on(&r2);
        a.write("f", "1");
        a.start();
        a.wait_in_step(&r2);
        a.write("f", "2");
        a.flush();
        assert_eq!(a.stop(), Some(0), "{}", a.log());
        let b = Sandbox::on(&r2);
        b.restore();
        assert_eq!(b.read("f"), "2");
    }
}

#[test]
fn a_file_without_the_right_to_read_it_is_named_and_the_rest_goes_on() {
    skip!("needs-root");
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("good", "x");
    a.write("unreadable", "x");
    a.flush();
    a.write("good", "y");
    a.write("unreadable", "y");
    // Root without its capabilities is an owner like any other.
    a.chmod("unreadable", 0o000);
    let inner = a.command(&["flush", "--json"]);
    let output = crate::tree::wrapped(&inner, "setpriv", &["--bounding-set=-all", "--inh-caps=-all", "--"])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(r2.read("p1/good").as_deref(), Some(&b"y"[..]));
    assert_eq!(r2.read("p1/unreadable").as_deref(), Some(&b"x"[..]), "what it was is still there");
}
