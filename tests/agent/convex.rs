//! Prompts from the app's Convex deployment: the very functions of `config/convex/`, the official clients on both sides.

use crate::support::convex::{Authority, Convex, folder};
use crate::support::{Sandbox, signal, until};
use serde_json::{Value, json};
use std::process::Command;

fn worker_of(sandbox: &Sandbox) -> String {
    std::fs::read_to_string(sandbox.path("state/agent/convex/worker_id")).unwrap()
}

/// What the status says of Convex.
fn inbox(sandbox: &Sandbox) -> Value {
    sandbox.status()["inbox"]["convex"].clone()
}

/// A prompt that ended so was not taken, and its error names what is wrong with it.
fn is_refused(end: &Value, named: &str) {
    assert_eq!(
        (end["status"].as_str(), end["reason"].as_str()),
        (Some("failed"), Some("refused")),
        "{end}"
    );
    assert!(end["error"].as_str().unwrap().contains(named), "{end}");
}

/// A tool that waits until it is told to go on.
const WAITS: &str = "[[bash touch go.txt; while [ ! -e on.txt ]; do sleep 0.1; done]]";

#[test]
fn both_official_clients_meet() {
    skip!("needs-claude");
    let convex = Convex::any();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let text = "[[bash echo x > made.txt]][[say Hello from the box.]]";
    let output = Command::new("node")
        .arg(folder().join("app.mjs"))
        .args([&sandbox.id, "chat", text])
        .env("CONVEX_URL", &convex.url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["prompt"]["status"], "done");
    assert!(seen["events"].to_string().contains("Hello from the box."));
    assert_eq!(sandbox.file("made.txt"), "x\n");
    let end = convex.end_of(seen["id"].as_str().unwrap(), &sandbox);
    assert_eq!(
        (end["text"].as_str(), end["attempt"].as_u64()),
        (Some("Hello from the box."), Some(1))
    );
    until("the heartbeat arrives", || {
        convex.status()["state"] == "idle" && convex.status()["lastSeen"].is_number()
    });
    let inbox = &sandbox.status()["inbox"]["convex"];
    assert_eq!(inbox["state"], "connected", "{inbox}");
    assert!(inbox["calls_last_hour"].as_u64().unwrap() > 3, "{inbox}");
    until("everything is delivered", || {
        sandbox.status()["inbox"]["convex"]["undelivered"] == 0
    });
}

#[test]
fn an_outage_in_the_middle_of_a_turn_loses_nothing() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    convex.fault(json!({"on": "http", "path": "agent:append", "times": 1, "do": "drop-after"}));
    convex.fault(json!({"on": "http", "path": "agent:append", "times": 2, "do": "http", "status": 503, "code": "Overloaded"}));
    convex.fault(json!({"on": "http", "path": "agent:complete", "times": 1, "do": "drop-after"}));
    convex.fault(json!({"on": "http", "path": "agent:claim", "times": 1, "do": "drop-after"}));
    let id = convex.send(&format!("[[bash echo x >> ran.txt]]{WAITS}[[say Done.]]"));
    until("the tool waits", || sandbox.path("project/go.txt").exists());
    convex.drop_sockets();
    std::fs::write(sandbox.path("project/on.txt"), "").unwrap();
    let end = convex.end_of(&id, &sandbox);
    assert_eq!(end["text"], "Done.");
    assert_eq!(sandbox.file("ran.txt"), "x\n");
    assert_eq!(convex.events(&id), sandbox.events(&id));
    let again = convex.send("[[say Heard again.]]");
    assert_eq!(convex.end_of(&again, &sandbox)["text"], "Heard again.");
}

