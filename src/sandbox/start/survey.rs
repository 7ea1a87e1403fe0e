//! What is found out in a sandbox: who and where we are, and what is there already. Nothing of it is taken for granted.

use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::plan::{self, Checkout};
use crate::sandbox::provider::{Command, Provider, Sandbox, hear};
use crate::sandbox::repo::Address;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long looking may take.
const WITHIN: Duration = Duration::from_secs(60);

/// `$1` the project's directory or the one it goes into (or nothing), `$2` our own directory (or nothing), `$3` the sandbox's name, `$4`
/// what a clone is called (or nothing), `$5` the supervisor's instance.
const SURVEY: &str = r#"say() { printf '%s %s\n' "$1" "$2"; }
has() { command -v "$1" >/dev/null 2>&1 && say program "$1"; }
home=${HOME:-}
[ -d "$home" ] || home=$(cd ~ 2>/dev/null && pwd) || home=/
directory=${1:-$home}
place=${2:-$home/.sandkeep/$3}
say user "$(id -un 2>/dev/null || id -u)"
say home "$home"
say machine "$(uname -m)"
say system "$(uname -s)"
say place "$place"
for program in git node npm; do has $program; done
if [ -n "$4" ] && [ ! -e "$directory/.git" ]; then directory=$directory/$4; fi
say directory "$directory"
if [ ! -e "$directory" ] || { [ -d "$directory" ] && [ -z "$(ls -A "$directory" 2>/dev/null)" ]; }; then
  say checkout missing
elif [ -e "$directory/.git" ] && command -v git >/dev/null 2>&1; then
  say checkout git
  say remote "$(git -C "$directory" config --get remote.origin.url 2>/dev/null)"
  say branch "$(git -C "$directory" symbolic-ref --quiet --short HEAD 2>/dev/null)"
  say commit "$(git -C "$directory" rev-parse --verify --quiet HEAD 2>/dev/null)"
else
  say checkout files
fi
[ -f "$directory/sandkeep.toml" ] && say config own
for claude in "$(command -v claude 2>/dev/null)" "$place/npm/bin/claude" "$home/.local/bin/claude" "$home/.claude/local/claude"; do
  if [ -n "$claude" ] && [ -x "$claude" ]; then say claude "$claude"; break; fi
done
if [ -x "$place/sandkeep" ]; then
  say binary "$(sha256sum "$place/sandkeep" 2>/dev/null | cut -d' ' -f1)"
  "$place/sandkeep" --instance "$5" status --json >/dev/null 2>&1 </dev/null && say supervisor yes
fi
exit 0"#;

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) user: String,
    pub(super) home: String,
    pub(super) machine: String,
    pub(super) place: String,
    pub(super) directory: String,
    pub(super) checkout: String,
    pub(super) remote: String,
    pub(super) branch: Option<String>,
    pub(super) commit: Option<String>,
    pub(super) own_config: bool,
    pub(super) claude: Option<String>,
    pub(super) binary: Option<String>,
    pub(super) supervisor: bool,
    pub(super) programs: Vec<String>,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) directory: Option<&'a str>,
    pub(super) place: Option<&'a str>,
    pub(super) address: Option<&'a Address>,
    pub(super) instance: &'a str,
}

impl Survey {
    /// Looks.
    pub(super) async fn take(provider: &dyn Provider, sandbox: &Sandbox, wanted: Wanted<'_>) -> Result<Self, Fault> {
        let command = Command::shell(SURVEY)
            .arg("survey")
            .arg(wanted.directory.or(sandbox.directory.as_deref()).unwrap_or_default())
            .arg(wanted.place.unwrap_or_default())
            .arg(&sandbox.name)
            .arg(wanted.address.map(Address::directory).unwrap_or_default())
            .arg(wanted.instance)
            .within(WITHIN);
        let (exit, heard) = hear(provider, sandbox, &command).await?;
        let survey = Self::parse(&heard.text());
        if !exit.is_success() || survey.place.is_empty() {
            return Err(Fault::new(Code::CommandFailed, format!("looking into the sandbox: exit code {}", exit.0)).output(heard.both()));
        }
        Ok(survey)
    }

    fn parse(text: &str) -> Self {
        let mut said: BTreeMap<&str, &str> = BTreeMap::new();
        let mut programs = Vec::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            if key == "program" {
                programs.push(value.to_owned());
            } else {
                said.insert(key, value);
            }
        }
        let some = |key: &str| said.get(key).map(|value| (*value).to_owned()).filter(|value| !value.is_empty());
        let text = |key: &str| some(key).unwrap_or_default();
        Self {
            user: text("user"),
            home: text("home"),
            machine: text("machine"),
            place: text("place"),
            directory: text("directory"),
            checkout: text("checkout"),
            remote: text("remote"),
            branch: some("branch"),
            commit: some("commit"),
            own_config: some("config").is_some(),
            claude: some("claude"),
            binary: some("binary"),
            supervisor: some("supervisor").is_some(),
            programs,
        }
    }

    /// Whether a program is there.
    pub(super) fn has(&self, program: &str) -> bool {
        self.programs.iter().any(|known| known == program)
    }

    /// What the plan has to know of it.
    pub(super) fn inside(&self, address: Option<&Address>, sha256: &str) -> plan::Inside {
        let checkout = match (self.checkout.as_str(), address) {
            ("missing", _) => Checkout::Missing,
            ("git", Some(address)) if address.is(&self.remote) => Checkout::Present,
            (_, Some(_)) => Checkout::Foreign,
            (_, None) => Checkout::Present,
        };
        let binary = match self.binary.as_deref() {
            None => plan::Binary::Missing,
            Some(found) if found == sha256 => plan::Binary::Same,
            Some(_) => plan::Binary::Other,
        };
        plan::Inside {
            checkout,
            claude: self.claude.is_some(),
            binary,
            supervisor: self.supervisor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let survey = Survey::parse(
            "user me\nhome /h\nmachine x86_64\nplace /h/.sandkeep/a\nprogram git\nprogram npm\ndirectory /h/my app\ncheckout git\n\
             remote https://host/o/n.git\nbranch main\ncommit abc\nconfig own\nbinary 12\nsupervisor yes\nnoise\n",
        );
        assert_eq!((survey.user.as_str(), survey.directory.as_str()), ("me", "/h/my app"));
        assert!(survey.has("npm") && !survey.has("node") && survey.own_config && survey.claude.is_none());
        let address = Address::parse("https://tok@host/o/n").unwrap();
        let inside = survey.inside(Some(&address), "12");
        assert_eq!(
            (inside.checkout, inside.binary, inside.supervisor),
            (Checkout::Present, plan::Binary::Same, true)
        );
        let other = Address::parse("https://host/o/other").unwrap();
        assert_eq!(survey.inside(Some(&other), "13").checkout, Checkout::Foreign);
        assert_eq!(survey.inside(None, "13").binary, plan::Binary::Other);
    }
}
