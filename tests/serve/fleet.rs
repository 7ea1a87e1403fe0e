//! A thousand sandboxes, of which some are dead, asked over real sockets.

use super::fake::{Fake, Mood, document};
use super::server::Server;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use sandkeep::backoff::Steps;
use sandkeep::sandbox::fleet::poll::HttpPolls;
use sandkeep::sandbox::fleet::{Fleet, FleetHandle, Heard, Policy, Prober, Target};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SANDBOXES: usize = 1000;
/// Every tenth never answers.
const DEAD: usize = 10;

/// Every sandbox's health endpoint, in one listener: the first part of the path is the sandbox.
#[derive(Clone, Default)]
struct Boxes {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

struct Asking(Arc<AtomicUsize>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn status(State(boxes): State<Boxes>, Path(sandbox): Path<String>) -> Response {
    *boxes.asked.lock().unwrap().entry(sandbox.clone()).or_default() += 1;
    if is_dead(&sandbox) {
        std::future::pending::<()>().await;
    }
    match sandbox.as_str() {
        "sb-1" => (StatusCode::OK, "not JSON").into_response(),
        _ => axum::Json(document(&sandbox, true)).into_response(),
    }
}

fn is_dead(sandbox: &str) -> bool {
    sandbox
        .strip_prefix("sb-")
        .and_then(|n| n.parse::<usize>().ok())
        .is_some_and(|n| n.is_multiple_of(DEAD))
}

#[derive(Clone)]
struct Polls {
    http: HttpPolls,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

impl Prober for Polls {
    fn probe(&self, _: Arc<str>, target: Target) -> BoxFuture<'static, Result<Heard, String>> {
        let polls = self.clone();
        let now = polls.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        polls.most_at_once.fetch_max(now, Ordering::SeqCst);
        // From the moment on at which it is asked for, until it is answered or given up.
        let asking = Asking(polls.at_once.clone());
        Box::pin(async move {
            let _asking = asking;
            polls.http.ask_target(&target).await
        })
    }
}

async fn boxes() -> (Boxes, String) {
    let boxes = Boxes::default();
    let router = axum::Router::new()
        .route("/{sandbox}/v1/status", axum::routing::get(status))
        .with_state(boxes.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (boxes, base)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sandboxes_are_looked_after_and_the_dead_hold_up_nobody() {
    let (boxes, base) = boxes().await;
    let policy = Policy {
        period: Duration::from_secs(3),
        time_limit: Duration::from_secs(2),
        steady_at_once: 32,
        doubtful_at_once: 8,
        retry: Steps {
            delay: Duration::from_secs(1),
            max: Duration::from_secs(60),
            steps: 6,
        },
        ..Policy::default()
    };
    let changes = Arc::new(AtomicUsize::new(0));
    let counted = changes.clone();
    let most_at_once = Arc::new(AtomicUsize::new(0));
    let prober = Arc::new(Polls {
        http: HttpPolls::new().unwrap(),
        at_once: Arc::default(),
        most_at_once: most_at_once.clone(),
    });
    let fleet = FleetHandle::start(Fleet::new(policy.clone(), 1), prober, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    for n in 0..SANDBOXES {
        let target = Target::Http {
            base: format!("{base}/sb-{n}"),
            token: Some("t".into()),
        };
        fleet.add(format!("sb-{n}"), Some(target)).await.unwrap();
    }
    let living = SANDBOXES - SANDBOXES / DEAD - 1;
    let end = Instant::now() + Duration::from_secs(90);
    // All of the living are heard, and heard again: three rounds each.
    loop {
        let asked = boxes.asked.lock().unwrap().clone();
        let often = |(sandbox, times): (&String, &usize)| !is_dead(sandbox) && sandbox != "sb-1" && *times >= 3;
        let thrice = asked.iter().filter(|entry| often(*entry)).count();
        let view = fleet.view().await.unwrap();
        if thrice == living && view.presence["ready"] == living {
            assert_eq!(view.total, SANDBOXES);
            break;
        }
        assert!(Instant::now() < end, "{thrice} of {living} were asked three times: {view:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Never more at once than there is room for, and the dead were asked less and less often.
    let most = most_at_once.load(Ordering::SeqCst);
    assert!(most <= policy.steady_at_once + policy.doubtful_at_once, "{most} at once");
    let asked = boxes.asked.lock().unwrap().clone();
    let times = |dead: bool| {
        asked
            .iter()
            .filter(|(sandbox, _)| is_dead(sandbox) == dead)
            .map(|(_, times)| times)
            .sum::<usize>()
    };
    assert!(
        times(true) * 10 <= times(false) * 2,
        "{} polls of the dead, {} of the living",
        times(true),
        times(false)
    );
    let broken = fleet.one("sb-1").await.unwrap().unwrap().0;
    assert!(broken.fault.unwrap().contains("not what it should be"));
    assert!(changes.load(Ordering::SeqCst) >= living);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sandboxes_report() {
    let fake = Fake::new(Mood::Willing);
    let server = Server::new(&fake);
    let push = |n: usize| {
        let id = format!("sb-{n}");
        let body = serde_json::to_value(document(&id, n.is_multiple_of(2))).unwrap();
        server.post(&format!("/v1/sandboxes/{id}/report"), &body).send()
    };
    for chunk in (0..SANDBOXES).collect::<Vec<_>>().chunks(50) {
        for answer in futures_util::future::join_all(chunk.iter().map(|n| push(*n))).await {
            assert_eq!(answer.unwrap().status(), 204);
        }
    }
    let fleet = server.read("/v1/fleet").await;
    assert_eq!(fleet["total"], SANDBOXES);
    assert_eq!(
        (&fleet["presence"]["ready"], &fleet["presence"]["not-ready"]),
        (&500.into(), &500.into())
    );
    assert_eq!(fleet["memoryBytes"], 1000 * SANDBOXES);
    let list = server.read("/v1/sandboxes").await;
    assert_eq!(list["sandboxes"].as_array().unwrap().len(), SANDBOXES);
    let metrics = server.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("sandkeep_fleet_reports_total{outcome=\"taken\"} 1000"));
    // The number of sandboxes is not the number of series.
    assert!(metrics.lines().count() < 200, "{}", metrics.lines().count());
}
