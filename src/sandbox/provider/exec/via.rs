//! The command that reaches a box: its words, how it hands on ours, and how its own end is told from the command's.

use super::{Command, Exit, Fault};
use crate::sandbox::fault::Code;

/// What of a word names a box in an id, at most; its end.
const LONGEST_TARGET: usize = 64;

/// The command, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Via {
    words: Vec<String>,
}

/// How the words that follow are taken over there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// As they are: `docker exec`.
    Words,
    /// Joined by spaces and read by a shell: `ssh`.
    Shell,
}

impl Manner {
    /// The words for a script.
    pub(super) fn words(self, script: &str) -> Vec<String> {
        match self {
            Self::Words => vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            Self::Shell => vec![format!("/bin/sh -c {}", quote(script))],
        }
    }
}

impl Via {
    /// Splits it as a shell would, quotes and backslashes alone.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let wrong = |why: &str| {
            Fault::new(Code::BadRequest, format!("`{text}` is no command: {why}"))
                .hint("such as `--via 'docker exec -i box'` or `--via 'ssh host'`")
        };
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted: Option<char> = None;
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match (quoted, letter) {
                (Some('\''), '\'') | (Some('"'), '"') => quoted = None,
                (Some('"') | None, '\\') => {
                    let next = letters.next().ok_or_else(|| wrong("it ends with a backslash"))?;
                    word.get_or_insert_default().push(next);
                }
                (None, '\'' | '"') => {
                    quoted = Some(letter);
                    word.get_or_insert_default();
                }
                (None, ' ' | '\t' | '\n') => words.extend(word.take()),
                (_, letter) => word.get_or_insert_default().push(letter),
            }
        }
        if quoted.is_some() {
            return Err(wrong("a quote is not closed"));
        }
        words.extend(word);
        if words.is_empty() {
            return Err(wrong("it is empty"));
        }
        Ok(Self { words })
    }

    /// How it takes words, where its name tells.
    pub(super) fn manner(&self) -> Option<Manner> {
        let program = self.words[0].rsplit('/').next().unwrap_or_default();
        match program {
            "ssh" => Some(Manner::Shell),
            "docker" | "podman" | "nerdctl" | "kubectl" => Some(Manner::Words),
            _ => None,
        }
    }

    /// Something short that tells one box from another: its last word that is no option, as far as an id can hold it.
    pub(super) fn target(&self) -> String {
        let word = self.words.iter().rfind(|word| !word.starts_with('-')).map_or("", String::as_str);
        let beginning = word.chars().count().saturating_sub(LONGEST_TARGET);
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "_.-:@+=".contains(letter);
        let letters = word.chars().skip(beginning);
        letters.map(|letter| if fits(letter) { letter } else { '-' }).collect()
    }

    /// The process without our words.
    pub(super) fn process(&self) -> tokio::process::Command {
        let mut process = tokio::process::Command::new(&self.words[0]);
        process.args(&self.words[1..]);
        process
    }
}

/// One word for a shell.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Marks on standard error that say that the command began, and how it ended: without the first the transport failed, with the first alone
/// the connection broke. A transport's own exit code tells neither.
#[derive(Debug)]
pub(super) struct Marks {
    mark: String,
    begun: bool,
    ended: Option<Exit>,
    /// What may be the beginning of a mark.
    held: Vec<u8>,
}

impl Marks {
    pub(super) fn new() -> Self {
        Self {
            mark: format!(":sandkeep:{:016x}:", fastrand::u64(..)),
            begun: false,
            ended: None,
            held: Vec::new(),
        }
    }

    /// A script that runs the command between its marks.
    pub(super) fn wrap(&self, command: &Command) -> String {
        let words: Vec<String> = command.argv.iter().map(|word| quote(word)).collect();
        let directory = command
            .directory
            .as_ref()
            .map_or_else(String::new, |directory| format!("cd {} && ", quote(directory)));
        let mark = &self.mark;
        format!(
            "printf %s {mark}begun: >&2; ({directory}exec {}); s=$?; printf %s {mark}$s: >&2; exit $s",
            words.join(" ")
        )
    }

    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    pub(super) fn ended(&self) -> Option<Exit> {
        self.ended
    }

