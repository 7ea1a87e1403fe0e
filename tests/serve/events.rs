//! What happens, to be followed and to be resumed.

use super::fake::{Fake, Mood};
use super::server::{Sent, Server, sent, shop};
use serde_json::{Value, json};

fn words(events: &[Sent]) -> Vec<String> {
    let word = |event: &Sent| match event.kind.as_str() {
        "step" => format!("{} {}", event.data["step"].as_str().unwrap(), event.data["state"].as_str().unwrap()),
        kind => format!("{kind} {}", event.data["state"].as_str().unwrap_or("")),
    };
    events.iter().map(word).collect()
}

const WHOLE: [&str; 8] = [
    "operation pending",
    "operation running",
    "create began",
    "create done",
    "claude skipped",
    "project note",
    "ready done",
    "operation succeeded",
];

#[tokio::test]
async fn steps_are_followed_as_they_happen_and_resumed_anywhere() {
    let fake = Fake::new(Mood::Gated);
    let server = Server::new(&fake);
    let (operation, _) = server.start(&shop()).await;
    let path = format!("/v1/operations/{operation}/events");
    let follow = server.get(&path).send().await.unwrap();
    let first = sent(follow, |events| events.len() == 4).await;
    assert_eq!(words(&first), WHOLE[..4]);
    // It hangs at the gate; who comes back with the last id gets the rest, and the stream ends with the operation.
    let resume = |id: &str| server.get(&path).header("last-event-id", id).send();
    let rest = resume(&first[3].id).await.unwrap();
    fake.open_gate();
    let rest = sent(rest, |_| false).await;
    assert_eq!(words(&rest), WHOLE[4..]);
    assert_eq!(rest[3].data["previewUrl"], "http://127.0.0.1:3000");

    let whole = sent(server.get(&path).send().await.unwrap(), |_| false).await;
    assert_eq!(words(&whole), WHOLE);
    for (at, event) in whole.iter().enumerate() {
        let later = sent(resume(&event.id).await.unwrap(), |_| false).await;
        assert_eq!(later, whole[at + 1..]);
        assert_eq!(event.data["id"].to_string(), event.id);
    }
    let after = server.get(&format!("{path}?after={}", whole[5].id)).send().await.unwrap();
    assert_eq!(sent(after, |_| false).await, whole[6..]);
}

#[tokio::test]
async fn all_events_go_to_whoever_follows_all() {
    let fake = Fake::new(Mood::Willing);
    let server = Server::new(&fake);
    let follow = server.get("/v1/events").send().await.unwrap();
    let (operation, sandbox) = server.start(&shop()).await;
    let of_another = server.get("/v1/events?sandbox=another&after=1").send().await.unwrap();
    let over = |events: &[Sent]| events.last().is_some_and(|event| event.data["state"] == "succeeded");
    let events = sent(follow, over).await;
    assert_eq!(words(&events), WHOLE);
    assert!(events.iter().all(|event| event.data["operationId"] == json!(operation)));
    // Looked at, it is heard of; and that is an event too.
    server.read(&format!("/v1/sandboxes/{sandbox}/worker")).await;
    let last = events.last().unwrap().id.clone();
    let resumed = server.get(&format!("/v1/events?sandbox={sandbox}")).header("last-event-id", &last);
    let resumed = sent(resumed.send().await.unwrap(), |events| !events.is_empty()).await;
    let seen = (&resumed[0].kind[..], &resumed[0].data["from"], &resumed[0].data["to"]);
    assert_eq!(seen, ("sandbox", &json!("unknown"), &json!("ready")));
    // Another sandbox's follower heard nothing of all that.
    let mut other = shop();
    other["sandboxId"] = json!("another");
    server.start(&other).await;
    let heard = sent(of_another, |events| !events.is_empty()).await;
    assert!(heard.iter().all(|event| event.data["sandboxId"] == json!("another")), "{heard:?}");
    let nothing: Vec<&Value> = heard
        .iter()
        .map(|event| &event.data)
        .filter(|data| data["operationId"] == json!(operation))
        .collect();
    assert!(nothing.is_empty());
}
