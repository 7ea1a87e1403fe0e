//! The worker alone: a script stands in for claude and answers at once.

use crate::support::{Sandbox, until};
use crate::{Amount, Row, held, median, rss};
use serde_json::json;
use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// `events=N`: so many at once. `paced=N`: a thousand a second, for so many seconds.
const SCRIPT: &str = r#"#!/bin/bash
case "$*" in *--version*) echo "2.1.330 (a script)"; exit;; esac
event='{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"a line of an answer of usual length, more or less"}]}}'
while read -r line; do
    [[ $line =~ \"uuid\":\"([^\"]*)\" ]]; id=${BASH_REMATCH[1]}
    echo '{"type":"system","subtype":"init","session_id":"","claude_code_version":"2.1.330","capabilities":["msg_lifecycle_v1"]}'
    if [[ $line =~ paced=([0-9]+) ]]; then
        for ((tenth = 0; tenth < BASH_REMATCH[1] * 10; tenth++)); do yes "$event" | head -n 100; sleep 0.1; done
    elif [[ $line =~ events=([0-9]+) ]]; then
        yes "$event" | head -n "${BASH_REMATCH[1]}"
    fi
    echo "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":\"ok\",\"user_message_uuid\":\"$id\"}"
done
"#;

pub(crate) fn measure(amount: &Amount) -> Vec<Row> {
    let mut sandbox = Sandbox::prepare(json!({}));
    let script = sandbox.path("claude");
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.settings = json!({"command": script});
    sandbox.up();
    let idle = rss(sandbox.pid());
    let of = |what| held(sandbox.pid(), what);
    println!(
        "RSS idle: {idle:.2} MB, of which {:.2} MB are its own and {:.2} MB the program's",
        of("RssAnon"),
        of("RssFile")
    );
    sandbox.ask("warm up");
    let times = (0..amount.prompts * 2).map(|_| first_event(&sandbox)).collect();
    let first = median("prompt → first event of a script", times);
    let paced = rss_during(&sandbox, &format!("paced={}", amount.seconds));
    let began = Instant::now();
    let id = sandbox.send(&format!("events={}", amount.events));
    sandbox.wait_for_end(&id);
    let rate = amount.events as f64 / began.elapsed().as_secs_f64();
    assert!(sandbox.events(&id).len() > amount.events);
    println!("{} events through the outbox in {:?}", amount.events, began.elapsed());
    vec![
        Row {
            what: "the worker's own share of prompt → first event, warm",
            value: first,
            unit: "ms",
            aim: Some(5.0),
        },
        Row {
            what: "RSS of the worker, idle",
            value: idle,
            unit: "MB",
            aim: Some(15.0),
        },
        Row {
            what: "RSS of the worker at 1,000 events/s, at most",
            value: paced,
            unit: "MB",
            aim: Some(15.0),
        },
        Row {
            what: "events through the outbox",
            value: rate,
            unit: "/s",
            aim: None,
        },
    ]
}

fn rss_during(sandbox: &Sandbox, text: &str) -> f64 {
    let id = sandbox.send(text);
    let most = Cell::new(0.0_f64);
    until("the paced prompt is over", || {
        most.set(most.get().max(rss(sandbox.pid())));
        std::thread::sleep(Duration::from_millis(40));
        sandbox.ended(&id)
    });
    most.get()
}

fn first_event(sandbox: &Sandbox) -> Duration {
    let began = Instant::now();
    let id = sandbox.send("one");
    let mut first = None;
    follow(sandbox, &id, |line| {
        if line.contains("\"type\":\"init\"") {
            first.get_or_insert_with(|| began.elapsed());
        }
        false
    });
    first.unwrap()
}

/// Reads a prompt's stream until its end, or until enough has been seen.
pub(crate) fn follow(sandbox: &Sandbox, id: &str, mut enough: impl FnMut(&str) -> bool) {
    let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
    write!(
        stream,
        "GET /v1/agent/prompts/{id}/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if enough(&line) {
            return;
        }
    }
}
