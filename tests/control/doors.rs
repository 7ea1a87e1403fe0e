//! The doors over real sockets: who is there, what is passed on, what hostile clients get.

use crate::fake::{Fake, Mood, SECRET};
use sandkeep::control::client::{Client, ClientError, LinesWanted, Wait};
use sandkeep::control::doors::{self, Limits};
use sandkeep::control::problem::Code;
use sandkeep::control::token::Token;
use sandkeep::control::{ReloadRequest, UnitOf};
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// One deadline for whatever is waited for.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("it should have happened by now")
}

/// Every process is of this unit.
pub(crate) fn unit_of(unit: Option<&'static str>) -> UnitOf {
    Arc::new(move |_| Box::pin(async move { Ok(unit.map(str::to_owned)) }))
}

pub(crate) struct House {
    pub(crate) fake: Fake,
    dir: TempDir,
    socket: PathBuf,
    pub(crate) tcp: SocketAddr,
}

impl House {
    pub(crate) async fn new(mood: Mood, unit_of: UnitOf, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = Fake::new(dir.path(), mood);
        let socket = dir.path().join("control.sock");
        let unix = UnixListener::from_std(doors::bind_unix(&socket).unwrap()).unwrap();
        tokio::spawn(doors::serve_unix(unix, fake.handle.clone(), unit_of, limits));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = listener.local_addr().unwrap();
        tokio::spawn(doors::serve_tcp(listener, fake.handle.clone(), Token::new("t0ken"), limits));
        Self { fake, dir, socket, tcp }
    }

    async fn plain() -> Self {
        Self::new(Mood::Willing, unit_of(None), Limits::default()).await
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

#[tokio::test]
async fn the_owner_may_all_and_the_client_understands() {
    let house = House::plain().await;
    let mode = std::fs::metadata(&house.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let client = house.client();
    let dev = ["dev".to_owned()];
    assert_eq!(client.status().await.unwrap().pid, 7);
    assert_eq!(client.command("restart", &dev, Wait::Done).await.unwrap().outcome, "done");
    assert_eq!(client.command("stop", &dev, Wait::Not).await.unwrap().outcome, "accepted");
    assert_eq!(client.kill(&dev, "RTMIN+1").await.unwrap().units[0].name, "dev");
    assert!(client.wait(&[], Some(Duration::from_secs(5))).await.unwrap().ready);
    assert!(client.reload(&ReloadRequest::default()).await.unwrap().changed);
    assert_eq!(client.why("dev").await.unwrap().unit, "dev");
    assert_eq!(client.shutdown(None).await.unwrap().pid, 7);
    let error = client.why("nope").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NoSuchUnit));
    house.fake.logs.write("dev", "hello");
    let wanted = LinesWanted {
        grep: Some("h.l+o ?".into()),
        ..LinesWanted::default()
    };
    let mut lines = client.logs(&wanted).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().text, "hello");
    assert_eq!(lines.next().await.unwrap(), None);
    let mut events = client.events(Some(0), true).await.unwrap();
    house.fake.events.notice(crate::fake::at("2026-02-03T14:00:01Z"), "hi");
    assert_eq!(soon(events.next()).await.unwrap().unwrap().kind(), "supervisor");
}

#[tokio::test]
async fn nobody_there_is_told_from_a_broken_answer() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new(dir.path().join("control.sock")).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NoSupervisor { .. }), "{error}");
    let socket = dir.path().join("x.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let error = Client::new(&socket).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Broken(_)), "{error}");
}

#[tokio::test]
async fn a_process_of_a_unit_is_recognised() {
    let house = House::new(Mood::Willing, unit_of(Some("agent")), Limits::default()).await;
    let client = house.client();
    assert!(client.status().await.is_ok());
    assert!(client.command("restart", &["dev".to_owned()], Wait::Done).await.is_ok());
    let error = client.shutdown(None).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotAllowed));
    assert_eq!(house.fake.asked(), ["restart dev"]);
}

