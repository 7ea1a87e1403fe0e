//! The real CLI alone, under sandkeep and under the peer: the same prompt, the same loopback API, warm.

use crate::ours::follow;
use crate::peer::Peer;
use crate::support::api::Api;
use crate::support::raw::{Home, uuid};
use crate::support::{Sandbox, claude};
use crate::{Amount, Row, median, rss};
use serde_json::json;
use std::time::{Duration, Instant};

/// The word that is waited for is the first that the model says.
const PROMPT: &str = "[[say Hello there.]]";
const WORD: &str = "Hello";

pub(crate) fn measure(amount: &Amount) -> Vec<Row> {
    let alone = alone(amount);
    let (ours, ours_rss) = under_sandkeep(amount);
    let (theirs, theirs_rss) = under_the_peer(amount);
    let row = |what, value, unit| Row {
        what,
        value,
        unit,
        aim: None,
    };
    vec![
        row("prompt → first text, the real CLI alone", alone, "ms"),
        row("the same under sandkeep", ours, "ms"),
        row("the same under @sandbox-agent/cli 0.4.2", theirs, "ms"),
        Row {
            what: "sandkeep adds to the first text",
            value: ours - alone,
            unit: "ms",
            aim: Some(5.0),
        },
        row("@sandbox-agent/cli adds", theirs - alone, "ms"),
        Row {
            what: "RSS of what sandkeep puts beside claude, after these prompts",
            value: ours_rss,
            unit: "MB",
            aim: Some(15.0),
        },
        row(
            "RSS of what @sandbox-agent/cli puts beside claude (server and adapter)",
            theirs_rss,
            "MB",
        ),
    ]
}

/// Warm, and a little apart, so that no prompt meets what the one before it left to do.
fn rounds(amount: &Amount, mut round: impl FnMut() -> Duration) -> Vec<Duration> {
    round();
    let pause = || std::thread::sleep(Duration::from_millis(150));
    (0..amount.prompts)
        .map(|_| {
            pause();
            round()
        })
        .collect()
}

fn alone(amount: &Amount) -> f64 {
    let home = Home::of(claude());
    let mut raw = home.start(false, &["--include-partial-messages"], &[]);
    let times = rounds(amount, || {
        let began = Instant::now();
        raw.send(&uuid(), PROMPT);
        raw.until("the first word", |line| {
            line["type"] == "stream_event" && line.to_string().contains(WORD)
        });
        let time = began.elapsed();
        raw.result();
        time
    });
    median("the real CLI alone, prompt → first text", times)
}

fn under_sandkeep(amount: &Amount) -> (f64, f64) {
    let sandbox = Sandbox::with(json!({}));
    let times = rounds(amount, || {
        let began = Instant::now();
        let id = sandbox.send(PROMPT);
        let mut time = None;
        follow(&sandbox, &id, |line| {
            if line.contains(WORD) {
                time.get_or_insert_with(|| began.elapsed());
            }
            false
        });
        time.unwrap()
    });
    (median("under sandkeep, prompt → first text", times), rss(sandbox.pid()))
}

fn under_the_peer(amount: &Amount) -> (f64, f64) {
    let api = Api::start();
    let mut peer = Peer::start(&api.url);
    let times = rounds(amount, || peer.first_text(PROMPT, WORD));
    (median("under @sandbox-agent/cli, prompt → first text", times), peer.rss())
}
