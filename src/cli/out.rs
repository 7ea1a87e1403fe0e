//! Printing: data to stdout, colour for people on a terminal alone, control characters of others never.

use super::CliError;
use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

/// When output is coloured. `NO_COLOR` and a `TERM` of `dumb` count for `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Also into files and pipes.
    Always,
    /// Not at all.
    Never,
}

impl Color {
    /// Makes it so for the whole process.
    pub(super) fn apply(self) {
        match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// Writes to stdout. A reader that has gone away ends the program quietly.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(written)
}

/// Writes a document to stdout, on one line.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    let text = serde_json::to_string(value).map_err(|error| CliError::failed(format!("writing JSON: {error}")))?;
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(written)
}

fn written(error: io::Error) -> CliError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        CliError::quiet(0)
    } else {
        CliError::failed(format!("writing to stdout: {error}"))
    }
}

/// Text in this style.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const BUSY: Style = AnsiColor::Yellow.on_default();

/// The colour of a unit's name: the same each time.
pub(super) fn of_unit(name: &str) -> Style {
    const COLORS: [AnsiColor; 8] = [
        AnsiColor::Cyan,
        AnsiColor::Magenta,
        AnsiColor::Blue,
        AnsiColor::Green,
        AnsiColor::Yellow,
        AnsiColor::BrightCyan,
        AnsiColor::BrightMagenta,
        AnsiColor::BrightBlue,
    ];
    let sum = name
        .bytes()
        .fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    COLORS[sum % COLORS.len()].on_default()
}

/// Text of others, fit for a terminal: colours stay (and end with the line), whatever moves the cursor or talks to the terminal goes.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut colored = false;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t' && c != '\n') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = color_sequence(rest) {
            out.push_str(&rest[..length]);
            colored = true;
            rest = &rest[length..];
        } else {
            let length = rest.chars().next().map_or(0, char::len_utf8);
            rest = &rest[escape_sequence(rest).unwrap_or(length)..];
        }
    }
    out.push_str(rest);
    if colored {
        out.push_str("\x1b[0m");
    }
    out
}

/// The length of a sequence that only colours: `ESC [ digits ; … m`.
fn color_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'))?;
    parameters[end..].starts_with('m').then_some(2 + end + 1)
}

/// The length of any other control sequence, `ESC [ … final`, or of an operating system command, `ESC ] … BEL`.
fn escape_sequence(text: &str) -> Option<usize> {
    if let Some(parameters) = text.strip_prefix("\x1b[") {
        return parameters.find(|c: char| ('@'..='~').contains(&c)).map(|end| 2 + end + 1);
    }
    let command = text.strip_prefix("\x1b]")?;
    command.find(['\x07', '\x1b']).map(|end| 2 + end + 1)
}

/// Columns, as wide as their widest cell; the last one as it is. Cells may be styled.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max();
    let widths: Vec<usize> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, wide) in row.iter().zip(&widths) {
            // Writing to a string does not fail.
            let _ = write!(line, "{cell}{:space$}  ", "", space = wide.saturating_sub(width(cell)));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// How many characters are seen.
fn width(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(|part| part.chars().count()).sum()
}

/// `3 d 4 h`, `2 min 5 s`, `840 ms`: the two largest units.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{large} {large_unit}")
        } else {
            format!("{large} {large_unit} {small} {small_unit}")
        }
    };
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// `1.4 GiB`, `87 MiB`, `512 B`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = "B";
    let mut whole = bytes;
    let mut tenths = 0;
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = next;
    }
    if unit == "B" || whole >= 10 {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{tenths} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        let said = |ms| span(Duration::from_millis(ms));
        assert_eq!(said(840), "840 ms");
        assert_eq!(said(5_900), "5 s");
        assert_eq!(said(125_000), "2 min 5 s");
        assert_eq!(said(7_200_000), "2 h");
        assert_eq!(said(273_600_000), "3 d 4 h");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(91_234_304), "87 MiB");
        assert_eq!(size(u64::MAX), "16383 PiB");
    }

    #[test]
    fn what_moves_the_cursor_goes_and_colours_stay() {
        assert_eq!(harmless("a\tb"), "a\tb");
        assert_eq!(harmless("\x1b[32mok\x1b[0m"), "\x1b[32mok\x1b[0m\x1b[0m");
        assert_eq!(harmless("\x1b[2J\x1b[Hgone\r"), "gone");
        assert_eq!(harmless("\x1b]0;title\x07x\x1b"), "x");
        assert_eq!(harmless("ü\u{9b}31m"), "ü31m");
    }

    #[test]
    fn columns_ignore_colours() {
        let rows = [vec![paint(GOOD, "a"), "b".into()], vec!["long".into(), "c".into()]];
        let plain: String = anstream::adapter::strip_str(&table(&rows)).collect();
        assert_eq!(plain, "a     b\nlong  c\n");
    }
}
