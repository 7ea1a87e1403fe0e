//! A project's tree, a box around it, and sandkeep run in it.

use crate::server::{ID, R2, SECRET};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Everything has to have happened by then.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A box: a tree, a state directory, a runtime directory. It ends with this value, its worker too.
pub(crate) struct Sandbox {
    pub(crate) home: tempfile::TempDir,
    pub(crate) root: PathBuf,
    pub(crate) store: String,
    pub(crate) project: String,
    pub(crate) id: String,
    pub(crate) settings: serde_json::Value,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) expires_at: Option<u64>,
    worker: Option<Child>,
}

impl Sandbox {
    pub(crate) fn new(store: &str) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().join("tree");
        fs::create_dir(&root).expect("made");
        Self {
            root,
            store: store.to_owned(),
            project: "p1".into(),
            id: format!("box-{}", home.path().file_name().expect("a name").to_string_lossy()),
            settings: serde_json::json!({ "batch_files": 10, "batch_interval": "1s", "include": [], "exclude": [], "env_files": false }),
            variables: vec![
                ("R2_ACCESS_KEY_ID".into(), ID.into()),
                ("R2_SECRET_ACCESS_KEY".into(), SECRET.into()),
            ],
            expires_at: None,
            worker: None,
            home,
        }
    }

    pub(crate) fn on(r2: &R2) -> Self {
        Self::new(&r2.url(""))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, bytes).expect("written");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("changed");
    }

    pub(crate) fn config(&self) -> serde_json::Value {
        let mut sync = self.settings.clone();
        sync["store"] = self.store.clone().into();
        serde_json::json!({
            "project_id": self.project, "root": self.root, "sandbox_id": self.id, "expires_at": self.expires_at, "port": null,
            "state_dir": self.home.path().join("state"), "sync": sync, "agent": { "command": "claude" },
        })
    }

    /// `sandkeep sync …` as the supervisor would run it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandkeep"));
        command
            .arg("sync")
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("SANDKEEP_CONFIG_JSON", self.config().to_string())
            .env("SANDKEEP_RUNTIME_DIR", self.home.path().join("run"))
            .envs(self.variables.iter().cloned())
            .current_dir(&self.root)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn sync(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// Runs a command that has to succeed and prints JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.sync(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
    }

    pub(crate) fn flush(&self) -> serde_json::Value {
        self.json(&["flush", "--json"])
    }

    /// A flush that cannot send everything.
    pub(crate) fn flush_fails(&self) -> serde_json::Value {
        serde_json::from_slice(&self.sync(&["flush", "--json"]).stdout).expect("JSON")
    }

    pub(crate) fn restore(&self) -> serde_json::Value {
        self.json(&["restore", "--json"])
    }

    /// Starts the worker and waits until its door is open.
    pub(crate) fn start(&mut self) {
        self.start_with(&["run"]);
        self.wait("the worker answers", |sandbox| {
            sandbox.status().is_some_and(|status| status["state"] != "restoring")
        });
    }

    pub(crate) fn start_with(&mut self, arguments: &[&str]) {
        self.start_as(self.command(arguments));
    }

    /// Starts the worker by another command.
    pub(crate) fn start_as(&mut self, mut command: Command) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .expect("opened");
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        self.worker = Some(child.expect("it starts"));
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Option<serde_json::Value> {
        let output = self.sync(&["status", "--json"]);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// What the worker's door answers to a POST: its status.
    pub(crate) fn post(&self, path: &str) -> u16 {
        let mut door = std::os::unix::net::UnixStream::connect(self.home.path().join("run/default/sync.sock")).expect("it is open");
        let request = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        std::io::Write::write_all(&mut door, request.as_bytes()).expect("sent");
        let answer = std::io::read_to_string(door).expect("answered");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no HTTP: {answer}"))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.worker.as_ref().expect("it runs").id()).expect("a pid")
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("it is there");
    }

    /// SIGTERM; gives the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.ended()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
        self.ended();
    }

    /// Whether the worker has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self
            .worker
            .as_mut()
            .is_none_or(|child| child.try_wait().expect("it is ours").is_some());
        if ended {
            self.worker = None;
        }
        ended
    }

    /// Waits for the worker's end; gives the exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut child = self.worker.take().expect("it runs");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("it is ours") {
                return status.code();
            }
            if begun.elapsed() > DEADLINE {
                let _ = child.kill();
                panic!("it does not end: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a condition.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.wait_within(DEADLINE, what, condition);
    }

    /// The same with another deadline, for what is much work.
    #[track_caller]
    pub(crate) fn wait_within(&self, deadline: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(
                begun.elapsed() < deadline,
                "{what}: not within {deadline:?}\n{:?}\n{}",
                self.status(),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the store has exactly the tree, by the comparer's own reading of both.
    #[track_caller]
    pub(crate) fn wait_in_step(&self, r2: &R2) {
        self.wait("the store is as the tree", |sandbox| {
            differences(&tree(&sandbox.root), &store(r2, &sandbox.project)).is_empty()
        });
    }
}

/// Runs the worker in this process, since nobody else can make minutes pass at once, until a condition holds.
pub(crate) async fn run_here(sandbox: &Sandbox, options: sandkeep::sync::worker::Options, condition: impl AsyncFn()) {
    let config = sandkeep::unit::WorkerConfig::from_json(&sandbox.config().to_string()).expect("a configuration");
    let variables: BTreeMap<_, _> = sandbox.variables.iter().cloned().collect();
    let project = sandkeep::sync::project::Project::open(&config, |name| variables.get(name).cloned());
    let project = project.expect("opened").expect("a store");
    tokio::select! {
        ended = sandkeep::sync::worker::run(project, options) => panic!("it ended: {ended:?}"),
        () = condition() => {}
        () = tokio::time::sleep(DEADLINE) => panic!("not within {DEADLINE:?}"),
    }
}

/// Waits for a condition in [`run_here`].
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(mut child) = self.worker.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The same command, run by another program.
pub(crate) fn wrapped(inner: &Command, program: &str, arguments: &[&str]) -> Command {
    let mut outer = Command::new(program);
    outer.args(arguments).arg(inner.get_program()).args(inner.get_args());
    outer
        .env_clear()
        .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer.current_dir(inner.get_current_dir().expect("it is set")).stdin(Stdio::null());
    outer
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Name → digest of everything in a tree but Git's own, by this file's own reading.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(root, root, &mut found);
    found
}

fn collect(root: &Path, directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
        let Ok(kind) = kind else { continue };
        if kind.is_dir() && entry.file_name() != ".git" {
            collect(root, &path, found);
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).expect("a link");
            found.insert(name, sha256(target.to_string_lossy().as_bytes()));
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(&path)
        {
            found.insert(name, sha256(&bytes));
        }
    }
}

/// Name → digest of a project in the store.
pub(crate) fn store(r2: &R2, project: &str) -> BTreeMap<String, String> {
    let files = r2.files(&format!("{project}/"));
    files.into_iter().map(|(name, object)| (name, object.sha256)).collect()
}

/// What differs, for people.
pub(crate) fn differences(here: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Vec<String> {
    let only_here = here
        .iter()
        .filter(|(name, digest)| there.get(*name) != Some(digest))
        .map(|(name, _)| format!("here: {name}"));
    let only_there = there
        .keys()
        .filter(|name| !here.contains_key(*name))
        .map(|name| format!("there: {name}"));
    only_here.chain(only_there).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
