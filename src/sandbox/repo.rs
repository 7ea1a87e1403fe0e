//! A repository's address without what is secret in it, the script that clones it, and what git's complaints mean.

use super::fault::{Code, Fault};
use super::provider::{Command, Secret};
use std::time::Duration;

/// How long a clone may take.
const CLONED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Whom a token alone belongs to, for GitHub and GitLab.
const TOKEN_USER: &str = "x-access-token";

/// An address, with what was before the `@` taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// What git is given, and what stays in `.git/config`.
    pub(super) url: String,
    /// User and password out of the address.
    pub(super) login: Option<(String, Secret)>,
    /// `https://host`, whom a password may be told.
    pub(super) origin: Option<String>,
}

impl Address {
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let text = text.trim();
        let wrong = |why: &str| {
            // What was before an `@` may be a secret.
            let shown = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
            Fault::new(Code::BadRequest, format!("`{shown}` is no repository: {why}"))
                .hint("such as `https://github.com/owner/name`, `git@host:owner/name` or `file:///directory`")
        };
        if text.is_empty() || text.starts_with('-') || text.chars().any(char::is_control) {
            return Err(wrong("it is no address"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self {
                url: text.to_owned(),
                login: None,
                origin: None,
            });
        };
        if !matches!(scheme, "https" | "http" | "ssh" | "git" | "file") {
            return Err(wrong("its scheme is none of https, http, ssh, git, file"));
        }
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !matches!(scheme, "https" | "http") {
            return Ok(Self {
                url: text.to_owned(),
                login: None,
                origin: None,
            });
        }
        let (login, host) = match host.rsplit_once('@') {
            None => (None, host),
            Some((login, host)) => {
                let (user, password) = login.split_once(':').unwrap_or((TOKEN_USER, login));
                let password = percent_decoded(if password.is_empty() { user } else { password });
                (Some((percent_decoded(user), Secret::new(password))), host)
            }
        };
        if host.is_empty() {
            return Err(wrong("it has no host"));
        }
        let origin = format!("{scheme}://{host}");
        Ok(Self {
            url: format!("{origin}{path}"),
            login,
            origin: Some(origin),
        })
    }

    /// What the directory of a clone is called.
    pub(super) fn directory(&self) -> String {
        let path = self.url.trim_end_matches('/');
        let name = path.rsplit(['/', ':']).next().unwrap_or_default();
        let name = name.strip_suffix(".git").unwrap_or(name);
        let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let name: String = name.chars().map(|c| if usable(c) { c } else { '-' }).collect();
        let name = name.trim_start_matches(['.', '-']);
        if name.is_empty() { "project".to_owned() } else { name.to_owned() }
    }

