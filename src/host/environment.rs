//! What a unit's processes find in their environment.
//!
//! From weak to strong: what the supervisor itself was given, less its secrets and what is meant for it alone; `HOME`, `USER`, `LOGNAME`
//! and `SHELL` of the unit's user, where it has one; the secrets that the unit names; its environment files; its `environment`; and last
//! what the host says: `SANDKEEP_UNIT`, `SANDKEEP_INVOCATION_ID`, `SANDKEEP_SOCKET`, `NOTIFY_SOCKET`.

use super::fault::StartFault;
use crate::ordered::IntoMap;
use crate::unit::Unit;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Where commands are looked for when nobody said.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Said to the supervisor, or true of its own shell, and never of a unit.
const NOT_INHERITED: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "MAINPID",
    "SANDKEEP_TAKEN_BACK",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SANDKEEP_UNIT",
    "SANDKEEP_INVOCATION_ID",
    "SANDKEEP_SOCKET",
    "SANDKEEP_CONFIG_JSON",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
];

/// The variables of one process.
pub(super) type Variables = BTreeMap<OsString, OsString>;

/// What the supervisor was given, in two heaps.
#[derive(Clone, Default)]
pub struct Environment {
    all: Variables,
    secret_names: Vec<String>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Environment")
            .field("names", &self.all.keys())
            .field("secret_names", &self.secret_names)
            .finish()
    }
}

impl Environment {
    /// Reads this process's environment and takes the secrets out of it: `/proc/PID/environ` shows `xxx` in their place, and nothing
    /// started by any other way inherits them. Call it once, before there are threads.
    pub fn take(secret_names: &[String]) -> Self {
        let taken = Self::new(std::env::vars_os(), secret_names);
        super::sys::scrub_environment(|name| matches_any(secret_names, name));
        taken
    }

    /// An environment out of these variables.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>, secret_names: &[String]) -> Self {
        Self {
            all: variables.into_iter().into_map(),
            secret_names: secret_names.to_vec(),
        }
    }

    /// Takes other patterns for what is secret: the configuration was read again.
    pub fn set_secret_names(&mut self, secret_names: &[String]) {
        self.secret_names = secret_names.to_vec();
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.all.insert(name.into(), value.into());
    }

    /// The value of a variable, secret or not.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.all.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Every variable, secret or not; for expanding `${VAR}`.
    pub fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.all.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Every variable that is text, secret or not, as configurations are expanded with.
    pub fn text(&self) -> BTreeMap<String, String> {
        let text = |(name, value): (&OsStr, &OsStr)| Some((name.to_str()?.to_owned(), value.to_str()?.to_owned()));
        self.variables().filter_map(text).into_map()
    }

    /// Every variable, secret or not, to be handed to another image of this process.
    pub fn all(&self) -> Vec<(OsString, OsString)> {
        self.all.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// What may be seen by others.
    pub fn without_secrets(&self) -> Vec<(OsString, OsString)> {
        let open = self.all.iter().filter(|(name, _)| !self.is_secret(name));
        open.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The values that must never be shown.
    pub fn secret_values(&self) -> Vec<String> {
        let secret = self.all.iter().filter(|(name, value)| !value.is_empty() && self.is_secret(name));
        secret.map(|(_, value)| value.to_string_lossy().into_owned()).collect()
    }

    fn is_secret(&self, name: &OsStr) -> bool {
        name.to_str().is_some_and(|name| matches_any(&self.secret_names, name))
    }

    /// The variables of a unit's process, without those that the host adds.
    pub(super) fn of_unit(&self, unit: &Unit, account: Option<&super::account::Account>) -> Result<Variables, StartFault> {
        let kept = |name: &OsStr| !name.to_str().is_some_and(|name| NOT_INHERITED.contains(&name)) && !self.is_secret(name);
        let inherited = self.all.iter().filter(|(name, _)| kept(name));
        let mut variables = inherited.map(|(name, value)| (name.clone(), value.clone())).into_map();
        variables.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
        if let Some(account) = account {
            account.describe(&mut variables);
        }
        variables.insert("PWD".into(), unit.working_directory.clone().into());
        let named = self
            .all
            .iter()
            .filter(|(name, _)| name.to_str().is_some_and(|name| matches_any(&unit.secrets, name)));
        variables.extend(named.map(|(name, value)| (name.clone(), value.clone())));
        for (may_be_missing, path) in &unit.environment_file {
            variables.extend(read_file(path, *may_be_missing)?);
        }
        variables.extend(unit.environment.iter().map(|(name, value)| (name.into(), value.into())));
        Ok(variables)
    }
}

/// `NAME=value`, as `execve` takes it; what holds a NUL byte is left out, for no process can be given it.
pub(super) fn as_strings(variables: Variables) -> Vec<CString> {
    let entries = variables.into_iter().filter_map(|(name, value)| {
        let mut entry = name.into_vec();
        entry.push(b'=');
        entry.extend(value.as_bytes());
        CString::new(entry).ok()
    });
    entries.collect()
}

fn read_file(path: &Path, may_be_missing: bool) -> Result<Variables, StartFault> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(why) if may_be_missing && why.kind() == std::io::ErrorKind::NotFound => return Ok(Variables::new()),
        Err(why) => return Err(StartFault::new(format!("reading environment file `{}`", path.display()), &why)),
    };
    parse_file(&text).map_err(|line| {
        StartFault::final_fault(format!(
            "reading environment file `{}`: line {line} is not `NAME=value`",
            path.display()
        ))
        .hint("one `NAME=value` a line; `#` begins a comment; quote values that begin or end with a space")
    })
}

