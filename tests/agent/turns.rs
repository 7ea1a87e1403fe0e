//! What a turn does when nothing goes wrong.

use crate::support::{KEY, Sandbox, claude, until};
use serde_json::json;

#[test]
fn a_tool_runs_and_the_answer_comes_back() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.send("[[bash echo hi > made.txt && cat made.txt]][[say The file is made.]]");
    let end = sandbox.end_of(&id);
    assert_eq!(end["status"], "done", "{end}");
    assert_eq!(end["text"], "The file is made.");
    assert_eq!(end["turns"], 2);
    assert_eq!(sandbox.file("made.txt"), "hi\n");
    let kinds: Vec<String> = sandbox
        .events(&id)
        .iter()
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect();
    for kind in ["started", "init", "message", "tool_result", "text", "end"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} in {kinds:?}");
    }
    assert_eq!(sandbox.stream(&id, 0), sandbox.events(&id));
    assert_eq!(sandbox.stream(&id, 2), sandbox.events(&id)[2..]);
    until("the status counts it", || sandbox.status()["done"] == 1);
}

#[test]
fn the_next_prompt_finds_a_warm_claude_that_remembers() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    sandbox.ask("[[say The word is mango.]]");
    let first = sandbox.claude_pid();
    let end = sandbox.ask("[[say Second.]]");
    assert_eq!(end["text"], "Second.");
    assert_eq!(sandbox.claude_pid(), first);
    let last = sandbox.api.seen().requests.last().unwrap().to_string();
    assert!(last.contains("The word is mango."), "the conversation goes on");
}

#[test]
fn the_key_is_in_no_environment_and_reaches_the_api() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::prepare(json!({}));
    sandbox.environment.push(("SANDBOX_TOKEN".into(), "token-0123456789".into()));
    sandbox.environment.push(("R2_SECRET_ACCESS_KEY".into(), "r2-0123456789".into()));
    sandbox.up();
    let end = sandbox
        .ask("[[bash env > env.txt; cat /proc/[0-9]*/environ > all.txt 2>/dev/null; ls -l /proc/$PPID/fd /proc/self/fd > fd.txt; true]]");
    assert_eq!(end["status"], "done", "{end}");
    let environment = sandbox.file("env.txt");
    assert!(
        environment.contains("SANDKEEP_UNIT=agent") && environment.contains("SANDKEEP_INVOCATION_ID=i-test"),
        "{environment}"
    );
    let everything = std::fs::read(sandbox.path("project/all.txt")).unwrap();
    let everything = String::from_utf8_lossy(&everything);
    for secret in [KEY, "token-0123456789"] {
        assert!(!everything.contains(secret), "{secret} in a /proc/*/environ");
    }
    assert!(!environment.contains("r2-0123456789"));
    assert_eq!(sandbox.api.seen().keys.last().unwrap(), KEY);
}

#[test]
fn without_a_key_a_gateway_is_used() {
    skip!("needs-claude");
    let mut sandbox = Sandbox::prepare(json!({"env": {"ANTHROPIC_AUTH_TOKEN": "gateway"}}));
    sandbox.key = None;
    sandbox.up();
    assert_eq!(sandbox.ask("[[say Hi.]]")["status"], "done");
    assert_eq!(sandbox.api.seen().keys.last().unwrap(), "Bearer gateway");
}

#[test]
fn secrets_that_a_tool_prints_are_masked() {
    skip!("needs-claude");
    let sandbox = Sandbox::prepare(json!({}));
    std::fs::write(sandbox.path("project/.env"), "DB_PASSWORD=\"hunter2-hunter2\"\n").unwrap();
    let mut sandbox = sandbox;
    sandbox.up();
    let id = sandbox.send("[[bash cat .env]][[say It says hunter2-hunter2.]]");
    let end = sandbox.end_of(&id);
    assert_eq!(end["text"], "It says ***.");
    let events = serde_json::to_string(&sandbox.events(&id)).unwrap();
    assert!(!events.contains("hunter2-hunter2") && events.contains("DB_PASSWORD"), "{events}");
    let transcripts = std::fs::read_dir(sandbox.path("state/transcripts")).unwrap().flatten();
    let texts: String = transcripts
        .map(|file| std::fs::read_to_string(file.path()).unwrap_or_default())
        .collect();
    assert!(!texts.contains("hunter2-hunter2") && texts.contains("DB_PASSWORD"));
}

