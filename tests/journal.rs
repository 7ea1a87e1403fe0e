//! The journal with real pipes and real processes.
#![allow(clippy::unwrap_used, reason = "a test")]

use sandkeep::host::journal::{Cursor, Journal, Limits, Line, Query, Reader, Stream};
use sandkeep::host::mask::Masker;
use sandkeep::unit::Name;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMITS: Limits = Limits {
    max_size: 1024 * 1024,
    keep: 4,
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn pipe() -> (OwnedFd, File) {
    let (read, write) = std::io::pipe().unwrap();
    (read.into(), OwnedFd::from(write).into())
}

/// A unit's two pipes, captured; the ends to write to.
fn captured(journal: &Journal, unit: &str, invocation: u64) -> (File, File) {
    let (stdout, out) = pipe();
    let (stderr, err) = pipe();
    journal.capture(&name(unit), invocation, stdout, stderr);
    (out, err)
}

fn run(journal: &Journal, unit: &str, invocation: u64, script: &str) -> std::process::Child {
    let (out, err) = captured(journal, unit, invocation);
    Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .unwrap()
}

fn messages(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|l| l.message.as_str()).collect()
}

fn all(dir: &Path) -> Vec<Line> {
    Reader::new(dir.to_owned(), Masker::default()).read(&Query::default()).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("within a minute")
}

#[tokio::test]
async fn lines_of_both_streams_come_with_time_stream_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    let journal = Journal::open(logs.clone(), LIMITS).unwrap();
    let mut child = run(&journal, "dev", 3, "echo one; echo two >&2; printf 'three\\n\\nno newline'");
    child.wait().unwrap();
    within(journal.finish(&name("dev"), 3)).await;
    journal.note(&name("sandkeep"), "dev: dead");
    within(journal.close()).await;

    let lines = all(&logs);
    let dev: Vec<_> = lines.iter().filter(|l| l.unit == "dev").collect();
    let of = |stream| {
        dev.iter()
            .filter(|l| l.stream == stream)
            .map(|l| l.message.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(Stream::Stdout), ["one", "three", "", "no newline"]);
    assert_eq!(of(Stream::Stderr), ["two"]);
    assert!(dev.iter().all(|l| l.invocation == 3 && !l.partial));
    assert_eq!(lines.last().unwrap().message, "dev: dead");
    assert_eq!(lines.last().unwrap().stream, Stream::Journal);
    for file in ["dev.log", "dev.idx", "sandkeep.log"] {
        assert_eq!(
            std::fs::metadata(logs.join(file)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{file}"
        );
    }
    assert_eq!(std::fs::metadata(&logs).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_flood_is_kept_whole_across_rotation_and_the_last_lines_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_size: 300_000,
        keep: 100,
    };
    let journal = Journal::open(dir.path().to_owned(), limits).unwrap();
    let mut child = run(&journal, "dev", 1, "seq 1 300000");
    child.wait().unwrap();
    within(journal.finish(&name("dev"), 1)).await;
    let lines = all(dir.path());
    assert_eq!(lines.len(), 300_000);
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line.message, (n + 1).to_string());
    }
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().unwrap().contains(".log") {
            let text = std::fs::read(&path).unwrap();
            assert!(text.len() <= 300_000 && text.ends_with(b"\n"), "{}", path.display());
        }
    }
    let reader = Reader::new(dir.path().to_owned(), Masker::default());
    let last = reader
        .read(&Query {
            lines: Some(3),
            ..Query::default()
        })
        .unwrap();
    assert_eq!(messages(&last), ["299998", "299999", "300000"]);
    let grep = Query {
        lines: Some(2),
        grep: Some(regex::Regex::new("^1.?7$").unwrap()),
        ..Query::default()
    };
    assert_eq!(messages(&reader.read(&grep).unwrap()), ["187", "197"]);
    let after = Query {
        after: Cursor::new(last[0].cursor.as_str()),
        ..Query::default()
    };
    assert_eq!(messages(&reader.read(&after).unwrap()), ["299999", "300000"]);
}

