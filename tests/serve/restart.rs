//! A server that ends and comes back: what was under way goes on, and nothing is asked for twice.

use super::fake::{Fake, Mood};
use super::server::{Server, expect, sent, shop};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What every test's environment contains and no file may.
const SECRET: &str = "hunter2hunter2";

fn everything_in(directory: &Path) -> String {
    let files = fs::read_dir(directory.join("operations")).unwrap().flatten();
    files.map(|file| fs::read_to_string(file.path()).unwrap()).collect()
}

#[tokio::test]
async fn a_start_that_was_under_way_goes_on() {
    let fake = Fake::new(Mood::Gated);
    let server = Server::new(&fake);
    let keyed = |server: &Server| server.post("/v1/sandboxes", &shop()).header("idempotency-key", "k").send();
    let taken = expect(keyed(&server).await.unwrap(), 202).await;
    let operation = taken["operationId"].as_str().unwrap().to_owned();
    let path = format!("/v1/operations/{operation}/events");
    let before = sent(server.get(&path).send().await.unwrap(), |events| events.len() == 4).await;
    let directory = server.end();

    fake.open_gate();
    let server = Server::on(&fake, directory);
    // The key still stands for the same start.
    assert_eq!(expect(keyed(&server).await.unwrap(), 202).await, taken);
    let over = server.operation_over(&operation).await;
    assert_eq!((&over["state"], &over["attempts"]), (&json!("succeeded"), &json!(2)));
    // Who followed the first server resumes at the second.
    let request = server.get(&path).header("last-event-id", &before[3].id);
    let rest = sent(request.send().await.unwrap(), |_| false).await;
    assert_eq!(rest.last().unwrap().data["state"], "succeeded");
    let whole = sent(server.get(&path).send().await.unwrap(), |_| false).await;
    assert_eq!(whole[..4], before[..]);
    assert_eq!(whole[4..], rest[..]);
    let all = server
        .get("/v1/events")
        .header("last-event-id", &before[0].id)
        .send()
        .await
        .unwrap();
    assert_eq!(sent(all, |events| events.len() == 3).await, before[1..]);
    // A third one does nothing again.
    let server = Server::on(&fake, server.end());
    assert_eq!(server.operation_over(&operation).await["state"], "succeeded");
    assert_eq!(fake.asked().len(), 2);
    assert_eq!(sent(server.get(&path).send().await.unwrap(), |_| false).await, whole);
}

#[tokio::test]
async fn values_of_variables_are_on_no_disk_and_go_with_the_process() {
    let fake = Fake::new(Mood::Gated);
    let server = Server::new(&fake);
    let mut body = shop();
    body["environment"] = json!({"SANDBOX_TOKEN": SECRET});
    body["sandboxId"] = json!("shop-1");
    let (operation, _) = server.start(&body).await;
    let running = |value: &Value| value["steps"][0]["state"] == "done";
    let read = server.eventually(&format!("/v1/operations/{operation}"), running).await;
    assert_eq!(read["request"]["environmentNames"], json!(["SANDBOX_TOKEN"]));
    assert_eq!(fake.environment(), [("SANDBOX_TOKEN".to_owned(), SECRET.to_owned())]);
    assert!(!everything_in(server.path()).contains(SECRET));
    let server = Server::on(&fake, server.end());
    let over = server.operation_over(&operation).await;
    assert_eq!(over["state"], "failed");
    assert!(over["failure"]["message"].as_str().unwrap().contains("SANDBOX_TOKEN"), "{over}");
    // Asked again it goes on.
    fake.open_gate();
    let (again, sandbox) = server.start(&body).await;
    assert_eq!(
        (server.operation_over(&again).await["state"].as_str(), sandbox.as_str()),
        (Some("succeeded"), "shop-1")
    );
}

#[tokio::test]
async fn a_broken_page_is_left_out_and_the_rest_is_served() {
    let fake = Fake::new(Mood::Willing);
    let server = Server::new(&fake);
    let (operation, _) = server.start(&shop()).await;
    server.operation_over(&operation).await;
    let directory = server.end();
    fs::write(directory.path().join("operations/op-broken.json"), "{\"version\":1").unwrap();
    let server = Server::on(&fake, directory);
    assert_eq!(server.read(&format!("/v1/operations/{operation}")).await["state"], "succeeded");
    let broken = server.get("/v1/operations/op-broken").send().await.unwrap();
    assert_eq!(expect(broken, 404).await["code"], "no-such-operation");
}

#[tokio::test]
async fn a_stopped_sandbox_is_left_alone_by_the_next_server_too() {
    let fake = Fake::new(Mood::Willing);
    let server = Server::new(&fake);
    let (operation, sandbox) = server.start(&shop()).await;
    server.operation_over(&operation).await;
    let stop = server.post(&format!("/v1/sandboxes/{sandbox}/worker/stop"), &json!({}));
    expect(stop.send().await.unwrap(), 200).await;
    let server = Server::on(&fake, server.end());
    assert_eq!(server.read("/v1/fleet").await["presence"]["stopped"], 1);
    let mut body = shop();
    body["sandboxId"] = json!(sandbox);
    let (operation, _) = server.start(&body).await;
    server.operation_over(&operation).await;
    let server = Server::on(&fake, server.end());
    assert_eq!(server.read("/v1/fleet").await["presence"]["stopped"], 0);
}
