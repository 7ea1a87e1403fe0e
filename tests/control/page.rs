//! The status page in a real browser: it sees a crash, the restart and a line arrive without being loaded again.

use crate::doors::{House, unit_of};
use crate::fake::{Mood, SECRET, at, unit};
use axum::http::{Method, Request, header};
use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use sandkeep::control::document::UnitState;
use sandkeep::control::doors::Limits;
use sandkeep::supervisor::Transition;
use sandkeep::unit::Name;
use serde_json::{Value, json};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// One deadline for whatever is waited for.
const DEADLINE: Duration = Duration::from_secs(90);

/// A browser behind its driver. W3C WebDriver.
struct Browser {
    port: u16,
    session: String,
    _driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next_line().await.unwrap().expect("the driver says where it listens");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut browser = Self {
            port,
            session: String::new(),
            _driver: driver,
            _profile: profile,
        };
        let data = format!("--user-data-dir={}", browser._profile.path().join("data").display());
        let arguments = json!([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1000,1100",
            data
        ]);
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}});
        let session = browser.send(Method::POST, "/session", wanted).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Value {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, format!("127.0.0.1:{}", self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(if body.is_null() {
                bytes::Bytes::new()
            } else {
                body.to_string().into()
            }))
            .unwrap();
        let answer = tokio::time::timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&text).unwrap();
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }

    async fn command(&self, what: &str, body: Value) -> Value {
        self.send(Method::POST, &format!("/session/{}/{what}", self.session), body).await
    }

    /// What a function of this body gives in the page.
    async fn run(&self, script: &str) -> Value {
        self.command("execute/sync", json!({"script": script, "args": []})).await
    }

    /// Returns when this expression is true in the page.
    async fn until(&self, expression: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.run(&format!("return !!({expression})")).await != Value::Bool(true) {
            if Instant::now() > deadline {
                panic!(
                    "never came to be: {expression}\n{}",
                    self.run("return document.body.innerText").await
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn close(self) {
        self.send(Method::DELETE, &format!("/session/{}", self.session), Value::Null).await;
    }
}

pub(crate) fn goes(house: &House, state: UnitState, sub_state: &'static str, invocation: u64, reason: &str) {
    house.fake.snapshot.send_modify(|snapshot| {
        let mut dev = unit("dev", state, sub_state);
        dev.status.invocation = invocation;
        dev.status.restarts = invocation - 1;
        dev.status.reason = Some(reason.into());
        Arc::make_mut(snapshot).units[1] = dev.into();
    });
    let transition = Transition {
        unit: Name::new("dev").unwrap(),
        invocation,
        from: "running",
        state: state.as_str(),
        to: sub_state,
        ready: state == UnitState::Active,
        reason: reason.into(),
    };
    house.fake.events.transition(at("2026-02-03T14:03:00Z"), &transition);
}

#[tokio::test]
async fn the_page_lives() {
    skip!("needs-chromium");
    let house = House::new(Mood::Willing, unit_of(None), Limits::default()).await;
    house.fake.snapshot.send_modify(|snapshot| {
        let snapshot = Arc::make_mut(snapshot);
        snapshot.sandbox = "sb_1".into();
        snapshot.project = "p_1".into();
        snapshot.sync.state = "idle".into();
        snapshot.sync.files = 312;
        snapshot.preview.state = "ready".into();
        snapshot.preview.port = Some(3000);
        snapshot.agent.state = "idle".into();
    });
    house.fake.logs.write("dev", "ready in 312 ms");
    let browser = Browser::start().await;
    browser.command("url", json!({"url": format!("http://{}/", house.tcp)})).await;

    // Without the token there is a form, and a wrong one does not help.
    browser.run("token.value = 'wrong'; form.requestSubmit()").await;
    browser.until("wrong.textContent").await;
    browser.run("token.value = 't0ken'; form.requestSubmit()").await;
    browser.until("document.querySelector('[data-unit=dev][data-state=ready]')").await;
    browser
        .until("document.querySelector('[data-part=sync]').innerText.includes('312 files')")
        .await;
    browser.until("logs.innerText.includes('ready in 312 ms')").await;
    browser.run("window.sameDocument = true").await;

    goes(&house, UnitState::Activating, "auto-restart", 1, &format!("exit code 1, {SECRET}"));
    browser
        .until("document.querySelector('[data-unit=dev][data-state=restarting]')")
        .await;
    goes(&house, UnitState::Active, "running", 2, "started");
    browser
        .until("document.querySelector('[data-unit=dev][data-state=ready][data-invocation=\"2\"]')")
        .await;
    house.fake.logs.write("dev", "a fresh line <b>as it is</b>");
    browser.until("logs.innerText.includes('a fresh line <b>as it is</b>')").await;

    browser.run("document.querySelector('[data-unit=dev] .name').click()").await;
    browser
        .until("document.querySelector('[data-unit=dev] .why')?.innerText.includes('nothing to do')")
        .await;
    browser
        .run("document.querySelector('[data-unit=dev] [data-verb=restart]').click()")
        .await;
    let asked = async {
        while !house.fake.asked().contains(&"restart dev".to_owned()) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap();

    assert_eq!(
        browser.run("return document.documentElement.outerHTML.includes('hunter2')").await,
        Value::Bool(false)
    );
    if let Some(path) = std::env::var_os("SANDKEEP_SCREENSHOT") {
        let picture = browser
            .send(Method::GET, &format!("/session/{}/screenshot", browser.session), Value::Null)
            .await;
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    // On a phone nothing is wider than the screen.
    browser.command("window/rect", json!({"width": 500, "height": 900})).await;
    browser.until("document.documentElement.scrollWidth <= window.innerWidth").await;
    assert_eq!(browser.run("return window.sameDocument").await, Value::Bool(true));
    browser.close().await;
}