#[tokio::test]
async fn oldest_files_go_when_there_are_more_than_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_size: 10_000, keep: 2 };
    let journal = Journal::open(dir.path().to_owned(), limits).unwrap();
    let mut child = run(&journal, "dev", 1, "seq 1 20000");
    child.wait().unwrap();
    within(journal.close()).await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6);
    let lines = all(dir.path());
    assert_eq!(lines.last().unwrap().message, "20000");
    let first: usize = lines[0].message.parse().unwrap();
    assert_eq!(lines.len(), 20_000 - first + 1);
}

#[tokio::test]
async fn finish_waits_for_no_survivor_and_kills_none() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().to_owned(), LIMITS).unwrap();
    let (mut out, _err) = captured(&journal, "dev", 1);
    out.write_all(b"before\n").unwrap();
    within(journal.finish(&name("dev"), 1)).await;
    assert_eq!(messages(&all(dir.path())), ["before"]);
    // The survivor goes on writing: neither EPIPE nor a lost line.
    out.write_all(b"after\n").unwrap();
    within(journal.close()).await;
    assert_eq!(messages(&all(dir.path())), ["before", "after"]);
}

#[tokio::test]
async fn following_sees_lines_of_old_and_new_units_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().to_owned(), LIMITS).unwrap();
    let (mut out, _err) = captured(&journal, "dev", 1);
    out.write_all(b"old 1\nold 2\n").unwrap();
    within(journal.finish(&name("dev"), 1)).await;
    let reader = journal.reader(Masker::new(["hunter2-hunter2"]));
    let query = Query {
        lines: Some(1),
        ..Query::default()
    };
    let mut follow = reader.follow(&query).unwrap();
    assert_eq!(within(follow.next()).await.unwrap().unwrap().message, "old 2");
    out.write_all(b"key hunter2-").unwrap();
    out.write_all(b"hunter2\n").unwrap();
    let line = within(follow.next()).await.unwrap().unwrap();
    assert_eq!((line.message.as_str(), line.partial), ("key ***", false));
    let (mut other, _err2) = captured(&journal, "web", 1);
    other.write_all(b"hello\nproceed? ").unwrap();
    assert_eq!(within(follow.next()).await.unwrap().unwrap().message, "hello");
    let prompt = within(follow.next()).await.unwrap().unwrap();
    assert_eq!((prompt.message.as_str(), prompt.partial), ("proceed? ", true));
    other.write_all(b"yes\n").unwrap();
    assert_eq!(within(follow.next()).await.unwrap().unwrap().message, "yes");
    within(journal.close()).await;
    assert_eq!(within(follow.next()).await.unwrap(), None);
}

#[tokio::test]
async fn a_handover_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path().to_owned(), LIMITS).unwrap();
    let mut child = run(
        &journal,
        "dev",
        1,
        "seq 1 200000; printf half; read x < /dev/null; echo ' and half'",
    );
    for _ in 0..5 {
        let handed = within(journal.hand_over()).await;
        journal = Journal::inherit(dir.path().to_owned(), LIMITS, handed).unwrap();
    }
    child.wait().unwrap();
    within(journal.close()).await;
    let lines = all(dir.path());
    assert_eq!(lines.len(), 200_001);
    assert!(
        lines
            .iter()
            .take(200_000)
            .enumerate()
            .all(|(n, l)| l.message == (n + 1).to_string())
    );
    assert_eq!(lines.last().unwrap().message, "half and half");
}

#[tokio::test]
async fn a_log_probe_sees_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path().to_owned(), LIMITS).unwrap();
    let found = journal.watch(&name("dev"), 1, regex::Regex::new("ready in \\d+").unwrap());
    let (mut out, mut err) = captured(&journal, "dev", 1);
    out.write_all(b"starting\nrea").unwrap();
    err.write_all(b"noise\n").unwrap();
    out.write_all(b"dy in 12 ms\n").unwrap();
    within(found.matched()).await;
    assert!(found.is_matched());
}
