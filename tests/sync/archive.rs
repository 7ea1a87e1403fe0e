//! The past and the end, and the pack.

use crate::server::R2;
use crate::tree::{Sandbox, differences, run_here, store, text, tree, until};
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

#[test]
fn small_files_go_to_the_trash_first_and_large_ones_do_not() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("small", vec![1; 1 << 20]);
    a.write("large", vec![1; (1 << 20) + 1]);
    a.write("removed", "small too");
    let first = a.flush()["generation"].to_string();
    a.write("small", "s");
    a.write("large", "l");
    fs::remove_file(a.path("removed")).expect("removed");
    a.flush();
    let trash: Vec<_> = r2.objects().into_keys().filter(|key| key.contains("/.sandkeep/trash/")).collect();
    assert_eq!(trash.len(), 2, "{trash:?}");
    let output = a.sync(&["restore", "--at", &first, "--json"]);
    assert_eq!(output.status.code(), Some(1), "not everything could be brought");
    let went: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(went["refused"], serde_json::json!({ "large": "its content is no longer kept" }));
    assert_eq!((a.read("removed"), a.read("large")), ("small too".into(), "l".into()));
    assert_eq!(fs::read(a.path("small")).expect("read").len(), 1 << 20);
}

#[test]
fn a_renamed_file_is_copied_on_the_server() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    for n in 0..10 {
        a.write(&format!("old/f{n}"), vec![n; 10_000]);
    }
    a.start();
    a.wait_in_step(&r2);
    a.flush();
    r2.forget_counts();
    let before = a.status().expect("it answers")["requests"]["bytes_up"].as_u64();
    fs::rename(a.path("old"), a.path("new")).expect("renamed");
    a.flush();
    // Ten at once of ten are many: they stay until somebody says so, or for a minute.
    a.json(&["flush", "--confirm-deletes", "--json"]);
    assert_eq!(differences(&tree(&a.root), &store(&r2, "p1")), Vec::<String>::new());
    let counts = r2.counts();
    assert_eq!(counts.get("CopyObject"), Some(&10), "{counts:?}");
    let sent = a.status().expect("it answers")["requests"]["bytes_up"].as_u64();
    assert!(
        sent.zip(before).is_some_and(|(sent, before)| sent - before < 20_000),
        "{before:?} {sent:?}"
    );
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn a_flush_that_somebody_waits_for_writes_no_pack_and_the_end_does() {
    let r2 = R2::start();
    let packs = || r2.objects().into_keys().filter(|key| key.contains("/.sandkeep/pack/")).count();
    let mut a = Sandbox::on(&r2);
    a.start();
    for n in 0..100 {
        a.write(&format!("f{n}"), format!("{n}"));
    }
    let flushed = a.flush();
    assert_eq!((&flushed["durable"], packs()), (&true.into(), 0));
    a.wait("it is written in quiet", |_| packs() == 1);
    let status = a.status().expect("it answers");
    assert_eq!(
        status["generation"], flushed["generation"],
        "the same files are the same generation"
    );
    for n in 0..15 {
        a.write(&format!("f{n}"), format!("other {n}"));
    }
    a.flush();
    assert_eq!(packs(), 1, "a seventh is stale");
    assert_eq!(a.stop(), Some(0));
    assert_eq!(packs(), 2, "for the next box it is whole");
    let b = Sandbox::on(&r2);
    r2.forget_counts();
    assert_eq!(b.restore()["downloaded"], 100);
    assert_eq!(
        r2.counts().values().sum::<u64>(),
        4,
        "owner, manifest, listing, pack: {:?}",
        r2.counts()
    );
}

#[test]
fn conflicts_are_shown_and_given_back() {
    let r2 = R2::start();
    let (a, b) = (Sandbox::on(&r2), Sandbox::on(&r2));
    a.write("src/f", "base");
    a.flush();
    b.restore();
    assert_eq!(a.json(&["conflicts", "--json"]), serde_json::json!([]));
    a.write("src/f", "theirs");
    a.flush();
    b.write("src/f", "ours!");
    b.flush();
    let kept = b.json(&["conflicts", "--json"]);
    assert_eq!((&kept[0]["path"], &kept[0]["size"]), (&"src/f".into(), &6.into()), "{kept}");
    assert!(kept[0]["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{kept}");
    let name = kept[0]["name"].as_str().expect("a name");
    assert_eq!(b.sync(&["conflicts", name]).stdout, b"theirs");
    assert!(text(&b.sync(&["conflicts"]).stdout).contains("src/f"));
    let unknown = b.sync(&["conflicts", "never-was"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        text(&unknown.stderr).contains("no conflict has the name"),
        "{}",
        text(&unknown.stderr)
    );
}

#[tokio::test]
async fn what_is_not_needed_is_collected_without_being_asked_again_and_again() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    let empty = br#"{"v":1,"project":"p1","sandbox":"","epoch":1,"generation":1,"created_ms":0,"nonce":0,"files":{}}"#;
    let empty = zstd::encode_all(&empty[..], 1).expect("packed");
    for n in 0..53 {
        r2.write(&format!("p1/.sandkeep/generations/{n:010}"), &empty);
    }
    r2.write("p1/.sandkeep/trash/00", b"nobody's");
    r2.write("p1/.sandkeep/conflicts/20200101T000000Z-0000/f", b"long ago");
    let options = sandkeep::sync::worker::Options {
        collect_after: std::time::Duration::from_millis(10),
        collect_every: std::time::Duration::from_millis(50),
        ..Default::default()
    };
    run_here(&a, options, async || {
        until(|| !r2.objects().contains_key("p1/.sandkeep/trash/00")).await;
        r2.write("p1/.sandkeep/trash/01", b"nobody's");
        until(|| !r2.objects().contains_key("p1/.sandkeep/trash/01")).await;
    })
    .await;
    let kept = r2.objects().into_keys().filter(|key| key.contains("/generations/")).count();
    assert_eq!(kept, 50);
    assert!(!r2.objects().keys().any(|key| key.contains("/conflicts/")));
}
