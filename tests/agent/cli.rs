//! What the CLI itself does with a message that is sent again: the agent builds on it, so it is checked here for both versions.

use crate::support::raw::{Home, uuid};
use crate::support::{claude, claude_without_lifecycle, until};
use std::path::PathBuf;

const RESUME: [(&str, &str); 1] = [("CLAUDE_CODE_RESUME_INTERRUPTED_TURN", "1")];
/// A tool that hangs the first time, and ends by itself should nobody end it.
const HANGS_ONCE: &str = "[[bash echo x >> ran.txt; test $(wc -l < ran.txt) -gt 1 || { sleep 60 & wait; }]][[say Done.]]";

fn sent_again_after_its_end(program: PathBuf) {
    let home = Home::of(program);
    let id = uuid();
    let mut first = home.start(false, &[], &RESUME);
    first.send(&id, "[[bash echo x >> ran.txt]][[say Done.]]");
    assert_eq!(first.result()["result"], "Done.");
    first.send(&id, "[[bash echo x >> ran.txt]][[say Done.]]");
    // Another prompt after it shows that the first is not still to come.
    first.send(&uuid(), "[[say After.]]");
    assert_eq!(first.result()["result"], "After.");
    assert_eq!(first.results(), 2, "the message that was sent again has no result");
    first.kill();
    let mut second = home.start(true, &[], &RESUME);
    second.send(&id, "[[bash echo x >> ran.txt]][[say Done.]]");
    second.send(&uuid(), "[[say At last.]]");
    assert_eq!(second.result()["result"], "At last.");
    assert_eq!((home.file("ran.txt").as_str(), home.asked(&id)), ("x\n", 1));
}

fn cut_in_a_tool_and_sent_again(program: PathBuf) {
    let home = Home::of(program);
    let id = uuid();
    let mut first = home.start(false, &[], &RESUME);
    first.send(&id, HANGS_ONCE);
    until("the tool runs", || home.file("ran.txt") == "x\n");
    first.kill();
    let mut second = home.start(true, &[], &RESUME);
    second.send(&id, HANGS_ONCE);
    assert_eq!(second.result()["result"], "Done.");
    second.send(&uuid(), "[[say After.]]");
    assert_eq!(second.result()["result"], "After.");
    assert_eq!(second.results(), 2, "one run, not two");
    assert_eq!((home.file("ran.txt").as_str(), home.asked(&id)), ("x\nx\n", 1));
}

#[test]
fn a_message_that_has_its_end_is_not_run_again() {
    skip!("needs-claude");
    sent_again_after_its_end(claude());
}

#[test]
fn a_message_that_has_its_end_is_not_run_again_by_the_older_one() {
    skip!("needs-claude");
    sent_again_after_its_end(claude_without_lifecycle());
}

#[test]
fn a_turn_that_was_cut_runs_once_more() {
    skip!("needs-claude");
    cut_in_a_tool_and_sent_again(claude());
}

#[test]
fn a_turn_that_was_cut_runs_once_more_in_the_older_one() {
    skip!("needs-claude");
    cut_in_a_tool_and_sent_again(claude_without_lifecycle());
}

#[test]
fn a_cut_turn_goes_on_by_itself_and_names_its_message() {
    skip!("needs-claude");
    let home = Home::of(claude());
    let id = uuid();
    let mut first = home.start(false, &[], &RESUME);
    first.send(&id, HANGS_ONCE);
    until("the tool runs", || home.file("ran.txt") == "x\n");
    first.kill();
    let mut second = home.start(true, &[], &[RESUME[0], ("CLAUDE_CODE_RESUME_REASON", "sandkeep")]);
    let result = second.result();
    assert_eq!(
        (&result["user_message_uuid"], &result["result"]),
        (&id.into(), &"Done.".into()),
        "{result}"
    );
    assert!(result["resume_reason"].is_string(), "{result}");
    assert_eq!(home.file("ran.txt"), "x\nx\n");
}

/// Why the agent never does without the variable, and never takes a lifecycle for an end.
#[test]
fn without_the_variable_a_message_that_is_sent_again_is_lost() {
    skip!("needs-claude");
    let home = Home::of(claude());
    let id = uuid();
    let mut first = home.start(false, &[], &[]);
    first.send(&id, HANGS_ONCE);
    until("the tool runs", || home.file("ran.txt") == "x\n");
    first.kill();
    let mut second = home.start(true, &[], &[]);
    second.send(&id, HANGS_ONCE);
    second.until("a lifecycle", |line| {
        line["command_uuid"] == id.as_str() && line["state"] == "completed"
    });
    second.send(&uuid(), "[[say After.]]");
    assert_eq!(second.result()["result"], "After.");
    assert_eq!((second.results(), home.file("ran.txt").as_str()), (1, "x\n"));
}

#[test]
fn the_versions_say_what_they_can_do() {
    skip!("needs-claude");
    let capabilities = |program: PathBuf| {
        let home = Home::of(program);
        let mut raw = home.start(false, &[], &[]);
        raw.send(&uuid(), "[[say Hi.]]");
        let init = raw.until("init", |line| line["subtype"] == "init");
        let result = raw.result();
        raw.idle();
        (
            init["capabilities"].to_string().contains("msg_lifecycle"),
            result["user_message_uuid"].is_string(),
        )
    };
    assert_eq!(capabilities(claude()), (true, true));
    assert_eq!(capabilities(claude_without_lifecycle()), (false, false));
}
