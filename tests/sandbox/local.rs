//! The whole of it on this machine.

use crate::support::{DEADLINE, Home, eventually, free_port, get, processes, served};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const SECRET: &str = "tiger-and-dragon-4711";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.ends_with("node_modules") {
            continue;
        } else if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// While `work` goes on, no process shows this text in its arguments.
fn unseen_in_arguments<T>(text: &str, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if let Some(seen) = processes().into_iter().find(|(_, line)| line.contains(text)) {
                    return Some(seen);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            None
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        assert_eq!(watch.join().unwrap(), None, "a secret was in an argument list");
        result
    })
}

/// The example project, installed from the registry and served by Vite.
#[test]
fn a_vite_project_from_its_repository_to_its_preview() {
    let home = Home::new();
    let port = free_port();
    let repo = home.path().join("repos/vite-app");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/vite"), &repo);
    let config = fs::read_to_string(repo.join("sandkeep.toml")).unwrap();
    fs::write(repo.join("sandkeep.toml"), config.replace("3000", &port.to_string())).unwrap();
    fs::write(repo.join(".gitignore"), "node_modules\n").unwrap();
    crate::support::commit_all(&repo);
    let url = format!("file://{}", repo.display());
    let variables = home.path().join("variables");
    fs::write(&variables, format!("ANTHROPIC_API_KEY='{SECRET}'\nPLAIN=visible\n")).unwrap();
    let start = [
        "start",
        "--repo",
        &url,
        "--env-file",
        variables.to_str().unwrap(),
        "--no-claude",
        "--wait",
        "4min",
        "--json",
    ];

    let first = unseen_in_arguments(SECRET, || home.run(&start).expect(0)).json();
    assert_eq!(
        (first["action"].as_str(), first["name"].as_str()),
        (Some("created"), Some("vite-app"))
    );
    let steps: Vec<&str> = first["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(
        steps,
        ["create", "claude", "upload", "environment", "start", "check", "project", "ready"]
    );
    assert!(get(first["url"].as_str().unwrap()).contains("/@vite/client"));
    let health = format!("{}/readyz", first["health_url"].as_str().unwrap());
    assert!(get(&health).contains("\"ready\":true"));

    let again = home.run(&start).expect(0).json();
    assert_eq!((&again["action"], &again["pid"]), (&"running".into(), &first["pid"]));
    assert_eq!(again["sandbox_id"], first["sandbox_id"]);
    assert_eq!(again["bytes_uploaded"], 0);

    assert_eq!(home.files_with(SECRET), Vec::<std::path::PathBuf>::new(), "a secret is in no file");
    let record = home.record("vite-app");
    assert!(
        record.contains("ANTHROPIC_API_KEY") && !record.contains("visible"),
        "names alone: {record}"
    );

    let status = home.run(&["status", "vite-app", "--json"]).expect(0).json();
    assert_eq!(status["condition"], "ready");
    assert_eq!(status["status"]["preview"]["port"], port);
    let exec = home
        .run(&["exec", "vite-app", "--", "sh", "-c", "echo $PLAIN; git status --short; exit 5"])
        .expect(5);
    assert_eq!(exec.stdout, "\n", "commands get no secrets, and the checkout is clean");
    assert!(home.run(&["logs", "vite-app", "dev"]).expect(0).stdout.contains("VITE"));
    assert!(home.run(&["list"]).expect(0).stdout.contains("running"));

    let stopped = home.run(&["stop", "vite-app", "--remove", "--json"]).expect(0).json();
    assert_eq!((&stopped["drained"], &stopped["already"]), (&true.into(), &false.into()));
    home.nothing_is_left();
    home.run(&["status", "vite-app"]).expect(4);
}

