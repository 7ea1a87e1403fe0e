//! Takes secrets out of text before it leaves: logs, status, errors, agent events, transcripts.
//!
//! A secret is looked for as it is, and as it looks when it was encoded on the way (JSON, URL, base64 at any alignment, hex). One of
//! several lines, as a PEM key, is also looked for line by line. Values shorter than eight bytes are left alone: they are words.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The shortest value, and line of a value, that is masked; bytes.
pub const MIN_LEN: usize = 8;
/// What stands in its place.
pub const MARK: &str = "***";

/// Finds a set of secrets in any text. Cheap to clone; prints none of them.
#[derive(Clone, Default)]
pub struct Masker(Option<Arc<Patterns>>);

struct Patterns {
    automaton: AhoCorasick,
    sorted: Vec<Vec<u8>>,
    longest: usize,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Masker({} patterns)", self.0.as_ref().map_or(0, |p| p.sorted.len()))
    }
}

impl Masker {
    /// One that masks these values.
    pub fn new<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let mut patterns = BTreeSet::new();
        for value in values {
            collect(value.as_ref(), &mut patterns);
        }
        let sorted: Vec<Vec<u8>> = patterns.into_iter().collect();
        let Some(longest) = sorted.iter().map(Vec::len).max() else {
            return Self(None);
        };
        // Not the automaton of full tables: of a few secrets, each in its encodings, that is hundreds of kilobytes.
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::Standard).kind(Some(AhoCorasickKind::ContiguousNFA));
        match builder.build(&sorted) {
            Ok(automaton) => Self(Some(Arc::new(Patterns {
                automaton,
                sorted,
                longest,
            }))),
            // More than 2^31 states: gigabytes of secrets.
            Err(error) => {
                tracing::error!("masking secrets: {error}");
                Self(None)
            }
        }
    }

    /// Whether there is nothing to mask.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The text without secrets.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.mask_bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(bytes) => {
                Cow::Owned(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
            }
        }
    }

    /// The bytes without secrets.
    pub fn mask_bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let spans = self.spans(bytes);
        if spans.is_empty() {
            return Cow::Borrowed(bytes);
        }
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        for span in spans {
            out.extend_from_slice(&bytes[at..span.start]);
            out.extend_from_slice(MARK.as_bytes());
            at = span.end;
        }
        out.extend_from_slice(&bytes[at..]);
        Cow::Owned(out)
    }

    /// Every string in a JSON value, keys too.
    pub fn mask_json(&self, value: &mut serde_json::Value) {
        use serde_json::Value;
        if self.is_empty() {
            return;
        }
        match value {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.mask(text) {
                    *text = masked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask_json(item)),
            Value::Object(map) => {
                let entries = std::mem::take(map);
                for (key, mut item) in entries {
                    self.mask_json(&mut item);
                    map.insert(self.mask(&key).into_owned(), item);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Masks text that comes in pieces.
    pub fn stream(&self) -> MaskStream {
        MaskStream {
            masker: self.clone(),
            held: Vec::new(),
            covered: None,
        }
    }

    /// The longest pattern, bytes.
    pub(crate) fn longest(&self) -> usize {
        self.0.as_ref().map_or(0, |p| p.longest)
    }

    /// Where text may be cut, at or after `at`, without cutting a secret in two. `bytes` go on at least as far as the longest pattern.
    pub(crate) fn cut(&self, bytes: &[u8], at: usize) -> usize {
        let inside = self.spans(bytes).into_iter().find(|s| s.start < at && at < s.end);
        inside.map_or(at, |span| span.end)
    }

    /// Where the longest end of `bytes` begins that may be the beginning of a secret.
    pub(crate) fn open_end(&self, bytes: &[u8]) -> usize {
        let Some(patterns) = &self.0 else { return bytes.len() };
        let from = bytes.len().saturating_sub(patterns.longest - 1);
        let begins = |at: &usize| {
            let end = &bytes[*at..];
            let next = patterns.sorted.partition_point(|p| p.as_slice() <= end);
            patterns.sorted.get(next).is_some_and(|p| p.starts_with(end))
        };
        (from..bytes.len()).find(begins).unwrap_or(bytes.len())
    }

    /// The secrets in the text, in order; those that touch or overlap as one.
    fn spans(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        let Some(patterns) = &self.0 else { return Vec::new() };
        if !patterns.automaton.is_match(bytes) {
            return Vec::new();
        }
        let mut found: Vec<Range<usize>> = patterns.automaton.find_overlapping_iter(bytes).map(|m| m.range()).collect();
        found.sort_by_key(|r| r.start);
        let mut spans: Vec<Range<usize>> = Vec::new();
        for range in found {
            match spans.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => spans.push(range),
            }
        }
        spans
    }
}

/// A `Masker` for text in pieces: what comes out, put together, is what `mask_bytes` makes of the whole.
#[derive(Debug)]
pub struct MaskStream {
    masker: Masker,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
    /// The first so many bytes of `held` are masked, and the mark for them is out.
    covered: Option<usize>,
}

impl MaskStream {
    /// Takes the next piece and gives back what can be said so far.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let cut = self.masker.open_end(&self.held);
        self.emit(cut)
    }

    /// Gives back the rest.
    pub fn finish(mut self) -> Vec<u8> {
        self.emit(self.held.len())
    }

    fn emit(&mut self, cut: usize) -> Vec<u8> {
        let mut spans = self.masker.spans(&self.held);
        let mut marked = false;
        if let Some(covered) = self.covered {
            marked = true;
            match spans.first_mut() {
                Some(first) if first.start <= covered => *first = 0..first.end.max(covered),
                _ => spans.insert(0, 0..covered),
            }
        }
        let mut out = Vec::new();
        let mut at = 0;
        self.covered = None;
        for span in spans {
            // A span that only touches the end waits for what comes, except the one whose mark is out.
            if span.start >= cut && !marked {
                break;
            }
            out.extend_from_slice(&self.held[at..span.start]);
            if !std::mem::take(&mut marked) {
                out.extend_from_slice(MARK.as_bytes());
            }
            at = span.end;
            if span.end >= cut {
                self.covered = Some(span.end - cut);
                break;
            }
        }
        if at < cut {
            out.extend_from_slice(&self.held[at..cut]);
        }
        self.held.drain(..cut);
        out
    }
}

/// Every form in which a value may be met.
fn collect(value: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    let value = value.trim();
    add(value, patterns);
    let lines = value.lines().map(str::trim);
    for line in lines.filter(|line| !line.starts_with("-----")) {
        add(line, patterns);
    }
}

fn add(value: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    if value.len() < MIN_LEN {
        return;
    }
    patterns.insert(value.as_bytes().to_vec());
    if let Ok(json) = serde_json::to_string(value) {
        let json = &json[1..json.len() - 1];
        patterns.insert(json.into());
        patterns.insert(json.replace('/', "\\/").into_bytes());
    }
    let lower = url_encode(value, *b"0123456789abcdef");
    patterns.insert(lower.replace("%20", "+").into_bytes());
    patterns.insert(lower.into_bytes());
    let upper = url_encode(value, *b"0123456789ABCDEF");
    patterns.insert(upper.replace("%20", "+").into_bytes());
    patterns.insert(upper.into_bytes());
    for shift in 0..3 {
        patterns.insert(base64(value.as_bytes(), shift, *b"+/"));
        patterns.insert(base64(value.as_bytes(), shift, *b"-_"));
    }
    patterns.insert(hex(value, *b"0123456789abcdef"));
    patterns.insert(hex(value, *b"0123456789ABCDEF"));
}

fn url_encode(value: &str, digits: [u8; 16]) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(digits[usize::from(byte >> 4)]));
            out.push(char::from(digits[usize::from(byte & 15)]));
        }
    }
    out
}

