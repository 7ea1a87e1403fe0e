//! The lines that claude prints and reads: stream-json, one JSON object a line, in both directions.
//!
//! Owns the shapes and nothing else. A line is parsed as a whole object (`result` does not begin with its type), whatever is not
//! understood is kept as it came, and nothing here panics. Shapes as measured on 2.1.330; `claude --output-format stream-json`.

use serde_json::{Map, Value, json};

/// The longest line that is parsed. Images and whole files travel in one line, so it is far above what is usual.
pub const LINE_MAX: usize = 32 << 20;

/// What a line of claude's output says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// The start of a turn: model, tools, version, capabilities.
    Init(Box<Init>),
    /// A message of ours moved through claude's queue.
    Lifecycle {
        /// The id we gave the message.
        uuid: String,
        /// `queued started completed cancelled`.
        state: String,
    },
    /// `idle running requires_action`.
    SessionState(String),
    /// A piece of text as the model writes it.
    Delta {
        /// Whether it is the model's thinking.
        thinking: bool,
        /// The piece.
        text: String,
        /// Whether a subagent wrote it.
        nested: bool,
    },
    /// A whole block of the model's answer.
    Assistant(Box<Message>),
    /// Results of tools, as they go back to the model.
    User(Box<Message>),
    /// The API refused and claude tries again.
    Retry(Value),
    /// A tool was denied without asking.
    Denied(Value),
    /// claude asks whether it may use a tool, or asks the user something.
    Ask(Box<Ask>),
    /// A question is withdrawn.
    AskWithdrawn(String),
    /// The answer to a control request of ours.
    Control {
        /// The id we gave it.
        request_id: String,
        /// What it returned, or why it failed.
        answer: Result<Value, String>,
    },
    /// Lines of the session's transcript as they are written.
    Mirror {
        /// Where claude keeps it.
        file: String,
        /// Its new lines.
        entries: Vec<Value>,
    },
    /// The end of a turn.
    Result(Box<TurnResult>),
    /// Any other `system` line.
    System {
        /// Its subtype.
        subtype: String,
        /// The whole line.
        body: Value,
    },
    /// An object of a type that is not known here.
    Other(String),
    /// Not a JSON object, or longer than [`LINE_MAX`].
    Malformed {
        /// Its length in bytes.
        bytes: usize,
        /// What is wrong with it.
        error: String,
    },
}

/// `system/init`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Init {
    /// The session that the process works on.
    pub session: String,
    /// The model it uses.
    pub model: String,
    /// The CLI's version.
    pub version: String,
    /// Its permission mode.
    pub permission_mode: String,
    /// What it can do beyond the oldest protocol.
    pub capabilities: Vec<String>,
    /// Number of tools it offers the model.
    pub tools: usize,
    /// The MCP servers, with their states.
    pub mcp_servers: Value,
}

/// An `assistant` or `user` line.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The content blocks.
    pub content: Value,
    /// The API's id of the message.
    pub id: Option<String>,
    /// The tool use whose subagent said it.
    pub parent: Option<String>,
    /// `authentication_failed rate_limit overloaded …`.
    pub error: Option<String>,
}

impl Message {
    /// Ids of the tool uses in an assistant's message.
    pub fn tool_uses(&self) -> impl Iterator<Item = &str> {
        self.blocks("tool_use", "id")
    }

    /// Ids of the tool uses that a user's message answers.
    pub fn tool_results(&self) -> impl Iterator<Item = &str> {
        self.blocks("tool_result", "tool_use_id")
    }

    fn blocks<'a>(&'a self, kind: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
        let blocks = self.content.as_array().map(Vec::as_slice).unwrap_or_default();
        let of_kind = blocks.iter().filter(move |block| block["type"] == kind);
        of_kind.filter_map(move |block| block[key].as_str())
    }
}

/// A `can_use_tool` request.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The id that the answer names.
    pub request_id: String,
    /// The tool.
    pub tool: String,
    /// What it is to be given.
    pub input: Value,
    /// claude's own words for it.
    pub description: Option<String>,
    /// Rules that would spare the question next time.
    pub suggestions: Value,
    /// The tool use.
    pub tool_use_id: Option<String>,
}

/// A `result` line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnResult {
    /// `success error_during_execution error_max_turns error_max_budget_usd`.
    pub subtype: String,
    /// An API failure is `success` with this set.
    pub is_error: bool,
    /// The last text.
    pub text: String,
    /// What went wrong.
    pub errors: Vec<String>,
    /// Messages that it answers; none from a CLI that does not say.
    pub answers: Vec<String>,
    /// `completed aborted_tools aborted_streaming api_error max_turns budget_exhausted`.
    pub terminal_reason: Option<String>,
    /// The API's status, after an API failure.
    pub api_status: Option<u64>,
    /// Rounds with the model.
    pub turns: u64,
    /// Wall-clock time.
    pub duration_ms: u64,
    /// Of the session so far; claude carries it over a resume.
    pub total_cost_usd: f64,
    /// Tokens of this turn.
    pub usage: Value,
    /// Tools that were denied.
    pub denials: usize,
}

