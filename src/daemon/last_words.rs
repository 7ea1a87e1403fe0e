//! What a process said before its exit failed: the one sentence that a person wants to read first.

use crate::host::journal::{Line, Query, Reader, Stream};
use crate::supervisor::{ExitStatus, Invocation, Stage};
use crate::unit::Name;

/// How many of a run's last lines are looked through.
const LINES: usize = 60;
/// How much of a line is shown, in characters.
const WIDTH: usize = 160;

/// What is known of how a run's process ended.
#[derive(Debug)]
pub(super) struct LastWords {
    pub(super) unit: Name,
    pub(super) invocation: Invocation,
    pub(super) text: String,
}

/// Whether a process that ended so may have said why. One that was killed from outside had no time to.
pub(super) fn may_have_said(stage: Stage, status: ExitStatus) -> bool {
    let starts = matches!(stage, Stage::StartPre(_) | Stage::Main | Stage::StartPost(_));
    let failed = match status {
        ExitStatus::Code(code) => code != 0,
        ExitStatus::Signal { signal, .. } => signal == libc::SIGABRT,
    };
    starts && failed
}

/// Reads them: the last line that says it is an error, else the last one on stderr. Blocks.
pub(super) fn read(reader: &Reader, unit: Name, invocation: Invocation) -> Option<LastWords> {
    let query = Query {
        units: vec![unit.clone()],
        invocation: Some(invocation),
        lines: Some(LINES),
        ..Query::default()
    };
    let lines = reader.read(&query).ok()?;
    let text = choose(&lines)?;
    Some(LastWords { unit, invocation, text })
}

fn choose(lines: &[Line]) -> Option<String> {
    let mut lines = lines.iter().rev().filter(|line| !line.message.trim().is_empty());
    let error = lines.clone().find(|line| says_error(&line.message));
    let chosen = error.or_else(|| lines.find(|line| line.stream == Stream::Stderr))?;
    Some(shortened(chosen.message.trim()))
}

/// `error: …`, `Error: …`, `TypeError: …`, `npm error …`.
fn says_error(line: &str) -> bool {
    let line = line.trim_start();
    let word = line.split([':', ' ']).next().unwrap_or_default();
    let named = line[word.len()..].starts_with(':') && word.to_ascii_lowercase().ends_with("error");
    named || line.starts_with("error ")
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::journal::Cursor;

    fn said(lines: &[(&str, Stream)]) -> Option<String> {
        let line = |(message, stream): &(&str, Stream)| Line {
            time: jiff::Timestamp::UNIX_EPOCH,
            unit: "a".to_owned(),
            stream: *stream,
            invocation: 1,
            message: (*message).to_owned(),
            cursor: Cursor::default(),
            partial: false,
        };
        choose(&lines.iter().map(line).collect::<Vec<_>>())
    }

    #[test]
    fn the_error_is_told_and_not_its_hint() {
        let lines = [
            ("connecting", Stream::Stdout),
            ("error: the agent needs Claude Code", Stream::Stderr),
            ("hint: npm install", Stream::Stderr),
            ("", Stream::Stderr),
        ];
        assert_eq!(said(&lines).as_deref(), Some("error: the agent needs Claude Code"));
    }

    #[test]
    fn without_an_error_the_last_line_of_stderr_is() {
        let lines = [("a: not found", Stream::Stderr), ("bye", Stream::Stdout)];
        assert_eq!(said(&lines).as_deref(), Some("a: not found"));
        assert_eq!(said(&[("bye", Stream::Stdout)]), None);
        assert_eq!(said(&[]), None);
    }

    #[test]
    fn what_is_an_error() {
        for line in [
            "error: a",
            "  Error: Cannot find module 'x'",
            "TypeError: x is undefined",
            "error TS1005",
        ] {
            assert!(says_error(line), "{line}");
        }
        for line in ["errors: 0", "no error: fine", "an error", "terror", ""] {
            assert!(!says_error(line), "{line}");
        }
    }

    #[test]
    fn a_long_line_is_cut() {
        let long = "é".repeat(WIDTH + 1);
        assert_eq!(shortened(&long), format!("{}…", "é".repeat(WIDTH)));
        assert_eq!(shortened(&long[2..]), &long[2..]);
    }
}