/// Minutes, as far as Convex is concerned: the claim's lease runs out, and nobody else is there.
#[test]
fn a_long_outage_loses_nothing_blocks_nothing_and_shows() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let id = convex.send(&format!("{WAITS}[[bash seq 100000]][[flood 2000]]"));
    until("the tool waits", || sandbox.path("project/go.txt").exists());
    convex.outage(true);
    convex.expire(&id, &worker_of(&sandbox));
    std::fs::write(sandbox.path("project/on.txt"), "").unwrap();
    sandbox.event(&id, "end", |data| data["status"] == "done");
    assert_eq!(sandbox.ask("[[say The local inbox works.]]")["status"], "done");
    until("the status says since when", || {
        inbox(&sandbox)["state"] == "offline" && inbox(&sandbox)["offline_since"].is_u64()
    });
    assert_eq!(inbox(&sandbox)["undelivered"], 1, "{}", inbox(&sandbox));
    sandbox.kill();
    sandbox.up();
    until("it is still known what is to be told", || inbox(&sandbox)["undelivered"] == 1);
    convex.outage(false);
    assert_eq!(convex.end_of(&id, &sandbox)["attempt"], 1);
    assert_eq!(convex.events(&id), sandbox.events(&id));
    until("the status says that it is over", || {
        inbox(&sandbox)["state"] == "connected" && inbox(&sandbox)["undelivered"] == 0
    });
    let again = convex.send("[[say Heard again.]]");
    assert_eq!(convex.end_of(&again, &sandbox)["text"], "Heard again.");
}

#[test]
fn a_prompt_that_is_offered_again_after_its_end_is_not_run_again() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    convex.fault(json!({"on": "http", "path": "agent:complete", "times": 1000, "do": "http", "status": 503}));
    let id = convex.send("[[bash echo x >> ran.txt]][[say Done.]]");
    sandbox.event(&id, "end", |_| true);
    // An event that arrives after it would renew the lease.
    until("the events are there", || convex.events(&id) == sandbox.events(&id));
    convex.expire(&id, &worker_of(&sandbox));
    assert_eq!(convex.prompt(&id)["status"], "pending");
    // What comes after it shows that it was heard of.
    let next = convex.send("[[say Next.]]");
    sandbox.event(&next, "end", |_| true);
    convex.heal();
    let end = convex.end_of(&id, &sandbox);
    assert_eq!((end["text"].as_str(), end["attempt"].as_u64()), (Some("Done."), Some(1)), "{end}");
    convex.end_of(&next, &sandbox);
    assert_eq!((sandbox.file("ran.txt").as_str(), sandbox.asked(&id)), ("x\n", 1));
    assert_eq!(convex.events(&id), sandbox.events(&id));
}

#[test]
fn a_certificate_counts_if_its_authority_is_trusted() {
    skip!("needs-claude");
    let authority = Authority::found();
    let convex = Convex::with_tls(&authority);
    let mut stranger = convex.sandbox(json!({}));
    stranger.up();
    until("the status names the certificate", || {
        inbox(&stranger)["error"].to_string().contains("certificate")
    });
    assert_eq!(inbox(&stranger)["state"], "offline");
    assert!(stranger.down());
    let mut sandbox = convex.sandbox(json!({}));
    sandbox
        .environment
        .push(("SSL_CERT_FILE".into(), authority.ca.display().to_string()));
    sandbox.up();
    let id = convex.send("[[say In private.]]");
    assert_eq!(convex.end_of(&id, &sandbox)["text"], "In private.");
    until("the socket is connected, too", || inbox(&sandbox)["state"] == "connected");
}

#[test]
fn the_agent_killed_in_a_turn_gets_its_claim_back() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let id = convex.send("[[bash echo x >> ran.txt; test $(wc -l < ran.txt) -gt 1 || { sleep 1000 & wait; }]][[say Done.]]");
    sandbox.file_has("ran.txt", "x");
    sandbox.kill();
    sandbox.up();
    let end = convex.end_of(&id, &sandbox);
    assert_eq!(
        (end["text"].as_str(), end["attempt"].as_u64(), end["resumed"].as_u64()),
        (Some("Done."), Some(1), Some(1)),
        "{end}"
    );
    sandbox.nothing_left_but("--input-format");
}

#[test]
fn what_ended_while_convex_was_away_is_told_after_a_restart() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let id = convex.send("[[say Offline.]]");
    convex.fault(json!({"on": "http", "path": "agent:append", "times": 1000, "do": "http", "status": 503}));
    convex.fault(json!({"on": "http", "path": "agent:complete", "times": 4, "do": "http", "status": 503}));
    sandbox.event(&id, "end", |_| true);
    assert!(sandbox.down());
    sandbox.up();
    until("the end is told although the events are not", || {
        convex.prompt(&id)["status"] == "done"
    });
    assert!(convex.events(&id).is_empty());
}

