//! `sandkeep sandbox start --provider vercel` against the double, with a real Git repository and a real project.

use crate::double::Double;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SECRET: &str = "sk-the-value-of-the-secret";

/// A project that npm installs without a network, and whose server says who it is.
const PROJECT: &[(&str, &str)] = &[
    (
        "package.json",
        r#"{"name":"app","private":true,"scripts":{"dev":"node server.js"},"dependencies":{"greeting":"file:./greeting"}}"#,
    ),
    (
        "greeting/package.json",
        r#"{"name":"greeting","version":"1.0.0","main":"index.js"}"#,
    ),
    ("greeting/index.js", "module.exports = 'hello from the project';\n"),
    (
        "server.js",
        "require('http').createServer((_, answer) => answer.end(require('greeting'))).listen(process.env.PORT, '0.0.0.0');\n",
    ),
    (".gitignore", "node_modules\n"),
];

pub(crate) struct Place {
    pub(crate) double: Double,
    scratch: tempfile::TempDir,
    git: Child,
    pub(crate) repo: String,
    pub(crate) port: u16,
    pub(crate) health: u16,
    /// Of the sandbox: the double keeps its name.
    runtime: Option<&'static str>,
}

impl Place {
    pub(crate) fn new(runtime: Option<&'static str>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let repo = scratch.path().join("git/app");
        for (name, text) in PROJECT {
            let path = repo.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        shell(
            &repo,
            "git init -q -b main && git add -A && git -c user.name=t -c user.email=t@example.com commit -q -m first",
        );
        shell(scratch.path(), &format!("strip -o sandkeep '{}'", env!("CARGO_BIN_EXE_sandkeep")));
        fs::write(scratch.path().join("env"), format!("ANTHROPIC_API_KEY={SECRET}\nPLAIN=plain\n")).unwrap();
        let daemon = free_port();
        // The program itself: what `git daemon` starts outlives it.
        let programs = Command::new("git").arg("--exec-path").output().unwrap().stdout;
        let git = Command::new(Path::new(String::from_utf8_lossy(&programs).trim()).join("git-daemon"))
            .args(["--reuseaddr", "--export-all", "--listen=127.0.0.1", &format!("--port={daemon}")])
            .arg(format!("--base-path={}", scratch.path().join("git").display()))
            .arg(scratch.path().join("git"))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("git daemon", || std::net::TcpStream::connect(("127.0.0.1", daemon)).is_ok());
        Self {
            double: Double::start(),
            scratch,
            git,
            repo: format!("git://127.0.0.1:{daemon}/app"),
            port: free_port(),
            health: free_port(),
            runtime,
        }
    }

    /// `sandkeep …` with an account at the double.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandkeep"));
        command.args(arguments).stdin(Stdio::null());
        command
            .env("SANDKEEP_STATE_DIR", self.path("state"))
            .env("SANDKEEP_VERCEL_API", &self.double.api)
            .env("VERCEL_TOKEN", "token")
            .env("VERCEL_TEAM_ID", "team_test")
            .env("VERCEL_PROJECT_ID", "prj_test")
            .env("NO_COLOR", "1");
        command
    }

