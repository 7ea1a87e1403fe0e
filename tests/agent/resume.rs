//! One end, one attempt: the rows of what the CLI does when it is cut, each with the effects on disk.

use crate::support::{Sandbox, signal};
use serde_json::{Value, json};

fn runs(sandbox: &Sandbox) -> usize {
    sandbox.file("ran.txt").lines().count()
}

/// The transcript of the only session.
fn transcript(sandbox: &Sandbox) -> Vec<Value> {
    let projects = std::fs::read_dir(sandbox.path("home/.claude/projects")).unwrap().flatten();
    let files = projects.flat_map(|project| std::fs::read_dir(project.path()).unwrap().flatten());
    let file = files
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn prompts_in_transcript(sandbox: &Sandbox, id: &str) -> usize {
    transcript(sandbox)
        .iter()
        .filter(|entry| entry["uuid"] == id && entry["type"] == "user")
        .count()
}

#[test]
fn claude_killed_in_a_tool() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.send("[[bash echo x >> ran.txt; test $(wc -l < ran.txt) -gt 1 || { sleep 1000 & wait; }]][[say Done.]]");
    sandbox.file_has("ran.txt", "x");
    signal(sandbox.claude_pid(), "KILL");
    let end = sandbox.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Done.")),
        "{end}"
    );
    assert_eq!(end["resumed"], 1, "the end says that effects may have happened twice");
    assert_eq!(runs(&sandbox), 2, "the model was asked again");
    assert_eq!(prompts_in_transcript(&sandbox, &id), 1);
    sandbox.nothing_left_but("--input-format");
}

#[test]
fn claude_killed_while_the_model_speaks() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.send("[[bash echo x >> ran.txt]][[hang]][[say Done.]]");
    sandbox.event(&id, "text", |data| data["text"] == "I begin");
    signal(sandbox.claude_pid(), "KILL");
    let end = sandbox.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Done.")),
        "{end}"
    );
    assert_eq!(runs(&sandbox), 1, "the tool had its result");
    assert_eq!(prompts_in_transcript(&sandbox, &id), 1);
}

#[test]
fn claude_killed_before_the_first_word() {
    skip!("needs-claude");
    // It may have died before it asked the model, and then the model hangs for the one that comes after it.
    let sandbox = Sandbox::with(json!({"stall_timeout": "8s"}));
    let id = sandbox.send("[[hang]][[say Done.]]");
    sandbox.event(&id, "init", |_| true);
    signal(sandbox.claude_pid(), "KILL");
    let end = sandbox.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Done.")),
        "{end}"
    );
    assert_eq!(prompts_in_transcript(&sandbox, &id), 1);
}

#[test]
fn claude_terminated_in_a_tool() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.send("[[bash echo x >> ran.txt; test $(wc -l < ran.txt) -gt 1 || { sleep 1000 & wait; }]][[say Done.]]");
    sandbox.file_has("ran.txt", "x");
    signal(sandbox.claude_pid(), "TERM");
    let end = sandbox.end_of(&id);
    assert_eq!(end["status"], "done", "{end}");
    assert_eq!(prompts_in_transcript(&sandbox, &id), 1);
    sandbox.nothing_left_but("--input-format");
}

#[test]
fn the_agent_killed_in_a_tool() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::start();
    let id = sandbox
        .send("[[bash echo x >> ran.txt; setsid sleep 1004 & test $(wc -l < ran.txt) -gt 1 || { sleep 1000 & wait; }]][[say Done.]]");
    sandbox.file_has("ran.txt", "x");
    sandbox.kill();
    sandbox.up();
    let end = sandbox.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Done.")),
        "{end}"
    );
    assert_eq!((end["attempt"].as_u64(), end["resumed"].as_u64()), (Some(2), Some(1)));
    assert_eq!(prompts_in_transcript(&sandbox, &id), 1);
    sandbox.nothing_left_but("--input-format");
}

#[test]
fn the_agent_killed_after_the_answer_was_given() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::start();
    let id = sandbox.send("[[bash echo x >> ran.txt]][[say Forty-two.]]");
    let end = sandbox.end_of(&id);
    sandbox.kill();
    // As if it had died between the result and the terminal event: the queue still has the prompt, the outbox not its end.
    let outbox = sandbox.path("state/agent/outbox").join(format!("{id}.ndjson"));
    let text = std::fs::read_to_string(&outbox).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("\"type\":\"end\"")).collect();
    std::fs::write(&outbox, lines.join("\n") + "\n").unwrap();
    let entry = sandbox.path("state/agent/prompts").join(format!("{id}.json"));
    let mut stored: Value = serde_json::from_slice(&std::fs::read(&entry).unwrap()).unwrap();
    stored["status"] = json!("claimed");
    stored.as_object_mut().unwrap().remove("outcome");
    std::fs::write(&entry, stored.to_string()).unwrap();
    let asked = sandbox.api.seen().requests.len();
    sandbox.up();
    let again = sandbox.end_of(&id);
    assert_eq!(
        (again["status"].as_str(), again["reason"].as_str()),
        (Some("done"), Some("recovered")),
        "{again}"
    );
    assert_eq!(again["text"], end["text"]);
    assert_eq!(runs(&sandbox), 1, "nothing ran twice");
    assert_eq!(sandbox.api.seen().requests.len(), asked, "the model was not asked again");
}

#[test]
fn an_orderly_restart_of_the_agent() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::start();
    let first = sandbox.send("[[bash echo x >> ran.txt; test $(wc -l < ran.txt) -gt 1 || { sleep 1000 & wait; }]][[say First.]]");
    let second = sandbox.send("[[say Second.]]");
    sandbox.file_has("ran.txt", "x");
    assert!(sandbox.down(), "{}", sandbox.log());
    sandbox.nothing_left_but("");
    sandbox.up();
    assert_eq!(sandbox.end_of(&first)["status"], "done");
    assert_eq!(sandbox.end_of(&second)["text"], "Second.");
    assert_eq!(prompts_in_transcript(&sandbox, &first), 1);
}

#[test]
fn a_claude_that_never_works_fails_the_prompt() {
    let sandbox = Sandbox::with(json!({"command": "/bin/false"}));
    let end = sandbox.ask("x");
    assert_eq!(
        (end["status"].as_str(), end["reason"].as_str()),
        (Some("failed"), Some("crashed")),
        "{end}"
    );
    assert!(end["error"].as_str().unwrap().contains("exit status: 1"), "{end}");
}
