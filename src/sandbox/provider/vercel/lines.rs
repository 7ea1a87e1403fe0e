//! A command's output out of NDJSON that may break anywhere and begin again. Pure.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::sandbox::provider::Stream;
use serde::Deserialize;

/// The longest line that is put together; longer ones are not the service's.
const LONGEST: usize = 64 << 20;

/// One line of a log stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A chunk of what the command wrote.
    Said(Stream, String),
    /// The stream ends here, with a reason of the service's.
    Broken {
        /// `sandbox_stopped`, `sandbox_stream_closed`, …
        code: String,
        /// For people.
        message: String,
    },
    /// Something that is not for us.
    Other,
}

#[derive(Deserialize)]
struct Written {
    stream: Option<String>,
    data: Option<serde_json::Value>,
}

/// Puts lines together out of the chunks of a body.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
    skipping: bool,
}

impl Lines {
    /// Takes a chunk; answers the lines that are whole with it.
    pub(super) fn take(&mut self, chunk: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                if !std::mem::take(&mut self.skipping) && !line.trim_ascii().is_empty() {
                    lines.push(read(&line));
                }
            } else if self.rest.len() > LONGEST {
                self.rest.clear();
                self.skipping = true;
            }
        }
        lines
    }
}

fn read(line: &[u8]) -> Line {
    let Ok(written) = serde_json::from_slice::<Written>(line) else {
        return Line::Other;
    };
    let data = written.data.unwrap_or_default();
    let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
    match (written.stream.as_deref(), data.as_str()) {
        (Some("stdout"), Some(said)) => Line::Said(Stream::Stdout, said.to_owned()),
        (Some("stderr"), Some(said)) => Line::Said(Stream::Stderr, said.to_owned()),
        (Some("error"), _) => Line::Broken {
            code: text("code"),
            message: text("message"),
        },
        _ => Line::Other,
    }
}

/// What of a stream that begins from the beginning each time was handed over already. Its chunks may be cut differently each time.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Bytes handed over, of stdout and stderr.
    over: [usize; 2],
    /// Bytes that this time's stream has brought so far.
    here: [usize; 2],
}

impl Heard {
    /// The stream begins again.
    pub(super) fn begin(&mut self) {
        self.here = [0; 2];
    }

    /// The part of a chunk that is new.
    pub(super) fn new_part<'a>(&mut self, stream: Stream, said: &'a str) -> &'a [u8] {
        let which = usize::from(stream == Stream::Stderr);
        let known = self.over[which].saturating_sub(self.here[which]).min(said.len());
        self.here[which] += said.len();
        self.over[which] = self.over[which].max(self.here[which]);
        &said.as_bytes()[known..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn out(text: &str) -> Line {
        Line::Said(Stream::Stdout, text.to_owned())
    }

    #[test]
    fn lines_are_read_and_others_are_none() {
        let text = concat!(
            "{\"stream\":\"stdout\",\"data\":\"a\\nb\"}\n",
            "{\"stream\":\"stderr\",\"data\":\"e\"}\r\n",
            "\n",
            "{\"command\":{\"id\":\"cmd_1\"}}\n",
            "nonsense\n",
            "{\"stream\":\"error\",\"data\":{\"code\":\"sandbox_stopped\",\"message\":\"m\"}}\n",
            "{\"stream\":\"stdout\",\"data\":\"half"
        );
        let broken = Line::Broken {
            code: "sandbox_stopped".to_owned(),
            message: "m".to_owned(),
        };
        let expected = [
            out("a\nb"),
            Line::Said(Stream::Stderr, "e".to_owned()),
            Line::Other,
            Line::Other,
            broken,
        ];
        assert_eq!(Lines::default().take(text.as_bytes()), expected);
    }

    #[test]
    fn a_stream_that_begins_again_says_nothing_twice() {
        let mut heard = Heard::default();
        assert_eq!(heard.new_part(Stream::Stdout, "hello "), b"hello ");
        heard.begin();
        assert_eq!(heard.new_part(Stream::Stdout, "hel"), b"");
        assert_eq!(heard.new_part(Stream::Stderr, "oh"), b"oh");
        assert_eq!(heard.new_part(Stream::Stdout, "lo world"), b"world");
    }

    proptest! {
        #[test]
        fn cut_anywhere_and_begun_again_it_is_the_same(
            said in prop::collection::vec(("[a-zäö€\n]{0,9}", any::<bool>()), 0..12),
            cuts in prop::collection::vec((0usize..600, 1usize..40), 0..5),
        ) {
            let text: String = said.iter().map(|(data, error)| {
                format!("{}\n", serde_json::json!({"stream": if *error { "stderr" } else { "stdout" }, "data": data}))
            }).collect();
            let (mut heard, mut got) = (Heard::default(), [Vec::new(), Vec::new()]);
            let mut attempt = |bytes: &[u8], piece: usize| {
                heard.begin();
                let mut lines = Lines::default();
                for chunk in bytes.chunks(piece) {
                    for line in lines.take(chunk) {
                        if let Line::Said(stream, data) = line {
                            got[usize::from(stream == Stream::Stderr)].extend_from_slice(heard.new_part(stream, &data));
                        }
                    }
                }
            };
            for (cut, piece) in cuts {
                attempt(&text.as_bytes()[..cut.min(text.len())], piece);
            }
            attempt(text.as_bytes(), 7);
            for error in [false, true] {
                let whole: String = said.iter().filter(|(_, is)| *is == error).map(|(data, _)| data.as_str()).collect();
                prop_assert_eq!(&got[usize::from(error)], whole.as_bytes());
            }
        }

        #[test]
        fn any_bytes_are_taken(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut lines = Lines::default();
            for chunk in chunks {
                lines.take(&chunk);
            }
        }
    }
}
