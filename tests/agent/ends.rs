//! How prompts end otherwise: cancelled, out of time, refused by the API, after a question.

use crate::support::{Sandbox, processes_named, signal, until};
use serde_json::json;

#[test]
fn cancel_ends_the_tool_and_claude_stays_warm() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.send("[[bash echo begun > begun.txt; sleep 1000 & wait]]");
    sandbox.file_has("begun.txt", "begun");
    let claude = sandbox.claude_pid();
    assert_eq!(sandbox.post(&format!("/v1/agent/prompts/{id}/cancel"), &json!({})).0, 202);
    let end = sandbox.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["reason"].as_str()),
        (Some("cancelled"), Some("cancelled"))
    );
    sandbox.nothing_left_but("--input-format");
    assert_eq!(sandbox.ask("[[say Still here.]]")["text"], "Still here.");
    assert_eq!(sandbox.claude_pid(), claude);
    let (status, answer) = sandbox.post(&format!("/v1/agent/prompts/{id}/cancel"), &json!({}));
    assert_eq!((status, answer["status"].as_str()), (200, Some("cancelled")));
    let text = "[[bash echo begun > begun.txt; sleep 1000 & wait]]";
    let (status, again) = sandbox.post("/v1/agent/prompts", &json!({"text": text, "id": id}));
    assert_eq!((status, again["status"].as_str()), (200, Some("cancelled")), "it is not run again");
}

#[test]
fn a_waiting_prompt_is_cancelled() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let first = sandbox.send("[[bash echo begun > begun.txt; sleep 1000]]");
    sandbox.file_has("begun.txt", "begun");
    let second = sandbox.send("[[bash touch never.txt]]");
    sandbox.post(&format!("/v1/agent/prompts/{second}/cancel"), &json!({}));
    sandbox.post(&format!("/v1/agent/prompts/{first}/cancel"), &json!({}));
    assert_eq!(sandbox.end_of(&first)["status"], "cancelled");
    assert_eq!(sandbox.end_of(&second)["status"], "cancelled");
    assert!(!sandbox.path("project/never.txt").exists());
}

/// A process that no variable and no parent betrays. Its text says which it is.
fn stray(unique: &str) -> String {
    format!("env -i setsid sleep {unique} >/dev/null 2>&1 &")
}

/// Seconds for `sleep`, as no other test has them.
fn unique() -> String {
    format!("1000.{}", fastrand::u64(1_000_000_000..9_000_000_000))
}

fn runs(unique: &str) -> bool {
    processes_named(unique).next().is_some()
}

#[test]
fn strays_are_ended_with_the_turn() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let hidden = unique();
    let end = sandbox.ask(&format!(
        "[[bash nohup sleep 1001 >/dev/null 2>&1 & setsid sleep 1002 >/dev/null 2>&1 & {} echo ok]]",
        stray(&hidden)
    ));
    assert_eq!(end["status"], "done", "{end}");
    assert!(end["strays_ended"].as_u64().unwrap() >= 3, "{end}");
    assert!(!runs(&hidden));
    sandbox.nothing_left_but("--input-format");
    sandbox.until_all_are_reaped();
    assert_eq!(sandbox.ask("[[say Still here.]]")["text"], "Still here.");
    // Who reaps orphans leaves claude's own end to who waits for it.
    let before = sandbox.claude_pid();
    signal(before, "KILL");
    assert_eq!(sandbox.ask("[[say Another.]]")["text"], "Another.");
    assert_ne!(sandbox.claude_pid(), before);
}

#[test]
fn strays_of_a_turn_that_is_cancelled_are_ended() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let hidden = unique();
    let id = sandbox.send(&format!("[[bash {} echo begun > begun.txt; sleep 1000 & wait]]", stray(&hidden)));
    sandbox.file_has("begun.txt", "begun");
    sandbox.post(&format!("/v1/agent/prompts/{id}/cancel"), &json!({}));
    assert_eq!(sandbox.end_of(&id)["status"], "cancelled");
    assert!(!runs(&hidden));
    sandbox.until_all_are_reaped();
}

#[test]
fn strays_of_a_turn_that_is_run_again_are_ended() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let hidden = unique();
    let tool = format!(
        "{} echo x >> ran.txt; test $(wc -l < ran.txt) -gt 1 || {{ sleep 1000 & wait; }}",
        stray(&hidden)
    );
    let id = sandbox.send(&format!("[[bash {tool}]][[say Done.]]"));
    sandbox.file_has("ran.txt", "x");
    until("its stray runs", || runs(&hidden));
    signal(sandbox.claude_pid(), "KILL");
    sandbox.done(&id, "Done.");
    assert!(!runs(&hidden));
    sandbox.until_all_are_reaped();
}

