//! The watcher misses nothing: every way of saving, trees at once, lost events, no watches.

use crate::server::R2;
use crate::tree::{DEADLINE, Sandbox, differences, run_here, store, tree, until, wrapped};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Writes over a file's first bytes through a shared mapping, in a process of its own.
fn map_and_write(path: &Path, text: &str) {
    let script = "import mmap,sys\nwith open(sys.argv[1],'r+b') as f:\n m=mmap.mmap(f.fileno(),0)\n t=sys.argv[2].encode()\n m[:len(t)]=t\n m.close()";
    let written = Command::new("python3").args(["-c", script]).arg(path).arg(text).status();
    assert!(written.expect("python3 is there").success());
}

#[test]
fn every_way_of_saving_arrives() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    for name in ["in-place", "renamed-over", "recreated", "vim", "appended", "mapped"] {
        a.write(name, "before");
    }
    a.start();
    a.wait_in_step(&r2);
    a.write("in-place", "after 1");
    a.write("renamed-over.tmp1", "after 2");
    fs::rename(a.path("renamed-over.tmp1"), a.path("renamed-over")).expect("renamed");
    fs::remove_file(a.path("recreated")).expect("removed");
    a.write("recreated", "after 3");
    fs::rename(a.path("vim"), a.path("vim~")).expect("renamed");
    a.write("vim", "after 4");
    fs::remove_file(a.path("vim~")).expect("removed");
    let mut file = fs::File::options().append(true).open(a.path("appended")).expect("opened");
    file.write_all(b" and after 5").expect("written");
    fs::hard_link(a.path("in-place"), a.path("hard")).expect("linked");
    map_and_write(&a.path("mapped"), "after");
    let outside = tempfile::tempdir_in(a.home.path()).expect("a directory");
    fs::create_dir_all(outside.path().join("moved/deep")).expect("made");
    fs::write(outside.path().join("moved/deep/in.ts"), "in").expect("written");
    fs::rename(outside.path().join("moved"), a.path("moved")).expect("moved");
    a.wait_in_step(&r2);
    fs::rename(a.path("moved"), outside.path().join("out")).expect("moved");
    a.wait_in_step(&r2);
}

#[test]
fn trees_that_appear_at_once_arrive_whole() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("seed", "x");
    a.start();
    a.wait_in_step(&r2);
    for n in 0..300 {
        a.write(&format!("t{n}/a/b/c/one"), format!("{n}"));
        a.write(&format!("t{n}/a/b/c/two"), format!("{n}"));
    }
    a.wait_in_step(&r2);
    assert_eq!(store(&r2, "p1").len(), 601);
}

#[test]
fn twenty_thousand_files_at_once_arrive_although_events_are_lost() {
    let shelf = tempfile::tempdir().expect("a directory");
    let mut a = Sandbox::new(&format!("file://{}", shelf.path().display()));
    let kept = || {
        let mut kept = tree(&shelf.path().join("p1"));
        kept.retain(|name, _| !name.starts_with(".sandkeep"));
        kept
    };
    a.write("seed", "x");
    a.start();
    a.wait("the first arrives", |_| kept().len() == 1);
    // Each makes four events: more than the kernel's queue holds while nobody reads it.
    a.signal(Signal::SIGSTOP);
    for n in 0..20_000 {
        fs::write(a.path(&format!("f{n:05}")), n.to_string()).expect("written");
    }
    a.signal(Signal::SIGCONT);
    a.wait_within(2 * DEADLINE, "all arrive", |sandbox| {
        sandbox
            .status()
            .is_some_and(|status| status["files"] == 20_001 && status["pending"] == 0)
    });
    assert!(a.log().contains("events were lost"), "{}", a.log());
    assert_eq!(differences(&tree(&a.root), &kept()), Vec::<String>::new());
    assert_eq!(a.stop(), Some(0));
}

/// A worker in a user namespace of its own, where the kernel's limit can be lowered for it alone.
fn start_with_limit(sandbox: &mut Sandbox, limit: &str) {
    let inner = sandbox.command(&["run"]);
    let script = format!("echo {limit} && exec \"$0\" \"$@\"");
    sandbox.start_as(wrapped(&inner, "unshare", &["--user", "--map-root-user", "/bin/sh", "-c", &script]));
}

#[test]
fn without_watches_the_tree_is_polled_and_status_says_so() {
    skip!("needs-user-namespace");
    for limit in ["20 >/proc/sys/user/max_inotify_watches", "0 >/proc/sys/user/max_inotify_instances"] {
        let r2 = R2::start();
        let mut a = Sandbox::on(&r2);
        a.write("seed", "x");
        for n in 0..30 {
            a.write(&format!("d{n}/f"), "x");
        }
        start_with_limit(&mut a, limit);
        a.wait("it polls", |sandbox| {
            sandbox
                .status()
                .is_some_and(|status| status["watching"].as_str().is_some_and(|how| how.starts_with("polling: ")))
        });
        a.wait_in_step(&r2);
        a.write("d29/g", "written where nobody watches");
        fs::remove_file(a.path("d28/f")).expect("removed");
        a.wait_in_step(&r2);
        assert_eq!(a.stop(), Some(0), "{}", a.log());
    }
}

#[test]
fn a_file_that_is_written_without_end_is_taken_at_its_age() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    a.write("package.json", "0");
    a.start();
    a.wait_in_step(&r2);
    let rounds = std::cell::Cell::new(0);
    // Never quiet for as long as the lane asks for.
    a.wait("it is taken although it never rests", |sandbox| {
        rounds.set(rounds.get() + 1);
        sandbox.write("package.json", rounds.get().to_string());
        r2.read("p1/package.json").is_some_and(|bytes| bytes != b"0")
    });
    a.wait_in_step(&r2);
    assert_eq!(a.stop(), Some(0));
}

/// inotify tells of the name that was used: what is written through another name, outside, is never told.
#[tokio::test]
async fn what_no_event_tells_of_is_found_by_the_walk() {
    let r2 = R2::start();
    let a = Sandbox::on(&r2);
    a.write("linked", "before");
    let outside = a.home.path().join("outside");
    fs::hard_link(a.path("linked"), &outside).expect("linked");
    let options = sandkeep::sync::worker::Options {
        walk_every: std::time::Duration::from_millis(500),
        ..Default::default()
    };
    run_here(&a, options, async || {
        until(|| r2.read("p1/linked").as_deref() == Some(b"before")).await;
        fs::write(&outside, "after").expect("written");
        until(|| r2.read("p1/linked").as_deref() == Some(b"after")).await;
    })
    .await;
}
