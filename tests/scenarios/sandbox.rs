//! A sandbox of its own for each test: its directories, the real binary in them, and what is left behind when it is gone.

use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// The one deadline that a wait has; generous, since it is only reached when something is wrong.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self:#?}"))
    }

    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// The ordinary user that everything is to run as, though the tests themselves run as root: `SANDKEEP_TEST_AS=nobody`.
fn as_user() -> Option<u32> {
    let name = std::env::var("SANDKEEP_TEST_AS").ok()?;
    let user = nix::unistd::User::from_name(&name).unwrap();
    Some(user.unwrap_or_else(|| panic!("SANDKEEP_TEST_AS={name}: no such user")).uid.as_raw())
}

/// The real binary, where whoever it runs as may read it: a checkout may lie in root's home.
pub fn binary() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_sandkeep"));
    if as_user().is_none() {
        return built;
    }
    let meta = built.metadata().unwrap();
    let dir = std::env::temp_dir().join(format!("sandkeep-{}-{}-{}", meta.dev(), meta.ino(), meta.mtime()));
    let copy = dir.join("sandkeep");
    if !copy.exists() {
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let mine = dir.join(std::process::id().to_string());
        fs::copy(&built, &mine).unwrap();
        fs::rename(mine, &copy).unwrap();
    }
    copy
}

pub struct Sandbox {
    pub dir: tempfile::TempDir,
    /// The supervisor that [`Sandbox::spawn`] started in the foreground.
    child: Option<Child>,
}