#[test]
fn strays_of_another_session_live_as_long_as_its_turn() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let (hidden, anothers) = (unique(), unique());
    let waits = "touch go.txt; while [ ! -e on.txt ]; do sleep 0.1; done";
    let id = sandbox.send(&format!("[[bash {} {waits}]]", stray(&hidden)));
    until("the tool waits", || sandbox.path("project/go.txt").exists());
    until("its stray runs", || runs(&hidden));
    let text = format!("[[bash {} echo ok]]", stray(&anothers));
    let end = sandbox.end_of(&sandbox.submit(json!({"text": text, "session": "other"})));
    assert_eq!(end["status"], "done", "{end}");
    assert!(runs(&hidden), "it is not the other session's to end");
    std::fs::write(sandbox.path("project/on.txt"), "").unwrap();
    assert_eq!(sandbox.end_of(&id)["status"], "done");
    assert!(!runs(&hidden) && !runs(&anothers), "nobody else may have left them any more");
}

#[test]
fn strays_may_live_where_the_config_says_so() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::with(json!({"background": true}));
    let hidden = unique();
    let waits = "env -i setsid sh -c 'while [ ! -e on.txt ]; do sleep 0.1; done; touch over.txt' >/dev/null 2>&1 &";
    let end = sandbox.ask(&format!(
        "[[bash nohup sleep 1001 >/dev/null 2>&1 & {} {waits} echo ok]]",
        stray(&hidden)
    ));
    assert_eq!(end["strays_ended"], 0);
    assert!(sandbox.processes().iter().any(|(_, command)| command.contains("sleep 1001")));
    until("the stray runs", || runs(&hidden));
    // One that ends by itself is not left as a zombie.
    std::fs::write(sandbox.path("project/on.txt"), "").unwrap();
    until("it ends", || sandbox.path("project/over.txt").exists());
    sandbox.until_all_are_reaped();
    assert!(runs(&hidden));
    assert!(sandbox.down());
    assert!(!runs(&hidden));
    sandbox.nothing_left_but("--version");
}

#[test]
fn the_time_limit_holds() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.submit(json!({"text": "[[bash echo begun > begun.txt; sleep 1000 & wait]]", "options": {"timeout_ms": 1500}}));
    let end = sandbox.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["reason"].as_str()),
        (Some("failed"), Some("time_limit")),
        "{end}"
    );
    sandbox.nothing_left_but("--input-format");
}

#[test]
fn a_stall_is_cut_and_resumed() {
    skip!("needs-claude");
    let sandbox = Sandbox::with(json!({"stall_timeout": "6s"}));
    let id = sandbox.send("[[bash echo x >> ran.txt]][[hang]][[say Awake.]]");
    let end = sandbox.end_of(&id);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Awake.")),
        "{end}"
    );
    assert!(end["resumed"].as_u64().unwrap() >= 1, "{end}");
    let states: Vec<_> = sandbox
        .events(&id)
        .iter()
        .filter(|event| event["type"] == "state")
        .map(|event| event["data"]["state"].clone())
        .collect();
    assert!(states.contains(&json!("stalled")), "{states:?}");
}

#[test]
fn an_overloaded_api_is_tried_again() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.send("[[status 529 2]][[say Finally.]]");
    assert_eq!(sandbox.end_of(&id)["text"], "Finally.");
    sandbox.event(&id, "state", |data| data["state"] == "retrying" && data["detail"]["status"] == 529);
}

#[test]
fn a_refused_key_fails_the_prompt() {
    skip!("needs-claude");
    let sandbox = Sandbox::with(json!({"env": {"CLAUDE_CODE_MAX_RETRIES": "0"}}));
    let end = sandbox.ask("[[status 401 100]]");
    assert_eq!(
        (end["status"].as_str(), end["reason"].as_str()),
        (Some("failed"), Some("api_error")),
        "{end}"
    );
    assert!(end["error"].as_str().unwrap().contains("401"), "{end}");
}

#[test]
fn a_cut_stream_is_mended() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let end = sandbox.ask("[[cut]][[say Whole.]]");
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Whole.")),
        "{end}"
    );
}