impl TurnResult {
    /// Whether the turn did what was asked.
    pub fn success(&self) -> bool {
        self.subtype == "success" && !self.is_error
    }

    /// Whether it ended because somebody interrupted it.
    pub fn aborted(&self) -> bool {
        self.terminal_reason.as_deref().is_some_and(|reason| reason.starts_with("aborted"))
    }
}

/// Parses a line of claude's output.
pub fn parse(line: &[u8]) -> Line {
    let malformed = |error: String| Line::Malformed { bytes: line.len(), error };
    if line.len() > LINE_MAX {
        return malformed(format!("longer than {LINE_MAX} bytes"));
    }
    match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(object)) => of_object(object),
        Ok(_) => malformed("not a JSON object".into()),
        Err(error) => malformed(error.to_string()),
    }
}

fn of_object(mut object: Map<String, Value>) -> Line {
    let kind = text(&object, "type");
    match kind.as_str() {
        "system" => of_system(object),
        "command_lifecycle" => Line::Lifecycle {
            uuid: text(&object, "command_uuid"),
            state: text(&object, "state"),
        },
        "stream_event" => of_stream_event(&object),
        "assistant" => Line::Assistant(Box::new(of_message(object))),
        "user" => Line::User(Box::new(of_message(object))),
        "result" => Line::Result(Box::new(of_result(&object))),
        "control_request" => of_control_request(&object),
        "control_cancel_request" => Line::AskWithdrawn(text(&object, "request_id")),
        "control_response" => of_control_response(&object),
        "transcript_mirror" => Line::Mirror {
            file: text(&object, "filePath"),
            entries: match object.remove("entries") {
                Some(Value::Array(entries)) => entries,
                _ => Vec::new(),
            },
        },
        _ => Line::Other(kind),
    }
}

fn of_system(object: Map<String, Value>) -> Line {
    let subtype = text(&object, "subtype");
    match subtype.as_str() {
        "init" => Line::Init(Box::new(Init {
            session: text(&object, "session_id"),
            model: text(&object, "model"),
            version: text(&object, "claude_code_version"),
            permission_mode: text(&object, "permissionMode"),
            capabilities: strings(object.get("capabilities")),
            tools: object.get("tools").and_then(Value::as_array).map_or(0, Vec::len),
            mcp_servers: object.get("mcp_servers").cloned().unwrap_or_default(),
        })),
        "session_state_changed" => Line::SessionState(text(&object, "state")),
        "api_retry" => Line::Retry(Value::Object(object)),
        "permission_denied" => Line::Denied(Value::Object(object)),
        _ => Line::System {
            subtype,
            body: Value::Object(object),
        },
    }
}

fn of_stream_event(object: &Map<String, Value>) -> Line {
    let delta = object.get("event").map(|event| &event["delta"]).unwrap_or(&Value::Null);
    let (key, thinking) = match delta["type"].as_str() {
        Some("text_delta") => ("text", false),
        Some("thinking_delta") => ("thinking", true),
        _ => return Line::Other("stream_event".into()),
    };
    Line::Delta {
        thinking,
        text: delta[key].as_str().unwrap_or_default().to_owned(),
        nested: object.get("parent_tool_use_id").is_some_and(Value::is_string),
    }
}

fn of_message(mut object: Map<String, Value>) -> Message {
    let mut message = object.remove("message").unwrap_or_default();
    Message {
        content: message.get_mut("content").map(Value::take).unwrap_or_default(),
        id: message["id"].as_str().map(Into::into),
        parent: object.get("parent_tool_use_id").and_then(Value::as_str).map(Into::into),
        error: object.get("error").and_then(Value::as_str).map(Into::into),
    }
}

