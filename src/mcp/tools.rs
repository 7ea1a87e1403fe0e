//! The tools, and what each does.

use super::{Server, answer, told};
use crate::control::client::{LinesWanted, Wait};
use crate::unit::duration;
use serde_json::{Map, Value};
use std::time::Duration;

/// Lines of a log in one answer: by default, and at most.
const LINES: u64 = 60;
const LINES_MAX: u64 = 200;
/// The longest that a tool waits.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// All tools, as a client is told of them.
pub(super) fn all() -> Value {
    serde_json::from_str(include_str!("tools.json")).unwrap_or_default()
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