    /// `sandkeep sandbox …`.
    pub(crate) fn sandbox(&self, arguments: &[&str]) -> Output {
        self.command(&["sandbox"]).args(arguments).output().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn start_with(&self, more: &[&str]) -> Output {
        let (port, health) = (self.port.to_string(), self.health.to_string());
        let (binary, variables) = (self.path("sandkeep"), self.path("env"));
        let mut arguments = vec![
            "start",
            "--provider",
            "vercel",
            "--name",
            "app",
            "--repo",
            &self.repo,
            "--port",
            &port,
            "--health-port",
            &health,
        ];
        arguments.extend([
            "--install",
            "npm install --no-audit --no-fund --offline",
            "--no-claude",
            "--json",
            "--timeout",
            "30min",
        ]);
        arguments.extend([
            "--wait",
            "3min",
            "--binary",
            binary.to_str().unwrap(),
            "--env-file",
            variables.to_str().unwrap(),
        ]);
        if let Some(runtime) = self.runtime {
            arguments.extend(["--vercel-runtime", runtime]);
        }
        arguments.extend(more);
        self.sandbox(&arguments)
    }

    fn start(&self) -> Value {
        let output = self.start_with(&[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    pub(crate) fn preview(&self) -> String {
        let script = format!("curl -fsS --max-time 20 http://127.0.0.1:{}/", self.port);
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How many supervisors run in the sandbox.
    fn supervisors(&self) -> String {
        let output = self.sandbox(&["exec", "app", "--", "sh", "-c", "pgrep -fc -- '[-]-instance [^ ]* up '"]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.git.kill();
        let _ = self.git.wait();
    }
}

fn shell(directory: &Path, script: &str) {
    let status = Command::new("sh").args(["-c", script]).current_dir(directory).status().unwrap();
    assert!(status.success(), "{script}");
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(240);
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn code_of(output: &Output) -> (Option<i32>, String) {
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), said["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_project_is_started_found_running_lost_and_resumed() {
    skip!("needs-sandbox-namespaces");
    let place = Place::new(None);
    let started = place.start();
    assert_eq!(
        (&started["action"], &started["ready"]),
        (&json!("created"), &json!(true)),
        "{started}"
    );
    assert_eq!((&started["user"], &started["sandbox_id"]), (&json!("ubuntu"), &json!("app")));
    assert_eq!(started["url"], format!("http://127.0.0.1:{}", place.port));
    assert_eq!(place.preview(), "hello from the project");
    let asked = place.double.asked(None);
    assert!(
        !format!("{asked:?}").contains(SECRET),
        "the secret is in no request that anybody may list"
    );
    let directory = started["directory"].as_str().unwrap();
    let seen = place.sandbox(&["exec", "app", "--", "sh", "-c", &format!("cat {directory}/.git/config; ls -A /tmp")]);
    assert!(!String::from_utf8_lossy(&seen.stdout).contains(SECRET));
    let tmp = PathBuf::from(place.double.sandboxes()[0]["disk"].as_str().unwrap()).join("tmp");
    wait_for("nothing of ours is left in /tmp", || {
        let names = fs::read_dir(&tmp).unwrap().flatten();
        names
            .map(|entry| entry.file_name())
            .all(|name| !name.to_string_lossy().starts_with(".sandkeep-"))
    });

    place.double.order(&json!([]));
    let again = place.start();
    assert_eq!((&again["action"], &again["ready"]), (&json!("running"), &json!(true)), "{again}");
    assert!(place.double.asked(Some("create")).is_empty());
    assert_eq!(place.supervisors(), "1");

    // The platform ends the session: its files stay, its processes do not.
    place.double.ask("POST", "/sandboxes/app/stop", &Value::Null);
    assert_eq!(
        place.sandbox(&["status", "app"]).status.code(),
        Some(3),
        "there is a sandbox, and no supervisor"
    );
    let resumed = place.start();
    assert_eq!(
        (&resumed["action"], &resumed["ready"]),
        (&json!("resumed"), &json!(true)),
        "{resumed}"
    );
    assert_eq!(place.preview(), "hello from the project");
    assert_eq!(place.sandbox(&["status", "app"]).status.code(), Some(0));

    let stopped = place.sandbox(&["stop", "app"]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert!(place.double.sandboxes().iter().all(|one| one["status"] == "stopped"));
}

#[test]
fn faults_on_the_way_change_nothing_of_what_it_comes_to() {
    skip!("needs-sandbox-namespaces");
    let place = Place::new(Some("node24"));
    place.double.order(&json!([
        {"on": "create", "do": "drop-after"},
        {"on": "get", "skip": 1, "do": "status", "status": 500},
        {"on": "extend", "do": "status-after", "status": 500},
        {"on": "write", "do": "status", "status": 429, "retry_after": 1},
        {"on": "write", "skip": 1, "do": "drop-after"},
        {"on": "run", "skip": 1, "do": "status-after", "status": 500},
        {"on": "run", "skip": 2, "do": "drop-after"},
        {"on": "run", "skip": 1, "do": "status", "status": 503},
        {"on": "logs", "do": "cut", "bytes": 40, "times": 2},
        {"on": "logs", "skip": 3, "do": "short", "bytes": 10},
        {"on": "logs", "skip": 1, "do": "error-line", "lines": 1, "code": "sandbox_stream_closed"},
        {"on": "logs", "do": "slow", "bytes": 100, "ms": 1, "times": 3},
        {"on": "command", "do": "cut", "bytes": 25, "times": 2},
    ]));
    let started = place.start();
    assert_eq!(
        (&started["action"], &started["ready"]),
        (&json!("created"), &json!(true)),
        "{started}"
    );
    assert_eq!(started["user"], "vercel-sandbox");
    assert_eq!(place.preview(), "hello from the project");
    assert_eq!(place.supervisors(), "1", "nothing was started twice");
    assert_eq!(place.double.sandboxes().len(), 1, "nothing was made twice");
}

#[test]
fn a_session_that_ends_in_the_middle_is_gone_on_with() {
    skip!("needs-sandbox-namespaces");
    let place = Place::new(None);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| place.start_with(&["--dev", "sleep 1000"]));
        wait_for("the supervisor is launched", || {
            let sandboxes = place.double.sandboxes();
            let commands = sandboxes
                .first()
                .and_then(|one| one["commands"].as_array().cloned())
                .unwrap_or_default();
            first.is_finished() || commands.iter().any(|command| command["args"].to_string().contains("await"))
        });
        place.double.ask("POST", "/sandboxes/app/stop", &Value::Null);
        let output = first.join().unwrap();
        assert_eq!(code_of(&output), (Some(1), "lost".to_owned()), "{output:?}");
    });
    let started = place.start();
    assert_eq!(started["ready"], true, "{started}");
    assert_eq!(place.preview(), "hello from the project");
    assert_eq!(place.supervisors(), "1");
}

#[test]
fn what_cannot_work_says_so_and_leaves_nothing() {
    skip!("needs-sandbox-namespaces");
    let place = Place::new(None);
    for (fault, code) in [
        (json!({"on": "create", "do": "status", "status": 402}), "plan-limit"),
        (json!({"on": "create", "do": "status", "status": 403}), "unauthorized"),
        (json!({"on": "create", "do": "status", "status": 429, "retry_after": 600}), "quota"),
        (
            json!({"on": "create", "do": "status", "status": 500, "times": 20}),
            "provider-failed",
        ),
    ] {
        place.double.order(&json!([fault]));
        let output = place.start_with(&[]);
        assert_eq!(code_of(&output), (Some(1), code.to_owned()), "{fault}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("hint: "), "{said}");
    }
    place.double.order(&json!([]));
    let output = place.start_with(&["--branch", "nowhere"]);
    assert_eq!(code_of(&output).1, "branch-not-found", "{output:?}");
    assert!(place.double.sandboxes().is_empty(), "what was made is removed again");
}

/// The start of `config/nextjs/vercel-sdk/`, with the vendor's SDK alone: its types first, then what it does.
#[test]
fn the_sdk_alone_starts_a_project() {
    skip!("needs-sandbox-namespaces");
    skip!("needs-vercel-sdk");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vercel");
    let built = Command::new("node_modules/.bin/tsc")
        .args(["-p", "tsconfig.json"])
        .current_dir(here)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stdout));
    let place = Place::new(None);
    let (port, health) = (place.port.to_string(), place.health.to_string());
    crate::vendor::passes(
        "start.test.mjs",
        &[
            ("VERCEL_FAKE_API", &place.double.api),
            ("VERCEL_FAKE_ADMIN", &place.double.admin),
            ("TEST_REPO", &place.repo),
            ("TEST_BINARY", place.path("sandkeep").to_str().unwrap()),
            ("TEST_PORT", &port),
            ("TEST_HEALTH_PORT", &health),
        ],
    );
}