#[test]
fn a_question_waits_for_its_answer() {
    skip!("needs-claude");
    let sandbox = Sandbox::with(json!({"permission_mode": "default"}));
    let id = sandbox.send("[[bash touch allowed.txt]][[bash touch denied.txt]][[say Asked.]]");
    let question = sandbox.event(&id, "question", |data| data["input"]["command"] == "touch allowed.txt");
    until("the status says so", || sandbox.status()["state"] == "requires_action");
    let answer = |body| sandbox.post(&format!("/v1/agent/prompts/{id}/answer"), &body);
    assert_eq!(answer(json!({"question": "none", "behavior": "allow"})).0, 404);
    assert_eq!(answer(json!({"behavior": "perhaps"})).0, 400);
    assert_eq!(
        answer(json!({"question": question["data"]["question"], "behavior": "allow"})).0,
        200
    );
    sandbox.event(&id, "question", |data| data["input"]["command"] == "touch denied.txt");
    let output = sandbox
        .command(&["agent", "answer", &id, "--deny", "not this one"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sandbox.end_of(&id)["text"], "Asked.");
    assert!(sandbox.path("project/allowed.txt").exists());
    assert!(!sandbox.path("project/denied.txt").exists());
    let result = sandbox.event(&id, "tool_result", |data| data.to_string().contains("not this one"));
    assert_eq!(result["data"]["content"][0]["is_error"], true);
}

/// It is asked once more, by another claude, and answered: never two are open, and none is lost.
fn a_question_is_open_when_the_agent_is_started_again(end: impl FnOnce(&mut Sandbox)) {
    let mut sandbox = Sandbox::with(json!({"permission_mode": "default"}));
    let id = sandbox.send("[[bash touch allowed.txt]][[say Asked.]]");
    let first = sandbox.event(&id, "question", |_| true)["data"]["question"].clone();
    until("the status shows it", || {
        sandbox.status()["running"][0]["questions"] == json!([first])
    });
    end(&mut sandbox);
    sandbox.up();
    let withdrawn = sandbox.event(&id, "answer", |data| data["question"] == first);
    assert_eq!(withdrawn["data"]["withdrawn"], true);
    assert!(withdrawn["data"]["because"].as_str().unwrap().contains("the agent"), "{withdrawn}");
    let second = sandbox.event(&id, "question", |data| data["question"] != first)["data"]["question"].clone();
    assert_eq!(sandbox.status()["running"][0]["questions"], json!([second]));
    let answer = |question| {
        sandbox.post(
            &format!("/v1/agent/prompts/{id}/answer"),
            &json!({"question": question, "behavior": "allow"}),
        )
    };
    assert_eq!(answer(&first).0, 404);
    assert!(!sandbox.path("project/allowed.txt").exists());
    assert_eq!(answer(&second).0, 200);
    assert_eq!(sandbox.done(&id, "Asked.")["resumed"], 1);
    assert!(sandbox.path("project/allowed.txt").exists());
    let questions = sandbox.events(&id).iter().filter(|event| event["type"] == "question").count();
    assert_eq!(questions, 2);
}

#[test]
fn a_question_is_asked_again_after_an_orderly_restart() {
    skip!("needs-claude");
    a_question_is_open_when_the_agent_is_started_again(|sandbox| assert!(sandbox.down(), "{}", sandbox.log()));
}

#[test]
fn a_question_is_asked_again_after_the_agent_was_killed() {
    skip!("needs-claude");
    a_question_is_open_when_the_agent_is_started_again(Sandbox::kill);
}

#[test]
fn a_question_of_the_model_is_answered() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let questions = json!({"questions": [{"question": "Which colour?", "header": "Colour", "multiSelect": false,
        "options": [{"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"}]}]});
    let id = sandbox.send(&format!(
        "[[tool AskUserQuestion {}]][[say Thanks.]]",
        questions.to_string().replace("]]", "] ]")
    ));
    sandbox.event(&id, "question", |data| data["tool"] == "AskUserQuestion");
    let output = sandbox
        .command(&["agent", "answer", &id, "--answer", "Which colour?=Blue"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let end = sandbox.end_of(&id);
    assert_eq!(end["text"], "Thanks.", "{end}");
    sandbox.event(&id, "tool_result", |data| data.to_string().contains("Blue"));
}

#[test]
fn claude_may_not_answer_for_itself() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let ask = format!("{} agent ask --detach hello", env!("CARGO_BIN_EXE_sandkeep"));
    let run = sandbox.path("run");
    let end = sandbox.ask(&format!(
        "[[bash SANDKEEP_RUNTIME_DIR={} {ask} > out.txt 2>&1; true]]",
        run.display()
    ));
    assert_eq!(end["status"], "done");
    assert!(
        sandbox.file("out.txt").contains("processes that claude started"),
        "{}",
        sandbox.file("out.txt")
    );
}

#[test]
fn a_session_that_has_spent_its_budget_gets_no_more() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::with(json!({"max_budget_usd": 0.000_001}));
    let first = sandbox.ask("[[say Dear.]]");
    assert!(first["cost_usd"].as_f64().unwrap() > 0.000_001, "{first}");
    let asked = sandbox.api.seen().requests.len();
    for _ in 0..2 {
        let end = sandbox.ask("[[say Dearer.]]");
        assert_eq!(
            (end["status"].as_str(), end["reason"].as_str()),
            (Some("failed"), Some("max_budget")),
            "{end}"
        );
        // Nor does a new process get the budget anew.
        assert!(sandbox.down());
        sandbox.up();
    }
    assert_eq!(sandbox.api.seen().requests.len(), asked);
    let other = sandbox.end_of(&sandbox.submit(json!({"text": "[[say Hi.]]", "session": "other"})));
    assert_eq!(other["reason"], first["reason"], "another session has its own");
}
