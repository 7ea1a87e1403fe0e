//! The worker: what is written arrives, what vanishes is removed with care, and it ends well.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, tree};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn it_keeps_what_changes_and_sends_everything_at_the_end() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("package.json", "{}");
    a.write("src/a.ts", "a");
    a.start();
    a.wait_in_step(&r2);
    a.write("package.json", r#"{"a":1}"#);
    a.wait_in_step(&r2);
    a.settings["batch_interval"] = "30s".into();
    a.write("src/late.ts", "late");
    a.write("src/deep/new/tree.ts", "new");
    fs::remove_file(a.path("src/a.ts")).expect("removed");
    assert_eq!(a.stop(), Some(0), "{}", a.log());
    assert_eq!(differences(&tree(&a.root), &store(&r2, "p1")), Vec::<String>::new());
    let b = Sandbox::on(&r2);
    b.restore();
    assert_eq!(differences(&tree(&a.root), &tree(&b.root)), Vec::<String>::new());
}

#[test]
fn a_start_without_change_makes_four_requests() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    for n in 0..50 {
        a.write(&format!("src/f{n}.ts"), "x");
    }
    a.start();
    a.wait_in_step(&r2);
    assert_eq!(a.stop(), Some(0));
    r2.forget_counts();
    a.start();
    let made: u64 = r2.counts().values().sum();
    assert!(made <= 4, "{:?}", r2.counts());
    assert_eq!(a.stop(), Some(0));
    let made: u64 = r2.counts().values().sum();
    assert!(made <= 4, "{:?}", r2.counts());
}

#[test]
fn what_is_asked_for_is_kept_and_the_rest_is_counted() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.settings["include"] = serde_json::json!(["dist/keep.js"]);
    a.settings["exclude"] = serde_json::json!(["private"]);
    a.write("package.json", "{}");
    a.write("dist/keep.js", "kept");
    a.write("dist/other.js", "left out");
    a.write("private/x", "left out");
    a.write("app/logs/page.tsx", "kept");
    a.write("src/build/x.ts", "kept");
    a.write(".env.local", "left out");
    a.start();
    a.wait("the kept ones arrive", |_| store(&r2, "p1").len() == 4);
    a.write(".env.local", "changed");
    a.wait("it is counted", |sandbox| {
        sandbox.status().is_some_and(|status| status["excluded_changed"] == 1)
    });
    let explained = a.json(&["status", "--explain", "dist/other.js", "--json"]);
    assert_eq!(explained["rule"], "dist/ is left out: built-in list: dist");
    let explained = a.json(&["status", "--explain", "dist/keep.js", "--json"]);
    assert_eq!((&explained["kept"], &explained["rule"]), (&true.into(), &"[sync] include".into()));
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn a_vanished_tree_does_not_empty_the_store() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    for n in 0..30 {
        a.write(&format!("src/f{n}"), "x");
    }
    a.start();
    a.wait_in_step(&r2);
    fs::remove_dir_all(a.path("src")).expect("removed");
    let flushed = a.flush_fails();
    assert_eq!(flushed["held_deletes"], 30, "{flushed}");
    a.wait("it is held", |sandbox| {
        sandbox
            .status()
            .is_some_and(|status| status["held_because"] == "every file is gone")
    });
    assert_eq!(a.stop(), Some(0));
    assert_eq!(store(&r2, "p1").len(), 30);
    // They come back at the next restore, or go when a person says so.
    let output = a.json(&["flush", "--confirm-deletes", "--json"]);
    assert_eq!(output["held_deletes"], 0);
    assert_eq!(store(&r2, "p1").len(), 0);
}

#[test]
fn many_files_that_go_at_once_are_held_and_come_back_with_them() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    for n in 0..30 {
        a.write(&format!("src/f{n}"), "x");
        a.write(&format!("lib/f{n}"), "x");
    }
    a.start();
    a.wait_in_step(&r2);
    let elsewhere = tempfile::tempdir().expect("a directory");
    fs::rename(a.path("src"), elsewhere.path().join("src")).expect("moved out");
    assert_eq!(a.flush_fails()["held_deletes"], 30);
    let status = a.status().expect("it answers");
    assert_eq!(status["held_because"], "many files went at once", "{status}");
    assert_eq!(store(&r2, "p1").len(), 60);
    fs::rename(elsewhere.path().join("src"), a.path("src")).expect("moved back");
    a.wait("nothing is held", |sandbox| {
        sandbox.status().is_some_and(|status| status["held_deletes"] == 0)
    });
    assert_eq!(store(&r2, "p1").len(), 60);
}

#[test]
fn a_store_that_goes_away_is_waited_for_and_nothing_is_lost() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("seed", "x");
    a.start();
    a.wait_in_step(&r2);
    r2.faults(r#"[{"operation":"*","kind":"reset","count":25}]"#);
    a.write("package.json", "{}");
    for n in 0..20 {
        a.write(&format!("f{n}"), "x");
    }
    a.wait_in_step(&r2);
    assert!(a.status().expect("it answers")["errors"].as_u64() > Some(0));
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn a_newer_box_takes_over_and_the_older_stops_writing() {
    let r2 = R2::start();
    let mut old = Sandbox::on(&r2);
    old.write("f", "1");
    old.start();
    old.wait_in_step(&r2);
    old.signal(Signal::SIGSTOP);
    let mut new = Sandbox::on(&r2);
    new.start();
    new.write("f", "2");
    new.wait_in_step(&r2);
    old.write("f", "old");
    old.write("g", "old");
    // Longer than a look at the lease counts.
    std::thread::sleep(std::time::Duration::from_secs(6));
    old.signal(Signal::SIGCONT);
    old.wait("the older one is fenced", |sandbox| {
        sandbox.status().is_some_and(|status| status["state"] == "fenced")
    });
    assert_eq!(old.stop(), Some(0));
    assert_eq!(r2.read("p1/f").as_deref(), Some(&b"2"[..]));
    assert_eq!(r2.read("p1/g"), None);
    assert_eq!(new.stop(), Some(0));
}

#[test]
fn an_edit_in_the_store_is_pulled_while_it_runs() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("index.html", "1");
    a.start();
    a.wait_in_step(&r2);
    r2.write("p1/index.html", b"2");
    let arrived = a.json(&["pull", "--json"]);
    assert_eq!(arrived["downloaded"], 1, "{arrived}");
    assert_eq!(a.read("index.html"), "2");
    assert_eq!(a.stop(), Some(0));
    assert_eq!(differences(&tree(&a.root), &store(&r2, "p1")), Vec::<String>::new());
}
