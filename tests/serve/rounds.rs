//! What goes on without being asked for: sandboxes that others start are looked after, and those in use do not end.

use super::fake::{Fake, Mood};
use super::server::{Server, expect, shop};
use jiff::{SignedDuration, Timestamp};
use sandkeep::sandbox::fleet::Policy;
use sandkeep::sandbox::serve::deadlines::DeadlinePolicy;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn in_minutes(minutes: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_mins(minutes)
}

fn server(fake: &Fake, deadlines: DeadlinePolicy) -> Server {
    let policy = Policy {
        period: Duration::from_millis(50),
        ..Policy::default()
    };
    let directory = Arc::new(tempfile::tempdir().unwrap());
    Server::kept(Arc::new(fake.clone()), Arc::new(fake.clone()), policy, deadlines, directory)
}

fn quick() -> DeadlinePolicy {
    DeadlinePolicy {
        period: Duration::from_millis(50),
        ..DeadlinePolicy::default()
    }
}

fn extensions(fake: &Fake, sandbox: &str) -> usize {
    let wanted = format!("extend {sandbox}");
    fake.asked().iter().filter(|asked| **asked == wanted).count()
}

#[tokio::test]
async fn what_the_command_line_starts_stops_and_removes_is_seen() {
    let fake = Fake::new(Mood::Willing);
    let server = server(&fake, quick());
    fake.is_started_elsewhere("by-hand");
    let presence = |word: &'static str| move |row: &Value| row["fleet"]["presence"] == word;
    server.eventually("/v1/fleet", |view| view["presence"]["ready"] == 1).await;
    server.eventually("/v1/sandboxes/by-hand", presence("ready")).await;
    fake.is_stopped_elsewhere("by-hand");
    server.eventually("/v1/sandboxes/by-hand", presence("stopped")).await;
    fake.is_started_elsewhere("by-hand");
    server.eventually("/v1/sandboxes/by-hand", presence("ready")).await;
    // One that the server itself stops stays stopped until it is started again, by whomever.
    let stop = server.post("/v1/sandboxes/by-hand/worker/stop", &json!({}));
    expect(stop.send().await.unwrap(), 200).await;
    server.eventually("/v1/sandboxes/by-hand", presence("stopped")).await;
    fake.is_removed_elsewhere("by-hand");
    server.eventually("/v1/fleet", |view| view["total"] == 0).await;
}

#[tokio::test]
async fn a_sandbox_in_use_gets_more_time_and_one_that_is_not_ends() {
    let fake = Fake::new(Mood::Willing);
    let kept = quick();
    for (sandbox, minutes) in [("near", 2), ("far", 60), ("idle", 2)] {
        fake.is_started_elsewhere(sandbox);
        fake.set_end(sandbox, in_minutes(minutes));
    }
    let far = fake.end("far");
    let server = server(&fake, kept);
    let later = || fake.end("near").duration_since(Timestamp::now()) > SignedDuration::from_mins(9);
    server.eventually("/v1/fleet", |_| later()).await;
    assert_eq!((fake.end("far"), extensions(&fake, "far")), (far, 0), "its end is not near");
    assert_eq!(extensions(&fake, "near"), 1, "once is enough");
}

#[tokio::test]
async fn a_question_a_start_and_a_prompt_are_uses() {
    let fake = Fake::new(Mood::Willing);
    for sandbox in ["alone", "asked", "prompted"] {
        fake.is_started_elsewhere(sandbox);
        fake.set_end(sandbox, in_minutes(60));
    }
    fake.set_agent("prompted", "running");
    let server = server(
        &fake,
        DeadlinePolicy {
            idle: Duration::from_secs(2),
            ..quick()
        },
    );
    // Each has been seen, and for so long nobody has used it.
    server.eventually("/v1/fleet", |view| view["presence"]["ready"] == 3).await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    for sandbox in ["alone", "asked", "prompted"] {
        fake.set_end(sandbox, in_minutes(2));
    }
    server.eventually("/v1/fleet", |_| extensions(&fake, "prompted") > 0).await;
    server
        .eventually("/v1/sandboxes/asked/worker", |_| extensions(&fake, "asked") > 0)
        .await;
    assert_eq!(extensions(&fake, "alone"), 0);
    let mut body = shop();
    body["sandboxId"] = json!("alone");
    let (operation, _) = server.start(&body).await;
    server.operation_over(&operation).await;
    server.eventually("/v1/fleet", |_| extensions(&fake, "alone") > 0).await;
}

#[tokio::test]
async fn a_plan_that_has_no_more_is_not_asked_again_and_again() {
    let fake = Fake::new(Mood::Willing);
    fake.is_started_elsewhere("a");
    fake.set_end("a", in_minutes(2));
    fake.set_most(in_minutes(3));
    let server = server(&fake, quick());
    server.eventually("/v1/fleet", |_| extensions(&fake, "a") == 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(extensions(&fake, "a"), 2, "as far as it goes, and that there is no more");
    let worker = server.read("/v1/sandboxes/a/worker").await;
    assert_eq!(worker["isRunning"], true);
}
