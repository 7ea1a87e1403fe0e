//! What goes wrong is said in one line with what to do, in `--json` with a stable code, and leaves nothing running.

use crate::support::{Home, free_port, served};
use base64::Engine;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Starts what must fail; its fault.
fn fails(home: &Home, exit: i32, arguments: &[&str]) -> Value {
    let all: Vec<&str> = [&["start", "--no-claude", "--json"], arguments].concat();
    let answer = home.run(&all).expect(exit);
    let fault = answer.json()["error"].clone();
    let message = fault["message"].as_str().unwrap();
    assert!(
        !message.contains('\n') && fault["hint"].is_string(),
        "one line, and what to do: {fault:#}"
    );
    assert!(answer.stderr.contains("error:") && answer.stderr.contains("hint:"), "{answer:#?}");
    home.nothing_is_left();
    fault
}

#[test]
fn repositories_that_cannot_be_had() {
    let home = Home::new();
    let url = home.repository("app", &[("index.html", "x")]);
    let fault = fails(&home, 1, &["--repo", "file:///nonexistent/repo"]);
    assert_eq!((&fault["code"], &fault["step"]), (&"repo-not-found".into(), &"create".into()));
    let fault = fails(&home, 1, &["--repo", &url, "--branch", "nowhere"]);
    assert_eq!(fault["code"], "branch-not-found");
    assert!(fault["message"].as_str().unwrap().contains("nowhere"));
    let fault = fails(&home, 2, &["--repo", "ftp://host/x", "--name", "app"]);
    assert_eq!(fault["code"], "bad-request");
}

#[test]
fn projects_that_do_not_get_ready() {
    let home = Home::new();
    let port = free_port().to_string();
    let url = home.repository("app", &[("index.html", "x")]);
    let fault = fails(
        &home,
        1,
        &[
            "--repo",
            &url,
            "--install",
            "echo broken lock >&2; exit 4",
            "--dev",
            "sleep 600",
            "--port",
            &port,
        ],
    );
    assert_eq!((&fault["code"], &fault["step"]), (&"install-failed".into(), &"project".into()));
    assert!(fault["output"].as_str().unwrap().contains("broken lock") && fault["message"].as_str().unwrap().contains('4'));

    let fault = fails(
        &home,
        1,
        &[
            "--repo",
            &url,
            "--install",
            "",
            "--dev",
            "echo no such module >&2; exit 3",
            "--port",
            &port,
        ],
    );
    assert_eq!((&fault["code"], &fault["step"]), (&"dev-exited".into(), &"ready".into()));
    assert!(fault["output"].as_str().unwrap().contains("no such module"));

    let fault = fails(
        &home,
        1,
        &[
            "--repo",
            &url,
            "--install",
            "",
            "--dev",
            "exec sleep 600",
            "--port",
            &port,
            "--wait",
            "4s",
        ],
    );
    assert_eq!(fault["code"], "port-never-opened");
    assert!(fault["message"].as_str().unwrap().contains(&port));

    let broken = home.repository("broken", &[("sandkeep.toml", "[project]\ndve = \"x\"\n")]);
    let fault = fails(&home, 2, &["--repo", &broken]);
    assert_eq!((&fault["code"], &fault["step"]), (&"invalid-config".into(), &"environment".into()));
    assert!(fault["message"].as_str().unwrap().contains("sandkeep.toml:2"), "{fault:#}");
    let fault = fails(&home, 2, &["--repo", &url]);
    assert_eq!(fault["code"], "invalid-config", "there is nothing to run: {fault:#}");
}

#[test]
fn arguments_that_make_no_sense() {
    let home = Home::new();
    let url = home.repository("app", &[("index.html", "x")]);
    let usage = |arguments: &[&str], said: &str| {
        let answer = home.run(arguments).expect(2);
        assert!(answer.stderr.contains(said), "{answer:#?}");
    };
    usage(&["start"], "--repo URL");
    usage(&["start", "--repo", &url, "--provider", "exec"], "--via");
    usage(
        &["start", "--repo", &url, "--repo-token-env", "NOT_SET_ANYWHERE"],
        "NOT_SET_ANYWHERE",
    );
    usage(&["start", "--repo", &url, "--env-file", "/nonexistent"], "/nonexistent");
    usage(&["start", "--repo", &url, "--name", "../x"], "../x");
    usage(&["start", "--repo", &url, "--binary", "/etc/passwd"], "/etc/passwd");
    usage(&["start", "--repo", &url, "--via", "ssh 'host"], "quote");
    for verb in ["status", "logs", "stop"] {
        home.run(&[verb, "nobody"]).expect(4);
    }
    home.run(&["exec", "nobody", "true"]).expect(4);
    let fault = home.run(&["stop", "nobody", "--json"]).expect(4).json();
    assert_eq!(fault["error"]["code"], "no-such-sandbox");
}

