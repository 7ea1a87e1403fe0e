//! The real binary, the real provider `local`, real projects in real Git repositories.

use super::client::{Serve, client};
use super::server::DEADLINE;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A project without packages: a server that says so when it listens, and waits for a file first if it is told to.
const SERVER: &str = r#"
import fs from "node:fs";
import http from "node:http";
const gate = process.env.GATE_FILE;
while (gate && !fs.existsSync(gate)) await new Promise((go) => setTimeout(go, 50));
http.createServer((_, answer) => answer.end("hello from the shop")).listen(Number(process.env.PORT), "0.0.0.0", () => console.log("the shop is open"));
"#;

struct World {
    dir: tempfile::TempDir,
    serve: Option<Serve>,
    environment: Vec<(&'static str, String)>,
}

fn git(directory: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(directory)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
    let output = command.args(["-c", "init.defaultBranch=main"]).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl World {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sk-").tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        Self {
            dir,
            serve: None,
            environment: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A repository with these files; its address.
    fn repository(&self, files: &[(&str, &str)]) -> String {
        let directory = self.path("shop");
        fs::create_dir(&directory).unwrap();
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
        git(&directory, &["init", "-q"]);
        self.commit(&directory)
    }

    fn commit(&self, directory: &Path) -> String {
        git(directory, &["add", "-A"]);
        git(directory, &["commit", "-q", "-m", "the shop"]);
        format!("file://{}", directory.display())
    }

    /// The real binary, with nothing of whoever runs the tests but what programs need.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandkeep"));
        command.args(arguments);
        command.env_clear().current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["PATH", "LANG", "TMPDIR", "npm_config_cache", "npm_config_registry"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // What is brought into a box behind a command goes into the home; what npm has fetched before is good here, too.
        if let (None, Some(home)) = (std::env::var_os("npm_config_cache"), std::env::var_os("HOME")) {
            command.env("npm_config_cache", Path::new(&home).join(".npm"));
        }
        command.env("HOME", self.path("home")).env("NO_COLOR", "1");
        command.env("SANDKEEP_RUNTIME_DIR", self.path("run"));
        command.env("SANDKEEP_STATE_DIR", self.path("state"));
        command
    }

    /// `sandkeep sandbox …`, as somebody at a terminal runs it beside the server.
    fn sandbox(&self, arguments: &[&str]) {
        let output = self.command(&["sandbox"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Starts the server and waits until it says where.
    fn serve(&mut self) {
        self.serve_with(&[]);
    }

    fn serve_with(&mut self, more: &[&str]) {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0", "--no-claude", "--wait", "5min"]);
        command.args(more);
        for (name, value) in &self.environment {
            command.arg("--env").arg(name).env(name, value);
        }
        self.serve = Some(Serve::start(command));
    }

    fn kill_serve(&mut self) {
        self.serve = None;
    }

    fn server(&self) -> &Serve {
        self.serve.as_ref().unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        self.server().get(path).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.server().post(path, body).await
    }

    async fn start(&self, body: &Value) -> (String, String) {
        self.server().order(body).await
    }

    async fn eventually(&self, path: &str, within: Duration, holds: impl Fn(&Value) -> bool) -> Value {
        self.server().eventually(path, within, holds).await
    }

    async fn over(&self, operation: &str) -> Value {
        self.server().over(operation).await
    }

    async fn succeeded(&self, operation: &str) -> Value {
        let over = self.over(operation).await;
        assert_eq!(over["state"], "succeeded", "{over:#}");
        over
    }

    /// What the preview says.
    async fn visit(&self, url: &str) -> String {
        client().get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Processes that have to do with this world, the server aside.
    fn processes(&self) -> Vec<String> {
        let mark = self.dir.path().as_os_str().as_encoded_bytes();
        let serve = self.serve.as_ref().map(|serve| serve.child.id().to_string());
        let has = |path: PathBuf| fs::read(path).is_ok_and(|bytes| bytes.windows(mark.len()).any(|window| window == mark));
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .filter(|name| name.parse::<u32>().is_ok())
                .map(str::to_owned)
            else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
            if !zombie && Some(&pid) != serve.as_ref() && (has(entry.path().join("environ")) || has(entry.path().join("cmdline"))) {
                let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    fn supervisors(&self) -> usize {
        self.processes()
            .iter()
            .filter(|line| line.contains("sandkeep") && line.contains(" up "))
            .count()
    }

    async fn nothing_left(&self) {
        let end = Instant::now() + DEADLINE;
        while !self.processes().is_empty() {
            assert!(Instant::now() < end, "left behind: {:#?}", self.processes());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.serve = None;
        for line in self.processes() {
            let pid = line.split(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
            if pid > 1 {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn node_shop(repo: &str, port: u16) -> Value {
    json!({"githubRepoUrl": repo, "branchName": "main", "installCommand": "true", "developmentCommand": "node server.mjs", "port": port})
}

#[tokio::test]
async fn a_real_project_is_started_looked_at_and_stopped() {
    let mut world = World::new();
    let repo = world.repository(&[("server.mjs", SERVER)]);
    world.serve();
    let port = free_port();
    let (operation, sandbox) = world.start(&node_shop(&repo, port)).await;
    let over = world.succeeded(&operation).await;
    let result = &over["result"];
    assert_eq!((&result["action"], &result["provider"]), (&json!("created"), &json!("local")));
    let preview = result["previewUrl"].as_str().unwrap();
    assert_eq!(world.visit(preview).await, "hello from the shop");

    let path = format!("/v1/sandboxes/{sandbox}/worker");
    let worker = world.get(&path).await;
    assert_eq!(
        (&worker["isRunning"], &worker["condition"]),
        (&json!(true), &json!("ready")),
        "{worker:#}"
    );
    assert_eq!(worker["status"]["sandbox"], json!(sandbox));
    let pid = worker["pid"].as_i64().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert!(worker["logs"].as_str().unwrap().contains("the shop is open"), "{worker:#}");
    assert_eq!(worker["warnings"], json!([]));
    // It reports by itself: the key that it was given is good.
    let reports = |row: &Value| row["fleet"]["heardBy"] == "report" && row["fleet"]["presence"] == "ready";
    world.eventually(&format!("/v1/sandboxes/{sandbox}"), 2 * DEADLINE, reports).await;

    // Work that would be lost is warned of.
    let checkout = PathBuf::from(result["directory"].as_str().unwrap());
    fs::write(checkout.join("news.txt"), "new").unwrap();
    world.commit(&checkout);
    fs::write(checkout.join("draft.txt"), "draft").unwrap();
    let warnings = world.get(&path).await["warnings"].to_string();
    assert!(
        warnings.contains("1 commit is pushed nowhere") && warnings.contains("1 changed file is in no commit"),
        "{warnings}"
    );

    // Started again it is found to be running, and nothing is started twice.
    let mut same = node_shop(&repo, port);
    same["sandboxId"] = json!(sandbox);
    let (operation, _) = world.start(&same).await;
    assert_eq!(world.succeeded(&operation).await["result"]["action"], "running");
    assert_eq!((world.get(&path).await["pid"].as_i64(), world.supervisors()), (Some(pid), 1));

    let (status, stopped) = world.post(&format!("{path}/stop"), &json!({})).await;
    assert_eq!(
        (status, &stopped["isRunning"], &stopped["drained"]),
        (200, &json!(false), &json!(true)),
        "{stopped:#}"
    );
    assert!(
        stopped["warnings"].to_string().contains("1 commit is pushed nowhere"),
        "{stopped:#}"
    );
    world.nothing_left().await;
    let worker = world.get(&path).await;
    assert_eq!(
        (&worker["isRunning"], &worker["condition"]),
        (&json!(false), &json!("no-supervisor"))
    );
    assert_eq!(world.get("/v1/fleet").await["presence"]["stopped"], 1);
    // The files are still there, and so is the sandbox when it is started again.
    let (operation, _) = world.start(&same).await;
    let over = world.succeeded(&operation).await;
    assert_eq!(over["result"]["action"], "resumed");
    assert_eq!(fs::read_to_string(checkout.join("draft.txt")).unwrap(), "draft");
    world.post(&format!("{path}/stop"), &json!({})).await;
    world.nothing_left().await;
}

#[tokio::test]
async fn a_start_survives_the_server_and_nothing_is_started_twice() {
    let mut world = World::new();
    let repo = world.repository(&[("server.mjs", SERVER)]);
    world.environment.push(("GATE_FILE", world.path("gate").display().to_string()));
    world.serve();
    let (operation, sandbox) = world.start(&node_shop(&repo, free_port())).await;
    let path = format!("/v1/operations/{operation}");
    // The supervisor runs, and its project waits: then the server is killed.
    let waits = |value: &Value| {
        value["steps"]
            .as_array()
            .unwrap()
            .iter()
            .any(|step| step["step"] == "check" && step["state"] == "done")
    };
    world.eventually(&path, 3 * DEADLINE, waits).await;
    let pid = world.get(&format!("/v1/sandboxes/{sandbox}/worker")).await["pid"].clone();
    assert!(pid.is_i64());
    world.kill_serve();
    world.serve();
    fs::write(world.path("gate"), "").unwrap();
    let over = world.succeeded(&operation).await;
    assert_eq!(over["attempts"], 2);
    let worker = world.get(&format!("/v1/sandboxes/{sandbox}/worker")).await;
    assert_eq!((&worker["pid"], &worker["isRunning"]), (&pid, &json!(true)));
    assert_eq!(world.supervisors(), 1);
    let (status, _) = world.post(&format!("/v1/sandboxes/{sandbox}/worker/stop"), &json!({})).await;
    assert_eq!(status, 200);
    world.nothing_left().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why_and_leaves_nothing() {
    let mut world = World::new();
    let repo = world.repository(&[("server.mjs", SERVER)]);
    world.serve();
    let mut branch = node_shop(&repo, free_port());
    branch["branchName"] = json!("no-such-branch");
    let mut exits = node_shop(&repo, free_port());
    exits["developmentCommand"] = json!("echo the shop burns; exit 3");
    let mut install = node_shop(&repo, free_port());
    install["installCommand"] = json!("echo no such package; exit 9");
    let cases = [
        (node_shop("file:///nonexistent/shop", free_port()), "repo-not-found", ""),
        (branch, "branch-not-found", ""),
        (install, "install-failed", "no such package"),
        (exits, "dev-exited", "the shop burns"),
    ];
    for (body, code, output) in cases {
        let (operation, sandbox) = world.start(&body).await;
        let over = world.over(&operation).await;
        let failure = &over["failure"];
        assert_eq!((&over["state"], &failure["code"]), (&json!("failed"), &json!(code)), "{over:#}");
        assert!(failure["output"].as_str().unwrap_or("").contains(output), "{over:#}");
        assert!(failure["step"].is_string(), "{over:#}");
        world.nothing_left().await;
        let (status, problem) = world.server().ask(&format!("/v1/sandboxes/{sandbox}/worker")).await;
        assert_eq!((status, &problem["code"]), (404, &json!("no-such-sandbox")), "{problem:#}");
    }
    assert_eq!(world.get("/v1/sandboxes").await["sandboxes"], json!([]));
}

#[tokio::test]
async fn a_vite_project_is_started_with_npm() {
    let mut world = World::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/vite");
    let shop = world.path("shop");
    let copied = Command::new("git")
        .arg("-C")
        .arg(&example)
        .args(["ls-files", "-z"])
        .output()
        .unwrap();
    for name in String::from_utf8(copied.stdout)
        .unwrap()
        .split('\0')
        .filter(|name| !name.is_empty() && *name != "sandkeep.toml")
    {
        let to = shop.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(example.join(name), to).unwrap();
    }
    git(&shop, &["init", "-q"]);
    let repo = world.commit(&shop);
    world.serve();
    let port = free_port();
    let dev = format!("npm run dev -- --host 0.0.0.0 --strictPort --port {port}");
    let body =
        json!({"githubRepoUrl": repo, "installCommand": "npm install --no-audit --no-fund", "developmentCommand": dev, "port": port});
    let (operation, sandbox) = world.start(&body).await;
    let over = world.succeeded(&operation).await;
    let page = world.visit(over["result"]["previewUrl"].as_str().unwrap()).await;
    assert!(page.contains("/@vite/client"), "{page}");
    let worker = world.get(&format!("/v1/sandboxes/{sandbox}/worker")).await;
    assert_eq!(worker["status"]["preview"]["state"], "ready", "{worker:#}");
    world.post(&format!("/v1/sandboxes/{sandbox}/worker/stop"), &json!({})).await;
    world.nothing_left().await;
}

/// A box that only a command reaches: no port of it is known, so it is asked through that command.
#[tokio::test]
async fn a_box_behind_a_command_is_started_looked_at_and_stopped() {
    let mut world = World::new();
    let repo = world.repository(&[("server.mjs", SERVER)]);
    world.serve_with(&["--via", "env --"]);
    let port = free_port();
    let (operation, sandbox) = world.start(&node_shop(&repo, port)).await;
    let over = world.succeeded(&operation).await;
    assert_eq!(
        (&over["result"]["provider"], &over["result"]["previewUrl"]),
        (&json!("exec"), &Value::Null)
    );
    assert_eq!(world.visit(&format!("http://127.0.0.1:{port}")).await, "hello from the shop");
    let path = format!("/v1/sandboxes/{sandbox}/worker");
    let worker = world.get(&path).await;
    assert_eq!(
        (&worker["isRunning"], &worker["condition"]),
        (&json!(true), &json!("ready")),
        "{worker:#}"
    );
    assert!(worker["logs"].as_str().unwrap().contains("the shop is open"), "{worker:#}");
    let polled = |row: &Value| row["fleet"]["heardBy"] == "poll" && row["fleet"]["presence"] == "ready";
    world.eventually(&format!("/v1/sandboxes/{sandbox}"), 2 * DEADLINE, polled).await;
    let (status, stopped) = world.post(&format!("{path}/stop"), &json!({})).await;
    assert_eq!((status, &stopped["drained"]), (200, &json!(true)), "{stopped:#}");
    world.nothing_left().await;
    assert_eq!(world.get(&path).await["condition"], "no-supervisor");
}

#[tokio::test]
async fn what_is_started_at_a_terminal_meanwhile_is_looked_after_too() {
    let mut world = World::new();
    let repo = world.repository(&[("server.mjs", SERVER)]);
    world.serve();
    let port = free_port().to_string();
    let start = [
        "start",
        "--name",
        "by-hand",
        "--repo",
        &repo,
        "--install",
        "true",
        "--dev",
        "node server.mjs",
        "--port",
        &port,
    ];
    world.sandbox(&[&start[..], &["--no-claude"]].concat());
    let presence = |word: &'static str| move |row: &Value| row["fleet"]["presence"] == word;
    let known = |list: &Value| {
        list["sandboxes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["fleet"]["presence"] == "ready")
    };
    world.eventually("/v1/sandboxes", 2 * DEADLINE, known).await;
    let worker = world.get("/v1/sandboxes/by-hand/worker").await;
    assert_eq!(worker["isRunning"], true, "{worker:#}");
    world.sandbox(&["stop", "by-hand"]);
    world.eventually("/v1/sandboxes/by-hand", 2 * DEADLINE, presence("stopped")).await;
    world.sandbox(&["stop", "by-hand", "--remove"]);
    world.eventually("/v1/fleet", 2 * DEADLINE, |view| view["total"] == 0).await;
    world.nothing_left().await;
}