#[test]
fn a_person_cancels_and_answers_in_the_app() {
    skip!("needs-claude");
    let convex = Convex::any();
    let mut sandbox = convex.sandbox(json!({"permission_mode": "default"}));
    sandbox.up();
    let id = convex.send("[[bash touch allowed.txt]][[say Thanks.]]");
    until("the question arrives", || {
        convex.prompt(&id)["questions"].as_array().is_some_and(|open| open.len() == 1)
    });
    let question = convex.prompt(&id)["questions"][0].clone();
    assert!(question["body"].as_str().unwrap().contains("touch allowed.txt"));
    until("the app sees the state", || convex.status()["state"] == "requires_action");
    convex.mutation(
        "ui:answer",
        json!({"id": id, "question": question["question"], "answer": "{\"behavior\":\"allow\"}"}),
    );
    assert_eq!(convex.end_of(&id, &sandbox)["text"], "Thanks.");
    assert!(sandbox.path("project/allowed.txt").exists());
    let id = convex.send("[[bash echo begun > begun.txt; sleep 1000 & wait]]");
    until("the second question arrives", || {
        convex.prompt(&id)["questions"].as_array().is_some_and(|open| open.len() == 1)
    });
    convex.mutation("ui:cancel", json!({"id": id}));
    assert_eq!(convex.end_of(&id, &sandbox)["status"], "cancelled");
    assert_eq!(convex.prompt(&id)["questions"], json!([]));
}

#[test]
fn a_question_is_asked_again_after_the_agent_was_killed() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({"permission_mode": "default"}));
    sandbox.up();
    let id = convex.send("[[bash touch allowed.txt]][[say Thanks.]]");
    let open = || {
        let questions = convex.prompt(&id)["questions"].as_array().cloned().unwrap_or_default();
        assert!(questions.len() < 2, "{questions:?}");
        questions.first().map(|question| question["question"].clone())
    };
    until("the question arrives", || open().is_some());
    let first = open();
    sandbox.kill();
    sandbox.up();
    until("it is asked again", || {
        open().is_some_and(|question| Some(&question) != first.as_ref())
    });
    convex.mutation(
        "ui:answer",
        json!({"id": id, "question": open(), "answer": "{\"behavior\":\"allow\"}"}),
    );
    assert_eq!(convex.end_of(&id, &sandbox)["text"], "Thanks.");
    let events = convex.events(&id);
    assert!(
        events
            .iter()
            .any(|event| Some(&event["data"]["question"]) == first.as_ref() && event["data"]["withdrawn"] == true)
    );
}

#[test]
fn odd_prompts() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({"max_prompt_bytes": 600_000}));
    sandbox.up();
    let send = |text: &str, session: &str| {
        let args = json!({"sandboxId": "sb1", "text": text, "session": session, "clientKey": fastrand::u64(..).to_string()});
        convex.mutation("ui:send", args).as_str().unwrap().to_owned()
    };
    for (text, session, named) in [
        ("x".repeat(600_001), "main", "max_prompt_bytes"),
        ("x".into(), "a\nb", "session"),
        ("x".into(), "", "session"),
    ] {
        is_refused(&convex.end_of(&send(&text, session), &sandbox), named);
    }
    assert!(sandbox.api.seen().requests.is_empty(), "claude had no part in it");
    let long = format!("{}\u{1}\u{7f}\u{2028} [[say Long.]]", "é".repeat(250_000));
    assert_eq!(
        convex.end_of(&send(&long, "a session that nobody knows"), &sandbox)["text"],
        "Long."
    );
}

#[test]
fn a_lost_claim_stops_claude_and_says_nothing() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let id = convex.send(&format!("{WAITS}[[bash echo two > two.txt; sleep 1000 & wait]][[say Too late.]]"));
    until("the tool waits", || sandbox.path("project/go.txt").exists());
    let worker = worker_of(&sandbox);
    let who = json!({"sandboxId": "sb1", "token": crate::support::convex::TOKEN, "id": id});
    let with = |more: Value| {
        let mut args = who.clone();
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        args
    };
    convex.expire(&id, &worker);
    let claimed = convex.mutation("agent:claim", with(json!({"workerId": "another"})));
    assert_eq!(
        (claimed["ok"].as_bool(), claimed["attempt"].as_f64()),
        (Some(true), Some(2.0)),
        "{claimed}"
    );
    let known = convex.events(&id).len();
    std::fs::write(sandbox.path("project/on.txt"), "").unwrap();
    sandbox.nothing_left_but("--version");
    assert_eq!(convex.events(&id).len(), known, "nothing of the old attempt arrives any more");
    assert_eq!(convex.prompt(&id)["status"], "claimed");
}