    /// Whether another address means the same repository.
    pub(super) fn is(&self, other: &str) -> bool {
        let plain = |url: &str| {
            let url = Self::parse(url).map_or_else(|_| url.to_owned(), |address| address.url);
            url.trim_end_matches('/').trim_end_matches(".git").to_owned()
        };
        plain(&self.url) == plain(other)
    }
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        let value = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match value {
            Some(value) if *first == b'%' => {
                out.push(value);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Clones `$1` at `$2` (or nothing) into `$3`, so many commits deep as `$4` says (or nothing), telling who we are to `$5` alone. It is
/// cloned beside its place and moved there whole; what earlier attempts left is removed, unless they still run.
const CLONE: &str = r#"url=$1 branch=$2 target=$3 depth=$4 origin=$5
IFS= read -r SANDKEEP_GIT_USER; IFS= read -r SANDKEEP_GIT_PASSWORD
export GIT_TERMINAL_PROMPT=0 GIT_ASKPASS= SSH_ASKPASS= LC_ALL=C GIT_SSH_COMMAND="${GIT_SSH_COMMAND:-ssh -o BatchMode=yes}"
command -v git >/dev/null || { echo "git: not found" >&2; exit 127; }
mkdir -p "$(dirname "$target")" || exit 70
for old in "$target".clone-*; do
  [ -d "$old" ] && ! kill -0 "${old##*-}" 2>/dev/null && rm -rf "$old"
done
new=$target.clone-$$
trap 'rm -rf "$new"' EXIT
trap 'exit 130' HUP INT TERM
set -- clone --quiet
[ -z "$branch" ] || set -- "$@" --branch "$branch"
[ -z "$depth" ] || set -- "$@" --depth "$depth"
if [ -n "$SANDKEEP_GIT_PASSWORD" ] && [ -n "$origin" ]; then
  export SANDKEEP_GIT_USER SANDKEEP_GIT_PASSWORD
  set -- -c credential.helper= -c "credential.$origin.helper=!f() { test \"\$1\" = get && printf 'username=%s\npassword=%s\n' \"\$SANDKEEP_GIT_USER\" \"\$SANDKEEP_GIT_PASSWORD\"; }; f" "$@"
fi
git "$@" -- "$url" "$new" || exit $?
[ ! -d "$target" ] || rmdir "$target" || exit 71
mv -T "$new" "$target""#;

/// The command that clones; harmless to repeat.
pub(super) fn clone(address: &Address, token: Option<&Secret>, branch: Option<&str>, target: &str, depth: Option<u32>) -> Command {
    let login = match (token, &address.login) {
        (Some(token), login) => {
            let user = login.as_ref().map_or(TOKEN_USER, |(user, _)| user.as_str());
            [user.as_bytes(), b"\n", token.reveal(), b"\n"].concat()
        }
        (None, Some((user, password))) => [user.as_bytes(), b"\n", password.reveal(), b"\n"].concat(),
        (None, None) => b"\n\n".to_vec(),
    };
    Command::shell(CLONE)
        .arg("clone")
        .arg(&address.url)
        .arg(branch.unwrap_or_default())
        .arg(target)
        .arg(depth.map(|depth| depth.to_string()).unwrap_or_default())
        .arg(address.origin.clone().unwrap_or_default())
        .within(CLONED_WITHIN)
        .with_stdin(Secret::new(login))
}

/// What a clone that failed means.
pub(super) fn explain(url: &str, branch: Option<&str>, with_token: bool, code: i32, said: &str) -> Fault {
    let has = |needles: &[&str]| needles.iter().any(|needle| said.contains(needle));
    let fault = if code == 127 && has(&["git: not found"]) {
        Fault::new(Code::MissingProgram, "there is no git in the sandbox").hint("install git there, or take an image that has it")
    } else if let (Some(branch), true) = (branch, has(&["Remote branch"]) && has(&["not found in upstream"])) {
        Fault::new(Code::BranchNotFound, format!("`{url}` has no branch `{branch}`")).hint("`git ls-remote --heads URL` lists its branches")
    } else if has(&[
        "could not read Username",
        "could not read Password",
        "Authentication failed",
        "terminal prompts disabled",
        "HTTP Basic: Access denied",
        "The requested URL returned error: 401",
        "The requested URL returned error: 403",
        "Permission denied (publickey",
    ]) {
        if with_token {
            Fault::new(Code::RepoUnauthorized, format!("`{url}` does not accept the token"))
                .hint("it needs to read the repository's contents; has it ended?")
        } else {
            Fault::new(Code::RepoNotFound, format!("`{url}` does not exist, or is private"))
                .hint("check the address; a private one needs `--repo-token-env NAME`")
        }
    } else if has(&[
        "Repository not found",
        "does not exist",
        "does not appear to be a git repository",
        "The requested URL returned error: 404",
    ]) || has(&["repository '"]) && has(&["not found"])
    {
        let hint = if with_token {
            "check the address, and that the token may read it"
        } else {
            "check the address; a private one needs `--repo-token-env NAME`"
        };
        Fault::new(Code::RepoNotFound, format!("`{url}` does not exist, or is private")).hint(hint)
    } else {
        let last = said.lines().rev().find(|line| line.starts_with("fatal:"));
        let why = last.map_or_else(
            || format!("git ended with exit code {code}"),
            |line| line.trim_start_matches("fatal: ").to_owned(),
        );
        Fault::new(Code::CloneFailed, format!("cloning `{url}`: {why}")).hint("try `git clone` by hand in the sandbox")
    };
    fault.output(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_of_addresses() {
        let parse = |text| Address::parse(text).unwrap();
        let plain = parse("https://github.com/o/n.git");
        assert_eq!((plain.url.as_str(), plain.login.clone()), ("https://github.com/o/n.git", None));
        assert_eq!(plain.origin.as_deref(), Some("https://github.com"));
        for (text, user, password) in [
            ("https://tok%2Fen@host:8443/o/n", TOKEN_USER, "tok/en"),
            ("https://me:pass@host:8443/o/n", "me", "pass"),
            ("https://tok:@host:8443/o/n", "tok", "tok"),
        ] {
            let address = parse(text);
            assert_eq!(address.url, "https://host:8443/o/n");
            assert_eq!(address.login, Some((user.to_owned(), Secret::new(password))), "{text}");
            assert!(!format!("{address:?}").contains(password) || password == user);
        }
        assert_eq!(parse("git@host:o/n.git").url, "git@host:o/n.git");
        for wrong in ["", "--upload-pack=x", "ext::sh -c x://y", "https:///x", "a\nb"] {
            assert_eq!(Address::parse(wrong).unwrap_err().code, Code::BadRequest, "{wrong}");
        }
        assert!(!Address::parse("ftp://tok@host/x").unwrap_err().message.contains("tok"));
    }

    #[test]
    fn clones_are_called_after_their_repository() {
        for (url, name) in [
            ("https://github.com/o/my-app.git", "my-app"),
            ("git@host:o/n", "n"),
            ("git@host:n.git/", "n"),
            ("file:///srv/a b", "a-b"),
            ("https://host/.git", "project"),
            ("/srv/x/..", "project"),
        ] {
            assert_eq!(Address::parse(url).unwrap().directory(), name, "{url}");
        }
        let address = Address::parse("https://tok@github.com/o/n.git/").unwrap();
        assert!(address.is("https://github.com/o/n") && !address.is("https://github.com/o/m"));
    }

    #[test]
    fn complaints_of_git_are_understood() {
        for (said, token, code) in [
            ("fatal: Remote branch b not found in upstream origin", false, Code::BranchNotFound),
            (
                "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
                false,
                Code::RepoNotFound,
            ),
            (
                "fatal: Authentication failed for 'https://github.com/o/n/'",
                true,
                Code::RepoUnauthorized,
            ),
            (
                "remote: Repository not found.\nfatal: repository 'https://github.com/o/n/' not found",
                true,
                Code::RepoNotFound,
            ),
            ("fatal: repository '/x' does not exist", false, Code::RepoNotFound),
            ("fatal: '/x' does not appear to be a git repository", false, Code::RepoNotFound),
            (
                "fatal: unable to access 'https://x/': Could not resolve host: x",
                false,
                Code::CloneFailed,
            ),
        ] {
            let fault = explain("URL", Some("b"), token, 128, said);
            assert_eq!(fault.code, code, "{said}");
            assert!(fault.hint.is_some() && fault.output.is_some());
        }
        assert_eq!(explain("URL", None, false, 127, "git: not found").code, Code::MissingProgram);
    }
}
