//! The environment on its way into a sandbox: a script on standard input, never an argument, never a file that stays.

use super::fault::{Code, Fault};
use super::provider::Secret;
use std::collections::BTreeMap;

/// What is called what: no secrets.
const NAMES: [&str; 3] = ["SANDBOX_ID", "SANDBOX_EXPIRES_AT", "SANDKEEP_PROJECT_ID"];

/// Variables by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Environment(BTreeMap<String, Secret>);

impl Environment {
    /// Checks names and values; a later one of the same name wins.
    pub(super) fn new(variables: &[(String, Secret)]) -> Result<Self, Fault> {
        let mut all = BTreeMap::new();
        for (name, value) in variables {
            let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(Fault::new(Code::BadRequest, format!("`{name}` is no name of a variable"))
                    .hint("letters, digits and `_`, the first no digit"));
            }
            if value.reveal().contains(&0) {
                return Err(Fault::new(Code::BadRequest, format!("the value of `{name}` holds a NUL")));
            }
            all.insert(name.clone(), value.clone());
        }
        Ok(Self(all))
    }

    /// Adds a variable unless it is there. Answers which value it has then.
    pub(super) fn default(&mut self, name: &str, value: impl FnOnce() -> Secret) -> Secret {
        self.0.entry(name.to_owned()).or_insert_with(value).clone()
    }

    /// The names.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// The values, to mask them; not those of names, which would make nonsense of what is said.
    pub(super) fn values(&self) -> impl Iterator<Item = &Secret> {
        self.0
            .iter()
            .filter(|(name, _)| !NAMES.contains(&name.as_str()))
            .map(|(_, value)| value)
    }

    /// A script that exports all of it, with these directories at the end of `PATH`.
    pub(super) fn script(&self, path: &[String]) -> Secret {
        let mut script = Vec::new();
        for (name, value) in &self.0 {
            script.extend_from_slice(format!("export {name}=").as_bytes());
            script.extend_from_slice(&quoted(value.reveal()));
            script.push(b'\n');
        }
        for directory in path {
            script.extend_from_slice(b"export PATH=\"$PATH\":");
            script.extend_from_slice(&quoted(directory.as_bytes()));
            script.push(b'\n');
        }
        Secret::new(script)
    }
}

/// One word for a shell.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => out.extend_from_slice(br"'\''"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
    out
}

/// Reads a file of variables: `NAME=value` a line, with or without `export`; `#` begins a comment line. A value in single quotes is as it
/// is, one in double quotes knows `\n`, `\"`, `\\`, `\$`; both may go over several lines.
///
/// # Errors
/// [`Code::BadRequest`] with the line's number, without its text.
pub fn parse_file(text: &str) -> Result<Vec<(String, Secret)>, Fault> {
    let mut variables = Vec::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let wrong = |why: &str| {
            Err(Fault::new(Code::BadRequest, format!("line {line} of the environment file {why}")).hint("one `NAME=value` a line"))
        };
        let end = rest.find('\n').map_or(rest.len(), |at| at + 1);
        let first = rest[..end].trim();
        if first.is_empty() || first.starts_with('#') {
            rest = &rest[end..];
            line += 1;
            continue;
        }
        let body = first.strip_prefix("export ").map_or(first, str::trim_start);
        let Some((name, value)) = body.split_once('=') else {
            return wrong("has no `=`");
        };
        let (name, value) = (name.trim(), value.trim_start());
        let Some(quote) = value.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
            variables.push((name.to_owned(), Secret::new(value.to_owned())));
            rest = &rest[end..];
            line += 1;
            continue;
        };
        // The value begins where its quote is, in the text as a whole.
        let begin = value.as_ptr().addr() - rest.as_ptr().addr() + 1;
        let Some((value, length)) = until_quote(&rest[begin..], quote) else {
            return wrong("opens a quote that is not closed");
        };
        let after = begin + length;
        let end = rest[after..].find('\n').map_or(rest.len(), |at| after + at + 1);
        let tail = rest[after..end].trim();
        if !tail.is_empty() && !tail.starts_with('#') {
            return wrong("goes on after its quote");
        }
        variables.push((name.to_owned(), Secret::new(value)));
        line += rest[..end].matches('\n').count();
        rest = &rest[end..];
    }
    Environment::new(&variables)?;
    Ok(variables)
}

/// The value up to the closing quote, and how many bytes it took with it.
fn until_quote(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        if letter == quote {
            return Some((value, at + 1));
        }
        if letter == '\\' && quote == '"' {
            match letters.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\' | '$' | '`') => value.push(escaped),
                other => value.extend(['\\', other]),
            }
        } else {
            value.push(letter);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn file(text: &str) -> Vec<(String, String)> {
        let variables = parse_file(text).unwrap().into_iter();
        let plain = |value: Secret| String::from_utf8(value.reveal().to_vec()).unwrap();
        variables.map(|(name, value)| (name, plain(value))).collect()
    }

    #[test]
    fn files_of_variables_are_read() {
        let text = "\u{feff}# comment\n\nA=1\nexport B = two words \nC='it''\n";
        assert!(parse_file(text).is_err(), "what follows a quote is no value");
        let text = "A=1\r\nexport B= two words # here\nC='$x \\n'\nD=\"a\\nb\\\"c\nd\" # tail\nE=\nF=a=b\n";
        let expected = [
            ("A", "1"),
            ("B", "two words # here"),
            ("C", "$x \\n"),
            ("D", "a\nb\"c\nd"),
            ("E", ""),
            ("F", "a=b"),
        ];
        assert_eq!(file(text), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn mistakes_are_told_by_line_without_the_text() {
        for (text, line) in [("A=1\nhush", 2), ("A=\"x\n\n", 1), ("\n\n1A=hush", 0), ("A='x\ny' hush", 1)] {
            let fault = parse_file(text).unwrap_err();
            assert_eq!(fault.code, Code::BadRequest);
            assert!(line == 0 || fault.message.contains(&format!("line {line} ")), "{text:?}: {fault}");
            assert!(!fault.message.contains("hush"));
        }
        assert!(Environment::new(&[("A".to_owned(), Secret::new("a\0b"))]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_shell_takes_any_value_as_it_is(value in "[^\0]{0,40}") {
            let environment = Environment::new(&[("V".to_owned(), Secret::new(value.clone()))]).unwrap();
            let mut shell = std::process::Command::new("/bin/sh")
                .args(["-c", "eval \"$(cat)\"; printf %s \"$V\""])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let script = environment.script(&["/a b".to_owned()]);
            shell.stdin.take().unwrap().write_all(script.reveal()).unwrap();
            let output = shell.wait_with_output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }

        #[test]
        fn no_file_of_variables_is_too_strange(text in "[A-C=\"'\\\\\n #$]{0,60}") {
            let _ = parse_file(&text);
        }
    }
}