#[test]
fn what_was_there_before_is_left_as_it_is() {
    let home = Home::new();
    let port = free_port();
    let dev = served(port);
    let url = home.repository("app", &[("index.html", "x")]);
    let other = home.repository("other", &[("index.html", "y")]);
    let start = |url: &str, dev: &str, more: &[&str]| home.try_start(url, dev, port, &[&["--name", "app"][..], more].concat());
    let first = start(&url, &dev, &[]).expect(0).json();
    let fault = start(&other, &dev, &[]).expect(1).json();
    assert_eq!(fault["error"]["code"], "directory-taken");
    let fault = start(&url, "exit 7", &["--wait", "30s"]).expect(1).json();
    assert_eq!(fault["error"]["code"], "dev-exited");
    let status = home.run(&["status", "app", "--json"]).expect(1).json();
    assert_eq!(status["status"]["pid"], first["pid"], "the supervisor is still the same");
    assert_eq!(start(&url, &dev, &[]).expect(0).json()["action"], "reloaded");
    home.run(&["stop", "app", "--remove"]).expect(0);
    home.nothing_is_left();
}

#[test]
fn what_failed_stays_when_it_is_to_be_kept() {
    let home = Home::new();
    let url = home.repository("app", &[("index.html", "x")]);
    let port = free_port().to_string();
    let start = [
        "start",
        "--repo",
        &url,
        "--install",
        "exit 4",
        "--dev",
        "x",
        "--port",
        &port,
        "--no-claude",
        "--keep",
    ];
    home.run(&start).expect(1);
    home.run(&["status", "app"]).expect(1);
    assert!(home.record("app").contains("install-failed"));
    home.run(&["stop", "app", "--remove"]).expect(0);
    home.nothing_is_left();
}

const TOKEN: &str = "ghp_OnlyForThisTest4711";

/// Serves a directory to who knows the token; counts nothing, keeps nothing.
fn private_server(root: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let expected = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{TOKEN}"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
            let known = head.contains(&format!("Basic {expected}"));
            let body = fs::read(root.join(path.trim_start_matches('/')));
            let answer = match body {
                _ if !known => b"HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\nContent-Length: 0\r\n\r\n".to_vec(),
                Ok(body) => [
                    format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes(),
                    body,
                ]
                .concat(),
                Err(_) => b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            };
            let _ = stream.write_all(&answer);
        }
    });
    format!("http://{address}")
}

fn bare(of: &str, to: &Path) {
    let script = "git clone -q --bare \"$0\" \"$1\" && git -C \"$1\" update-server-info";
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", script, of])
        .arg(to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_private_repository_takes_a_token_that_stays_nowhere() {
    let mut home = Home::new();
    let port = free_port();
    let (dev, port) = (served(port), port.to_string());
    let url = home.repository("app", &[("index.html", "private\n")]);
    let served = home.path().join("served");
    fs::create_dir(&served).unwrap();
    bare(&url, &served.join("app.git"));
    let host = private_server(served);
    let url = format!("{host}/app.git");
    home.set("GOOD", TOKEN);
    home.set("BAD", "ghp_SomeOtherToken0815");
    assert_eq!(fails(&home, 1, &["--repo", &url])["code"], "repo-not-found");
    let fault = fails(&home, 1, &["--repo", &url, "--repo-token-env", "BAD"]);
    assert_eq!(fault["code"], "repo-unauthorized");
    assert!(!fault.to_string().contains("SomeOtherToken"));
    let head = ["start", "--repo", &url, "--repo-token-env", "GOOD"];
    let rest = ["--install", "", "--dev", &dev, "--port", &port, "--no-claude", "--json"];
    let started = home.run(&[&head[..], &rest].concat()).expect(0).json();
    assert_eq!(
        home.files_with(TOKEN),
        Vec::<PathBuf>::new(),
        "in no .git/config, no record, no log"
    );
    let config = home
        .run(&["exec", "app", "--", "git", "config", "remote.origin.url"])
        .expect(0)
        .stdout;
    assert_eq!((config.trim(), started["action"].as_str()), (url.as_str(), Some("created")));
    home.run(&["stop", "app", "--remove"]).expect(0);
    home.nothing_is_left();
}