#[tokio::test]
async fn workers_are_reached_through_the_doors() {
    let house = House::plain().await;
    let worker = axum::Router::new().route(
        "/v1/agent/prompts",
        axum::routing::post(|request: axum::extract::Request| async move {
            let who = request.headers()["x-sandkeep-who"].clone();
            let token = request.headers().contains_key("authorization");
            let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let echo = serde_json::json!({"who": who.to_str().unwrap(), "token": token, "bytes": body.len()});
            (axum::http::StatusCode::CREATED, axum::Json(echo))
        }),
    );
    let listener = UnixListener::bind(house.dir.path().join("agent.sock")).unwrap();
    tokio::spawn(async move { axum::serve(listener, worker).await });
    let answer: serde_json::Value = house.client().post("/v1/agent/prompts", Some(&"x".repeat(500_000))).await.unwrap();
    assert_eq!(answer, serde_json::json!({"who": "owner", "token": false, "bytes": 500_002}));
    let raw = b"POST /v1/agent/prompts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t0ken\r\ncontent-length: 2\r\nconnection: close, x-a\r\nx-a: 1\r\n\r\n{}";
    let text = raw_tcp(house.tcp, raw).await;
    assert!(text.starts_with("HTTP/1.1 201"), "{text}");
    assert!(text.contains(r#"{"who":"token","token":false,"bytes":2}"#), "{text}");
}

async fn raw_tcp(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn silent_clients_lose_their_slot() {
    let limits = Limits {
        connections: 2,
        header_time: Duration::from_millis(300),
        ..Limits::default()
    };
    let house = House::new(Mood::Willing, unit_of(None), limits).await;
    let mut silent = TcpStream::connect(house.tcp).await.unwrap();
    let mut slow = TcpStream::connect(house.tcp).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost:").await.unwrap();
    let mut idle = UnixStream::connect(&house.socket).await.unwrap();
    let mut rest = Vec::new();
    // Each is closed by the other side, which is what this waits for.
    let _ = soon(silent.read_to_end(&mut rest)).await;
    let _ = soon(slow.read_to_end(&mut rest)).await;
    let _ = soon(idle.read_to_end(&mut rest)).await;
    let text = raw_tcp(house.tcp, b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_nobody() {
    let house = House::plain().await;
    for n in 0..20_000 {
        house.fake.logs.write("dev", &format!("{n} {}", "x".repeat(200)));
    }
    let mut lazy = UnixStream::connect(&house.socket).await.unwrap();
    lazy.write_all(b"GET /v1/logs?follow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    for _ in 0..50 {
        assert!(soon(house.client().status()).await.is_ok());
    }
    drop(lazy);
}

#[tokio::test]
async fn bytes_of_any_kind_do_no_harm() {
    let house = House::plain().await;
    let mut seeds = fastrand::Rng::with_seed(7);
    let starts: [&[u8]; 6] = [
        b"",
        b"GET ",
        b"GET /v1/units/%ff%00/logs?lines=%zz HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/reload HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t0ken\r\ncontent-length: 40\r\n\r\n",
        b"POST /login HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /v1/events?after=99999999999999999999 HTTP/1.1\r\nhost: x\r\nlast-event-id: \xff\r\n\r\n",
    ];
    for round in 0..120 {
        let mut bytes = starts[round % starts.len()].to_vec();
        bytes.extend((0..seeds.usize(0..400)).map(|_| seeds.u8(..)));
        let mut tcp = TcpStream::connect(house.tcp).await.unwrap();
        let mut unix = UnixStream::connect(&house.socket).await.unwrap();
        let _ = tcp.write_all(&bytes).await;
        let _ = unix.write_all(&bytes).await;
    }
    assert!(house.client().status().await.is_ok());
}

#[tokio::test]
async fn no_secret_leaves_by_an_error() {
    let house = House::new(Mood::Failing, unit_of(None), Limits::default()).await;
    let error = house.client().command("start", &["dev".to_owned()], Wait::Done).await.unwrap_err();
    let ClientError::Problem(problem) = error else { panic!("{error}") };
    assert!(!serde_json::to_string(&problem).unwrap().contains(SECRET));
    assert!(problem.detail.contains("***"));
}

#[tokio::test]
async fn the_status_is_pushed_on_change_and_until_it_gets_through() {
    let house = House::plain().await;
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let refused = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let receiver = axum::Router::new().route(
        "/box",
        axum::routing::post(move |axum::Json(document): axum::Json<serde_json::Value>| async move {
            let _ = sender.send(document);
            if refused.swap(false, std::sync::atomic::Ordering::Relaxed) {
                axum::http::StatusCode::SERVICE_UNAVAILABLE
            } else {
                axum::http::StatusCode::NO_CONTENT
            }
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/box", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, receiver).await });
    tokio::spawn(sandkeep::control::report::run(house.fake.handle.clone()));
    house
        .fake
        .snapshot
        .send_modify(|snapshot| Arc::make_mut(snapshot).report_url = Some(url));
    // The first is refused and comes again.
    for _ in 0..2 {
        let document = soon(received.recv()).await.unwrap();
        assert_eq!(document["status"], "ok");
        assert!(!document.to_string().contains(SECRET));
    }
    house
        .fake
        .snapshot
        .send_modify(|snapshot| Arc::make_mut(&mut Arc::make_mut(snapshot).units[1]).status.ready = false);
    assert_eq!(soon(received.recv()).await.unwrap()["status"], "degraded");
}

#[tokio::test]
async fn a_failure_and_a_drain_leave_a_postmortem() {
    use sandkeep::control::document::UnitState;
    let house = House::plain().await;
    let directory = house.dir.path().join("postmortem");
    house.fake.logs.write("dev", "the last words");
    tokio::spawn(sandkeep::control::postmortem::keep(directory.clone(), house.fake.handle.clone()));
    // The task takes its place in the event log when it first runs.
    tokio::task::yield_now().await;
    crate::page::goes(&house, UnitState::Failed, "dead", 1, "exit code 1");
    house
        .fake
        .snapshot
        .send_modify(|snapshot| Arc::make_mut(snapshot).phase = sandkeep::control::Phase::Stopping);
    let read = || {
        std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let both = async {
        while read()
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .count()
            < 2
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(both).await;
    for path in read() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("the last words") && !text.contains(SECRET),
            "{}: {text}",
            path.display()
        );
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn the_drain_is_written_before_the_failures_that_wait() {
    use sandkeep::control::document::UnitState;
    let house = House::plain().await;
    let directory = house.dir.path().join("postmortem");
    let position = house.fake.handle.events.oldest();
    crate::page::goes(&house, UnitState::Failed, "dead", 1, "exit code 1");
    house
        .fake
        .snapshot
        .send_modify(|snapshot| Arc::make_mut(snapshot).phase = sandkeep::control::Phase::Stopping);
    let (tell, told) = tokio::sync::oneshot::channel();
    let there = directory.clone();
    let drained = move || {
        let names = std::fs::read_dir(there).unwrap().map(|entry| entry.unwrap().file_name());
        let _ = tell.send(names.collect::<Vec<_>>());
    };
    tokio::spawn(sandkeep::control::postmortem::keep_from(
        position,
        directory,
        house.fake.handle.clone(),
        drained,
    ));
    let names = soon(told).await.unwrap();
    assert_eq!(names, ["drain.json"]);
}
