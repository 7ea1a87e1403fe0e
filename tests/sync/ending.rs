//! Every end drains: a stop, a signal, the hour at which the box is taken away. And whoever waits is told that it goes on.

use crate::server::R2;
use crate::tree::{Sandbox, differences, store, tree};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A box whose batches are due in an hour.
fn slow(r2: &R2) -> Sandbox {
    let mut sandbox = Sandbox::on(r2);
    sandbox.settings["batch_interval"] = "1h".into();
    sandbox.settings["batch_files"] = 1000.into();
    sandbox
}

#[test]
fn everything_is_sent_before_the_box_is_taken_away() {
    let r2 = R2::start();
    let mut a = slow(&r2);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    // The last minute begins in a few seconds.
    a.expires_at = Some(now + 66);
    a.write("early.ts", "sent at the start");
    a.start();
    a.write("late.ts", "due in an hour");
    a.wait_in_step(&r2);
    // From then on nothing waits for a batch.
    a.write("last.ts", "written in the last minute");
    a.wait_in_step(&r2);
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn the_drain_signal_sends_everything_and_it_goes_on() {
    let r2 = R2::start();
    let mut a = slow(&r2);
    a.write("one.ts", "1");
    a.start();
    a.write("two.ts", "2");
    a.signal(Signal::SIGUSR2);
    a.wait_in_step(&r2);
    a.write("three.ts", "3");
    a.flush();
    assert_eq!(differences(&tree(&a.root), &store(&r2, "p1")), Vec::<String>::new());
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn more_time_is_asked_for_while_it_uploads() {
    let r2 = R2::start();
    let mut a = slow(&r2);
    let notify = a.home.path().join("notify");
    let socket = UnixDatagram::bind(&notify).expect("bound");
    socket.set_read_timeout(Some(Duration::from_millis(10))).expect("set");
    a.variables.push(("NOTIFY_SOCKET".into(), notify.to_string_lossy().into_owned()));
    a.write("seed", "x");
    a.start();
    a.wait_in_step(&r2);
    for n in 0..96 {
        a.write(&format!("f{n}"), n.to_string());
    }
    // Thirty-two at a time: three rounds.
    r2.faults(r#"[{"operation":"PutObject","kind":"delay:1500","count":96}]"#);
    a.signal(Signal::SIGTERM);
    let (mut said, mut code) = (Vec::new(), None);
    let mut buffer = [0; 65536];
    while code.is_none() {
        if a.has_ended() {
            code = Some(());
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            said.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
    let count = |what: &str| said.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("READY=1"), 1, "{said:?}");
    assert_eq!(count("STOPPING=1"), 1, "{said:?}");
    assert!(count("EXTEND_TIMEOUT_USEC=10000000") >= 2, "{said:?}");
    assert!(count("X_SANDKEEP={") >= 2, "{said:?}");
    assert_eq!(differences(&tree(&a.root), &store(&r2, "p1")), Vec::<String>::new());
}

#[test]
fn a_stop_while_the_store_is_away_waits_for_it_and_then_gives_up_without_harm() {
    let r2 = R2::start();
    let mut a = slow(&r2);
    a.write("seed", "x");
    a.start();
    a.wait_in_step(&r2);
    a.write("late", "y");
    r2.faults(r#"[{"operation":"PutObject","kind":"reset","count":14}]"#);
    assert_eq!(a.stop(), Some(0), "{}", a.log());
    assert_eq!(differences(&tree(&a.root), &store(&r2, "p1")), Vec::<String>::new());
}

#[test]
fn a_later_deadline_is_heard_of_while_it_runs() {
    let r2 = R2::start();
    let mut a = slow(&r2);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    // In its last minute: nothing waits for a batch.
    a.expires_at = Some(now + 30);
    a.write("one.ts", "1");
    a.start();
    a.write("two.ts", "2");
    a.wait_in_step(&r2);
    assert_eq!(a.post(&format!("/v1/sync/deadline?at={}", now + 3600)), 202);
    a.wait("it is heard", |sandbox| sandbox.log().contains("taken away is now"));
    a.write("three.ts", "due in an hour");
    a.wait("it waits", |sandbox| {
        sandbox.status().is_some_and(|status| status["pending_batch"] == 1)
    });
    // Longer than a file has to be quiet.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(r2.read("p1/three.ts"), None);
    assert_eq!(a.post(&format!("/v1/sync/deadline?at={}", now + 30)), 202);
    a.wait_in_step(&r2);
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn a_supervisor_that_hangs_does_not_hold_it_up() {
    let r2 = R2::start();
    let mut a = Sandbox::on(&r2);
    let notify = a.home.path().join("notify");
    let hung = UnixDatagram::bind(&notify).expect("bound");
    let filler = UnixDatagram::unbound().expect("made");
    filler.set_nonblocking(true).expect("set");
    while filler.send_to(b"FULL=1", &notify).is_ok() {}
    a.variables.push(("NOTIFY_SOCKET".into(), notify.to_string_lossy().into_owned()));
    a.write("seed", "x");
    a.start();
    a.write("package.json", "{}");
    a.wait_in_step(&r2);
    // It hears what was not said as soon as it listens again.
    hung.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    let mut buffer = [0; 65536];
    while !buffer.starts_with(b"X_SANDKEEP={") {
        hung.recv(&mut buffer).expect("the part is said again");
    }
    assert_eq!(a.stop(), Some(0));
}
