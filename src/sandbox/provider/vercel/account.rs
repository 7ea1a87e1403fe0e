//! Who asks: an access token with team and project, or Vercel's OIDC token, which names both.

use super::Settings;
use crate::sandbox::environment::parse_file;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::provider::Secret;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where Vercel's own SDK asks.
const BASE: &str = "https://vercel.com/api";
const HINT: &str = "set VERCEL_TOKEN (https://vercel.com/account/settings/tokens) with VERCEL_TEAM_ID and VERCEL_PROJECT_ID, \
                    or VERCEL_OIDC_TOKEN (`vercel env pull`), or name the file that it is written to: --vercel-token-file .env.local";
/// What an OIDC token is called in an environment, and in a file of variables.
const OIDC_TOKEN: &str = "VERCEL_OIDC_TOKEN";

/// An account, complete.
#[derive(Clone, Debug)]
pub(super) struct Account {
    token: Token,
    pub(super) team: String,
    pub(super) project: String,
    /// The API's base URL, without a slash at its end.
    pub(super) base: String,
    /// The same, if it is not Vercel's own.
    pub(super) base_given: Option<String>,
}

/// Where the token is.
#[derive(Clone, Debug)]
enum Token {
    Given(Secret),
    /// Read again whenever it is used: an OIDC token lasts for twelve hours, a server for longer.
    InFile(PathBuf),
}

/// What we read of an OIDC token. Its signature is the service's to check.
#[derive(Debug, Deserialize)]
struct Claims {
    owner_id: String,
    project_id: String,
    exp: Option<i64>,
}

impl Account {
    pub(super) fn find(settings: &Settings, variable: &dyn Fn(&str) -> Option<String>, now: jiff::Timestamp) -> Result<Self, Fault> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let given = || set("VERCEL_TOKEN").or_else(|| set(OIDC_TOKEN)).map(Secret::new).map(Token::Given);
        let token = set("VERCEL_OIDC_TOKEN_FILE").map(PathBuf::from).map(Token::InFile).or_else(given);
        let token = token.ok_or_else(|| Fault::new(Code::Unauthorized, "no credentials for Vercel").hint(HINT))?;
        let claims = claims(token.current(now)?.reveal());
        let missing = |what: &str, name: &str| {
            Fault::new(Code::Unauthorized, format!("the token of Vercel is there, its {what} is not")).hint(format!("set {name}"))
        };
        let (of_team, of_project) = claims.map(|claims| (claims.owner_id, claims.project_id)).unzip();
        let base_given = settings.api.clone().or_else(|| set("SANDKEEP_VERCEL_API"));
        Ok(Self {
            token,
            team: (settings.team.clone().or(of_team).or_else(|| set("VERCEL_TEAM_ID"))).ok_or_else(|| missing("team", "VERCEL_TEAM_ID"))?,
            project: (settings.project.clone().or(of_project).or_else(|| set("VERCEL_PROJECT_ID")))
                .ok_or_else(|| missing("project", "VERCEL_PROJECT_ID"))?,
            base: base_given.as_deref().unwrap_or(BASE).trim_end_matches('/').to_owned(),
            base_given,
        })
    }

    /// The token for a request.
    pub(super) fn token(&self, now: jiff::Timestamp) -> Result<Secret, Fault> {
        self.token.current(now)
    }
}

impl Token {
    /// The token as it is now, if it has not ended.
    fn current(&self, now: jiff::Timestamp) -> Result<Secret, Fault> {
        let token = match self {
            Self::Given(token) => token.clone(),
            Self::InFile(file) => from_file(file)?,
        };
        let ends = claims(token.reveal()).and_then(|claims| claims.exp);
        match ends.filter(|ends| *ends <= now.as_second()) {
            Some(ended) => Err(self.expired(ended)),
            None => Ok(token),
        }
    }

    /// It ended then, and is of no use any more.
    fn expired(&self, ended: i64) -> Fault {
        let at = jiff::Timestamp::from_second(ended).map_or_else(|_| ended.to_string(), |at| at.to_string());
        let (of, hint) = match self {
            Self::Given(_) => (
                String::new(),
                "`vercel env pull` gets a new one for twelve hours; start again with it, or with `--vercel-token-file .env.local`, which is \
                 read again whenever it is used, or with a VERCEL_TOKEN, which lasts longer"
                    .to_owned(),
            ),
            Self::InFile(file) => (
                format!(" in `{}`", file.display()),
                format!("`vercel env pull {}` gets a new one: it is read as soon as it is there", file.display()),
            ),
        };
        Fault::new(Code::Unauthorized, format!("the OIDC token of Vercel{of} expired at {at}")).hint(hint)
    }
}

