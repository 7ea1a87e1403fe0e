//! Looks for lines that a `log` probe waits for, on the capture side: every line is seen once, whatever is rotated or read.

use super::text;
use regex::Regex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The longest part of a line that is looked at.
const LONGEST: usize = 64 * 1024;

/// Whether a line that matches has been written. Cheap to clone; stays as it is when it has matched.
#[derive(Clone, Debug, Default)]
pub struct LogMatch(Arc<State>);

#[derive(Debug, Default)]
struct State {
    matched: AtomicBool,
    notify: Notify,
}

impl LogMatch {
    /// Whether it has matched.
    pub fn is_matched(&self) -> bool {
        self.0.matched.load(Ordering::Acquire)
    }

    /// Returns once it has matched.
    pub async fn matched(&self) {
        loop {
            let notified = self.0.notify.notified();
            if self.is_matched() {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn set(&self) {
        self.0.matched.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}

/// A regular expression and where to say that it matched.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) regex: Regex,
    pub(super) found: LogMatch,
}

impl Watch {
    /// Looks at one line as it came and, where they differ, without its escape sequences.
    fn look(&self, line: &str, plain: &str) -> bool {
        let hit = self.regex.is_match(line) || (line != plain && self.regex.is_match(plain));
        if hit {
            self.found.set();
        }
        hit
    }
}

/// Puts a source's reads together into lines and shows them to the watches; those that matched are removed.
///
/// An unterminated line is looked at as well, since prompts and progress have no newline.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    line: Vec<u8>,
}

impl Matcher {
    pub(super) fn feed(&mut self, bytes: &[u8], watches: &mut Vec<Watch>) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let room = LONGEST.saturating_sub(self.line.len());
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            let line = String::from_utf8_lossy(&self.line);
            let plain = text::strip_ansi(&line);
            watches.retain(|w| !w.look(&line, &plain));
            if piece.ends_with(b"\n") {
                self.line.clear();
            }
            if watches.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn watch(pattern: &str) -> (Vec<Watch>, LogMatch) {
        let found = LogMatch::default();
        let regex = Regex::new(pattern).unwrap();
        (
            vec![Watch {
                regex,
                found: found.clone(),
            }],
            found,
        )
    }

    fn matches(pattern: &str, chunks: &[&[u8]]) -> bool {
        let (mut watches, found) = watch(pattern);
        let mut matcher = Matcher::default();
        for chunk in chunks {
            matcher.feed(chunk, &mut watches);
        }
        assert_eq!(watches.is_empty(), found.is_matched());
        found.is_matched()
    }

    #[test]
    fn a_line_is_found_across_reads_colours_and_no_newline() {
        assert!(matches("^ready in", &[b"hello\nrea", b"dy in 5 ms\n"]));
        assert!(matches(
            r"Local: +http",
            &[b"  \x1b[32m>\x1b[39m \x1b[1mLocal\x1b[22m:   http://localhost\n"]
        ));
        assert!(matches("proceed\\?", &[b"Ok to proceed? (y) "]));
        assert!(matches("b\u{fffd}", &[b"a\nb\xff\n"]));
        assert!(!matches("^b", &[b"a", b"b\n"]));
        assert!(!matches("a.*b", &[b"a\nb\n"]));
    }

    #[tokio::test]
    async fn waiting_for_a_match_ends() {
        let (mut watches, found) = watch("x");
        let waiting = tokio::spawn(async move { found.matched().await });
        tokio::task::yield_now().await;
        Matcher::default().feed(b"x", &mut watches);
        waiting.await.unwrap();
    }

    proptest! {
        #[test]
        fn where_reads_end_does_not_matter(text in "[ab\n]{0,40}", cuts in proptest::collection::vec(1usize..5, 0..40)) {
            let whole = matches("^ab+a$", &[format!("{text}\n").as_bytes()]);
            let bytes = format!("{text}\n").into_bytes();
            let mut rest = &bytes[..];
            let mut chunks = Vec::new();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                chunks.push(head);
                rest = tail;
            }
            chunks.push(rest);
            // `$` may hold for an unterminated line that goes on, so a split may only match more.
            prop_assert!(!whole || matches("^ab+a$", &chunks));
        }
    }
}