#[test]
fn without_a_socket_it_asks_again_and_again() {
    skip!("needs-claude");
    let convex = Convex::double();
    convex.fault(json!({"on": "connect", "times": 100_000, "do": "http", "status": 403}));
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let id = convex.send("[[say Polled.]]");
    assert_eq!(convex.end_of(&id, &sandbox)["text"], "Polled.");
    assert_eq!(sandbox.status()["inbox"]["convex"]["state"], "polling");
}

#[test]
fn a_deployment_without_the_functions_is_named() {
    skip!("needs-claude");
    let empty = tempfile::tempdir().unwrap();
    let convex = Convex::serve(&["--dir", empty.path().to_str().unwrap()]);
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let error = || sandbox.status()["inbox"]["convex"]["error"].to_string();
    until("the status says so", || {
        error().contains("agent:inbox") && error().contains("npx convex deploy")
    });
    assert_eq!(sandbox.ask("[[say The local inbox works.]]")["status"], "done");
}

#[test]
fn a_function_that_is_missing_is_named() {
    skip!("needs-claude");
    let partial = tempfile::tempdir().unwrap();
    for file in ["agent", "functions", "schema", "tables", "ui"] {
        let path = folder().join(format!("../../config/convex/{file}.ts"));
        let text = std::fs::read_to_string(path)
            .unwrap()
            .replace("export const heartbeat", "export const of_old");
        std::fs::write(partial.path().join(format!("{file}.ts")), text).unwrap();
    }
    let convex = Convex::serve(&["--dir", partial.path().to_str().unwrap()]);
    convex.admit();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let id = convex.send("[[say It works all the same.]]");
    assert_eq!(convex.end_of(&id, &sandbox)["status"], "done");
    let error = || sandbox.status()["inbox"]["convex"]["error"].to_string();
    until("the status names it", || {
        error().contains("agent:heartbeat") && error().contains("npx convex deploy")
    });
}

#[test]
fn a_wrong_token_is_refused_and_shown_nowhere() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.environment.retain(|(name, _)| name != "SANDBOX_TOKEN");
    sandbox.environment.push(("SANDBOX_TOKEN".into(), "wrong-token-0123456789".into()));
    sandbox.up();
    until("the status says so", || {
        sandbox.status()["inbox"]["convex"]["error"].to_string().contains("Unauthorized")
    });
    assert!(!sandbox.log().contains("wrong-token") && !sandbox.status().to_string().contains("wrong-token"));
}

#[test]
fn bad_options_fail_the_prompt() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    for (options, named) in [
        ("{\"permission_mode\":\"yolo\"}", "yolo"),
        ("{\"max_turn\":1}", "max_turn"),
        ("max_turns=1", "options"),
    ] {
        let args = json!({"sandboxId": "sb1", "text": "x", "clientKey": named, "options": options});
        let id = convex.mutation("ui:send", args).as_str().unwrap().to_owned();
        is_refused(&convex.end_of(&id, &sandbox), named);
    }
    assert!(sandbox.api.seen().requests.is_empty(), "claude had no part in it");
}

#[test]
fn claude_killed_again_and_again_still_ends_once() {
    skip!("needs-claude");
    let convex = Convex::double();
    let mut sandbox = convex.sandbox(json!({}));
    sandbox.up();
    let id = convex.send("[[bash echo x >> ran.txt; test $(wc -l < ran.txt) -gt 3 || { sleep 1000 & wait; }]][[say Done.]]");
    for round in 1..=3 {
        until("the tool runs", || sandbox.file("ran.txt").lines().count() == round);
        signal(sandbox.claude_pid(), "KILL");
    }
    let end = convex.end_of(&id, &sandbox);
    assert_eq!(end["text"], "Done.", "{end}");
    // A kill before claude has written anything may cost a start of its own: the message is asked anew.
    assert!((3..=4).contains(&end["resumed"].as_u64().unwrap()), "{end}");
    assert_eq!(sandbox.file("ran.txt").lines().count(), 4, "the tool ran once for each start of it");
}
