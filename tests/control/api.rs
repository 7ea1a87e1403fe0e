//! Each route, without a socket.

use crate::fake::{Fake, Mood, SECRET, at, unit};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use sandkeep::control::document::UnitState;
use sandkeep::control::token::Token;
use sandkeep::control::{Who, api, doors};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use tower::ServiceExt;

fn request(method: &str, path: &str, who: Who) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    request.extensions_mut().insert(who);
    request
}

async fn send(router: &Router, request: Request<Body>) -> Response<Body> {
    router.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(!text.contains(SECRET), "a secret left: {text}");
    text
}

async fn ask(router: &Router, method: &str, path: &str) -> (StatusCode, Value) {
    let response = send(router, request(method, path, Who::Owner)).await;
    let status = response.status();
    let text = text(response).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn willing() -> (Fake, Router) {
    in_mood(Mood::Willing)
}

fn in_mood(mood: Mood) -> (Fake, Router) {
    let fake = Fake::new(Path::new("/nonexistent"), mood);
    let router = api::router(fake.handle.clone());
    (fake, router)
}

#[tokio::test]
async fn probes_answer_by_the_snapshot() {
    let (fake, router) = willing();
    assert_eq!(ask(&router, "GET", "/livez").await, (StatusCode::OK, json!({"alive": true})));
    let ready = json!({"ready": true, "units": {"install": "ready", "dev": "ready"}});
    assert_eq!(ask(&router, "GET", "/readyz").await, (StatusCode::OK, ready));
    assert_eq!(ask(&router, "GET", "/healthz").await.1["status"], "ok");
    fake.snapshot.send_modify(|snapshot| {
        let failed = unit("dev", UnitState::Failed, "dead");
        Arc::make_mut(snapshot).units[1] = failed.into();
    });
    let (status, body) = ask(&router, "GET", "/readyz").await;
    assert_eq!((status, &body["units"]["dev"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("failed")));
    let (status, body) = ask(&router, "GET", "/healthz").await;
    assert_eq!((status, &body["status"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("failed")));
}

#[tokio::test]
async fn livez_tells_when_the_loop_does_not_turn() {
    let (_fake, router) = in_mood(Mood::Silent);
    let (status, body) = ask(&router, "GET", "/livez").await;
    assert_eq!((status, &body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("not_alive")));
}

#[tokio::test]
async fn status_and_units_are_masked() {
    let (_fake, router) = willing();
    let (status, body) = ask(&router, "GET", "/v1/status").await;
    assert_eq!((status, &body["pid"], &body["status"]), (StatusCode::OK, &json!(7), &json!("ok")));
    let (_, body) = ask(&router, "GET", "/v1/units/dev").await;
    assert_eq!(body["reason"], "because of ***");
    let (status, body) = ask(&router, "GET", "/v1/units/dve").await;
    assert_eq!(
        (status, &body["code"], &body["hint"]),
        (StatusCode::NOT_FOUND, &json!("no_such_unit"), &json!("did you mean `dev`?"))
    );
}

#[tokio::test]
async fn commands_go_to_the_daemon() {
    let (fake, router) = willing();
    for (path, said) in [
        ("/v1/units/dev/start", "start dev"),
        ("/v1/units/install,dev/stop", "stop install dev"),
        ("/v1/units/dev/restart?timeout=5s", "restart dev"),
        ("/v1/units/dev/reload", "reload dev"),
        ("/v1/units/dev/kill?signal=HUP", "kill dev 1"),
        ("/v1/shutdown?timeout=3s", "shutdown Some(3s)"),
        ("/v1/reload", "configure None"),
        ("/v1/upgrade?binary=%2Fbin%2Fx", "upgrade Some(\"/bin/x\") false"),
    ] {
        let (status, body) = ask(&router, "POST", path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        assert_eq!(fake.asked().last().map(String::as_str), Some(said));
    }
    let (status, body) = ask(&router, "GET", "/v1/wait?units=dev").await;
    assert_eq!((status, &body["ready"]), (StatusCode::OK, &json!(true)));
}

#[tokio::test]
async fn what_a_command_meets_is_told() {
    let (fake, router) = in_mood(Mood::Failing);
    let (status, body) = ask(&router, "POST", "/v1/units/dev/start").await;
    assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &json!("unit_failed")));
    assert_eq!(body["units"]["dev"], "exit code 1 ***");
    assert_eq!(body["hint"], "`sandkeep why dev`");
    let (status, body) = ask(&router, "POST", "/v1/reload").await;
    assert_eq!(
        (status, &body["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_config"))
    );
    let (status, body) = ask(&router, "POST", "/v1/units/dev/start?block=false").await;
    assert_eq!((status, &body["outcome"]), (StatusCode::ACCEPTED, &json!("accepted")));
    // Whatever was sent before is done when the daemon answers.
    assert_eq!(ask(&router, "GET", "/livez").await.0, StatusCode::OK);
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn what_takes_too_long_goes_on() {
    let (_fake, router) = in_mood(Mood::Silent);
    let (status, body) = ask(&router, "GET", "/v1/wait?timeout=1s").await;
    assert_eq!((status, &body["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!("timeout")));
}

#[tokio::test]
async fn too_many_that_wait_are_sent_away() {
    let (_fake, router) = in_mood(Mood::Silent);
    for _ in 0..256 {
        assert_eq!(
            ask(&router, "POST", "/v1/units/dev/start?block=false").await.0,
            StatusCode::ACCEPTED
        );
    }
    let (status, body) = ask(&router, "POST", "/v1/units/dev/start?block=false").await;
    assert_eq!((status, &body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("busy")));
}

#[tokio::test]
async fn bad_requests_say_what_is_bad() {
    let (_fake, router) = willing();
    for (method, path, code) in [
        ("GET", "/v2/status", "not_found"),
        ("POST", "/v1/status", "method_not_allowed"),
        ("POST", "/v1/units/dev/kill?signal=NOPE", "bad_request"),
        ("POST", "/v1/units/dev/start?blok=no", "bad_request"),
        ("POST", "/v1/units/dev/start?block=maybe", "bad_request"),
        ("POST", "/v1/units/dev/start?timeout=soon", "bad_request"),
        ("POST", "/v1/units/,/start", "bad_request"),
        ("GET", "/v1/logs?lines=many", "bad_request"),
        ("GET", "/v1/logs?grep=(", "bad_request"),
        ("GET", "/v1/logs?since=once", "bad_request"),
        ("GET", "/v1/logs?cursor=x", "bad_request"),
        ("GET", "/v1/units/nope/logs", "no_such_unit"),
        ("GET", "/v1/wait?units=dev,nope", "no_such_unit"),
        ("POST", "/v1/sync/flush", "worker_unavailable"),
        ("POST", "/v1/agent/prompts", "worker_unavailable"),
    ] {
        let (status, body) = ask(&router, method, path).await;
        assert_eq!(body["code"], code, "{method} {path}: {status} {body}");
        assert_eq!(body["status"], status.as_u16());
        assert_eq!(body["type"], format!("urn:sandkeep:problem:{code}"));
    }
}

#[tokio::test]
async fn a_body_that_is_no_request_changes_nothing() {
    let (fake, router) = willing();
    for body in ["{", "7", r#"{"fiel":"x"}"#, "\u{0}"] {
        let mut request = request("POST", "/v1/reload", Who::Owner);
        *request.body_mut() = Body::from(body);
        assert_eq!(send(&router, request).await.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let mut request = request("POST", "/v1/reload", Who::Owner);
    *request.body_mut() = Body::from(vec![b' '; 1 << 20]);
    assert_eq!(send(&router, request).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn processes_of_a_unit_may_what_it_was_given() {
    let (fake, router) = willing();
    let agent = || Who::Unit("agent".into());
    for (method, path, expected) in [
        ("GET", "/v1/status", 200),
        ("GET", "/v1/units/dev/why", 200),
        ("GET", "/v1/logs", 200),
        ("POST", "/v1/units/dev/restart", 200),
        ("POST", "/v1/units/dev/stop", 403),
        ("POST", "/v1/units/dev,install/restart", 403),
        ("POST", "/v1/units/install/restart", 403),
        ("POST", "/v1/shutdown", 403),
        ("POST", "/v1/reload", 403),
        ("POST", "/v1/sync/pull", 403),
        ("GET", "/readyz", 200),
    ] {
        let response = send(&router, request(method, path, agent())).await;
        assert_eq!(response.status().as_u16(), expected, "{method} {path}");
    }
    assert_eq!(fake.asked(), ["restart dev"]);
    let response = send(&router, request("GET", "/v1/status", Who::Unit("dev".into()))).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn logs_are_paged_and_can_be_followed() {
    let (fake, router) = willing();
    for n in 0..1500 {
        fake.logs.write(if n % 2 == 0 { "dev" } else { "install" }, &format!("line {n}"));
    }
    let lines = |text: &str| {
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .collect::<Vec<_>>()
    };
    let all = lines(&text(send(&router, request("GET", "/v1/logs", Who::Owner)).await).await);
    assert_eq!(all.len(), 1500);
    let tail = text(send(&router, request("GET", "/v1/units/dev/logs?lines=3&grep=line", Who::Owner)).await).await;
    let tail = lines(&tail);
    assert_eq!(
        tail.iter().map(|line| &line["text"]).collect::<Vec<_>>(),
        ["line 1494", "line 1496", "line 1498"]
    );
    let cursor = tail[2]["cursor"].as_str().unwrap();
    let rest = text(send(&router, request("GET", &format!("/v1/logs?cursor={cursor}"), Who::Owner)).await).await;
    assert_eq!(lines(&rest).len(), 1);

    let followed = send(&router, request("GET", "/v1/logs?lines=1&follow", Who::Owner)).await;
    let mut body = followed.into_body();
    let mut next = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice::<Value>(&frame).unwrap()["text"].clone()
    };
    assert_eq!(next().await, "line 1499");
    fake.logs.write("dev", "fresh");
    assert_eq!(next().await, "fresh");
}

#[tokio::test]
async fn events_have_ids_and_resume() {
    let (fake, router) = willing();
    fake.events.notice(at("2026-02-03T14:00:01Z"), "started");
    fake.events.notice(at("2026-02-03T14:00:02Z"), format!("reloaded {SECRET}"));
    let all = text(send(&router, request("GET", "/v1/events", Who::Owner)).await).await;
    let ids: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 2);
    assert!(all.contains("event: supervisor\n"), "{all}");

    let mut resumed = request("GET", "/v1/events?follow=true", Who::Owner);
    resumed.headers_mut().insert("last-event-id", ids[0].parse().unwrap());
    resumed
        .headers_mut()
        .insert(header::ACCEPT, "application/x-ndjson".parse().unwrap());
    let response = send(&router, resumed).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let mut body = response.into_body();
    let mut next = async || {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        serde_json::from_slice::<Value>(&frame).unwrap()
    };
    assert_eq!(next().await["message"], "reloaded ***");
    fake.events.notice(at("2026-02-03T14:00:03Z"), "later");
    assert_eq!(next().await["message"], "later");
}

#[tokio::test]
async fn the_tcp_door_wants_the_token() {
    let fake = Fake::new(Path::new("/nonexistent"), Mood::Willing);
    let token = Token::new("t0ken");
    let router = doors::tcp_router(fake.handle.clone(), token.clone());
    let ask = async |method: &str, path: &str, header: Option<(&str, &str)>| {
        let mut request = request(method, path, Who::Anybody);
        if let Some((name, value)) = header {
            let name: header::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        send(&router, request).await.status().as_u16()
    };
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(ask("GET", path, None).await, 200, "{path}");
    }
    let cookie = format!("sandkeep={}", token.cookie());
    let bearer = Some(("authorization", "Bearer t0ken"));
    for path in ["/v1/status", "/metrics", "/openapi.json", "/v1/events", "/v1/logs", "/"] {
        assert_eq!(ask("GET", path, None).await, 401, "{path}");
        assert_eq!(ask("GET", path, Some(("authorization", "Bearer wrong"))).await, 401, "{path}");
        assert_eq!(ask("GET", path, bearer).await, 200, "{path}");
        assert_eq!(ask("GET", path, Some(("cookie", &cookie))).await, 200, "{path}");
    }
    assert_eq!(ask("POST", "/v1/units/dev/restart", Some(("cookie", &cookie))).await, 403);
    assert_eq!(ask("POST", "/v1/units/dev/restart", bearer).await, 200);
    let mut login = request("POST", "/login", Who::Anybody);
    *login.body_mut() = Body::from("t0ken");
    let answer = send(&router, login).await;
    assert!(answer.headers()[header::SET_COOKIE].to_str().unwrap().starts_with(&cookie));
    assert_eq!(ask("POST", "/login", None).await, 401);
}
