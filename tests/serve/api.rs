//! The routes: who may, what is answered, and what is said of bad input.

use super::fake::{Fake, Mood, document};
use super::server::{Server, expect, shop};
use reqwest::Method;
use sandkeep::sandbox::fault::{Code, Fault};
use sandkeep::sandbox::plan::Step;
use sandkeep::sandbox::serve::keys::Keys;
use serde_json::{Value, json};

#[tokio::test]
async fn nothing_but_livez_is_open() {
    let server = Server::new(&Fake::new(Mood::Willing));
    let alive = expect(server.bare(Method::GET, "/livez").send().await.unwrap(), 200).await;
    assert_eq!(alive, json!({"alive": true}));
    let document = server.read("/openapi.json").await;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|_| path != "/livez") {
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path.replace("{id}", "sb-1");
            let bare = server.bare(method.clone(), &path).send().await.unwrap();
            assert!(bare.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            assert_eq!(expect(bare, 401).await["code"], "unauthorized", "{path}");
            for wrong in ["Bearer x", "Bearer ", "Basic dGhl", "the-token-of-the-server"] {
                let request = server.bare(method.clone(), &path).header("authorization", wrong);
                assert_eq!(request.send().await.unwrap().status(), 401, "{path} {wrong}");
            }
        }
    }
}

#[tokio::test]
async fn a_sandbox_is_started_looked_at_and_stopped() {
    let fake = Fake::new(Mood::Willing);
    let server = Server::new(&fake);
    let response = server.post("/v1/sandboxes", &shop()).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let taken = expect(response, 202).await;
    let (operation, sandbox) = (taken["operationId"].as_str().unwrap(), taken["sandboxId"].as_str().unwrap());
    assert_eq!(location, format!("/v1/operations/{operation}"));

    let over = server.operation_over(operation).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    assert_eq!(over["result"]["previewUrl"], "http://127.0.0.1:3000");
    assert_eq!(over["result"]["action"], "created");
    let steps: Vec<_> = over["steps"].as_array().unwrap().iter().collect();
    assert_eq!(steps[0]["step"], "create");
    assert_eq!(steps[0]["durationMs"], 7);
    assert_eq!(steps[1]["state"], "skipped");
    assert_eq!(over["request"]["developmentCommand"], "npm run dev");

    let path = format!("/v1/sandboxes/{sandbox}/worker");
    let worker = server.read(&path).await;
    assert_eq!((&worker["isRunning"], &worker["pid"]), (&json!(true), &json!(41)));
    assert_eq!(worker["logs"], format!("{sandbox}: the last 100 lines"));
    assert_eq!(worker["status"]["ready"], true);
    let warnings = json!([
        "2 commits are pushed nowhere",
        "1 changed file is in no commit, and no store is set"
    ]);
    assert_eq!(worker["warnings"], warnings);
    assert_eq!(worker["unsaved"]["unpushedCommits"], 2);

    let list = server.read("/v1/sandboxes").await;
    let row = &list["sandboxes"][0];
    assert_eq!((&row["sandboxId"], &row["operationState"]), (&json!(sandbox), &json!("succeeded")));
    assert_eq!(row["fleet"]["presence"], "ready");
    assert_eq!(server.read(&format!("/v1/sandboxes/{sandbox}")).await, *row);
    assert_eq!(server.read("/v1/fleet").await["presence"]["ready"], 1);

    let stop = format!("{path}/stop");
    let stopped = expect(server.post(&stop, &json!({})).send().await.unwrap(), 200).await;
    assert_eq!((&stopped["isRunning"], &stopped["drained"]), (&json!(false), &json!(true)));
    assert_eq!(stopped["warnings"], json!(["2 commits are on no remote"]));
    let worker = server.read(&path).await;
    assert_eq!((&worker["isRunning"], &worker["pid"]), (&json!(false), &Value::Null));
    assert_eq!(server.read("/v1/fleet").await["presence"]["stopped"], 1);
    let again = expect(server.post(&stop, &json!({})).send().await.unwrap(), 200).await;
    assert_eq!(again["already"], true);

    // The same id is the same sandbox.
    let mut body = shop();
    body["sandboxId"] = json!(sandbox);
    let (operation, same) = server.start(&body).await;
    assert_eq!(same, sandbox);
    server.operation_over(&operation).await;
    assert_eq!(server.read(&path).await["isRunning"], true);
}

