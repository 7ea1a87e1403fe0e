//! The Model Context Protocol as far as a server of tools needs it: JSON-RPC 2.0, a message a line. Pure.
//!
//! Source: <https://modelcontextprotocol.io/specification/2025-11-25> and <https://modelcontextprotocol.io/specification/2026-07-28>, where
//! `server/discover` took the place of the handshake. `tests/agent/mcp.rs` asks with the official Rust client, in both ways.

use super::tools;
use serde_json::{Map, Value, json};

/// Versions that begin with `initialize`, the newest last.
const HANDSHAKES: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The version without a handshake: each request names it.
const STATELESS: &str = "2026-07-28";
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// What is said of the server itself: claude reads it once.
const INSTRUCTIONS: &str = "The sandbox's processes run under a supervisor. The dev server is the unit `dev` and is running already: do not \
start another one. Use `dev_logs` to see what it says about your change, `dev_restart` when it needs a new start, `preview_check` for what \
the user sees.";

/// JSON-RPC's numbers for what is wrong with a request.
const NOT_JSON: i32 = -32700;
const NOT_A_REQUEST: i32 = -32600;
const NO_SUCH_METHOD: i32 = -32601;
const BAD_PARAMETERS: i32 = -32602;
const BROKEN: i32 = -32603;
/// MCP's own: the version that a request names is not spoken here.
const UNSUPPORTED_VERSION: i32 = -32022;

/// What a line of the client asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    /// This is the answer already.
    Answered(Value),
    /// A tool is to act.
    Call(Call),
    /// The client no longer waits for the call of this id.
    Cancelled(Value),
    /// No answer is due.
    Nothing,
}

/// A tool that is to act.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    /// Of the request: a string or a number.
    pub(super) id: Value,
    pub(super) tool: String,
    pub(super) arguments: Map<String, Value>,
    stateless: bool,
}

impl Call {
    /// The answer: what the tool says, or why it failed.
    pub(super) fn answered(self, said: Result<String, String>) -> Value {
        let (text, failed) = match said {
            Ok(text) => (text, false),
            Err(why) => (why, true),
        };
        let result = json!({"content": [{"type": "text", "text": text}], "isError": failed});
        answer(&self.id, complete(result, self.stateless))
    }
}

/// Reads a line.
pub(super) fn read(line: &[u8]) -> Asked {
    let Ok(message) = serde_json::from_slice::<Value>(line) else {
        return refused(&Value::Null, NOT_JSON, "this is not JSON, one message a line");
    };
    let (id, params) = (&message["id"], &message["params"]);
    let Some(method) = message["method"].as_str() else {
        // An answer to a question that this server never asks, or nothing that JSON-RPC knows.
        return match message.get("result").or(message.get("error")) {
            Some(_) => Asked::Nothing,
            None => refused(id, NOT_A_REQUEST, "this has no `method`"),
        };
    };
    if message.get("id").is_none() {
        return match method {
            "notifications/cancelled" => Asked::Cancelled(params["requestId"].clone()),
            _ => Asked::Nothing,
        };
    }
    if !(id.is_string() || id.is_number()) {
        return refused(&Value::Null, NOT_A_REQUEST, "`id` is a string or a number");
    }
    let version = params["_meta"][VERSION_KEY].as_str();
    if let Some(other) = version.filter(|version| *version != STATELESS && !HANDSHAKES.contains(version)) {
        return unsupported(id, other);
    }
    let stateless = version == Some(STATELESS);
    let result = match method {
        "initialize" => initialized(params),
        "server/discover" => discovered(),
        "ping" => json!({}),
        "tools/list" => listed(stateless),
        "tools/call" => return called(id, params, stateless),
        _ => return refused(id, NO_SUCH_METHOD, &format!("there is no method `{method}`")),
    };
    Asked::Answered(answer(id, result))
}

fn called(id: &Value, params: &Value, stateless: bool) -> Asked {
    let Some(tool) = params["name"].as_str() else {
        return refused(id, BAD_PARAMETERS, "`name` is missing: which tool?");
    };
    let arguments = match &params["arguments"] {
        Value::Object(arguments) => arguments.clone(),
        Value::Null => Map::new(),
        _ => return refused(id, BAD_PARAMETERS, "`arguments` is an object"),
    };
    Asked::Call(Call {
        id: id.clone(),
        tool: tool.to_owned(),
        arguments,
        stateless,
    })
}

fn initialized(params: &Value) -> Value {
    let wanted = params["protocolVersion"].as_str();
    // Another version than was asked for is an offer, which the client may refuse.
    let spoken = HANDSHAKES.iter().find(|known| Some(**known) == wanted).or(HANDSHAKES.last());
    json!({"protocolVersion": spoken, "capabilities": {"tools": {}}, "serverInfo": us(), "instructions": INSTRUCTIONS})
}

