//! `${VAR}`, `${VAR:-default}` and `$$` in values.
//!
//! Values are expanded one by one after parsing, so what a variable holds can never become syntax. A dollar before anything but `{` or
//! `$` stands for itself: regular expressions need no escape for their most frequent one.

use std::collections::BTreeMap;

/// Patterns of the names of secret variables; `*` is any text, `?` any character.
#[derive(Clone, Debug, Default)]
pub(super) struct SecretNames(pub(super) Vec<String>);

impl SecretNames {
    /// What names the project and the box is none, however wide a pattern is.
    pub(super) fn contain(&self, name: &str) -> bool {
        let names_the_box = matches!(name, "SANDKEEP_PROJECT_ID" | "SANDBOX_ID" | "SANDBOX_EXPIRES_AT");
        !names_the_box && self.0.iter().any(|pattern| wildcard(pattern.as_bytes(), name.as_bytes()))
    }
}

/// Whether `pattern`, with `*` and `?`, matches the whole of `name`.
pub fn matches(pattern: &str, name: &str) -> bool {
    wildcard(pattern.as_bytes(), name.as_bytes())
}

/// Greedy with one point to return to: linear in practice, quadratic at worst.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[read] => {
                at += 1;
                read += 1;
            }
            Some(_) | None => {
                let Some((star_at, star_read)) = star else { return false };
                star = Some((star_at, star_read + 1));
                at = star_at + 1;
                read = star_read + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Whether a secret's value may stand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    Allowed,
    Refused,
    /// Whatever stands here is one, whether its variable's name says so or not.
    Always,
}

/// A text whose variables are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    /// What it says.
    pub(super) value: String,
    /// What expands to the same again, with secrets by name.
    pub(super) written: String,
}

impl Expanded {
    /// A text that is taken as it is.
    pub(super) fn literal(text: &str) -> Self {
        let mut expanded = Self::default();
        expanded.push(text);
        expanded
    }

    fn push(&mut self, text: &str) {
        self.value.push_str(text);
        self.written.push_str(&text.replace('$', "$$"));
    }

    fn push_secret(&mut self, name: &str, value: &str) {
        self.value.push_str(value);
        self.written.push_str(&format!("${{{name}}}"));
    }

    fn append(&mut self, other: &Self) {
        self.value.push_str(&other.value);
        self.written.push_str(&other.written);
    }
}

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No such variable, and no default.
    Unset(String),
    /// A secret where none may stand.
    Secret(String),
    /// Not a `${VAR}`.
    Syntax(String),
}

/// What variables there are and which of them are secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variables<'a> {
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) secret_names: &'a SecretNames,
}

impl Variables<'_> {
    /// Replaces every variable of `text`. All that is wrong is in the second part.
    pub(super) fn expand(&self, text: &str, secrets: Secrets) -> (Expanded, Vec<Fault>) {
        let mut expansion = Expansion {
            variables: self,
            secrets,
            faults: Vec::new(),
            depth: 0,
        };
        let expanded = expansion.run(text);
        (expanded, expansion.faults)
    }
}

/// The deepest nesting of defaults.
const DEEPEST: usize = 16;

struct Expansion<'a> {
    variables: &'a Variables<'a>,
    secrets: Secrets,
    faults: Vec<Fault>,
    depth: usize,
}

