//! The whole of it: the real supervisor with a real dev server, the agent as its unit, the real CLI.

#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "the scenarios' sandbox, of which this needs a part"
)]
#[path = "../scenarios/sandbox.rs"]
mod sandbox;

use crate::mcp::Mcp;
use crate::support::api::Api;
use crate::support::{KEY, claude, processes_named, signal};
use sandbox::{Sandbox, free_port};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Files are kept in a directory; nothing but the workers runs.
const WORKERS: &str = r#"
[project]
id = "p_1"
[health]
listen = "off"
[sync]
store = "file://@STORE@"
[agent]
command = "@CLAUDE@"
[unit.restore]
worker = "restore"
[unit.sync]
worker = "sync"
requires = ["restore"]
[unit.agent]
worker = "agent"
after = ["restore", "sync"]
kill_mode = "mixed"
restart = "always"
secrets = ["ANTHROPIC_API_KEY"]
"#;

/// A box, with a home of its own.
struct Supervised {
    api: Api,
    sandbox: Sandbox,
    store: PathBuf,
}

impl Supervised {
    fn new(config: &str, store: Option<&Path>) -> Self {
        let sandbox = Sandbox::new("");
        let store = store.map_or_else(|| sandbox.path().join("store"), PathBuf::from);
        let config = config.replace("@STORE@", &store.display().to_string());
        sandbox.write_config(&config.replace("@CLAUDE@", &claude().display().to_string()));
        std::fs::create_dir(sandbox.path().join("home")).unwrap();
        Self {
            api: Api::start(),
            sandbox,
            store,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        command.env("HOME", self.sandbox.path().join("home"));
        command.env("ANTHROPIC_BASE_URL", &self.api.url).env("ANTHROPIC_API_KEY", KEY);
        // npm has its own idea of where its cache is.
        command.env("npm_config_audit", "false").env("npm_config_fund", "false");
        for (name, value) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_uppercase();
            if ["PROXY", "CERT", "SSL", "NPM_CONFIG_"].iter().any(|part| upper.contains(part)) {
                command.env(name, value);
            }
        }
        command
    }

    fn up(&self, more: &[&str]) {
        let arguments = [&["up", "--detach", "--wait", "170s"], more].concat();
        let answer = self.sandbox.answer(self.command(&arguments));
        assert_eq!(answer.code, 0, "{answer:#?}\n{}", self.sandbox.story());
        self.sandbox.until_unit("agent", "ready", |unit| unit["ready"] == true);
    }

    /// Sends a prompt and follows it to its end.
    fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let answer = self
            .sandbox
            .answer(self.command(&[&["agent", "ask", "--json"], arguments].concat()));
        let lines = answer.stdout.lines();
        let events: Vec<Value> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert!(
            events.last().is_some_and(|event| event["type"] == "end"),
            "{answer:#?}\n{}",
            self.sandbox.story()
        );
        for (at, event) in events.iter().enumerate() {
            assert_eq!(event["seq"], at + 1, "{events:#?}");
        }
        events
    }

    fn socket(&self) -> PathBuf {
        self.sandbox.runtime_dir().join("default/control.sock")
    }
}

/// Texts of what tools gave back, in order.
fn results(events: &[Value]) -> Vec<String> {
    let blocks = events
        .iter()
        .filter(|event| event["type"] == "tool_result")
        .flat_map(|event| event["data"]["content"].as_array().cloned().unwrap_or_default());
    blocks.map(|block| block["content"].to_string()).collect()
}

fn end_of(events: &[Value]) -> &Value {
    &events.last().unwrap()["data"]
}

fn vite(port: u16) -> Supervised {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/vite");
    let text = std::fs::read_to_string(example.join("sandkeep.toml")).unwrap();
    let moved = text.replace("3000", &port.to_string());
    let more = "\n[agent]\ncommand = \"@CLAUDE@\"\npermission_mode = \"default\"\nallowed_tools = [\"Bash\"]\n[health]\nlisten = \"off\"\n";
    let supervised = Supervised::new(&format!("{moved}{more}"), None);
    let copied = Command::new("cp")
        .args([
            "-r",
            "index.html",
            "package.json",
            "package-lock.json",
            "public",
            "src",
            ".gitignore",
        ])
        .arg(supervised.sandbox.project())
        .current_dir(&example)
        .status();
    assert!(copied.unwrap().success());
    supervised
}

/// Something else than the dev server that listens on a port. Dropped: killed.
struct Second(Child);

