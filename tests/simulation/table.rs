//! The machine as a table: what one unit does in every state on every event. Its golden file is `tests/golden/transitions.md`; after an
//! intended change `UPDATE_GOLDEN=1 cargo test --test simulation table` writes it anew, and its diff is read.

use crate::bench::{Bench, short};
use crate::kit::*;
use sandkeep::supervisor::*;
use sandkeep::unit::*;
use std::fmt::Write;

type Prepare = fn(&mut Bench);
type Happen = fn(&mut Bench);

fn subject() -> Unit {
    Unit {
        exec_start_pre: vec![shell("pre")],
        exec_start_post: vec![shell("post")],
        exec_stop: vec![shell("stop")],
        exec_stop_post: vec![shell("stop-post")],
        probes: [probe(ProbeKind::Readiness), probe(ProbeKind::Liveness)].into(),
        restart: Restart::OnFailure,
        start_timeout: Some(secs(90)),
        reload_signal: Some(1),
        drain_signal: Some(12),
        watch: vec!["*".into()],
        ..notify("u")
    }
}

const OK: ExitStatus = ExitStatus::Code(0);

fn pre(b: &mut Bench) {
    b.stage_spawned("u", Stage::StartPre(0));
}
fn main_spawns(b: &mut Bench) {
    pre(b);
    b.stage_exited("u", Stage::StartPre(0), OK);
}
fn start(b: &mut Bench) {
    main_spawns(b);
    b.spawned("u");
}
fn ready_wait(b: &mut Bench) {
    start(b);
    b.notice("u", Notice::Ready).pass(ms(0));
}
fn post(b: &mut Bench) {
    ready_wait(b);
    b.probed("u", ProbeKind::Readiness, true).stage_spawned("u", Stage::StartPost(0));
}
fn running(b: &mut Bench) {
    post(b);
    b.stage_exited("u", Stage::StartPost(0), OK).pass(ms(0));
}
fn reloading(b: &mut Bench) {
    running(b);
    b.notice("u", Notice::Reloading);
}
fn stop(b: &mut Bench) {
    running(b);
    b.stop("u");
    b.stage_spawned("u", Stage::Stop(0));
}
fn term(b: &mut Bench) {
    stop(b);
    b.stage_exited("u", Stage::Stop(0), OK);
}
fn kill(b: &mut Bench) {
    term(b);
    b.pass(secs(10));
}
fn stop_post(b: &mut Bench) {
    term(b);
    b.goes("u").stage_spawned("u", Stage::StopPost(0));
}
fn stopped(b: &mut Bench) {
    stop_post(b);
    b.stage_exited("u", Stage::StopPost(0), OK).emptied("u");
}
fn over(b: &mut Bench, code: u8) {
    running(b);
    b.ends("u", code)
        .stage_spawned("u", Stage::StopPost(0))
        .stage_exited("u", Stage::StopPost(0), OK)
        .emptied("u");
}

fn states() -> Vec<(&'static str, Prepare)> {
    vec![
        ("start-pre, being spawned", |_| {}),
        ("start-pre", pre),
        ("start, being spawned", main_spawns),
        ("start", start),
        ("ready-wait", ready_wait),
        ("ready-wait, start-post", post),
        ("running", running),
        ("running, reloading", reloading),
        ("stopping, exec_stop", stop),
        ("stop-term", term),
        ("stop-kill", kill),
        ("stopping, stop-post", stop_post),
        ("stopped", stopped),
        ("auto-restart", |b| over(b, 1)),
        ("ended", |b| over(b, 0)),
        ("failed", |b| over(b, 78)),
        ("skipped", |b| {
            b.event(Event::Skipped {
                unit: name("u"),
                invocation: 1,
                reason: "no such file".into(),
            });
        }),
    ]
}

