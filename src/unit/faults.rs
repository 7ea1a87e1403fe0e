//! Collects what is wrong while a configuration is read and checked, so that all of it is said at once.

use super::diagnostic::{Diagnostic, Diagnostics, Place, Severity};
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of the file; `None` for what comes from flags, from what was found out, or from the defaults.
pub(super) type Span = Option<Range<usize>>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T> At<T> {
    /// A value that stands in no file.
    pub(super) fn nowhere(value: T) -> Self {
        Self { value, span: None }
    }
}

/// The text that is read, and every fault of it so far.
#[derive(Debug)]
pub(super) struct Faults<'a> {
    file: &'a str,
    text: &'a str,
    list: Vec<Diagnostic>,
    keys: BTreeSet<String>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            text,
            list: Vec::new(),
            keys: BTreeSet::new(),
        }
    }

    /// Adds an error about the key of that dotted name.
    pub(super) fn error(&mut self, span: &Span, key: &str, message: impl Into<String>, hint: Option<String>) {
        self.keys.insert(key.to_owned());
        self.push(
            span,
            key,
            Diagnostic {
                hint,
                ..Diagnostic::error(message)
            },
        );
    }

    /// Adds something worth saying.
    pub(super) fn warning(&mut self, span: &Span, key: &str, message: impl Into<String>, hint: Option<String>) {
        self.push(
            span,
            key,
            Diagnostic {
                hint,
                ..Diagnostic::warning(message)
            },
        );
    }

    /// Adds an error that has notes instead of a place.
    pub(super) fn error_with_notes(&mut self, message: impl Into<String>, notes: Vec<String>) {
        self.push(
            &None,
            "",
            Diagnostic {
                notes,
                ..Diagnostic::error(message)
            },
        );
    }

    fn push(&mut self, span: &Span, key: &str, diagnostic: Diagnostic) {
        self.list.push(Diagnostic {
            key: key.to_owned(),
            place: span.clone().map(|range| Place::new(self.file, self.text, range)),
            ..diagnostic
        });
    }

    /// Remembers that a key was given in another spelling, so that its absence is no further fault.
    pub(super) fn meant(&mut self, key: String) {
        self.keys.insert(key);
    }

    /// Whether nothing is wrong so far.
    pub(super) fn none(&self) -> bool {
        self.list.iter().all(|one| one.severity != Severity::Error)
    }

    /// Whether something is wrong with the value of this key already, so that its absence is no further fault.
    pub(super) fn about(&self, key: &str) -> bool {
        self.keys.contains(key)
    }

    /// Where a span is, for a note: `sandkeep.toml:4`.
    pub(super) fn line(&self, span: &Span) -> Option<String> {
        let place = Place::new(self.file, self.text, span.clone()?);
        Some(format!("{}:{}", place.file, place.line))
    }

    /// The source text of a span.
    pub(super) fn source(&self, span: &Range<usize>) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// Errors and warnings, each in the order of the file.
    pub(super) fn finish(self) -> (Diagnostics, Diagnostics) {
        let mut all = Diagnostics(self.list);
        all.sort();
        let (errors, warnings) = all.0.into_iter().partition(|one| one.severity == Severity::Error);
        (Diagnostics(errors), Diagnostics(warnings))
    }
}
