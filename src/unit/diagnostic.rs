//! What is wrong with a configuration, said so that it can be mended: file:line:column, the line, a caret, a hint.

use crate::ordered::Order;
use serde::Serialize;
use std::fmt::{self, Write as _};

/// Whether it stops the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing starts.
    Error,
    /// Worth saying, nothing more.
    Warning,
}

/// A stretch of one line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file's name, as it was given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters, at least 1; what goes on in the next line is not counted.
    pub width: usize,
    /// The whole line.
    pub source: String,
}

impl Place {
    /// The place of this range of bytes. A range beyond the text is taken for its end.
    pub fn new(file: &str, text: &str, range: std::ops::Range<usize>) -> Self {
        let start = floor(text, range.start);
        let end = floor(text, range.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let source = text[line_start..].lines().next().unwrap_or_default();
        let line_end = line_start + source.len();
        let marked = text.get(start..end.min(line_end)).unwrap_or_default();
        Self {
            file: file.to_owned(),
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: marked.chars().count().max(1),
            source: source.to_owned(),
        }
    }
}

fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether it stops the start.
    pub severity: Severity,
    /// What is wrong; lower case, no full stop.
    pub message: String,
    /// The key that it is about, dotted: `unit.dev.port`. Empty when it is about none.
    pub key: String,
    /// Where.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// One line for each thing that plays a part.
    pub notes: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error that has no place.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            key: String::new(),
            place: None,
            notes: Vec::new(),
            hint: None,
        }
    }

    /// A warning that has no place.
    pub fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn render(&self, out: &mut String, paint: Paint) {
        let (label, style) = match self.severity {
            Severity::Error => ("error", paint.style(anstyle::AnsiColor::Red)),
            Severity::Warning => ("warning", paint.style(anstyle::AnsiColor::Yellow)),
        };
        let _ = write!(out, "{style}{label}:{style:#} ");
        if let Some(place) = &self.place {
            let _ = write!(out, "{}:{}:{}: ", printable(&place.file), place.line, place.column);
        }
        let _ = writeln!(out, "{}", printable(&self.message));
        if let Some(place) = &self.place {
            excerpt(place, out, style);
        }
        for note in &self.notes {
            let _ = writeln!(out, "  {}", printable(note));
        }
        if let Some(hint) = &self.hint {
            let style = paint.style(anstyle::AnsiColor::Cyan);
            let _ = writeln!(out, "{style}hint:{style:#} {}", printable(hint));
        }
    }
}

/// The most characters of a source line that are shown.
const EXCERPT: usize = 160;

fn excerpt(place: &Place, out: &mut String, style: anstyle::Style) {
    let skipped = if place.column + 40 > EXCERPT {
        place.column.saturating_sub(EXCERPT / 2)
    } else {
        0
    };
    let shown: String = place.source.chars().skip(skipped).take(EXCERPT).collect();
    if shown.trim().is_empty() {
        return;
    }
    let gutter = format!("  {} | ", place.line);
    let before = place.column - 1 - skipped;
    let indent: String = shown.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let padding = " ".repeat(before - indent.chars().count());
    let width = place.width.min(EXCERPT.saturating_sub(before)).max(1);
    let _ = writeln!(out, "{gutter}{}", printable(&shown));
    let bar = format!("{:>1$}", "| ", gutter.len());
    let _ = writeln!(out, "{bar}{indent}{padding}{style}{}{style:#}", "^".repeat(width));
}

/// Control characters must not reach a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

/// Whether diagnostics are coloured; the caller knows the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Plain text.
    Plain,
    /// With ANSI escapes.
    Ansi,
}

impl Paint {
    fn style(self, colour: anstyle::AnsiColor) -> anstyle::Style {
        match self {
            Self::Plain => anstyle::Style::new(),
            Self::Ansi => colour.on_default().bold(),
        }
    }
}

/// Everything that is wrong, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// A single error that has no place.
    pub fn error(message: impl Into<String>) -> Self {
        Self(vec![Diagnostic::error(message)])
    }

    /// Whether one of them stops the start.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them as text, a blank line between two.
    pub fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        for (index, diagnostic) in self.0.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            diagnostic.render(&mut out, paint);
        }
        out
    }

    /// Puts them into the order of the file, what has no place last.
    pub fn sort(&mut self) {
        self.0
            .order_by_key(|one| one.place.as_ref().map_or((usize::MAX, 0), |place| (place.line, place.column)));
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Paint::Plain))
    }
}

impl std::error::Error for Diagnostics {}
