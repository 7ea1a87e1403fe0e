//! What the agent worker adds, measured: `cargo bench --bench agent`.
//!
//! A script stands in for claude and answers at once, so that all the time is the worker's own: from the request at its door over the
//! claim and the event on disk to the event at the client.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a program for people at a terminal"
)]

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../tests/agent/support/mod.rs"]
mod support;

use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::{Sandbox, until};

const SCRIPT: &str = r#"#!/bin/bash
case "$*" in *--version*) echo "2.1.330 (a script)"; exit;; esac
while read -r line; do
    [[ $line =~ \"uuid\":\"([^\"]*)\" ]]; id=${BASH_REMATCH[1]}
    [[ $line =~ events=([0-9]+) ]] && count=${BASH_REMATCH[1]} || count=1
    echo '{"type":"system","subtype":"init","session_id":"","claude_code_version":"2.1.330","capabilities":["msg_lifecycle_v1"]}'
    yes '{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"a line of an answer of usual length, more or less"}]}}' | head -n "$count"
    echo "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"result\":\"ok\",\"user_message_uuid\":\"$id\"}"
done
"#;

fn main() {
    let mut sandbox = Sandbox::prepare(json!({}));
    let script = sandbox.path("claude");
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.settings = json!({"command": script});
    sandbox.up();
    sandbox.ask("warm up");
    println!("RSS idle: {:.1} MB", rss(sandbox.pid()));
    let mut times: Vec<Duration> = (0..100).map(|_| first_event(&sandbox)).collect();
    times.sort();
    println!(
        "prompt → claude's first event at the client: p50 {:?}, p95 {:?}",
        times[50], times[95]
    );
    let began = Instant::now();
    let id = sandbox.send("events=100000");
    let peak = std::cell::Cell::new(0.0_f64);
    until("the flood is over", || {
        peak.set(peak.get().max(rss(sandbox.pid())));
        sandbox.status()["done"].as_u64() == Some(102)
    });
    let rate = sandbox.events(&id).len() as f64 / began.elapsed().as_secs_f64();
    println!("events through the outbox: {rate:.0}/s, RSS at most {:.1} MB", peak.get());
}

fn first_event(sandbox: &Sandbox) -> Duration {
    let began = Instant::now();
    let id = sandbox.send("events=1");
    let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
    write!(
        stream,
        "GET /v1/agent/prompts/{id}/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut first = None;
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line.contains("\"type\":\"init\"") {
            first.get_or_insert_with(|| began.elapsed());
        }
    }
    first.unwrap()
}

fn rss(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
}
