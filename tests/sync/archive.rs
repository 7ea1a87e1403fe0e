//! The past and the end, and the pack.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, text, tree};
use std::fs;

#[test]
fn one_can_go_back_to_a_generation() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("f", "one");
    a.write("g", "stays");
    a.write("gone later", "x");
    let first = a.flush()["generation"].clone();
    let then = tree(&a.root);
    a.write("f", "two");
    a.write("new", "n");
    fs::remove_file(a.path("gone later")).expect("removed");
    a.flush();
    let history = a.json(&["history", "--json"]);
    assert_eq!(history.as_array().map(Vec::len), Some(2), "{history}");
    assert_eq!(history[1]["generation"], first);
    let now = tree(&a.root);
    let went = a.json(&["restore", "--at", &first.to_string(), "--json"]);
    assert_eq!(
        (&went["restored"], &went["removed"], &went["unchanged"]),
        (&2.into(), &1.into(), &1.into()),
        "{went}"
    );
    assert_eq!(tree(&a.root), then);
    assert_eq!(differences(&then, &store(&r2, "p1")), Vec::<String>::new());
    // And forward again: going back has lost nothing.
    let second = history[0]["generation"].to_string();
    a.json(&["restore", "--at", &second, "--json"]);
    assert_eq!(tree(&a.root), now);
    let output = a.sync(&["restore", "--at", "999"]);
    assert!(
        text(&output.stderr).contains("generation 999 is not kept"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn differences_and_damage_are_found() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    for name in ["same", "changed", "missing", "lost", "strange"] {
        a.write(name, name);
    }
    a.flush();
    assert_eq!(a.json(&["verify", "--deep", "--json"])["good"], 5);
    a.write("changed", "!");
    a.write("added", "!");
    fs::remove_file(a.path("missing")).expect("removed");
    let difference = a.json(&["diff", "--json"]);
    assert_eq!(
        difference,
        serde_json::json!({ "added": ["added"], "changed": ["changed"], "missing": ["missing"] })
    );
    r2.remove("p1/lost");
    r2.write("p1/strange", b"another");
    r2.write("p1/unknown", b"x");
    let output = a.sync(&["verify", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let verified: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(verified["missing"], serde_json::json!(["lost"]));
    assert_eq!(verified["foreign"], serde_json::json!(["strange", "unknown"]));
    // What was lost in the store comes from here again.
    a.restore();
    a.flush();
    assert_eq!(r2.read("p1/lost").as_deref(), Some(&b"lost"[..]));
}

#[test]
fn what_is_not_needed_goes_and_the_rest_stays() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    for n in 0..5 {
        a.write("f", format!("version {n}"));
        a.flush();
    }
    let collected = a.json(&["gc", "--keep", "2", "--json"]);
    assert_eq!(
        (&collected["generations"], &collected["trash"]),
        (&3.into(), &3.into()),
        "{collected}"
    );
    let history = a.json(&["history", "--json"]);
    let oldest = history[1]["generation"].to_string();
    a.json(&["restore", "--at", &oldest, "--json"]);
    assert_eq!(a.read("f"), "version 3");
    r2.write("p2/not-mine", b"x");
    assert_eq!(a.sync(&["purge"]).status.code(), Some(2), "it asks for --yes");
    a.json(&["purge", "--yes", "--json"]);
    assert_eq!(r2.objects().into_keys().collect::<Vec<_>>(), ["p2/not-mine"]);
}

#[test]
fn a_cold_box_gets_small_files_in_one_request() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    for n in 0..300 {
        a.write(&format!("src/{}/f{n}", n % 7), format!("content {n}"));
    }
    a.write("big", vec![1; 100_000]);
    a.flush();
    // Some are stale in the pack, one was edited by a stranger, one is damaged in it.
    a.write("src/0/f0", "newer");
    a.flush();
    r2.write("p1/src/1/f1", b"a stranger's");
    let b = Sandbox::on(&r2);
    r2.forget_counts();
    assert_eq!(b.restore()["downloaded"], 301);
    let made: u64 = r2.counts().values().sum();
    assert!(made <= 8, "{:?}", r2.counts());
    assert_eq!((b.read("src/0/f0"), b.read("src/1/f1")), ("newer".into(), "a stranger's".into()));
    // A pack that is not what the manifest names is left alone.
    let pack = r2
        .objects()
        .into_keys()
        .find(|key| key.contains("/.sandkeep/pack/"))
        .expect("a pack");
    r2.write(&pack, b"garbage");
    let c = Sandbox::on(&r2);
    assert_eq!(c.restore()["downloaded"], 301);
    assert_eq!(differences(&tree(&b.root), &tree(&c.root)), Vec::<String>::new());
}
