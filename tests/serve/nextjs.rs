//! The app's three actions in TypeScript: typed by what openapi-typescript makes of the server's own description, and run.

use super::fake::{Fake, Mood};
use super::server::{Server, TOKEN};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a page of the app would do; prints what it got.
const PAGE: &str = r#"
import { startSandboxAction, getOperationAction, getWorkerStatusAction, stopWorkerAction } from "./out/actions.js";
import { GET } from "./out/events.js";
const input = { githubRepoUrl: "https://github.com/acme/shop", branchName: "main", installCommand: "npm install",
                developmentCommand: "npm run dev", port: 3000 };
const started = await startSandboxAction(input, "click-1");
const again = await startSandboxAction(input, "click-1");
const { operationId, sandboxId } = started.data;
const request = new Request("http://app/", { headers: { "last-event-id": "1" } });
const stream = await GET(request, { params: Promise.resolve({ id: operationId }) });
const events = await stream.text();
const operation = await getOperationAction(operationId);
const worker = await getWorkerStatusAction(sandboxId);
const stopped = await stopWorkerAction(sandboxId);
const after = await getWorkerStatusAction(sandboxId);
const bad = await startSandboxAction({ githubRepoUrl: "nonsense" });
process.env.SANDKEEP_SERVE_URL = "http://127.0.0.1:1";
const down = await getWorkerStatusAction(sandboxId);
console.log(JSON.stringify({ started, again, events, operation, worker, stopped, after, bad, down }));
"#;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/nextjs")
}

/// The files in a directory of their own, with the types that are made for them.
fn project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["actions.ts", "events.ts", "tsconfig.json", "package.json"] {
        fs::copy(folder().join(name), dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(folder().join("node_modules"), dir.path().join("node_modules")).unwrap();
    fs::write(dir.path().join("openapi.json"), sandkeep::sandbox::serve::openapi::document()).unwrap();
    let types = ["node_modules/openapi-typescript/bin/cli.js", "openapi.json", "-o", "sandkeep.d.ts"];
    passes(&node(dir.path(), &types));
    dir
}

fn node(dir: &Path, arguments: &[&str]) -> Output {
    Command::new("node").args(arguments).current_dir(dir).output().unwrap()
}

fn passes(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let both = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{both}\nhint: tests/serve/setup installs what is needed");
    text(&output.stdout)
}

fn tsc(dir: &Path, more: &[&str]) -> Output {
    let arguments: Vec<_> = ["node_modules/typescript/bin/tsc"].iter().chain(more).copied().collect();
    node(dir, &arguments)
}

#[test]
fn the_types_hold_the_actions_to_the_description() {
    let project = project();
    passes(&tsc(project.path(), &["--noEmit"]));
    // They would notice: each of these is wrong in one thing.
    for (wrong, says) in [
        ("startSandboxAction({ githubRepo: 'x' })", "githubRepo"),
        (
            "startSandboxAction({ githubRepoUrl: 'x', port: '3000' })",
            "'string' is not assignable",
        ),
        ("getWorkerStatusAction('x').then((it) => it.ok && it.data.running)", "running"),
    ] {
        let file = project.path().join("wrong.ts");
        let text = format!("import {{ startSandboxAction, getWorkerStatusAction }} from './actions';\nexport const it = {wrong};\n");
        fs::write(&file, text).unwrap();
        let config = r#"{"extends": "./tsconfig.json", "files": ["wrong.ts"]}"#;
        fs::write(project.path().join("wrong.json"), config).unwrap();
        let output = tsc(project.path(), &["--noEmit", "-p", "wrong.json"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            !output.status.success() && said.contains("wrong.ts(2,") && said.contains(says),
            "{wrong}: {said}"
        );
    }
}

#[test]
fn the_actions_do_what_they_say() {
    let project = project();
    passes(&tsc(project.path(), &["--outDir", "out"]));
    fs::write(project.path().join("page.mjs"), PAGE).unwrap();
    let server = Server::new(&Fake::new(Mood::Willing));
    let mut page = Command::new("node");
    page.arg("page.mjs").current_dir(project.path());
    page.env("SANDKEEP_SERVE_URL", server.url("")).env("SANDKEEP_SERVE_TOKEN", TOKEN);
    let got: Value = serde_json::from_str(&passes(&page.output().unwrap())).unwrap();
    assert_eq!(got["started"]["ok"], true, "{got:#}");
    assert_eq!(got["started"], got["again"]);
    let events = got["events"].as_str().unwrap();
    assert!(
        events.contains("event: step") && events.contains("\"state\":\"succeeded\""),
        "{events}"
    );
    assert_eq!(got["operation"]["data"]["result"]["previewUrl"], "http://127.0.0.1:3000");
    let worker = &got["worker"]["data"];
    assert_eq!((&worker["isRunning"], &worker["pid"]), (&json!(true), &json!(41)));
    assert!(worker["logs"].as_str().unwrap().ends_with("the last 100 lines"));
    assert_eq!(got["stopped"]["data"]["drained"], true);
    assert_eq!(got["after"]["data"]["isRunning"], false);
    assert_eq!(got["bad"]["problem"]["errors"][0]["pointer"], "/githubRepoUrl");
    assert_eq!(got["down"]["problem"]["code"], "unavailable");
}
