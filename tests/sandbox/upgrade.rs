//! `sandbox upgrade`: another binary takes over in a sandbox that runs, and its processes do not notice.

use crate::support::{Home, free_port, get, served};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Running {
    home: Home,
    port: u16,
    binary: PathBuf,
}

fn digest(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Running {
    /// A project with a server in it, started with a binary of its own.
    fn new(provider: &[&str]) -> Self {
        let mut home = Home::new();
        let own = home.path().to_str().unwrap().to_owned();
        home.set("HOME", &own);
        let binary = home.path().join("first");
        let stripped = Command::new("strip")
            .arg("-o")
            .arg(&binary)
            .arg(env!("CARGO_BIN_EXE_sandkeep"))
            .status()
            .unwrap();
        assert!(stripped.success());
        let url = home.repository("app", &[("index.html", "hello\n")]);
        let port = free_port();
        let more = ["--binary", binary.to_str().unwrap()];
        home.start(&url, &served(port), port, &[&more[..], provider].concat());
        Self { home, port, binary }
    }

    /// The first binary, changed.
    fn other(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = fs::read(&self.binary).unwrap();
        change(&mut bytes);
        let path = self.home.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn status(&self) -> Value {
        self.home.run(&["status", "app", "--json"]).expect(0).json()["status"].clone()
    }

    /// The pids of the supervisor and of its units.
    fn pids(&self) -> Vec<i64> {
        let status = self.status();
        let units = status["units"].as_array().unwrap().iter();
        std::iter::once(&status["pid"])
            .chain(units.map(|unit| &unit["pid"]))
            .filter_map(Value::as_i64)
            .collect()
    }

    /// Where our own files are in the sandbox.
    fn place(&self) -> PathBuf {
        let record: Value = serde_json::from_str(&self.home.record("app")).unwrap();
        record["place"].as_str().unwrap().into()
    }

    fn nothing_besides(&self) {
        let entries = fs::read_dir(self.place()).unwrap().flatten();
        let beside: Vec<_> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name.starts_with("sandkeep.") && name != "sandkeep.toml")
            .collect();
        assert_eq!(beside, Vec::<String>::new());
    }

    fn end(&self) {
        self.home.run(&["stop", "app", "--remove"]).expect(0);
        self.home.nothing_is_left();
    }
}

fn is_upgraded(provider: &[&str]) {
    let running = Running::new(provider);
    let before = running.pids();
    assert!(before.len() >= 2, "the supervisor and the server: {before:?}");
    let new = running.other("second", |bytes| bytes.extend_from_slice(b"another build"));
    let runs = || digest(Path::new(&format!("/proc/{}/exe", before[0])));
    assert_eq!(runs(), digest(&running.binary));

    let upgraded = running.home.run(&["upgrade", "app", "--binary", &new, "--json"]).expect(0).json();
    assert_eq!(
        (&upgraded["changed"], &upgraded["from"]),
        (&true.into(), &upgraded["to"]),
        "{upgraded}"
    );
    assert!(upgraded["bytes_uploaded"].as_u64().unwrap() > 0);
    assert_eq!(running.pids(), before, "who ran goes on");
    assert_eq!(runs(), digest(Path::new(&new)), "the supervisor runs the new file");
    assert_eq!(get(&format!("http://127.0.0.1:{}/index.html", running.port)), "hello\n");
    running.nothing_besides();

    let again = running.home.run(&["upgrade", "app", "--binary", &new, "--json"]).expect(0).json();
    assert_eq!((&again["changed"], &again["bytes_uploaded"]), (&false.into(), &0.into()), "{again}");
    // One that was cut off between the file and the handover is gone on with.
    fs::hard_link(&running.binary, running.place().join("sandkeep.last")).unwrap();
    let again = running.home.run(&["upgrade", "app", "--binary", &new, "--json"]).expect(0).json();
    assert_eq!(again["changed"], true, "{again}");
    assert_eq!(running.pids(), before);
    running.nothing_besides();
    running.end();
}

#[test]
fn another_binary_takes_over_on_this_machine() {
    is_upgraded(&["--provider", "local"]);
}

#[test]
fn another_binary_takes_over_behind_a_command() {
    is_upgraded(&["--via", "env --"]);
}

#[test]
fn what_cannot_take_over_changes_nothing_and_says_why() {
    let running = Running::new(&[]);
    let before = (running.pids(), digest(&running.place().join("sandkeep")));
    let machine = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let foreign = running.other("foreign", |bytes| bytes[18] = machine);
    let silent = running.other("silent", |bytes| *bytes = fs::read("/bin/true").unwrap());
    let script = running.other("script", |bytes| *bytes = b"#!/bin/sh\necho no program of this kind\n".to_vec());
    let cases = [
        (foreign, 1, "wrong-architecture", "the binary is for"),
        (silent, 1, "command-failed", "upgrading to"),
        (script, 2, "bad-request", "is no Linux program"),
    ];
    for (binary, exit, code, words) in cases {
        let answer = running.home.run(&["upgrade", "app", "--binary", &binary, "--json"]).expect(exit);
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        assert!(error["hint"].is_string(), "{error}");
        assert_eq!((running.pids(), digest(&running.place().join("sandkeep"))), before, "{binary}");
        running.nothing_besides();
    }

    // A sandkeep from before there were upgrades.
    let old = running.place().join("sandkeep");
    let kept = running.place().join("kept");
    fs::rename(&old, &kept).unwrap();
    let script = format!(
        "#!/bin/sh\nfor word do case $word in upgrade) echo \"error: unrecognized subcommand 'upgrade'\" >&2; exit 2;; esac; done\nexec {} \"$@\"\n",
        kept.display()
    );
    fs::write(&old, &script).unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let error = running
        .home
        .run(&["upgrade", "app", "--binary", running.binary.to_str().unwrap(), "--json"]);
    let error = error.expect(1).json()["error"].clone();
    assert_eq!(error["code"], "unsupported", "{error}");
    assert!(error["hint"].as_str().unwrap().contains("sandbox stop"), "{error}");
    assert_eq!(fs::read_to_string(&old).unwrap(), script, "the old file is in its place again");
    assert_eq!(running.pids(), before.0);
    fs::rename(&kept, &old).unwrap();

    running.home.run(&["stop", "app"]).expect(0);
    let stopped = running.home.run(&["upgrade", "app", "--json"]).expect(3).json();
    assert_eq!(stopped["error"]["code"], "no-supervisor");
    running.end();
    assert_eq!(
        running.home.run(&["upgrade", "app", "--json"]).expect(4).json()["error"]["code"],
        "no-such-sandbox"
    );
}
