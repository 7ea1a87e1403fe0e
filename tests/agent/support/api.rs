//! A Messages API on loopback: streams what a script says, for the real CLI to act on.
//!
//! What the model does is written into the prompt, so that a test reads in one place: the text after the last user message is searched
//! for `[[verb argument]]` steps; each request of the turn answers with the step whose turn it is, counted by the tool results since.
//!
//! | step | the model |
//! | --- | --- |
//! | `[[say TEXT]]` | answers with the text, word by word, and ends the turn |
//! | `[[bash COMMAND]]` | uses Bash |
//! | `[[tool NAME JSON]]` | uses any tool |
//! | `[[status CODE TIMES]]` | refuses that often with an HTTP status |
//! | `[[hang]]` | begins to answer and then is silent, once for each prompt |
//! | `[[cut]]` | begins to answer and drops the connection, once for each prompt |
//! | `[[flood N]]` | answers with so many pieces |

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What has been asked of the API.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// `x-api-key` or the bearer token of each request.
    pub(crate) keys: Vec<String>,
    /// The bodies.
    pub(crate) requests: Vec<Value>,
    once: BTreeMap<String, u32>,
}

/// The API.
pub(crate) struct Api {
    pub(crate) url: String,
    seen: Arc<Mutex<Seen>>,
}

impl Api {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = shared.clone();
                // A client that drops the connection in the middle is part of the tests.
                std::thread::spawn(move || drop(serve(stream, &seen)));
            }
        });
        Self { url, seen }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        let mut headers = BTreeMap::new();
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if !head.starts_with("POST /v1/messages") || head.contains("count_tokens") {
            respond(
                &mut writer,
                404,
                &json!({"type": "error", "error": {"type": "not_found_error", "message": "no such route"}}),
            )?;
            continue;
        }
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let key = headers
            .get("x-api-key")
            .or(headers.get("authorization"))
            .cloned()
            .unwrap_or_default();
        let step = {
            let mut seen = seen.lock().unwrap();
            seen.keys.push(key);
            let step = next_step(&request, &mut seen);
            seen.requests.push(request.clone());
            step
        };
        if !answer(&mut writer, &request, step)? {
            return writer.shutdown(std::net::Shutdown::Both);
        }
    }
}

#[derive(Debug)]
enum Step {
    Say(String),
    Tool(String, Value),
    Refuse(u16),
    Hang,
    Cut,
    Flood(usize),
}

fn next_step(request: &Value, seen: &mut Seen) -> Step {
    let messages = request["messages"].as_array().cloned().unwrap_or_default();
    let (prompt, results) = last_prompt(&messages);
    // A CLI that goes on with a turn ends its text with a new line.
    let prompt = prompt.trim_end();
    let steps: Vec<(String, String)> = prompt
        .split("[[")
        .skip(1)
        .filter_map(|rest| rest.split_once("]]"))
        .map(|(step, _)| {
            let (verb, argument) = step.split_once(' ').unwrap_or((step, ""));
            (verb.to_owned(), argument.to_owned())
        })
        .collect();
    let mut first_time = |name: String, times: u32| {
        let count = seen.once.entry(name).or_default();
        *count += 1;
        *count <= times
    };
    let mut at = 0;
    for (verb, argument) in steps {
        match verb.as_str() {
            "status" => {
                let (code, times) = argument.split_once(' ').unwrap();
                if at == results && first_time(format!("status {prompt}"), times.parse().unwrap()) {
                    return Step::Refuse(code.parse().unwrap());
                }
            }
            "hang" if at == results && first_time(format!("hang {prompt}"), 1) => return Step::Hang,
            "cut" if at == results && first_time(format!("cut {prompt}"), 1) => return Step::Cut,
            "hang" | "cut" => {}
            "bash" if at == results => return Step::Tool("Bash".into(), json!({"command": argument, "description": "a step"})),
            "tool" if at == results => {
                let (name, input) = argument.split_once(' ').unwrap();
                return Step::Tool(name.into(), serde_json::from_str(input).unwrap());
            }
            "bash" | "tool" => at += 1,
            "say" => return Step::Say(argument),
            "flood" => return Step::Flood(argument.parse().unwrap()),
            other => panic!("no such step: {other}"),
        }
    }
    Step::Say("All done.".into())
}

