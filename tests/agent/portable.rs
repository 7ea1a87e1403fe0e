//! A conversation goes on in another box.

use crate::support::Sandbox;
use serde_json::json;

#[test]
fn the_mirror_is_enough_in_a_fresh_home() {
    skip!("needs-claude");
    let mut first = Sandbox::start();
    let session = |text: &str| json!({"text": text, "session": "trip"});
    first.end_of(&first.submit(session("[[bash echo x]][[say The word is mango.]]")));
    assert!(first.down());
    let mut second = Sandbox::prepare(json!({}));
    copy(&first.path("state/transcripts"), &second.path("state/transcripts"));
    second.up();
    let end = second.end_of(&second.submit(session("[[say Hello again.]]")));
    assert_eq!(end["status"], "done", "{end}");
    let asked = second.api.seen().requests.last().unwrap().to_string();
    assert!(asked.contains("The word is mango."), "the new box knows the conversation");
}

#[test]
fn a_turn_that_was_cut_with_its_box_goes_on() {
    skip!("needs-claude");
    let mut first = Sandbox::start();
    let body = |text: &str| json!({"text": text, "id": "moved", "session": "trip"});
    let text = "[[bash echo x >> ran.txt]][[hang]][[say Moved.]]";
    let id = first.submit(body(text));
    first.event(&id, "text", |data| data["text"] == "I begin");
    first.until_written("tool_result");
    first.kill();
    let mut second = Sandbox::prepare(json!({}));
    copy(&first.path("state/transcripts"), &second.path("state/transcripts"));
    second.up();
    // The other box's API hangs once too: it is another API.
    second.submit(json!({"text": text, "id": "moved", "session": "trip", "options": {}}));
    second.event(&id, "text", |data| data["text"] == "I begin");
    crate::support::signal(second.claude_pid(), "KILL");
    let end = second.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Moved.")),
        "{end}"
    );
    assert_eq!(second.file("ran.txt"), "", "the tool's result came with the transcript");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