impl Expansion<'_> {
    fn run(&mut self, text: &str) -> Expanded {
        let mut out = Expanded::default();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            let (before, from) = rest.split_at(dollar);
            out.push(before);
            rest = match from.as_bytes().get(1) {
                Some(b'$') => {
                    out.push("$");
                    &from[2..]
                }
                Some(b'{') => self.variable(from, &mut out),
                Some(_) | None => {
                    out.push("$");
                    &from[1..]
                }
            };
        }
        out.push(rest);
        out
    }

    /// `from` begins with `${`. Returns what follows the closing brace.
    fn variable<'t>(&mut self, from: &'t str, out: &mut Expanded) -> &'t str {
        let Some(close) = closing(from) else {
            self.faults.push(Fault::Syntax("`${` is not closed".to_owned()));
            return "";
        };
        let inside = &from[2..close];
        let name_end = inside
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(inside.len());
        let (name, tail) = inside.split_at(name_end);
        if name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
            self.faults.push(Fault::Syntax(format!("`${{{inside}}}` names no variable")));
        } else if tail.is_empty() {
            self.replace(name, None, out);
        } else if let Some(default) = tail.strip_prefix(":-") {
            self.replace(name, Some(default), out);
        } else {
            let message = format!("`${{{inside}}}` is neither `${{{name}}}` nor `${{{name}:-default}}`");
            self.faults.push(Fault::Syntax(message));
        }
        &from[close + 1..]
    }

    fn replace(&mut self, name: &str, default: Option<&str>, out: &mut Expanded) {
        let secret = self.variables.secret_names.contain(name) || self.secrets == Secrets::Always;
        if secret && self.secrets == Secrets::Refused {
            self.faults.push(Fault::Secret(name.to_owned()));
            return;
        }
        let value = self.variables.environment.get(name);
        match (value, default) {
            (Some(value), None) if secret => out.push_secret(name, value),
            (Some(value), Some(_)) if secret && !value.is_empty() => out.push_secret(name, value),
            (Some(value), None) => out.push(value),
            (Some(value), Some(_)) if !value.is_empty() => out.push(value),
            (_, Some(default)) => self.default(default, out),
            (None, None) => self.faults.push(Fault::Unset(name.to_owned())),
        }
    }

    fn default(&mut self, default: &str, out: &mut Expanded) {
        if self.depth == DEEPEST {
            self.faults
                .push(Fault::Syntax(format!("defaults are nested deeper than {DEEPEST}")));
            return;
        }
        self.depth += 1;
        let expanded = self.run(default);
        self.depth -= 1;
        out.append(&expanded);
    }
}

/// Where the brace that closes the leading `${` stands.
fn closing(from: &str) -> Option<usize> {
    let bytes = from.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'$', Some(b'$')) => at += 1,
            (b'$', Some(b'{')) => {
                depth += 1;
                at += 1;
            }
            (b'}', _) => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn environment() -> BTreeMap<String, String> {
        [("A", "one"), ("EMPTY", ""), ("MONEY", "5$ ${A}"), ("R2_KEY", "hush")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn expand(text: &str, secrets: Secrets) -> (Expanded, Vec<Fault>) {
        let secret_names = SecretNames(vec!["R2_*".to_owned()]);
        let environment = environment();
        let variables = Variables {
            environment: &environment,
            secret_names: &secret_names,
        };
        variables.expand(text, secrets)
    }

    #[test]
    fn replaces_variables() {
        for (text, value) in [
            ("${A}-${A}", "one-one"),
            ("${NONE:-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY}", ""),
            ("${NONE:-${A:-x}}", "one"),
            ("${NONE:-${NEITHER:-}}", ""),
            ("$$A $A a$", "$A $A a$"),
            ("$${A}", "${A}"),
            ("${MONEY}", "5$ ${A}"),
        ] {
            let (expanded, faults) = expand(text, Secrets::Refused);
            assert_eq!((expanded.value.as_str(), faults), (value, Vec::new()), "{text}");
        }
    }

    #[test]
    fn names_every_fault() {
        let (_, faults) = expand("${NONE} ${R2_KEY} ${A-x} ${1} ${", Secrets::Refused);
        assert_eq!(faults.len(), 5, "{faults:?}");
        assert_eq!(faults[0], Fault::Unset("NONE".to_owned()));
        assert_eq!(faults[1], Fault::Secret("R2_KEY".to_owned()));
    }

    #[test]
    fn keeps_secrets_by_name() {
        let (expanded, faults) = expand("x$$${R2_KEY}", Secrets::Allowed);
        assert_eq!(faults, Vec::new());
        assert_eq!((expanded.value.as_str(), expanded.written.as_str()), ("x$hush", "x$$${R2_KEY}"));
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, matched) in [
            ("R2_*", "R2_KEY", true),
            ("R2_*", "XR2_KEY", false),
            ("SANDKEEP_*TOKEN", "SANDKEEP_TOKEN", true),
            ("SANDKEEP_*TOKEN", "SANDKEEP_A_TOKEN", true),
            ("SANDKEEP_*TOKEN", "SANDKEEP_TOKENS", false),
            ("?B", "AB", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), matched, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_expands_to_the_same(text in "[a${}:A-]{0,30}") {
            let (expanded, _) = expand(&text, Secrets::Allowed);
            let (again, faults) = expand(&expanded.written, Secrets::Allowed);
            prop_assert_eq!(faults, Vec::new());
            prop_assert_eq!(again, expanded);
        }

        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = expand(&text, Secrets::Refused);
        }
    }
}