/// The text of the last message that a user wrote, and the number of tool results after it.
fn last_prompt(messages: &[Value]) -> (String, usize) {
    let mut results = 0;
    for message in messages.iter().rev().filter(|message| message["role"] == "user") {
        let blocks = match &message["content"] {
            Value::String(text) => vec![json!({"type": "text", "text": text})],
            Value::Array(blocks) => blocks.clone(),
            _ => Vec::new(),
        };
        results += blocks.iter().filter(|block| block["type"] == "tool_result").count();
        let mut texts = blocks.iter().filter_map(|block| block["text"].as_str());
        if let Some(text) = texts.rfind(|text| text.contains("[[")) {
            return (text.to_owned(), results);
        }
    }
    (String::new(), results)
}

fn respond(writer: &mut TcpStream, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        writer,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// False: the connection is to be closed.
fn answer(writer: &mut TcpStream, request: &Value, step: Step) -> std::io::Result<bool> {
    if let Step::Refuse(code) = step {
        let kind = match code {
            401 => "authentication_error",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            _ => "api_error",
        };
        respond(
            writer,
            code,
            &json!({"type": "error", "error": {"type": kind, "message": format!("refused with {code}")}}),
        )?;
        return Ok(true);
    }
    write!(
        writer,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    )?;
    let mut send = |kind: &str, mut data: Value| -> std::io::Result<()> {
        data["type"] = kind.into();
        write!(writer, "event: {kind}\ndata: {data}\n\n")?;
        writer.flush()
    };
    let id = format!("msg_{}", fastrand::u64(..));
    let message = json!({
        "id": id, "type": "message", "role": "assistant", "model": request["model"], "content": [], "stop_reason": null,
        "stop_sequence": null, "usage": {"input_tokens": 10, "output_tokens": 1},
    });
    send("message_start", json!({"message": message}))?;
    let mut stop = "end_turn";
    match &step {
        Step::Tool(name, input) => {
            stop = "tool_use";
            let block = json!({"type": "tool_use", "id": format!("toolu_{}", fastrand::u64(..)), "name": name, "input": {}});
            send("content_block_start", json!({"index": 0, "content_block": block}))?;
            let delta = json!({"type": "input_json_delta", "partial_json": input.to_string()});
            send("content_block_delta", json!({"index": 0, "delta": delta}))?;
        }
        Step::Say(text) => {
            send(
                "content_block_start",
                json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
            )?;
            for word in text.split_inclusive(' ') {
                send(
                    "content_block_delta",
                    json!({"index": 0, "delta": {"type": "text_delta", "text": word}}),
                )?;
            }
        }
        Step::Flood(count) => {
            send(
                "content_block_start",
                json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
            )?;
            for number in 0..*count {
                let delta = json!({"type": "text_delta", "text": format!("{number} ")});
                send("content_block_delta", json!({"index": 0, "delta": delta}))?;
            }
        }
        Step::Hang | Step::Cut => {
            send(
                "content_block_start",
                json!({"index": 0, "content_block": {"type": "text", "text": ""}}),
            )?;
            send(
                "content_block_delta",
                json!({"index": 0, "delta": {"type": "text_delta", "text": "I begin"}}),
            )?;
            if matches!(step, Step::Hang) {
                std::thread::sleep(Duration::from_secs(600));
            }
            return Ok(false);
        }
        Step::Refuse(_) => {}
    }
    send("content_block_stop", json!({"index": 0}))?;
    send(
        "message_delta",
        json!({"delta": {"stop_reason": stop, "stop_sequence": null}, "usage": {"output_tokens": 5}}),
    )?;
    send("message_stop", json!({}))?;
    Ok(false)
}