impl Second {
    fn on(port: u16) -> Self {
        let program = format!("require('http').createServer((q, s) => s.end('second')).listen({port}, '0.0.0.0', () => console.log('on'))");
        let mut child = Command::new("node").args(["-e", &program]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        Self(child)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn claude_debugs_the_dev_server_that_runs() {
    skip!("needs-claude");
    let port = free_port();
    let supervised = vite(port);
    let store = format!("file://{}", supervised.store.display());
    supervised.up(&["--store", &store, "--project", "p_1"]);
    let broken = "[[bash echo 'export default {' > vite.config.js]]";
    let restart = |wait: &str| format!("[[tool mcp__sandkeep__dev_restart {}]]", json!({"wait": wait}));
    let text = [
        "[[tool mcp__sandkeep__dev_logs {}]]",
        r#"[[tool mcp__sandkeep__dev_logs {"since":"last_call"}]]"#,
        broken,
        &restart("20s"),
        "[[bash rm vite.config.js]]",
        &restart("60s"),
        "[[tool mcp__sandkeep__preview_check {}]]",
        "[[tool mcp__sandkeep__checkpoint {}]]",
        "[[say Repaired.]]",
    ];
    let events = supervised.ask(&[&text.concat()]);
    let end = end_of(&events);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Repaired.")),
        "{end}"
    );
    let [first, since, _, failed, _, repaired, preview, checkpoint] = &results(&events)[..] else {
        panic!("{:#?}", results(&events));
    };
    assert!(first.contains("ready in"), "{first}");
    assert!(since.contains("dev wrote nothing new"), "{since}");
    assert!(failed.contains("dev is not ready") && failed.contains("vite.config.js"), "{failed}");
    assert!(repaired.contains("dev is ready") && repaired.contains("ready in"), "{repaired}");
    assert!(preview.contains(&format!("preview: ready on port {port}")), "{preview}");
    assert!(checkpoint.contains("everything is saved, generation"), "{checkpoint}");
    assert_eq!(end["durable"], true, "{end}");
    assert!(end["generation"].is_u64(), "{end}");
    let status = supervised.sandbox.status();
    assert_eq!((&status["agent"]["done"], &status["agent"]["state"]), (&json!(1), &json!("idle")));
    // The second server gets the port while the dev server is down.
    supervised.sandbox.run(&["stop", "dev"]).expect(0);
    let second = Second::on(port);
    let mut mcp = Mcp::start(&supervised.socket());
    let (failed, text) = mcp.call("dev_restart", json!({"wait": "5s"}));
    assert!(failed && text.contains(&second.0.id().to_string()), "who holds the port: {text}");
    let (_, text) = mcp.call("dev_logs", json!({}));
    assert!(text.contains("warning:") && text.contains(&second.0.id().to_string()), "{text}");
    drop(second);
    let (failed, text) = mcp.call("wait_ready", json!({"units": ["dev"], "wait": "60s"}));
    assert!(!failed, "{text}");
    supervised.sandbox.eventually("no answer warns any more", || {
        !mcp.call("dev_logs", json!({})).1.contains("warning:")
    });
    drop(mcp);
    supervised.sandbox.down();
}

#[test]
fn the_supervisor_killed_in_a_turn() {
    skip!("needs-claude");
    let supervised = Supervised::new(WORKERS, None);
    supervised.up(&[]);
    let text = "[[bash echo x >> ran.txt; test $(wc -l < ran.txt) -gt 1 || { setsid sleep 1000 & sleep 1000 & wait; }]][[say Done.]]";
    supervised
        .sandbox
        .answer(supervised.command(&["agent", "ask", "--detach", "--id", "cut", text]))
        .expect(0);
    let ran = supervised.sandbox.project().join("ran.txt");
    supervised.sandbox.eventually("the tool runs", || ran.exists());
    let pid = supervised.sandbox.status()["pid"].as_u64().unwrap();
    signal(u32::try_from(pid).unwrap(), "KILL");
    supervised.sandbox.eventually("claude and its tools are gone", || {
        let left = supervised.sandbox.processes();
        !left
            .iter()
            .any(|(_, command)| command.contains("--input-format") || command.contains("sleep 1000"))
    });
    supervised.up(&[]);
    let events = supervised.ask(&["--id", "cut", text]);
    let end = end_of(&events);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Done.")),
        "{end}"
    );
    assert_eq!(events.iter().filter(|event| event["type"] == "end").count(), 1);
    // A claude that had time to say so in its transcript is told to go on, else it is asked again.
    let ran = std::fs::read_to_string(&ran).unwrap();
    assert!(["x\n", "x\nx\n"].contains(&ran.as_str()), "{ran}");
    supervised.sandbox.down();
}

/// A process that a turn leaves in the background, and that neither its environment nor its parents tie to the unit.
#[test]
fn what_turns_leave_in_the_background_goes_with_the_unit() {
    skip!("needs-claude");
    let config = WORKERS.replace("[agent]\n", "[agent]\nbackground = true\n");
    let supervised = Supervised::new(&config, None);
    supervised.up(&[]);
    let leave = || {
        let seconds = format!("1000.{}", fastrand::u64(1_000_000_000..9_000_000_000));
        let text = format!("[[bash env -i setsid sleep {seconds} >/dev/null 2>&1 & echo ok]]");
        assert_eq!(end_of(&supervised.ask(&[&text]))["strays_ended"], 0);
        supervised
            .sandbox
            .eventually("it runs after the turn", || processes_named(&seconds).next().is_some());
        seconds
    };
    let gone = |seconds: &str| {
        supervised
            .sandbox
            .eventually("it is gone", || processes_named(seconds).next().is_none());
    };
    let left = leave();
    supervised.sandbox.run(&["stop", "agent"]).expect(0);
    gone(&left);
    supervised.sandbox.run(&["start", "agent"]).expect(0);
    let left = leave();
    signal(u32::try_from(supervised.sandbox.pid("agent")).unwrap(), "KILL");
    gone(&left);
    supervised.sandbox.down();
}

#[test]
fn a_conversation_goes_on_in_the_next_box() {
    skip!("needs-claude");
    let first = Supervised::new(WORKERS, None);
    first.up(&[]);
    let events = first.ask(&["--session", "trip", "[[bash echo kept > kept.txt]][[say The word is mango.]]"]);
    let end = end_of(&events);
    assert_eq!((&end["durable"], end["generation"].is_u64()), (&json!(true), true), "{end}");
    first.sandbox.down();
    // Another machine: nothing is the same but the store.
    let second = Supervised::new(WORKERS, Some(&first.store));
    second.up(&[]);
    let events = second.ask(&["--session", "trip", "[[bash cat kept.txt]][[say Hello again.]]"]);
    assert!(results(&events)[0].contains("kept"), "{events:#?}");
    let asked = second.api.seen().requests.last().unwrap().to_string();
    assert!(asked.contains("The word is mango."), "the new box knows the conversation");
    let init = |events: &[Value]| events.iter().find(|event| event["type"] == "init").unwrap()["data"]["session"].clone();
    let before: Value = init(&events);
    second.sandbox.down();
    let third = Supervised::new(WORKERS, Some(&first.store));
    third.up(&[]);
    assert_eq!(
        init(&third.ask(&["--session", "trip", "[[say Once more.]]"])),
        before,
        "the same session"
    );
    third.sandbox.down();
}

/// The agent stops before sync does, and what it has by then goes with the last flush.
#[test]
fn a_turn_that_ends_with_its_box_goes_on_in_the_next() {
    skip!("needs-claude");
    let first = Supervised::new(WORKERS, None);
    first.up(&[]);
    first.ask(&["--session", "trip", "[[say The word is mango.]]"]);
    let on = first.sandbox.path().join("on");
    let waits = format!("[[bash touch waits.txt; while [ ! -e {} ]; do sleep 0.1; done]]", on.display());
    let text = format!("[[bash echo x > ran.txt]]{waits}[[say Moved.]]");
    let arguments = ["--id", "moved", "--session", "trip", &text];
    first
        .sandbox
        .answer(first.command(&[&["agent", "ask", "--detach"], &arguments[..]].concat()))
        .expect(0);
    let waiting = first.sandbox.project().join("waits.txt");
    first.sandbox.eventually("the second tool waits", || waiting.exists());
    first.sandbox.down();
    std::fs::write(&on, "").unwrap();
    let second = Supervised::new(WORKERS, Some(&first.store));
    second.up(&[]);
    let events = second.ask(&arguments);
    let end = end_of(&events);
    assert_eq!(
        (end["status"].as_str(), end["text"].as_str()),
        (Some("done"), Some("Moved.")),
        "{end}"
    );
    let asked = second.api.seen().requests[0].to_string();
    assert!(
        asked.contains("The word is mango.") && asked.contains("echo x > ran.txt"),
        "the turn goes on where it was"
    );
    let uses = events.iter().filter(|event| event.to_string().contains("echo x > ran.txt")).count();
    assert_eq!(uses, 0, "what had its result did not run again");
    second.sandbox.down();
}