fn of_result(object: &Map<String, Value>) -> TurnResult {
    let number = |key: &str| object.get(key).and_then(Value::as_u64).unwrap_or_default();
    let mut answers = strings(object.get("user_message_uuids"));
    if let Some(id) = object.get("user_message_uuid").and_then(Value::as_str)
        && !answers.iter().any(|known| known == id)
    {
        answers.push(id.to_owned());
    }
    TurnResult {
        subtype: text(object, "subtype"),
        is_error: object.get("is_error").and_then(Value::as_bool).unwrap_or_default(),
        text: text(object, "result"),
        errors: strings(object.get("errors")),
        answers,
        terminal_reason: object.get("terminal_reason").and_then(Value::as_str).map(Into::into),
        api_status: object.get("api_error_status").and_then(Value::as_u64),
        turns: number("num_turns"),
        duration_ms: number("duration_ms"),
        total_cost_usd: object.get("total_cost_usd").and_then(Value::as_f64).unwrap_or_default(),
        usage: object.get("usage").cloned().unwrap_or_default(),
        denials: object.get("permission_denials").and_then(Value::as_array).map_or(0, Vec::len),
    }
}

fn of_control_request(object: &Map<String, Value>) -> Line {
    let request = object.get("request").unwrap_or(&Value::Null);
    if request["subtype"] != "can_use_tool" {
        return Line::Other("control_request".into());
    }
    Line::Ask(Box::new(Ask {
        request_id: text(object, "request_id"),
        tool: request["tool_name"].as_str().unwrap_or_default().to_owned(),
        input: request["input"].clone(),
        description: request["description"].as_str().map(Into::into),
        suggestions: request["permission_suggestions"].clone(),
        tool_use_id: request["tool_use_id"].as_str().map(Into::into),
    }))
}

fn of_control_response(object: &Map<String, Value>) -> Line {
    let response = object.get("response").unwrap_or(&Value::Null);
    let answer = match response["subtype"].as_str() {
        Some("success") => Ok(response["response"].clone()),
        _ => Err(response["error"].as_str().unwrap_or("no reason given").to_owned()),
    };
    Line::Control {
        request_id: response["request_id"].as_str().unwrap_or_default().to_owned(),
        answer,
    }
}

fn text(object: &Map<String, Value>, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(Into::into).collect()
}

/// The line that gives claude a prompt. `id` comes back in the turn's result, and a second line with the same id is not run again.
pub fn prompt(id: &str, text: &str) -> String {
    line(&json!({
        "type": "user", "message": {"role": "user", "content": text}, "parent_tool_use_id": null, "session_id": "", "uuid": id,
    }))
}

/// The line that ends the running turn and leaves the process.
pub fn interrupt(request_id: &str) -> String {
    line(&json!({"type": "control_request", "request_id": request_id, "request": {"subtype": "interrupt"}}))
}

/// The line that answers a [`Line::Ask`].
pub fn answer(request_id: &str, response: &Value) -> String {
    line(&json!({
        "type": "control_response", "response": {"subtype": "success", "request_id": request_id, "response": response},
    }))
}

fn line(value: &Value) -> String {
    // `to_string` escapes line ends, so what is written is one line: a broken one would end the process.
    let mut line = value.to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_result_names_the_messages_it_answers() {
        let line = br#"{"is_error":false,"type":"result","subtype":"success","result":"ok","user_message_uuid":"a","user_message_uuids":["a","b"],"total_cost_usd":0.5}"#;
        let Line::Result(result) = parse(line) else {
            panic!("not a result")
        };
        assert_eq!(result.answers, ["a", "b"]);
        assert!(result.success());
    }

    #[test]
    fn an_api_failure_is_no_success() {
        let Line::Result(result) = parse(br#"{"type":"result","subtype":"success","is_error":true}"#) else {
            panic!("not a result")
        };
        assert!(!result.success());
    }

    #[test]
    fn what_is_not_an_object_is_malformed() {
        for line in [&b"oops"[..], b"[1]", b"", b"{\"type\":", b"\xff\xfe"] {
            assert!(matches!(parse(line), Line::Malformed { .. }), "{line:?}");
        }
    }

    #[test]
    fn a_line_of_twenty_mebibytes_is_read() {
        let text = "x".repeat(20 << 20);
        let line = json!({"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}}).to_string();
        assert!(matches!(parse(line.as_bytes()), Line::Assistant(_)));
        assert!(matches!(parse(&vec![b'x'; LINE_MAX + 1]), Line::Malformed { .. }));
    }

    #[test]
    fn what_is_written_is_one_line() {
        let line = prompt("id", "a\nb\r\u{2028}\0c");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with('\n'));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }

        #[test]
        fn never_panics_on_odd_shapes(kind in "(system|user|assistant|result|control_request|control_response|stream_event|transcript_mirror|command_lifecycle)",
                                      key in "(message|event|request|response|subtype|entries|usage)", value in "(null|1|\"x\"|\\[\\]|\\{\\}|\\[1,\\{\\}\\]|\\{\"content\":3\\})") {
            parse(format!("{{\"type\":\"{kind}\",\"{key}\":{value}}}").as_bytes());
        }
    }
}
