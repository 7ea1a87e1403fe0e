//! The tools, and what each does.

use super::{Server, answer, told};
use crate::control::client::{LinesWanted, Wait};
use crate::unit::duration;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Lines of a log in one answer: by default, and at most.
const LINES: u64 = 60;
const LINES_MAX: u64 = 200;
/// The longest that a tool waits.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// All tools.
pub(super) fn all() -> Vec<Tool> {
    let unit = json!({"type": "string", "description": "the unit; `dev` is the dev server"});
    let wait = json!({"type": "string", "description": "how long to wait, such as \"20s\""});
    let since = json!({"type": "string", "description": "\"last_call\" (the default): what is new since you looked last; or how long ago, such as \"5min\""});
    let lines = json!({"type": "integer", "description": "at most so many lines, the last ones"});
    let grep = json!({"type": "string", "description": "a regular expression that lines must match"});
    let reading = || ToolAnnotations::new().read_only(true);
    vec![
        tool(
            "status",
            "Shows all units, the preview, and whether the files are saved.",
            json!({}),
            &[],
        )
        .with_annotations(reading()),
        tool(
            "why",
            "Tells why a unit is as it is: causes, last exit, who holds the port, last lines, what would start it again.",
            json!({"unit": unit}),
            &["unit"],
        )
        .with_annotations(reading()),
        tool(
            "dev_logs",
            "Shows what the dev server wrote since you looked last.",
            json!({"since": since, "lines": lines, "grep": grep}),
            &[],
        )
        .with_annotations(reading()),
        tool(
            "logs",
            "Shows what a unit wrote since you looked last.",
            json!({"unit": unit, "since": since, "lines": lines, "grep": grep}),
            &["unit"],
        )
        .with_annotations(reading()),
        tool(
            "dev_restart",
            "Restarts the dev server and waits until it is ready; tells why not otherwise. Do not start one yourself.",
            json!({"wait": wait}),
            &[],
        ),
        tool(
            "install_restart",
            "Runs the install command again; the dev server follows.",
            json!({"wait": wait}),
            &[],
        ),
        tool(
            "wait_ready",
            "Waits until units are ready; all that the sandbox needs where none is named.",
            json!({"units": {"type": "array", "items": {"type": "string"}}, "wait": wait}),
            &[],
        )
        .with_annotations(reading()),
        tool("preview_check", "Tells what the user sees in the preview, and why.", json!({}), &[]).with_annotations(reading()),
        tool("checkpoint", "Saves all files to the store at once.", json!({}), &[]),
    ]
}

fn tool(name: &'static str, description: &'static str, properties: Value, required: &[&str]) -> Tool {
    let schema = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    let schema: JsonObject = match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    Tool::new(name, description, schema)
}

impl Server {
    pub(super) async fn act(&self, tool: &str, arguments: &Map<String, Value>) -> Result<String, String> {
        let text = |name: &str| arguments.get(name).and_then(Value::as_str);
        let wait = |default: u64| match text("wait") {
            Some(wait) => duration::parse(wait)
                .map_err(|why| format!("`wait`: {why}"))
                .map(|wait| wait.min(WAIT_MAX)),
            None => Ok(Duration::from_secs(default)),
        };
        match tool {
            "status" => Ok(answer::status(&self.status().await?)),
            "why" => self.why(text("unit").ok_or("`unit` is missing")?).await,
            "dev_logs" => self.logs("dev", arguments).await,
            "logs" => self.logs(text("unit").ok_or("`unit` is missing")?, arguments).await,
            "dev_restart" => self.restart("dev", wait(20)?).await,
            "install_restart" => self.restart("install", wait(120)?).await,
            "wait_ready" => self.wait_ready(&names(arguments.get("units")), wait(60)?).await,
            "preview_check" => Ok(answer::preview(&self.status().await?)),
            "checkpoint" => self.checkpoint().await,
            _ => Err(format!("there is no tool `{tool}`")),
        }
    }

    async fn why(&self, unit: &str) -> Result<String, String> {
        let why = self.client.get::<Value>(&format!("/v1/units/{}/why", path_part(unit))).await;
        Ok(answer::why(&why.map_err(|error| told(&error))?))
    }

    async fn restart(&self, unit: &str, wait: Duration) -> Result<String, String> {
        let restarted = self.client.command("restart", &[unit.to_owned()], Wait::AtMost(wait)).await;
        match restarted {
            Ok(_) => {
                let lines = self.logs(unit, &Map::new()).await.unwrap_or_default();
                Ok(format!("{unit} is ready\n{lines}"))
            }
            // Not allowed is not a failed start.
            Err(error) => match self.why(unit).await {
                Ok(why) => Err(format!("{unit} is not ready: {}\n{why}", told(&error))),
                Err(_) => Err(told(&error)),
            },
        }
    }

    async fn wait_ready(&self, units: &[String], wait: Duration) -> Result<String, String> {
        match self.client.wait(units, Some(wait)).await {
            Ok(_) => Ok("ready".into()),
            Err(error) => {
                let status = self.status().await.map(|status| answer::status(&status)).unwrap_or_default();
                Err(format!("not ready: {}\n{status}", told(&error)))
            }
        }
    }

    async fn checkpoint(&self) -> Result<String, String> {
        let flushed: Value = self
            .client
            .post("/v1/sync/flush", None::<&()>)
            .await
            .map_err(|error| told(&error))?;
        match flushed["durable"].as_bool() {
            Some(true) => Ok(format!("everything is saved, generation {}", flushed["generation"])),
            _ => Err(format!(
                "{} files are not saved yet: {}",
                flushed["pending"],
                flushed["error"].as_str().unwrap_or("no reason given")
            )),
        }
    }

    async fn logs(&self, unit: &str, arguments: &Map<String, Value>) -> Result<String, String> {
        let since = arguments.get("since").and_then(Value::as_str).filter(|since| *since != "last_call");
        let count = arguments.get("lines").and_then(Value::as_u64).unwrap_or(LINES).clamp(1, LINES_MAX);
        let looked = self.looked.lock().ok().and_then(|looked| looked.get(unit).cloned());
        let wanted = LinesWanted {
            units: vec![unit.to_owned()],
            lines: usize::try_from(count).ok(),
            since: since.map(str::to_owned),
            grep: arguments.get("grep").and_then(Value::as_str).map(str::to_owned),
            cursor: if since.is_none() { looked } else { None },
            follow: false,
        };
        let mut stream = self.client.logs(&wanted).await.map_err(|error| told(&error))?;
        let mut lines = Vec::new();
        while let Some(line) = stream.next().await.map_err(|error| told(&error))? {
            lines.push(line);
        }
        if let (Some(last), Ok(mut looked)) = (lines.last(), self.looked.lock()) {
            looked.insert(unit.to_owned(), last.cursor.clone());
        }
        if lines.is_empty() {
            return Ok(format!("{unit} wrote nothing new"));
        }
        Ok(lines
            .iter()
            .map(|line| answer::shortened(&line.text))
            .collect::<Vec<_>>()
            .join("\n"))
    }
}

fn names(value: Option<&Value>) -> Vec<String> {
    let names = value.and_then(Value::as_array).into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A unit's name is plain; anything else names no unit and must not name another path.
fn path_part(unit: &str) -> String {
    unit.chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        .take(64)
        .collect()
}
