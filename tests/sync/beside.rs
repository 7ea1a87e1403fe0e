//! What is kept beside the tree: transcripts come back in the next box, postmortems go up.

use crate::server::R2;
use crate::tree::Sandbox;
use std::fs;
use std::path::PathBuf;

fn state(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.home.path().join("state").join(name)
}

fn write(sandbox: &Sandbox, name: &str, text: &str) {
    let path = state(sandbox, name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, text).expect("written");
}

fn read(sandbox: &Sandbox, name: &str) -> Option<String> {
    fs::read_to_string(state(sandbox, name)).ok()
}

const MAIN: &str = "transcripts/0b1c.jsonl";
const DEEP: &str = "transcripts/0b1c/subagents/agent-7.jsonl";

#[test]
fn a_conversation_goes_on_in_the_next_box() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("f", "f");
    a.start();
    write(&a, MAIN, "{\"n\":1}\n");
    write(&a, DEEP, "{\"deep\":1}\n");
    write(&a, "transcripts/half.tmp", "on its way");
    write(&a, "postmortem/dev.failed-20260101T000000.json", "{}");
    // The end of a prompt flushes.
    assert_eq!(a.flush()["durable"], true);
    assert_eq!(r2.read("p1/.sandkeep/transcripts/0b1c.jsonl").as_deref(), Some(&b"{\"n\":1}\n"[..]));
    let postmortem = format!("p1/.sandkeep/postmortem/{}/dev.failed-20260101T000000.json", a.id);
    assert!(r2.read(&postmortem).is_some(), "{:?}", r2.objects().keys());
    write(&a, MAIN, "{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(a.stop(), Some(0));

    let b = Sandbox::on(&r2);
    b.restore();
    assert_eq!(read(&b, MAIN).as_deref(), Some("{\"n\":1}\n{\"n\":2}\n"), "also what was said last");
    assert_eq!(read(&b, DEEP).as_deref(), Some("{\"deep\":1}\n"));
    assert!(!state(&b, "postmortem").exists() && !state(&b, "transcripts/half.tmp").exists());
    assert_eq!(fs::read_dir(&b.root).expect("read").count(), 1, "nothing of it is in the project");
    // It goes on there, and comes back.
    write(&b, MAIN, "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    r2.forget_counts();
    b.flush();
    let puts = r2.counts().get("PutObject").copied();
    b.flush();
    assert_eq!(
        r2.counts().get("PutObject").copied(),
        puts.map(|puts| puts + 1),
        "the lease alone: {:?}",
        r2.counts()
    );
    a.restore();
    assert_eq!(read(&a, MAIN).as_deref(), Some("{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n"));
}

#[test]
fn two_boxes_with_one_conversation_keep_both() {
    let r2 = R2::start();
    let (a, b) = (Sandbox::on(&r2), Sandbox::on(&r2));
    write(&a, MAIN, "from a\n");
    write(&b, MAIN, "from b\n");
    a.flush();
    b.flush();
    assert_eq!(read(&b, MAIN).as_deref(), Some("from b\n"));
    let kept = a.json(&["conflicts", "--json"]);
    assert_eq!(kept[0]["path"], "transcripts/0b1c.jsonl", "{kept}");
    let name = kept[0]["name"].as_str().expect("a name");
    assert_eq!(a.sync(&["conflicts", name]).stdout, b"from a\n");
}

#[test]
fn transcripts_are_sent_without_a_flush_too() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    write(&a, MAIN, "before the start\n");
    a.start();
    let key = "p1/.sandkeep/transcripts/0b1c.jsonl";
    a.wait("it is there", |_| r2.read(key).is_some());
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn hostile_names_of_transcripts_are_named_and_lead_nowhere() {
    let r2 = R2::start();
    r2.write("p1/.sandkeep/transcripts/../../evil", b"evil");
    r2.write("p1/.sandkeep/transcripts//abs", b"evil");
    r2.write("p1/.sandkeep/transcripts/good.jsonl", b"good");
    let mut a = Sandbox::on(&r2);
    let outside = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(state(&a, "transcripts")).expect("made");
    std::os::unix::fs::symlink(outside.path(), state(&a, "transcripts/door")).expect("linked");
    r2.write("p1/.sandkeep/transcripts/door/in.jsonl", b"evil");
    a.start();
    a.wait("the good one is there", |sandbox| {
        read(sandbox, "transcripts/good.jsonl").as_deref() == Some("good")
    });
    assert_eq!(fs::read_dir(outside.path()).expect("read").count(), 0);
    assert!(!a.home.path().join("evil").exists());
    assert_eq!(a.stop(), Some(0));
}