fn events() -> Vec<(&'static str, Happen)> {
    vec![
        ("start", |b| {
            b.start("u");
        }),
        ("stop", |b| {
            b.stop("u");
        }),
        ("restart", |b| {
            b.restart("u");
        }),
        ("shutdown", |b| {
            b.shutdown(secs(60));
        }),
        ("second shutdown", |b| {
            b.shutdown(secs(60));
            b.done();
            b.shutdown(secs(60));
        }),
        ("watch changed", |b| {
            b.event(Event::WatchChanged {
                unit: name("u"),
                path: "a".into(),
            });
        }),
        ("retry changed", |b| {
            b.event(Event::RetryChanged {
                unit: name("u"),
                path: "a".into(),
            });
        }),
        ("main spawned", |b| {
            b.spawned("u");
        }),
        ("spawn failed", |b| {
            let invocation = b.invocation("u");
            for stage in [Stage::StartPre(0), Stage::Main] {
                let error = StartError {
                    message: "no such file".into(),
                    hint: None,
                    temporary: false,
                };
                b.event(Event::SpawnFailed {
                    unit: name("u"),
                    invocation,
                    stage,
                    error,
                });
            }
        }),
        ("main exits 0", |b| ends(b, OK)),
        ("main exits 1", |b| ends(b, ExitStatus::Code(1))),
        ("emptied", |b| {
            b.emptied("u");
        }),
        ("READY=1", |b| {
            b.notice("u", Notice::Ready);
        }),
        ("RELOADING=1", |b| {
            b.notice("u", Notice::Reloading);
        }),
        ("STOPPING=1", |b| {
            b.notice("u", Notice::Stopping);
        }),
        ("WATCHDOG=trigger", |b| {
            b.notice("u", Notice::WatchdogTrigger);
        }),
        ("readiness passes", |b| {
            b.probed("u", ProbeKind::Readiness, true);
        }),
        ("next deadline", |b| {
            if let Some((at, _, _)) = b.supervisor.next_deadline() {
                b.now = b.now.max(at);
                b.event(Event::Deadline);
            }
        }),
    ]
}

fn ends(b: &mut Bench, status: ExitStatus) {
    if b.status("u").pid.is_some() {
        b.stage_exited("u", Stage::Main, status);
    }
}

/// `.` is nothing; else the new state where it changed, and what is done.
fn cell(prepare: Prepare, happen: Happen) -> String {
    let mut bench = Bench::new(vec![subject()]);
    prepare(&mut bench);
    bench.done();
    let before = bench.state("u");
    happen(&mut bench);
    let after = bench.state("u");
    let actions: Vec<_> = bench
        .actions
        .iter()
        .filter_map(short)
        .map(|action| action.replace(" u", ""))
        .collect();
    let actions = actions
        .into_iter()
        .map(|action| if action.starts_with("reply") { answer(&action) } else { action });
    let change = (before != after).then(|| format!("**{after}**"));
    let all: Vec<String> = change.into_iter().chain(actions).collect();
    if all.is_empty() { ".".into() } else { all.join(", ") }
}

fn answer(reply: &str) -> String {
    let outcome = reply.split(' ').nth(2).unwrap_or_default();
    format!("reply {}", outcome.split('(').next().unwrap_or_default())
}

#[test]
fn table_of_the_machine() {
    let (states, events) = (states(), events());
    let mut table = String::from("# The machine, as a table\n\n");
    table.push_str(
        "One notify unit with every stage, both probes, `restart = \"on-failure\"`. A row for each state, a section for each event:\n",
    );
    table.push_str("the state that follows where it changes (`*`: ready), and what is wanted of the host. `.` is nothing.\n");
    for (event, happen) in events {
        write!(table, "\n## {event}\n\n| state | what follows |\n| --- | --- |\n").expect("a string");
        for (state, prepare) in &states {
            writeln!(table, "| {state} | {} |", cell(*prepare, happen)).expect("a string");
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/transitions.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &table).expect("the golden file is writable");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        golden == table,
        "the machine changed: UPDATE_GOLDEN=1 cargo test --test simulation table, and read the diff of {path}"
    );
}