/// The variables in a file of `NAME=value` lines, or the number of the first line that is none.
fn parse_file(text: &str) -> Result<Variables, usize> {
    let mut variables = Variables::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(number)?;
        let name = name.trim_end();
        let valid =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.as_bytes()[0].is_ascii_digit();
        if !valid {
            return Err(number);
        }
        variables.insert(name.into(), unquote(value.trim()).into());
    }
    Ok(variables)
}

fn unquote(value: &str) -> String {
    if let Some(inner) = value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match (character, character == '\\') {
            (_, true) => match characters.next() {
                Some('n') => plain.push('\n'),
                Some('t') => plain.push('\t'),
                Some(escaped @ ('"' | '\\' | '$' | '`')) => plain.push(escaped),
                Some(other) => plain.extend(['\\', other]),
                None => plain.push('\\'),
            },
            (character, false) => plain.push(character),
        }
    }
    plain
}

/// Whether a variable's name matches one of the patterns of `[secrets] names` (`*`: any characters, `?`: one).
pub fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Linear but for the last star: where the rest does not fit, that star takes one character more.
    let (mut at, mut star, mut p) = (0, None, 0);
    while at < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, at));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[at] => (p, at) = (p + 1, at + 1),
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (p, at) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_the_shell() {
        for (pattern, name, fits) in [
            ("R2_*", "R2_BUCKET", true),
            ("R2_*", "AR2_B", false),
            ("SANDKEEP_*TOKEN", "SANDKEEP_TOKEN", true),
            ("SANDKEEP_*TOKEN", "SANDKEEP_A_TOKEN_TOKEN", true),
            ("SANDKEEP_*TOKEN", "SANDKEEP_TOKENS", false),
            ("A?C", "ABC", true),
            ("A?C", "AC", false),
            ("*", "", true),
            ("", "A", false),
            ("*a*a*a*a*b", &"a".repeat(2000), false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn files_are_read_as_systemd_reads_them() {
        let text = "# comment\n\nA=1\nexport B = two words \nC='#x $y'\nD=\"a\\\"b\\\\c\\n\\q\"\nE=\n; other\nF=a=b";
        let read = parse_file(text).unwrap();
        let value = |name: &str| read[OsStr::new(name)].to_str().unwrap();
        assert_eq!(
            [value("A"), value("B"), value("C"), value("D"), value("E"), value("F")],
            ["1", "two words", "#x $y", "a\"b\\c\n\\q", "", "a=b"]
        );
        assert_eq!(parse_file("A=1\nnonsense\n"), Err(2));
        assert_eq!(parse_file("1A=1"), Err(1));
        assert_eq!(parse_file("=1"), Err(1));
    }

    #[test]
    fn secrets_are_not_in_the_debug_form() {
        let secret = Environment::new([("R2_KEY".into(), "hunter2".into())], &["R2_*".to_owned()]);
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret.secret_values(), ["hunter2"]);
    }
}