/// The token in a file: of variables as `vercel env pull` writes it, of JSON as Vercel's SDK keeps it, or the token alone.
fn from_file(file: &Path) -> Result<Secret, Fault> {
    #[derive(Deserialize)]
    struct Kept {
        token: String,
    }
    let wrong = |why: String| {
        Fault::new(
            Code::Unauthorized,
            format!("the file `{}` with the token of Vercel: {why}", file.display()),
        )
        .hint(format!("`vercel env pull {}` writes it", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let text = text.trim();
    if let Ok(kept) = serde_json::from_str::<Kept>(text) {
        return Ok(Secret::new(kept.token));
    }
    if !text.is_empty() && !text.contains(|letter: char| letter.is_whitespace() || letter == '=') {
        return Ok(Secret::new(text.to_owned()));
    }
    let variables = parse_file(text).map_err(|fault| wrong(fault.message))?;
    let token = variables.into_iter().rev().find(|(name, _)| name == OIDC_TOKEN);
    let token = token.map(|(_, token)| token).filter(|token| !token.reveal().is_empty());
    token.ok_or_else(|| wrong(format!("there is no {OIDC_TOKEN} in it")))
}

/// The claims of a token that is a JWT of Vercel's.
fn claims(token: &[u8]) -> Option<Claims> {
    let token = std::str::from_utf8(token).ok()?;
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&base64url(payload)?).ok()
}

/// Decodes base64url without padding (RFC 4648, section 5).
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).expect("masked to eight bits"));
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn find(variables: &[(&str, &str)]) -> Result<Account, Fault> {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Account::find(&Settings::default(), &variable, jiff::Timestamp::from_second(1000).unwrap())
    }

    fn oidc(exp: i64) -> String {
        let claims = format!(r#"{{"owner_id":"team_o","project_id":"prj_o","exp":{exp},"aud":"ä?>"}}"#);
        format!("h.{}.s", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_needs_its_team_and_project() {
        let account = find(&[("VERCEL_TOKEN", "t"), ("VERCEL_TEAM_ID", "team_t"), ("VERCEL_PROJECT_ID", "prj_t")]).unwrap();
        assert_eq!(
            (account.team.as_str(), account.project.as_str(), account.base.as_str()),
            ("team_t", "prj_t", BASE)
        );
        let fault = find(&[("VERCEL_TOKEN", "t"), ("VERCEL_TEAM_ID", "team_t")]).unwrap_err();
        assert_eq!(
            (fault.code, fault.hint.as_deref()),
            (Code::Unauthorized, Some("set VERCEL_PROJECT_ID"))
        );
        assert_eq!(find(&[("VERCEL_TOKEN", " ")]).unwrap_err().message, "no credentials for Vercel");
    }

    #[test]
    fn an_oidc_token_names_them_and_expires() {
        let account = find(&[("VERCEL_OIDC_TOKEN", &oidc(2000))]).unwrap();
        assert_eq!((account.team.as_str(), account.project.as_str()), ("team_o", "prj_o"));
        let fault = find(&[("VERCEL_OIDC_TOKEN", &oidc(900))]).unwrap_err();
        assert_eq!(fault.message, "the OIDC token of Vercel expired at 1970-01-01T00:15:00Z");
    }

    #[test]
    fn a_file_is_read_again_whenever_its_token_is_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().display().to_string();
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        let variables = |more: &'static str| [("VERCEL_OIDC_TOKEN_FILE", name.as_str()), ("VERCEL_TOKEN", more)];
        let open = || find(&variables("another"));
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let (first, second) = (oidc(2000), oidc(3000));
        write(&format!("# Created by Vercel CLI\nOTHER=\"1\"\nVERCEL_OIDC_TOKEN=\"{first}\"\n"));
        let account = open().unwrap();
        assert_eq!(account.team, "team_o");
        assert_eq!(account.token(at(1999)).unwrap().reveal(), first.as_bytes());
        let fault = account.token(at(2000)).unwrap_err();
        assert_eq!(
            (fault.code, fault.message),
            (
                Code::Unauthorized,
                format!("the OIDC token of Vercel in `{name}` expired at 1970-01-01T00:33:20Z")
            )
        );
        assert!(fault.hint.unwrap().contains(&format!("vercel env pull {name}")));
        for text in [
            format!("{second}\n"),
            format!("{{\"token\": \"{second}\"}}"),
            format!("export VERCEL_OIDC_TOKEN={second}"),
        ] {
            write(&text);
            assert_eq!(account.token(at(2500)).unwrap().reveal(), second.as_bytes(), "{text}");
        }
        for wrong in ["", "A=b\n", "VERCEL_OIDC_TOKEN=\n", "no variables here"] {
            write(wrong);
            let fault = account.token(at(1000)).unwrap_err();
            assert!(
                fault.code == Code::Unauthorized && fault.message.contains(&name),
                "{wrong}: {fault}"
            );
        }
        file.close().unwrap();
        assert_eq!(account.token(at(1000)).unwrap_err().code, Code::Unauthorized);
    }

    #[test]
    fn nothing_shows_the_token() {
        let account = find(&[("VERCEL_OIDC_TOKEN", &oidc(2000))]).unwrap();
        assert!(!format!("{account:?}").contains(&oidc(2000)));
    }

    #[test]
    fn base64_is_read_as_its_crate_reads_it() {
        for text in ["", "YQ", "YWI", "YWJj", "-_-_", "a?", "ä"] {
            let theirs = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok();
            assert_eq!(base64url(text), theirs, "{text}");
        }
    }
}