#[tokio::test]
async fn bad_input_is_a_problem_with_a_code() {
    let fake = Fake::new(Mood::Willing);
    let server = Server::new(&fake);
    let problem = |status: u16, request: reqwest::RequestBuilder| async move { expect(request.send().await.unwrap(), status).await };
    let body = json!({"githubRepoUrl": "nonsense", "branchName": "a b", "port": 0});
    let wrong = problem(400, server.post("/v1/sandboxes", &body)).await;
    assert_eq!(
        (&wrong["code"], &wrong["type"]),
        (&json!("bad-request"), &json!("urn:sandkeep:problem:bad-request"))
    );
    let pointers: Vec<_> = wrong["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].clone())
        .collect();
    assert_eq!(pointers, ["/githubRepoUrl", "/branchName", "/port"]);

    for (body, says) in [
        ("{", "EOF"),
        ("[]", "struct StartBody"),
        ("{\"githubRepo\":\"x\"}", "unknown field `githubRepo`"),
        ("{\"port\":3000}", "missing field `githubRepoUrl`"),
        ("{\"githubRepoUrl\":7}", "invalid type"),
    ] {
        let wrong = problem(400, server.post("/v1/sandboxes", &json!(null)).body(body)).await;
        assert!(wrong["detail"].as_str().unwrap().contains(says), "{body}: {wrong}");
    }
    let large = "x".repeat(5 << 20);
    let wrong = problem(413, server.post("/v1/sandboxes", &json!(null)).body(large)).await;
    assert_eq!(wrong["code"], "too-large");
    let key = server.post("/v1/sandboxes", &shop()).header("idempotency-key", "a b");
    assert_eq!(problem(400, key).await["code"], "bad-request");

    assert_eq!(problem(404, server.get("/v1/nothing")).await["code"], "not-found");
    assert_eq!(
        problem(405, server.post("/v1/fleet", &json!({}))).await["code"],
        "method-not-allowed"
    );
    assert_eq!(problem(404, server.get("/v1/operations/op-1")).await["code"], "no-such-operation");
    assert_eq!(
        problem(404, server.get("/v1/operations/op-1/events")).await["code"],
        "no-such-operation"
    );
    assert_eq!(problem(404, server.get("/v1/sandboxes/sb-1")).await["code"], "no-such-sandbox");
    assert_eq!(
        problem(404, server.get("/v1/sandboxes/sb-1/worker")).await["code"],
        "no-such-sandbox"
    );
    assert_eq!(
        problem(404, server.post("/v1/sandboxes/sb-1/worker/stop", &json!({}))).await["code"],
        "no-such-sandbox"
    );
    assert_eq!(problem(400, server.get("/v1/sandboxes/..%2Fx/worker")).await["code"], "bad-request");
    assert_eq!(problem(400, server.get("/v1/events?after=x")).await["code"], "bad-request");
    assert_eq!(fake.asked(), ["stop sb-1"]);
}

#[tokio::test]
async fn a_start_that_fails_says_which_step_and_why() {
    let fault = Fault::new(
        Code::RepoNotFound,
        "cloning `https://github.com/acme/shop`: it does not exist, or is private",
    )
    .hint("a private repository needs a token")
    .output("remote: Repository not found.")
    .in_step(Step::Create);
    let fake = Fake::new(Mood::Failing(fault));
    let server = Server::new(&fake);
    let (operation, sandbox) = server.start(&shop()).await;
    let over = server.operation_over(&operation).await;
    assert_eq!((&over["state"], &over["result"]), (&json!("failed"), &Value::Null));
    assert_eq!(over["failure"]["code"], "repo-not-found");
    assert_eq!(over["failure"]["output"], "remote: Repository not found.");
    assert_eq!(over["steps"][0]["state"], "failed");
    let worker = server.get(&format!("/v1/sandboxes/{sandbox}/worker")).send().await.unwrap();
    let gone = expect(worker, 404).await;
    assert!(gone["detail"].as_str().unwrap().contains("its start failed: cloning"), "{gone}");
    assert_eq!(server.read("/v1/sandboxes").await["sandboxes"], json!([]));
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn what_may_pass_by_itself_is_tried_again() {
    let fake = Fake::new(Mood::FailingOnce(Fault::new(Code::Lost, "the connection broke")));
    let server = Server::new(&fake);
    let (operation, sandbox) = server.start(&shop()).await;
    assert_eq!(server.operation_over(&operation).await["state"], "succeeded");
    let start = format!("start {sandbox}");
    assert_eq!(fake.asked(), [start.clone(), start]);
}

#[tokio::test]
async fn the_same_key_is_the_same_start() {
    let fake = Fake::new(Mood::Gated);
    let server = Server::new(&fake);
    let with_key = |body: &Value| server.post("/v1/sandboxes", body).header("idempotency-key", "\"k-1\"").send();
    let body = shop();
    let answers = futures_util::future::join_all((0..10).map(|_| with_key(&body))).await;
    let mut taken = Vec::new();
    let mut replayed = 0;
    for answer in answers {
        let answer = answer.unwrap();
        replayed += usize::from(answer.headers().contains_key("idempotent-replayed"));
        taken.push(expect(answer, 202).await);
    }
    taken.dedup();
    assert_eq!((taken.len(), replayed), (1, 9));
    let mut other = body.clone();
    other["port"] = json!(3001);
    let wrong = expect(with_key(&other).await.unwrap(), 422).await;
    assert_eq!(wrong["code"], "idempotency-mismatch");
    fake.open_gate();
    let operation = taken[0]["operationId"].as_str().unwrap();
    server.operation_over(operation).await;
    assert_eq!(expect(with_key(&body).await.unwrap(), 202).await["operationId"], operation);
    assert_eq!(fake.asked().len(), 1);
}

#[tokio::test]
async fn a_sandbox_has_one_start_at_a_time_and_a_stop_wins() {
    let fake = Fake::new(Mood::Gated);
    let server = Server::new(&fake);
    let mut body = shop();
    body["sandboxId"] = json!("shop-1");
    let (operation, sandbox) = server.start(&body).await;
    assert_eq!(sandbox, "shop-1");
    // The same request joins; another is refused.
    assert_eq!(server.start(&body).await.0, operation);
    let mut other = body.clone();
    other["branchName"] = json!("other");
    let busy = expect(server.post("/v1/sandboxes", &other).send().await.unwrap(), 409).await;
    assert_eq!(busy["code"], "busy");
    // Nothing can be asked yet, and that is no error.
    server
        .eventually(&format!("/v1/operations/{operation}"), |operation| {
            operation["steps"][0]["state"] == "done"
        })
        .await;
    let worker = server.read("/v1/sandboxes/shop-1/worker").await;
    assert_eq!((&worker["isRunning"], &worker["operationId"]), (&json!(false), &json!(operation)));
    assert_eq!(worker["reason"], "it is being started: create");
    assert_eq!(server.read("/v1/sandboxes/shop-1").await["operationState"], "running");

    let stop = server.post("/v1/sandboxes/shop-1/worker/stop", &json!({})).send().await.unwrap();
    // The start was over before it had made a sandbox.
    assert_eq!(expect(stop, 404).await["code"], "no-such-sandbox");
    assert_eq!(server.operation_over(&operation).await["state"], "cancelled");
    assert_eq!(fake.asked(), ["start shop-1", "stop shop-1"]);
}

#[tokio::test]
async fn a_sandbox_reports_for_itself_alone() {
    let server = Server::new(&Fake::new(Mood::Willing));
    let key = Keys::new(super::server::TOKEN).report_key("sb-1");
    let push = |id: &str, ready: bool| {
        let path = format!("/v1/sandboxes/{id}/report?key={key}");
        server.bare(Method::POST, &path).json(&document(id, ready)).send()
    };
    assert_eq!(push("sb-1", true).await.unwrap().status(), 204);
    assert_eq!(push("sb-2", true).await.unwrap().status(), 401);
    let fleet = server.read("/v1/fleet").await;
    assert_eq!(
        (&fleet["total"], &fleet["presence"]["ready"], &fleet["memoryBytes"]),
        (&json!(1), &json!(1), &json!(1000))
    );
    assert_eq!(push("sb-1", false).await.unwrap().status(), 204);
    let row = server.read("/v1/sandboxes/sb-1").await;
    assert_eq!(
        (&row["fleet"]["presence"], &row["fleet"]["heardBy"]),
        (&json!("not-ready"), &json!("report"))
    );
    // Its key is good for nothing else.
    let worker = server.bare(Method::GET, &format!("/v1/sandboxes/sb-1/worker?key={key}"));
    assert_eq!(worker.send().await.unwrap().status(), 401);
    for body in ["", "{}", "null", "[[[["] {
        let path = format!("/v1/sandboxes/sb-1/report?key={key}");
        let wrong = server.bare(Method::POST, &path).body(body).send().await.unwrap();
        assert_eq!(expect(wrong, 400).await["code"], "bad-request");
    }
}

#[tokio::test]
async fn numbers_are_summed() {
    let server = Server::new(&Fake::new(Mood::Willing));
    let (operation, _) = server.start(&shop()).await;
    server.operation_over(&operation).await;
    let response = server.get("/metrics").send().await.unwrap();
    assert!(
        response.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let text = response.text().await.unwrap();
    for line in [
        "sandkeep_serve_operations{state=\"succeeded\"} 1",
        "sandkeep_serve_starts_total{outcome=\"succeeded\"} 1",
        "sandkeep_serve_step_duration_seconds_count{step=\"create\"} 1",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("sandkeep_fleet_sandboxes{presence="));
}