    /// Takes what came on standard error and hands on what is not ours, with whether the command had begun.
    pub(super) fn filter(&mut self, chunk: &[u8], out: &mut dyn FnMut(&[u8], bool)) {
        self.held.extend_from_slice(chunk);
        loop {
            let Some(at) = memchr::memmem::find(&self.held, self.mark.as_bytes()) else {
                let keep = self.possible_start();
                let rest = self.held.split_off(self.held.len() - keep);
                let ready = std::mem::replace(&mut self.held, rest);
                if !ready.is_empty() {
                    out(&ready, self.begun);
                }
                return;
            };
            let value = at + self.mark.len();
            let Some(end) = self.held[value..].iter().position(|byte| *byte == b':') else {
                return;
            };
            if at > 0 {
                out(&self.held[..at], self.begun);
            }
            match &self.held[value..value + end] {
                b"begun" => self.begun = true,
                code => self.ended = std::str::from_utf8(code).ok().and_then(|code| code.parse().ok()).map(Exit),
            }
            self.held.drain(..=value + end);
        }
    }

    /// What was held back to the end.
    pub(super) fn rest(&mut self, out: &mut dyn FnMut(&[u8])) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            out(&held);
        }
    }

    /// How many bytes at the end may be the beginning of a mark.
    fn possible_start(&self) -> usize {
        let longest = self.held.len().min(self.mark.len() - 1);
        let found = (1..=longest)
            .rev()
            .find(|length| self.held.ends_with(&self.mark.as_bytes()[..*length]));
        found.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        Via::parse(text).unwrap().words
    }

    #[test]
    fn commands_are_split_as_a_shell_splits_them() {
        assert_eq!(words("ssh -p 22  host"), ["ssh", "-p", "22", "host"]);
        assert_eq!(words(r#"a 'b c' "d \" e" f\ g ''"#), ["a", "b c", "d \" e", "f g", ""]);
        for wrong in ["", "  ", "a 'b", "a \\"] {
            assert_eq!(Via::parse(wrong).unwrap_err().code, Code::BadRequest, "{wrong}");
        }
    }

    #[test]
    fn a_target_fits_into_an_id() {
        let target = |text: &str| Via::parse(text).unwrap().target();
        assert_eq!(target("ssh -p 22 me@host"), "me@host");
        assert_eq!(target("kubectl exec -i a/pod --"), "a-pod");
        assert_eq!(target("env PATH=/opt/bin:é"), "PATH=-opt-bin:-");
        assert_eq!(target(&format!("docker exec -i {}", "x".repeat(200))), "x".repeat(64));
        assert_eq!(target("--"), "");
    }

    #[test]
    fn known_programs_are_not_probed() {
        assert_eq!(Via::parse("/usr/bin/ssh host").unwrap().manner(), Some(Manner::Shell));
        assert_eq!(Via::parse("docker exec -i x").unwrap().manner(), Some(Manner::Words));
        assert_eq!(Via::parse("e2b sandbox exec x").unwrap().manner(), None);
    }

    /// What comes out when the stream arrives in pieces of this length.
    fn filtered(marks: &mut Marks, stream: &str, piece: usize) -> (String, String) {
        let (mut noise, mut said) = (Vec::new(), Vec::new());
        for chunk in stream.as_bytes().chunks(piece) {
            marks.filter(chunk, &mut |chunk, begun| {
                if begun {
                    said.extend_from_slice(chunk)
                } else {
                    noise.extend_from_slice(chunk)
                }
            });
        }
        marks.rest(&mut |chunk| said.extend_from_slice(chunk));
        (String::from_utf8(noise).unwrap(), String::from_utf8(said).unwrap())
    }

    proptest! {
        #[test]
        fn marks_are_found_however_the_stream_is_cut(piece in 1_usize..80, banner in "[a-z: \n]{0,30}", text in "[a-z: \n]{0,60}", code in 0..256) {
            let mut marks = Marks::new();
            let mark = marks.mark.clone();
            let stream = format!("{banner}{mark}begun:{text}{mark}{code}:");
            prop_assert_eq!(filtered(&mut marks, &stream, piece), (banner, text));
            prop_assert!(marks.begun());
            prop_assert_eq!(marks.ended(), Some(Exit(code)));
        }

        #[test]
        fn a_cut_stream_has_no_end(piece in 1_usize..80, text in "[a-z: \n]{0,60}", left in 1_usize..20) {
            let mut marks = Marks::new();
            let mark = marks.mark.clone();
            let stream = format!("{mark}begun:{text}{mark}0:");
            filtered(&mut marks, &stream[..stream.len() - left], piece);
            prop_assert_eq!(marks.ended(), None);
        }
    }
}