fn discovered() -> Value {
    let result = json!({"supportedVersions": versions(), "capabilities": {"tools": {}}, "instructions": INSTRUCTIONS,
        "_meta": {"io.modelcontextprotocol/serverInfo": us()}});
    uncached(complete(result, true))
}

fn listed(stateless: bool) -> Value {
    let result = complete(json!({"tools": tools::all()}), stateless);
    if stateless { uncached(result) } else { result }
}

fn us() -> Value {
    json!({"name": "sandkeep", "version": env!("CARGO_PKG_VERSION")})
}

/// Versions without a handshake want to be told that nothing more is asked for.
fn complete(mut result: Value, stateless: bool) -> Value {
    if stateless {
        result["resultType"] = "complete".into();
    }
    result
}

fn uncached(mut result: Value) -> Value {
    result["ttlMs"] = 0.into();
    result["cacheScope"] = "private".into();
    result
}

fn answer(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// All that are spoken.
fn versions() -> Value {
    HANDSHAKES.iter().chain([&STATELESS]).copied().collect()
}

fn failure(id: &Value, code: i32, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

fn refused(id: &Value, code: i32, message: &str) -> Asked {
    Asked::Answered(failure(id, code, message))
}

fn unsupported(id: &Value, version: &str) -> Asked {
    let mut answer = failure(id, UNSUPPORTED_VERSION, &format!("version {version} of MCP is not spoken here"));
    answer["error"]["data"] = json!({"supported": versions(), "requested": version});
    Asked::Answered(answer)
}

/// The answer to the call with this id, as JSON has it, which ended without one.
pub(super) fn broken(id: &str) -> Value {
    let id = id.parse().unwrap_or(Value::Null);
    failure(&id, BROKEN, "the tool broke: this is a fault of sandkeep")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(line: &str) -> Value {
        match read(line.as_bytes()) {
            Asked::Answered(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_version_that_the_client_asks_for_is_spoken_or_the_newest_offered() {
        for (wanted, spoken) in [("2025-06-18", "2025-06-18"), ("2026-07-28", "2025-11-25"), ("1.0", "2025-11-25")] {
            let line = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": wanted}});
            assert_eq!(answered(&line.to_string())["result"]["protocolVersion"], spoken);
        }
    }

    #[test]
    fn what_cannot_be_understood_is_answered_with_why() {
        for (line, id, code) in [
            ("nonsense", json!(null), NOT_JSON),
            ("[]", json!(null), NOT_A_REQUEST),
            ("7", json!(null), NOT_A_REQUEST),
            (r#"{"id":3}"#, json!(3), NOT_A_REQUEST),
            (r#"{"id":{},"method":"ping"}"#, json!(null), NOT_A_REQUEST),
            (r#"{"id":null,"method":"ping"}"#, json!(null), NOT_A_REQUEST),
            (r#"{"id":"a","method":"resources/list"}"#, json!("a"), NO_SUCH_METHOD),
            (r#"{"id":4,"method":"tools/call"}"#, json!(4), BAD_PARAMETERS),
            (
                r#"{"id":4,"method":"tools/call","params":{"name":"why","arguments":[]}}"#,
                json!(4),
                BAD_PARAMETERS,
            ),
            (
                r#"{"id":5,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2030-01-01"}}}"#,
                json!(5),
                UNSUPPORTED_VERSION,
            ),
        ] {
            let answer = answered(line);
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{line}: {answer}");
        }
    }

    #[test]
    fn all_tools_are_listed() {
        let listed = answered(r#"{"id":1,"method":"tools/list"}"#);
        let tools = listed["result"]["tools"].as_array().expect("a list");
        assert_eq!(tools.len(), 9, "{listed}");
        for tool in tools {
            assert!(tool["description"].is_string() && tool["inputSchema"]["type"] == "object", "{tool}");
        }
    }

    #[test]
    fn a_broken_call_is_answered_too() {
        let answer = broken(&json!("a").to_string());
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("a"), &json!(BROKEN)));
    }

    #[test]
    fn notifications_and_answers_need_no_answer() {
        for line in [
            r#"{"method":"notifications/initialized"}"#,
            r#"{"method":"tools/call","params":{"name":"checkpoint"}}"#,
            r#"{"id":1,"result":{}}"#,
        ] {
            assert_eq!(read(line.as_bytes()), Asked::Nothing, "{line}");
        }
        let cancelled = r#"{"method":"notifications/cancelled","params":{"requestId":"a"}}"#;
        assert_eq!(read(cancelled.as_bytes()), Asked::Cancelled(json!("a")));
    }
}