fn hex(value: &str, digits: [u8; 16]) -> Vec<u8> {
    value
        .bytes()
        .flat_map(|b| [digits[usize::from(b >> 4)], digits[usize::from(b & 15)]])
        .collect()
}

/// The characters of base64 that depend on the value alone when `shift` unknown bytes come before it and any after it.
fn base64(value: &[u8], shift: usize, last_two: [u8; 2]) -> Vec<u8> {
    let mut bytes = vec![0; shift];
    bytes.extend_from_slice(value);
    let whole = bytes.len() * 8 / 6;
    bytes.extend_from_slice(&[0, 0]);
    let digit = |at: usize| {
        let bit = at * 6;
        let word = u16::from(bytes[bit / 8]) << 8 | u16::from(bytes[bit / 8 + 1]);
        match u8::try_from((word >> (10 - bit % 8)) & 63).expect("six bits") {
            d @ 0..26 => b'A' + d,
            d @ 26..52 => b'a' + (d - 26),
            d @ 52..62 => b'0' + (d - 52),
            62 => last_two[0],
            _ => last_two[1],
        }
    };
    ((shift * 8).div_ceil(6)..whole).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use proptest::prelude::*;

    const KEY: &str = "sk-ant-0/1+2 \"3\"";

    #[test]
    fn encoded_forms_are_masked() {
        let masker = Masker::new([KEY]);
        let json = serde_json::to_string(&serde_json::json!({ "key": KEY })).unwrap();
        for text in [
            format!("key={KEY};"),
            json,
            "key=sk-ant-0%2F1%2B2%20%223%22;".to_owned(),
            "key=sk-ant-0%2f1%2b2+%223%22;".to_owned(),
            format!("key={};", base64::prelude::BASE64_URL_SAFE.encode(KEY)),
            "key=736b2d616e742d302f312b32202233223b".to_owned(),
        ] {
            let masked = masker.mask(&text);
            assert!(
                masked.contains(MARK) && !masked.contains("ant") && !masked.contains("6b2d"),
                "{text} → {masked}"
            );
        }
        assert_eq!(masker.mask("nothing here"), "nothing here");
    }

    #[test]
    fn short_values_are_words_and_nothing_is_nothing() {
        assert!(Masker::new(["auto", "", "  1234567 "]).is_empty());
        assert!(Masker::new(Vec::<String>::new()).is_empty());
        assert_eq!(Masker::default().mask("x"), "x");
    }

    #[test]
    fn a_key_of_several_lines_is_masked_line_by_line() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END PRIVATE KEY-----\n";
        let masker = Masker::new([pem]);
        assert_eq!(masker.mask("  MIIEvQIBADANBg"), "  ***");
        assert_eq!(masker.mask("-----BEGIN PRIVATE KEY-----"), "-----BEGIN PRIVATE KEY-----");
        assert_eq!(masker.mask(pem.trim()), MARK);
        let json = serde_json::to_string(pem).unwrap();
        assert!(!masker.mask(&json).contains("MIIE"));
    }

    #[test]
    fn overlapping_secrets_leave_nothing() {
        let masker = Masker::new(["abcdefgh", "efghijkl"]);
        assert_eq!(masker.mask("abcdefghijkl."), "***.");
    }

    #[test]
    fn json_values_are_masked_in_place() {
        let mut value = serde_json::json!({ "a": ["x 12345678 y", 1, null], "12345678": true });
        Masker::new(["12345678"]).mask_json(&mut value);
        assert_eq!(value, serde_json::json!({ "a": ["x *** y", 1, null], "***": true }));
    }

    #[test]
    fn it_prints_no_secret() {
        assert!(!format!("{:?}", Masker::new(["hunter22222"])).contains("hunter"));
    }

    proptest! {
        #[test]
        fn base64_is_found_at_any_alignment(before in "[ -~]{0,4}", secret in "[!-~]{8,20}", after in "[ -~]{0,4}") {
            let text = base64::prelude::BASE64_STANDARD.encode(format!("{before}{secret}{after}"));
            prop_assert!(Masker::new([&secret]).mask(&text).contains(MARK));
        }

        #[test]
        fn pieces_make_the_whole(
            secrets in proptest::collection::vec("[ab]{8,10}", 1..4),
            text in "[ab]{0,60}",
            cuts in proptest::collection::vec(0usize..9, 0..20),
        ) {
            let masker = Masker::new(&secrets);
            let mut stream = masker.stream();
            let mut out = Vec::new();
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                out.extend(stream.push(head));
                rest = tail;
            }
            out.extend(stream.push(rest));
            out.extend(stream.finish());
            prop_assert_eq!(String::from_utf8(out).unwrap(), masker.mask(&text).into_owned());
        }

        #[test]
        fn no_secret_is_left(secret in "[a-c]{8,12}", text in "[a-c]{0,60}") {
            let masker = Masker::new([&secret]);
            let whole = format!("{text}{secret}{text}");
            let masked = masker.mask(&whole);
            prop_assert!(!masked.contains(&secret));
        }

        #[test]
        fn a_cut_never_splits_a_secret(secret in "[ab]{8}", text in "[ab]{9,60}", at in 1usize..9) {
            let masker = Masker::new([&secret]);
            let cut = masker.cut(text.as_bytes(), at);
            prop_assert!(cut >= at);
            let halves = format!("{}{}", masker.mask(&text[..cut]), masker.mask(&text[cut..]));
            prop_assert_eq!(halves.replace("******", MARK), masker.mask(&text).replace("******", MARK));
        }
    }
}
