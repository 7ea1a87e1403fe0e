//! Each profile on a project from its registry's own template, started until ready, and stopped without a trace.

use super::config_directory;
use super::sandbox::{Sandbox, free_port};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// A sandbox whose project this profile is for, on a port of its own instead of the profile's.
struct Started {
    sandbox: Sandbox,
    port: u16,
}

/// What tells programs how to reach registries from this machine.
fn network(command: &mut Command) {
    let names = ["PROXY", "CERT", "SSL", "PIP_", "UV_", "NPM_CONFIG_"];
    for (name, value) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        if names.iter().any(|part| upper.contains(part)) {
            command.env(name, value);
        }
    }
}

impl Started {
    fn new() -> Self {
        Self {
            sandbox: Sandbox::new(""),
            port: free_port(),
        }
    }

    /// Runs a command that makes the project, in the directory that the project's is in.
    fn make(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        self.sandbox.surroundings(&mut command);
        network(&mut command);
        let output = command.args(arguments).current_dir(self.sandbox.project()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(output.status.success(), "{program} {arguments:?}: {output:#?}");
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.sandbox.project().join(name), text).expect("the project can be written");
    }

    fn profile(&self, name: &str, port: u16) {
        let text = fs::read_to_string(config_directory().join(name)).expect("the profile is there");
        let moved = text.replace(&port.to_string(), &self.port.to_string());
        assert_ne!(text, moved, "{name} has the port {port}");
        self.sandbox.write_config(&moved);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        network(&mut command);
        command.env("npm_config_audit", "false").env("npm_config_fund", "false");
        command
    }

    fn up(&self, more: &[&str]) {
        let mut arguments = vec!["up", "--detach", "--wait", "280s", "--listen", "off"];
        arguments.extend(more);
        let answer = self.sandbox.answer(self.command(&arguments));
        assert_eq!(answer.code, 0, "{answer:#?}\n{}", self.sandbox.story());
        assert_eq!(self.sandbox.status()["ready"], true);
    }

    /// The dev server listens where others reach it and answers.
    fn answers(&self, unit: &str, expected: &str) {
        let unit = self.sandbox.unit(unit);
        let ports = unit["ports"].as_array().expect("a list of ports");
        let open = ports
            .iter()
            .any(|port| port["port"] == self.port && port["address"] != "127.0.0.1" && port["address"] != "::1");
        assert!(open, "{unit:#}");
        let url = format!("http://127.0.0.1:{}/", self.port);
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "120", &url])
            .output()
            .expect("curl is installed");
        let page = String::from_utf8_lossy(&output.stdout);
        assert!(page.contains(expected), "{url}: {page}\n{}", self.sandbox.story());
    }

    fn down(&self) {
        self.sandbox.down();
        TcpListener::bind(("0.0.0.0", self.port)).expect("the port is free again");
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("the example is there") {
        let entry = entry.expect("it can be listed");
        let name = entry.file_name();
        if name == "node_modules" || name == ".venv" {
            continue;
        }
        let target = to.join(&name);
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file");
        }
    }
}

#[test]
fn vite_from_its_template() {
    let started = Started::new();
    started.make(
        "npx",
        &["--yes", "create-vite@latest", "made", "--template", "vanilla", "--no-interactive"],
    );
    copy(&started.sandbox.project().join("made"), &started.sandbox.project());
    started.profile("vite.toml", 3000);
    started.up(&[]);
    started.answers("dev", "@vite/client");
    started.down();
}

#[test]
fn nextjs_from_its_template() {
    let started = Started::new();
    let options = [
        "--yes",
        "--skip-install",
        "--disable-git",
        "--use-npm",
        "--no-tailwind",
        "--no-eslint",
        "--ts",
        "--app",
    ];
    started.make("npx", &[&["--yes", "create-next-app@latest", "made"], options.as_slice()].concat());
    copy(&started.sandbox.project().join("made"), &started.sandbox.project());
    started.profile("nextjs.toml", 3000);
    started.up(&[]);
    started.answers("dev", "<html");
    started.down();
}

const APPLICATION: &str =
    "from fastapi import FastAPI\n\napp = FastAPI()\n\n\n@app.get(\"/\")\ndef root():\n    return {\"message\": \"hello\"}\n";

#[test]
fn python_from_uv() {
    skip!("needs-uv");
    let started = Started::new();
    started.make("uv", &["init", "--bare", "--vcs", "none", "--name", "made"]);
    started.make("uv", &["add", "--no-sync", "fastapi", "uvicorn"]);
    started.write("main.py", APPLICATION);
    started.profile("python.toml", 8000);
    started.up(&[]);
    started.answers("dev", "hello");
    started.down();
}

#[test]
fn python_without_uv() {
    let started = Started::new();
    started.write("requirements.txt", "fastapi\nuvicorn\n");
    started.write("main.py", APPLICATION);
    started.profile("python-venv.toml", 8000);
    started.up(&[]);
    started.answers("dev", "hello");
    started.down();
}

#[test]
fn plain_units() {
    let started = Started::new();
    started.profile("plain.toml", 8000);
    started.up(&[]);
    started.answers("web", "stamp");
    started.down();
}

#[test]
fn the_old_worker_bundle() {
    let started = Started::new();
    let bundle = started.sandbox.path().join("sandbox-worker.js");
    let source = "console.log('worker, key', process.env.R2_SECRET_ACCESS_KEY); setInterval(() => {}, 1000); process.on('SIGTERM', () => process.exit(0));";
    fs::write(&bundle, source).expect("the bundle can be written");
    let profile = fs::read_to_string(config_directory().join("worker.toml")).expect("the profile is there");
    started.sandbox.write_config(&profile);
    let mut command = started.command(&["up", "--detach", "--wait", "60s", "--listen", "off"]);
    command
        .env("SANDBOX_WORKER", &bundle)
        .env("R2_SECRET_ACCESS_KEY", "a-secret-of-the-store");
    let answer = started.sandbox.answer(command);
    assert_eq!(answer.code, 0, "{answer:#?}\n{}", started.sandbox.story());
    started.sandbox.eventually("the worker has its key, and the log masks it", || {
        let log = started.sandbox.run(&["logs", "worker"]).stdout;
        assert!(!log.contains("a-secret-of-the-store"), "{log}");
        log.contains("worker, key ") && !log.contains("undefined")
    });
    started.down();
}

#[test]
fn the_vite_example_keeps_its_files() {
    let started = Started::new();
    copy(&config_directory().join("vite"), &started.sandbox.project());
    let store = format!("file://{}", started.sandbox.path().join("store").display());
    started.up(&["--port", &started.port.to_string(), "--store", &store, "--project", "p_1"]);
    started.answers("dev", "@vite/client");
    started.down();
    let kept = started.sandbox.path().join("store/p_1/src/main.js");
    assert!(kept.exists(), "{}", kept.display());
}

#[test]
fn the_fastapi_example() {
    skip!("needs-uv");
    let started = Started::new();
    copy(&config_directory().join("fastapi"), &started.sandbox.project());
    started.up(&["--port", &started.port.to_string()]);
    started.answers("dev", "hello");
    started.down();
}

#[test]
fn a_project_without_a_file_is_found_out() {
    let started = Started::new();
    copy(&config_directory().join("vite"), &started.sandbox.project());
    fs::remove_file(started.sandbox.project().join("sandkeep.toml")).expect("it was copied");
    started.up(&["--port", &started.port.to_string()]);
    started.answers("dev", "@vite/client");
    started.down();
}
