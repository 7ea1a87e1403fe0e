//! What it costs to look after a fleet, measured: `cargo bench --bench serve [-- SANDBOXES SECONDS]`, 1,000 and 10 unless told otherwise.
//!
//! The sandboxes are one listener in a process of its own that answers with a document of usual size; this process is the fleet's keeper,
//! with its real HTTP client over real sockets, told to ask without a pause. Every tenth sandbox is dead and takes the whole time limit.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for people at a terminal"
)]

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use sandkeep::sandbox::fleet::poll::HttpPolls;
use sandkeep::sandbox::fleet::{Fleet, FleetHandle, Heard, Policy, Prober, Target};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEAD: usize = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if arguments.first().is_some_and(|argument| argument == "boxes") {
        return runtime.block_on(boxes());
    }
    let number = |at: usize, otherwise: usize| arguments.get(at).map_or(otherwise, |text| text.parse().unwrap());
    runtime.block_on(keep(number(0, 1000), Duration::from_secs(number(1, 10) as u64)));
}

/// A status document of usual size: five units, each with a port and probes.
fn document() -> Value {
    let unit = |name: &str| {
        json!({"name": name, "type": "simple", "description": "", "state": "active", "sub_state": "running", "reason": null, "ready": true,
            "required": true, "pid": 41, "invocation": 3, "since": "2026-02-03T04:05:06.007Z", "restarts": 2,
            "last_exit": {"code": 1, "signal": null, "reason": "exit-code", "at": "2026-02-03T04:05:06.007Z"},
            "ports": [{"port": 3000, "address": "0.0.0.0"}], "memory_bytes": 91_234_304, "cpu_usec": 812_345, "status_text": null,
            "probes": {"readiness": "passing", "liveness": "passing"}})
    };
    let units = ["restore", "sync", "install", "dev", "agent"].map(unit);
    json!({"project": "p_1", "sandbox": "sb_1", "boot_id": "3f1c8a52-0d3f-4e0e-9d7a-1d2f3a4b5c6d", "version": "0.1.0", "config_hash": "c".repeat(64),
        "pid": 7, "started_at": "2026-02-03T04:05:06.007Z", "expires_at": null, "status": "ok", "ready": true,
        "capabilities": {"pid1": false, "subreaper": true, "root": true, "cgroup2": false}, "secret_isolation": "none",
        "box": {"memory_bytes": 1_000_000_000, "memory_total": 4_000_000_000_u64, "disk_free": 9_000_000_000_u64, "oom_kills": 0},
        "units": units,
        "preview": {"state": "ready", "port": 3000, "reason": null},
        "sync": {"state": "idle", "generation": 41, "pending": 0, "oldest_unsynced_ms": 0, "excluded_changed": 2, "last_upload_at": null,
            "files": 312, "bytes": 1_832_211, "errors": 0},
        "agent": {"state": "idle", "running": [], "queued": 0, "done": 4, "failed": 0}})
}

async fn boxes() {
    let text: Arc<str> = document().to_string().into();
    let router = axum::Router::new()
        .route("/{sandbox}/v1/status", axum::routing::get(status))
        .with_state(text);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    axum::serve(listener, router).await.unwrap();
}

async fn status(State(text): State<Arc<str>>, Path(sandbox): Path<usize>) -> Response {
    if sandbox.is_multiple_of(DEAD) {
        std::future::pending::<()>().await;
    }
    text.to_string().into_response()
}

struct Polls(HttpPolls);

impl Prober for Polls {
    fn probe(&self, _: Arc<str>, target: Target) -> BoxFuture<'static, Result<Heard, String>> {
        let polls = self.0.clone();
        Box::pin(async move { polls.ask_target(&target).await })
    }
}

async fn keep(sandboxes: usize, time: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("boxes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut base = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut base).unwrap();
    let policy = Policy {
        period: Duration::from_millis(1),
        ..Policy::default()
    };
    let fleet = FleetHandle::start(Fleet::new(policy, 1), Arc::new(Polls(HttpPolls::new().unwrap())), |_| {});
    let before = rss();
    for n in 0..sandboxes {
        let target = Target::Http {
            base: format!("{}/{n}", base.trim()),
            token: Some("t".into()),
        };
        fleet.add(format!("sb-{n}"), Some(target)).await.unwrap();
    }
    let living = sandboxes - sandboxes.div_ceil(DEAD);
    let began = Instant::now();
    while fleet.view().await.unwrap().presence["ready"] < living {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "serve  {sandboxes} sandboxes, {living} living: all heard within {:.2?}",
        began.elapsed()
    );
    let (first, cpu, began) = (answered(&fleet).await, cpu(), Instant::now());
    tokio::time::sleep(time).await;
    let (polls, took, spent) = (answered(&fleet).await - first, began.elapsed().as_secs_f64(), self::cpu() - cpu);
    let (rate, needed) = (polls / took, sandboxes as f64 / Policy::default().period.as_secs_f64());
    let met = if rate > needed { "met" } else { "MISSED" };
    println!(
        "       health polls {rate:.0}/s, {:.0} µs of CPU each (aim: every sandbox every {:?}, {needed:.0}/s: {met}; {:.1} % of a core at that rate)",
        spent * 1e6 / polls.max(1.0),
        Policy::default().period,
        spent / polls.max(1.0) * needed * 100.0
    );
    let after = rss();
    println!(
        "       memory {after:.1} MiB RSS with {sandboxes} sandboxes and their last documents, {before:.1} MiB before: {:.1} KiB each (no aim is set)",
        (after - before) * 1024.0 / sandboxes.max(1) as f64
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

async fn answered(fleet: &FleetHandle) -> f64 {
    let registry = fleet.scrape(prometheus_client::registry::Registry::default()).await.unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("fleet_polls_total{outcome=\"answered\"} "));
    line.unwrap().parse().unwrap()
}

fn rss() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Seconds of CPU that this process took.
fn cpu() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}
