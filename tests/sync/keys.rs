//! Keys that end: from a URL, a command, a file, with a session token, read again in time.

use crate::server::{ID, R2, SECRET};
use crate::tree::{Sandbox, differences, store, tree};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// R2's form.
fn keys(token: &str, in_seconds: i64) -> String {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(in_seconds);
    let end = end.strftime("%Y-%m-%dT%H:%M:%SZ");
    format!(r#"{{"accessKeyId":"{ID}","secretAccessKey":"{SECRET}","sessionToken":"{token}","expiration":"{end}"}}"#)
}

/// Without the two variables that name keys for ever.
fn keyless(r2: &R2) -> Sandbox {
    let mut sandbox = Sandbox::on(r2);
    sandbox.variables.clear();
    sandbox
}

/// Answers every GET that has the bearer token with what is current.
fn serve(current: Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<_> = lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
            let known = head.iter().any(|line| line == "authorization: bearer open sesame");
            let (status, body) = if known {
                ("200 OK", current.lock().expect("no panic").clone())
            } else {
                ("403 Forbidden", String::new())
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn keys_from_a_url_are_read_again_before_they_end() {
    let r2 = R2::start();
    let current = Arc::new(Mutex::new(keys("first", 303)));
    let mut a = keyless(&r2);
    a.variables.push(("R2_CREDENTIALS_URL".into(), serve(Arc::clone(&current))));
    a.variables.push(("R2_CREDENTIALS_TOKEN".into(), "open sesame".into()));
    r2.accept_tokens(&["first", "second"]);
    a.write("package.json", "0");
    a.start();
    a.wait_in_step(&r2);
    assert_eq!(r2.seen_tokens(), ["first"]);
    *current.lock().expect("no panic") = keys("second", 3600);
    // Five minutes before the first ones end, which is soon.
    let rounds = std::cell::Cell::new(0);
    a.wait("the second are used", |sandbox| {
        rounds.set(rounds.get() + 1);
        sandbox.write("package.json", rounds.get().to_string());
        r2.seen_tokens() == ["first", "second"]
    });
    r2.accept_tokens(&["second"]);
    a.wait_in_step(&r2);
    assert_eq!(a.status().expect("it answers")["errors"], 0, "nobody has noticed");
    assert_eq!(a.stop(), Some(0));
}

#[test]
fn keys_that_the_store_says_have_ended_are_read_again() {
    let r2 = R2::start();
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("keys.json");
    fs::write(&file, keys("old", 3600)).expect("written");
    for (name, value) in [
        ("R2_CREDENTIALS_FILE", file.display().to_string()),
        ("R2_CREDENTIALS_COMMAND", format!("cat '{}'", file.display())),
    ] {
        fs::write(&file, keys("old", 3600)).expect("written");
        r2.accept_tokens(&["old"]);
        let mut a = keyless(&r2);
        a.project = name.to_lowercase();
        a.variables.push((name.into(), value));
        a.write("f", "1");
        a.start();
        a.wait_in_step(&r2);
        fs::write(&file, keys("new", 3600)).expect("written");
        r2.accept_tokens(&["new"]);
        a.write("f", "2");
        a.flush();
        assert_eq!(differences(&tree(&a.root), &store(&r2, &a.project)), Vec::<String>::new());
        assert_eq!(a.stop(), Some(0));
    }
}

#[test]
fn a_source_that_gives_no_keys_is_waited_for_and_named_without_its_secret() {
    let r2 = R2::start();
    let mut a = keyless(&r2);
    a.variables
        .push(("R2_CREDENTIALS_URL".into(), "http://127.0.0.1:1/?secret=hush".into()));
    a.write("f", "f");
    a.start_with(&["run"]);
    a.wait("it is offline", |sandbox| {
        sandbox
            .status()
            .is_some_and(|status| status["state"] == "offline" && status["last_error"].is_string())
    });
    assert!(a.log().contains("R2_CREDENTIALS_URL") && !a.log().contains("hush"), "{}", a.log());
    assert_eq!(a.stop(), Some(0));
    let nobody = keyless(&r2).sync(&["restore"]);
    assert_eq!(nobody.status.code(), Some(78));
}

#[test]
fn keys_for_one_prefix_are_enough() {
    let r2 = R2::start();
    r2.allow_below("p1/");
    let a = Sandbox::on(&r2);
    a.write("f", "f");
    a.flush();
    let b = Sandbox::on(&r2);
    b.restore();
    b.json(&["history", "--json"]);
    b.json(&["verify", "--deep", "--json"]);
    b.json(&["gc", "--json"]);
    assert_eq!(differences(&tree(&a.root), &tree(&b.root)), Vec::<String>::new());
    let mut other = Sandbox::on(&r2);
    other.project = "p2".into();
    assert_eq!(other.sync(&["restore"]).status.code(), Some(78));
}
