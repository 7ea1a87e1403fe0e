//! Documents of the supervisor as short texts for a model.

use serde_json::Value;
use std::fmt::Write;

/// The longest answer and the longest line of one, in bytes.
const ANSWER_MAX: usize = 16 << 10;
const LINE_MAX: usize = 600;

/// A line that is not too long.
pub(super) fn shortened(line: &str) -> String {
    match line.len() > LINE_MAX {
        true => format!("{}… ({} bytes)", &line[..line.floor_char_boundary(LINE_MAX)], line.len()),
        false => line.to_owned(),
    }
}

/// An answer that is not too long: its end is kept, where the newest is.
pub(super) fn bounded(text: String) -> String {
    if text.len() <= ANSWER_MAX {
        return text;
    }
    let from = text.ceil_char_boundary(text.len() - ANSWER_MAX);
    format!("… ({from} bytes left out)\n{}", &text[from..])
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// All units, the preview, the files.
pub(super) fn status(document: &Value) -> String {
    let mut out = format!(
        "sandbox: {}{}\n",
        text(document, "status"),
        if document["ready"] == true { ", ready" } else { ", not ready" }
    );
    for unit in document["units"].as_array().into_iter().flatten() {
        let _ = write!(out, "{}: {} ({})", text(unit, "name"), text(unit, "state"), text(unit, "sub_state"));
        let ports = unit["ports"].as_array().into_iter().flatten();
        let ports: Vec<String> = ports.map(|port| format!("{}:{}", text(port, "address"), port["port"])).collect();
        if !ports.is_empty() {
            let _ = write!(out, ", listens on {}", ports.join(", "));
        }
        if unit["restarts"].as_u64().unwrap_or(0) > 0 {
            let _ = write!(out, ", restarted {} times", unit["restarts"]);
        }
        if let Some(reason) = unit["reason"].as_str().or(unit["status_text"].as_str()) {
            let _ = write!(out, ": {}", shortened(reason));
        }
        out.push('\n');
    }
    let sync = &document["sync"];
    let _ = writeln!(
        out,
        "files: {}, {} not saved yet",
        text(sync, "state"),
        sync["pending"].as_u64().unwrap_or(0)
    );
    out + &preview(document)
}

/// What the user sees.
pub(super) fn preview(document: &Value) -> String {
    let preview = &document["preview"];
    let mut out = format!("preview: {}", text(preview, "state"));
    if let Some(port) = preview["port"].as_u64() {
        let _ = write!(out, " on port {port}");
    }
    if let Some(reason) = preview["reason"].as_str() {
        let _ = write!(out, ": {}", shortened(reason));
    }
    out
}

/// A warning when something else than the dev server is on its port, or the dev server had to go to another one.
pub(super) fn second_server(document: &Value) -> Option<String> {
    let second = matches!(text(&document["preview"], "state"), "wrong_owner" | "port_drift");
    second.then(|| format!("warning: {}\nEnd the second server, then `dev_restart`.", preview(document)))
}

/// The chain of causes, with the last lines.
pub(super) fn why(why: &Value) -> String {
    let mut out = format!("{}: {}\n", text(why, "unit"), text(why, "summary"));
    if let Some(exit) = why["last_exit"].as_object() {
        let code = exit
            .get("code")
            .filter(|code| !code.is_null())
            .map(|code| format!("exit code {code}"));
        let signal = exit
            .get("signal")
            .filter(|signal| !signal.is_null())
            .map(|signal| format!("signal {signal}"));
        let how: Vec<String> = code.into_iter().chain(signal).collect();
        let message = exit.get("message").and_then(Value::as_str);
        let message = message.map_or_else(String::new, |message| format!(": {}", shortened(message)));
        let _ = writeln!(out, "last exit: {}{message}", how.join(", "));
    }
    for holder in why["port_holders"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "port holder: {}", shortened(&holder.to_string()));
    }
    for warning in why["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(out, "warning: {}", shortened(warning));
    }
    if !text(why, "next").is_empty() {
        let _ = writeln!(out, "next: {}", text(why, "next"));
    }
    for line in why["lines"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "| {}", shortened(text(line, "text")));
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_server_is_told() {
        let document =
            |state: &str| json!({"preview": {"state": state, "port": 3000, "reason": "port 3000 answers, but from pid 812, not dev"}});
        let warning = second_server(&document("wrong_owner")).unwrap();
        assert!(warning.contains("pid 812"), "{warning}");
        assert_eq!(second_server(&document("ready")), None);
    }

    #[test]
    fn answers_are_bounded_and_keep_their_end() {
        let long = bounded(format!("{}end", "é".repeat(ANSWER_MAX)));
        assert!(long.len() < ANSWER_MAX + 100 && long.ends_with("end"));
        assert!(shortened(&"é".repeat(LINE_MAX)).len() < LINE_MAX + 40);
    }

    #[test]
    fn odd_documents_are_no_panic() {
        for document in [
            json!(null),
            json!([]),
            json!({"units": 3, "preview": []}),
            json!({"lines": [1], "last_exit": {}}),
        ] {
            status(&document);
            why(&document);
            second_server(&document);
        }
    }
}
