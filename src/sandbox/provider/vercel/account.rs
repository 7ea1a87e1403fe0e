//! Who asks: an access token with team and project, or Vercel's OIDC token, which names both.

use super::Settings;
use crate::sandbox::fault::{Code, Fault};
use crate::sandbox::provider::Secret;
use serde::Deserialize;

/// Where Vercel's own SDK asks.
const BASE: &str = "https://vercel.com/api";
const HINT: &str = "set VERCEL_TOKEN (https://vercel.com/account/settings/tokens) with VERCEL_TEAM_ID and VERCEL_PROJECT_ID, \
                    or VERCEL_OIDC_TOKEN (`vercel env pull`)";

/// An account, complete.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) token: Secret,
    /// When the token ends, where it says so; seconds since the epoch.
    pub(super) ends: Option<i64>,
    pub(super) team: String,
    pub(super) project: String,
    /// The API's base URL, without a slash at its end.
    pub(super) base: String,
    /// The same, if it is not Vercel's own.
    pub(super) base_given: Option<String>,
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
        let token = set("VERCEL_TOKEN").or_else(|| set("VERCEL_OIDC_TOKEN"));
        let token = token.ok_or_else(|| Fault::new(Code::Unauthorized, "no credentials for Vercel").hint(HINT))?;
        let claims = claims(&token);
        let ends = claims.as_ref().and_then(|claims| claims.exp);
        if let Some(ended) = ended(ends, now) {
            return Err(expired(ended));
        }
        let missing = |what: &str, name: &str| {
            Fault::new(Code::Unauthorized, format!("the token of Vercel is there, its {what} is not")).hint(format!("set {name}"))
        };
        let (of_team, of_project) = claims.map(|claims| (claims.owner_id, claims.project_id)).unzip();
        let base_given = settings.api.clone().or_else(|| set("SANDKEEP_VERCEL_API"));
        Ok(Self {
            token: Secret::new(token),
            ends,
            team: (settings.team.clone().or(of_team).or_else(|| set("VERCEL_TEAM_ID"))).ok_or_else(|| missing("team", "VERCEL_TEAM_ID"))?,
            project: (settings.project.clone().or(of_project).or_else(|| set("VERCEL_PROJECT_ID")))
                .ok_or_else(|| missing("project", "VERCEL_PROJECT_ID"))?,
            base: base_given.as_deref().unwrap_or(BASE).trim_end_matches('/').to_owned(),
            base_given,
        })
    }

    /// When the token ended, if it has.
    pub(super) fn ended(&self, now: jiff::Timestamp) -> Option<i64> {
        ended(self.ends, now)
    }
}

/// When a token ended, if it has.
fn ended(ends: Option<i64>, now: jiff::Timestamp) -> Option<i64> {
    ends.filter(|ends| *ends <= now.as_second())
}

/// A token that ended then is of no use any more.
pub(super) fn expired(ended: i64) -> Fault {
    let at = jiff::Timestamp::from_second(ended).map_or_else(|_| ended.to_string(), |at| at.to_string());
    Fault::new(Code::Unauthorized, format!("the OIDC token of Vercel expired at {at}")).hint(
        "`vercel env pull` gets a new one for twelve hours; start again with it (a server, too), or with a VERCEL_TOKEN, which lasts longer",
    )
}

/// The claims of a token that is a JWT of Vercel's.
fn claims(token: &str) -> Option<Claims> {
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