impl Sandbox {
    /// A sandbox whose `sandkeep.toml` is this text. `DIR` in it becomes the sandbox's directory.
    pub fn new(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("sk-").tempdir().unwrap();
        let sandbox = Self { dir, child: None };
        fs::create_dir(sandbox.project()).unwrap();
        sandbox.write_config(config);
        if let Some(user) = as_user() {
            for path in [sandbox.path(), &sandbox.project()] {
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
        }
        sandbox
    }

    pub fn write_config(&self, config: &str) {
        let config = config.replace("DIR", self.path().to_str().unwrap());
        fs::write(self.project().join("sandkeep.toml"), config).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn project(&self) -> PathBuf {
        self.path().join("project")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.path().join("run")
    }

    /// The real binary, in this sandbox's surroundings, without the secrets and settings of whoever runs the tests.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        self.surroundings(&mut command);
        command.args(arguments);
        command
    }

    pub fn surroundings(&self, command: &mut Command) {
        command.current_dir(self.project()).env_clear().stdin(Stdio::null());
        for name in ["PATH", "HOME", "LANG", "TMPDIR", "CARGO_HOME", "npm_config_cache"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("SANDKEEP_RUNTIME_DIR", self.runtime_dir())
            .env("SANDKEEP_STATE_DIR", self.path().join("state"));
        command.env("SANDKEEP_TEST_DIR", self.path());
        if let Some(user) = as_user() {
            command.uid(user).gid(user).env("HOME", self.path());
        }
    }

    pub fn run(&self, arguments: &[&str]) -> Answer {
        self.answer(self.command(arguments))
    }

    pub fn answer(&self, mut command: Command) -> Answer {
        let output = command.output().unwrap();
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the supervisor and waits until the sandbox is ready.
    pub fn up(&self) -> Answer {
        self.run(&["up", "--detach", "--wait", "60s"])
    }

    /// Starts the supervisor in the foreground and waits until it answers.
    pub fn spawn(&mut self, arguments: &[&str]) -> u32 {
        let mut command = self.command(&["up"]);
        let log = fs::File::create(self.path().join("up.out")).unwrap();
        let errors = fs::File::create(self.path().join("up.err")).unwrap();
        let child = command.args(arguments).stdout(log).stderr(errors).spawn().unwrap();
        let pid = child.id();
        self.child = Some(child);
        self.eventually("the supervisor answers", || self.run(&["status", "--json"]).code == 0);
        pid
    }

    /// Starts the supervisor in the foreground as process 1 of a pid namespace and waits until it is ready.
    pub fn spawn_as_pid_1(&mut self) {
        self.spawn_within(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    }

    /// Starts the supervisor in the foreground by this command, which executes what follows, and waits until it is ready.
    pub fn spawn_within(&mut self, command: &[&str]) {
        let (program, words) = command.split_first().unwrap();
        let mut command = Command::new(program);
        self.surroundings(&mut command);
        let log = fs::File::create(self.path().join("up.out")).unwrap();
        let errors = fs::File::create(self.path().join("up.err")).unwrap();
        command.args(words).arg(binary()).arg("up").stdout(log).stderr(errors);
        self.child = Some(command.spawn().unwrap());
        self.eventually("it is ready", || self.run(&["wait", "--timeout", "1s"]).code == 0);
    }

    /// Waits for the supervisor that [`Sandbox::spawn`] started; its exit code, or minus the signal that ended it.
    pub fn wait_exit(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let mut child = self.child.take().expect("spawned before");
        let mut status = None;
        self.eventually("the supervisor exits", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }

    pub fn status(&self) -> Value {
        self.run(&["status", "--json"]).expect(0).json()
    }

    pub fn unit(&self, name: &str) -> Value {
        unit_of(&self.status(), name)
    }

    pub fn pid(&self, name: &str) -> i32 {
        let unit = self.unit(name);
        i32::try_from(unit["pid"].as_i64().unwrap_or_else(|| panic!("no pid: {unit:#}"))).unwrap()
    }

    /// Waits until the unit is in this `sub_state`, and gives it.
    pub fn until(&self, name: &str, sub_state: &str) -> Value {
        self.until_unit(name, &format!("sub_state {sub_state}"), |unit| unit["sub_state"] == sub_state)
    }

    pub fn until_unit(&self, name: &str, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        self.eventually(&format!("{name}: {what}"), || {
            let answer = self.run(&["status", "--json"]);
            if answer.code != 0 {
                return false;
            }
            last = unit_of(&answer.json(), name);
            holds(&last)
        });
        last
    }

    pub fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds() {
            assert!(Instant::now() < end, "timed out: {what}\n{}", self.story());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a person would look at when a test fails.
    pub fn story(&self) -> String {
        let status = self.run(&["status", "--json"]);
        let log = self.run(&["logs", "-n", "80"]);
        let read = |name: &str| fs::read_to_string(self.path().join(name)).unwrap_or_default();
        format!(
            "{}\n{}\n{}\n{}\nup.out:\n{}\nup.err:\n{}",
            status.stdout,
            status.stderr,
            log.stdout,
            log.stderr,
            read("up.out"),
            read("up.err")
        )
    }

    /// Every process that has to do with this sandbox: by its environment, its arguments or where it is; the supervisor too.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = self.path().as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let path = entry.path();
            let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
            let zombie = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'));
            let about = |file: &str| fs::read(path.join(file)).is_ok_and(|bytes| contains(&bytes, mark));
            let inside = fs::read_link(path.join("cwd")).is_ok_and(|cwd| contains(cwd.as_os_str().as_encoded_bytes(), mark));
            if !zombie && (about("environ") || about("cmdline") || inside) {
                let line = fs::read(path.join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        found
    }

    /// Waits until nothing of this sandbox runs.
    pub fn nothing_left(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.processes().is_empty() {
            assert!(Instant::now() < end, "left behind: {:#?}", self.processes());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the sandbox and asserts that nothing is left of it.
    pub fn down(&self) {
        self.run(&["down"]).expect(0);
        self.nothing_left();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        for (pid, _) in self.processes() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.windows(mark.len()).any(|window| window == mark)
}

fn unit_of(status: &Value, name: &str) -> Value {
    let units = status["units"].as_array().unwrap_or_else(|| panic!("no units: {status:#}"));
    units
        .iter()
        .find(|unit| unit["name"] == name)
        .unwrap_or_else(|| panic!("no unit {name}: {status:#}"))
        .clone()
}

/// A TCP port that nobody uses at this moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether the process runs; one that waits to be reaped does not.
pub fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