#[test]
fn a_flood_of_pieces_is_joined() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let id = sandbox.send("[[flood 3000]]");
    let end = sandbox.end_of(&id);
    assert!(end["text"].as_str().unwrap().ends_with("2999 "));
    let events = sandbox.events(&id);
    assert!(events.len() < 100, "{} events", events.len());
    let text: String = events
        .iter()
        .filter(|event| event["type"] == "text")
        .map(|event| event["data"]["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, end["text"].as_str().unwrap());
}

#[test]
fn odd_prompts() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    for (body, status, code) in [
        (json!({"text": ""}), 400, "empty_prompt"),
        (json!({"text": " \n"}), 400, "empty_prompt"),
        (json!({"text": "x", "session": "a\nb"}), 400, "bad_session"),
        (json!({"text": "x", "id": "../x"}), 400, "bad_id"),
        (json!({"text": "x", "options": {"permission_mode": "yolo"}}), 400, "bad_option"),
        (json!({"text": "x", "options": {"sudo": true}}), 400, "bad_body"),
        (json!({"text": "x".repeat(5 << 20)}), 413, "long_prompt"),
    ] {
        let (got, answer) = sandbox.post("/v1/agent/prompts", &body);
        assert_eq!((got, answer["code"].as_str()), (status, Some(code)), "{answer}");
    }
    assert_eq!(sandbox.fetch("/v1/agent/prompts/nope").0, 404);
    let long = format!("{}\u{1}\u{7f}\u{2028} [[say Long.]]", "é".repeat(500_000));
    assert_eq!(sandbox.ask(&long)["text"], "Long.");
    let id = sandbox.submit(json!({"text": "[[say Once.]]", "id": "mine", "session": "other"}));
    assert_eq!(
        sandbox.submit(json!({"text": "[[say Once.]]", "id": "mine", "session": "other"})),
        id
    );
    assert_eq!(sandbox.end_of(&id)["text"], "Once.");
    assert_eq!(sandbox.post("/v1/agent/prompts", &json!({"text": "else", "id": "mine"})).0, 409);
}

#[test]
fn ask_on_the_command_line() {
    skip!("needs-claude");
    let sandbox = Sandbox::start();
    let output = sandbox
        .command(&["agent", "ask", "[[bash echo x]][[say Hello there.]]"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Hello there.\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("→ Bash echo x"));
    let output = sandbox
        .command(&["agent", "ask", "--json", "--max-turns", "1", "[[bash echo x]]"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let last: serde_json::Value = serde_json::from_slice(output.stdout.trim_ascii().rsplit(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(last["data"]["reason"], "max_turns");
    let output = sandbox.command(&["agent", "cancel", "nope"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    for empty in ["", " \n", "-"] {
        let output = sandbox
            .command(&["agent", "ask", empty])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("the prompt is empty"),
            "{output:?}"
        );
    }
}

#[test]
fn without_claude_the_unit_fails_for_good() {
    let sandbox = Sandbox::prepare(json!({"command": "no-such-claude"}));
    let output = sandbox.command(&["agent", "run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("no executable `no-such-claude`") && text.contains("npm install"),
        "{text}"
    );
}

#[test]
fn an_unknown_permission_mode_fails_the_unit_for_good() {
    let sandbox = Sandbox::prepare(json!({"permission_mode": "yolo"}));
    let output = sandbox.command(&["agent", "run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("`yolo` is no permission mode") && text.contains("acceptEdits"),
        "{text}"
    );
}

#[test]
fn as_an_ordinary_user() {
    skip!("needs-claude");
    skip!("needs-root");
    let mut sandbox = Sandbox::prepare(json!({}));
    // The binaries may be where only root gets.
    let copied = |from: &std::path::Path, name: &str| {
        let to = sandbox.path(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    let program = copied(&claude(), "claude");
    let binary = copied(&sandbox.binary, "sandkeep");
    let owned = std::process::Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(sandbox.folder.path())
        .status();
    assert!(owned.unwrap().success());
    sandbox.settings = json!({"command": program});
    sandbox.binary = binary;
    sandbox.user = Some(65534);
    sandbox.up();
    let end = sandbox.ask("[[bash id -u > who.txt; setsid sleep 1005 >/dev/null 2>&1 & true]][[say Done.]]");
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Done.")),
        "{end}"
    );
    assert_eq!(sandbox.file("who.txt"), "65534\n");
    assert_eq!(sandbox.api.seen().keys.last().unwrap(), KEY);
    sandbox.nothing_left_but("--input-format");
}