#[test]
fn it_creates_resumes_reloads_or_just_answers_and_says_which() {
    let home = Home::new();
    let (port, other) = (free_port(), free_port());
    let url = home.repository("app", &[("index.html", "hello\n")]);
    let start = |port: u16, more: &[&str]| home.start(&url, &served(port), port, more);
    home.run(&["status", "app"]).expect(4);
    let created = start(port, &["--timeout", "1h"]);
    assert_eq!(created["action"], "created");
    let first_end: jiff::Timestamp = created["expires_at"].as_str().unwrap().parse().unwrap();

    let running = start(port, &["--timeout", "3h"]);
    assert_eq!((&running["action"], &running["pid"]), (&"running".into(), &created["pid"]));
    let status = home.run(&["status", "app", "--json"]).expect(0).json();
    let end: jiff::Timestamp = status["status"]["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(
        end.duration_since(first_end).as_hours() >= 1,
        "the supervisor knows its later end: {end}"
    );

    let reloaded = start(other, &[]);
    assert_eq!((&reloaded["action"], &reloaded["pid"]), (&"reloaded".into(), &created["pid"]));
    assert_eq!(reloaded["url"], format!("http://127.0.0.1:{other}"));
    assert_eq!(get(&format!("http://127.0.0.1:{other}/index.html")), "hello\n");

    let pid = i32::try_from(created["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the supervisor is missed", || home.run(&["status", "app"]).code == 3);
    let resumed = start(other, &[]);
    assert_eq!(resumed["action"], "resumed");
    assert_ne!(resumed["pid"], created["pid"]);

    fs::write(home.local().join("app/app/new.txt"), "unsaved").unwrap();
    let commit = "git add -A; git -c user.name=t -c user.email=t@x commit -qm two; echo y >more.txt";
    home.run(&["exec", "app", "--", "sh", "-c", commit]).expect(0);
    let stopped = home.run(&["stop", "app", "--json"]).expect(0).json();
    assert_eq!(
        (&stopped["unsaved"]["unpushed_commits"], &stopped["unsaved"]["changed_files"]),
        (&1.into(), &1.into())
    );
    assert_eq!(stopped["warnings"].as_array().unwrap().len(), 2, "{stopped}");
    home.run(&["status", "app"]).expect(3);
    assert!(home.run(&["stop", "app"]).expect(0).stdout.contains("already"));
    assert_eq!(start(other, &[])["action"], "resumed");
    assert!(home.local().join("app/app/more.txt").exists(), "files stay");
    fs::remove_dir_all(home.local().join("app")).unwrap();
    home.run(&["status", "app"]).expect(5);
    home.run(&["stop", "app"]).expect(0);
    home.run(&["status", "app"]).expect(4);
}

/// Killed with SIGKILL after each step and called again, it goes on where it was, and nothing is there twice.
#[test]
fn cut_off_anywhere_it_goes_on() {
    let home = Home::new();
    let port = free_port();
    let url = home.repository("app", &[("index.html", "hello\n")]);
    let (dev, port_text) = (served(port), port.to_string());
    let install = "echo ran >>../../installs";
    let start = [
        "start",
        "--repo",
        &url,
        "--install",
        install,
        "--dev",
        &dev,
        "--port",
        &port_text,
        "--no-claude",
    ];
    for step in ["create", "claude", "upload", "environment", "start", "check", "project"] {
        home.start_and_kill_after(step, &start);
    }
    let mut last = start.to_vec();
    last.push("--json");
    let started = home.run(&last).expect(0).json();
    assert_eq!(started["action"], "created", "no start before had come to its end");
    assert_eq!(get(&format!("http://127.0.0.1:{port}/index.html")), "hello\n");
    let boxes = fs::read_dir(home.local()).unwrap().flatten().filter(|entry| entry.path().is_dir());
    assert_eq!(boxes.count(), 1);
    let project: Vec<_> = fs::read_dir(home.local().join("app"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(project.len(), 3, "the project, our place, and the provider's file: {project:?}");
    let left = home.left();
    let count = |what: &str| left.iter().filter(|(_, line)| line.contains(what)).count();
    assert_eq!((count(" up --detached"), count("http.server")), (1, 1), "{left:#?}");
    assert_eq!(
        fs::read_to_string(home.local().join("installs")).unwrap().lines().count(),
        1,
        "installed once"
    );
    home.run(&["stop", "app", "--remove"]).expect(0);
    fs::remove_file(home.local().join("installs")).unwrap();
    home.nothing_is_left();
}

#[test]
fn two_at_once_are_one() {
    let home = Home::new();
    let url = home.repository("app", &[("index.html", "hello\n")]);
    let port = free_port();
    let start = || home.start(&url, &served(port), port, &[]);
    let actions: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..3).map(|_| scope.spawn(|| start()["action"].to_string())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(actions.iter().filter(|action| action.contains("created")).count(), 1, "{actions:?}");
    home.run(&["stop", "app", "--remove"]).expect(0);
    home.nothing_is_left();
}

/// Sync is told a later end as the supervisor is, and goes on without being started again.
#[test]
fn a_later_end_reaches_sync_that_runs() {
    let home = Home::new();
    let port = free_port();
    let store = home.path().join("store");
    fs::create_dir(&store).unwrap();
    let config = format!(
        "[project]\nid = \"p\"\ninstall = \"true\"\ndev = \"{}\"\nport = {port}\n[sync]\nstore = \"file://{}\"\n",
        served(port),
        store.display()
    );
    let url = home.repository("app", &[("index.html", "hello\n"), ("sandkeep.toml", &config)]);
    let start = |timeout: &str| {
        let start = ["start", "--repo", &url, "--no-claude", "--json", "--timeout", timeout];
        home.run(&start).expect(0).json()
    };
    let sync = || {
        let status = home.run(&["status", "app", "--json"]).expect(0).json()["status"].clone();
        let units = status["units"].as_array().unwrap().clone();
        let sync = units.into_iter().find(|unit| unit["name"] == "sync").unwrap();
        (sync["pid"].clone(), status["expires_at"].clone())
    };
    start("1h");
    let (pid, first) = sync();
    assert!(pid.is_i64(), "sync runs");
    start("3h");
    let (same, later) = sync();
    assert_eq!(same, pid);
    assert_ne!(first, later);
    let ends: jiff::Timestamp = later.as_str().unwrap().parse().unwrap();
    let told = format!("taken away is now Some({})", ends.as_second());
    eventually("sync knows its later end", || {
        home.run(&["logs", "app", "sync"]).expect(0).stdout.contains(&told)
    });
    home.run(&["stop", "app", "--remove"]).expect(0);
    home.nothing_is_left();
}

/// Lines come as they are written, until nobody follows any more or the supervisor ends.
#[test]
fn lines_are_followed() {
    let home = Home::new();
    let port = free_port();
    let url = home.repository("app", &[("index.html", "hello\n")]);
    let said = home.path().join("said");
    let dev = format!("touch {0}; tail -F {0} & {1}", said.display(), served(port));
    home.start(&url, &dev, port, &[]);
    let follow = || {
        let mut child = home
            .command(&["logs", "app", "dev", "--follow"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = std::sync::mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        (child, lines)
    };
    let say = |text: &str| {
        let mut file = fs::OpenOptions::new().append(true).open(&said).unwrap();
        writeln!(file, "{text}").unwrap();
    };
    let hears = |lines: &std::sync::mpsc::Receiver<String>, text: &str| {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = lines.recv_timeout(left).unwrap_or_else(|_| panic!("in vain: {text}"));
            if line.contains(text) {
                return;
            }
        }
    };
    let (mut first, lines) = follow();
    say("one while it is followed");
    hears(&lines, "one while it is followed");
    say("another");
    hears(&lines, "another");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(first.wait().unwrap().success(), "Ctrl-C is the way to end it");
    let reads = || home.left().iter().filter(|(_, line)| line.contains("logs --follow")).count();
    eventually("nobody reads in there any more", || reads() == 0);

    let (mut second, lines) = follow();
    hears(&lines, "another");
    home.run(&["stop", "app"]).expect(0);
    let end = Instant::now() + DEADLINE;
    while second.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it ends with the sandbox");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    home.run(&["stop", "app", "--remove"]).expect(0);
    home.nothing_is_left();
}

/// npm is a stand-in here: what counts is that it is asked where Claude Code goes, and what comes of its failure.
#[test]
fn claude_code_is_installed_where_it_is_missing() {
    let mut home = Home::new();
    let bin = home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let npm = "#!/bin/sh\nwhile [ \"$1\" != --prefix ]; do shift; done\n[ ! -e \"$0.broken\" ] || { echo no network >&2; exit 1; }\n\
               mkdir -p \"$2/bin\"; printf '#!/bin/sh\\necho claude\\n' >\"$2/bin/claude\"; chmod +x \"$2/bin/claude\"\n";
    fs::write(bin.join("npm"), npm).unwrap();
    fs::write(bin.join("npm.broken"), "").unwrap();
    fs::set_permissions(bin.join("npm"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    home.set("PATH", &format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()));
    home.set("HOME", home.path().to_str().unwrap().to_owned().as_str());
    let url = home.repository("app", &[("index.html", "hello\n")]);
    let port = free_port();
    let (dev, port) = (served(port), port.to_string());
    let start = ["start", "--repo", &url, "--install", "", "--dev", &dev, "--port", &port, "--json"];
    let failed = home.run(&start).expect(1).json();
    assert_eq!(
        (&failed["error"]["code"], &failed["error"]["step"]),
        (&"claude-failed".into(), &"claude".into())
    );
    assert!(failed["error"]["output"].as_str().unwrap().contains("no network"));
    home.nothing_is_left();
    fs::remove_file(bin.join("npm.broken")).unwrap();
    let started = home.run(&start).expect(0).json();
    let claude = started["steps"][1]["detail"].as_str().unwrap();
    assert!(claude.contains("/.sandkeep/npm/bin/claude"), "{claude}");
    let again = home.run(&start).expect(0).json();
    assert_eq!(again["steps"][1]["skipped"], true);
    home.run(&["stop", "app", "--remove"]).expect(0);
    home.nothing_is_left();
}
