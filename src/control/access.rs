//! Who asks, and what they may.
//!
//! The doors find out who it is; the route table of `api` says what each route needs; here the two meet.

use super::problem::{Code, Problem};
use super::snapshot::Snapshot;
use axum::http::Method;

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The same user or root, over the Unix socket: all of it.
    Owner,
    /// A process of this unit, over the Unix socket: what `[control] allow` gives it.
    Unit(String),
    /// Whoever has the token, over TCP: all of it.
    Token,
    /// A browser that has shown the token before: reading alone. Cookies are shared by all ports of a host, so that the dev server next
    /// to us gets this one too; to change something the page sends the token itself.
    Cookie,
    /// Anybody, over TCP.
    Anybody,
}

impl Who {
    /// For the workers, as `X-Sandkeep-Who`.
    pub fn header(&self) -> String {
        match self {
            Self::Owner => "owner".to_owned(),
            Self::Unit(unit) => format!("unit:{unit}"),
            Self::Token => "token".to_owned(),
            Self::Cookie => "cookie".to_owned(),
            Self::Anybody => "anybody".to_owned(),
        }
    }
}

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: open to anybody.
    Nothing,
    /// This word of `[control] allow`, such as `status` or `sync:flush`.
    Word(&'static str),
    /// This word for each unit of the path: `restart` → `restart:dev`.
    Unit(&'static str),
}

/// Whether this may be done by them. `units` are the units named in the path.
pub fn allow(who: &Who, need: Need, method: &Method, units: &[&str], snapshot: &Snapshot) -> Result<(), Problem> {
    match who {
        _ if need == Need::Nothing => Ok(()),
        Who::Owner | Who::Token => Ok(()),
        Who::Cookie if method.is_safe() => Ok(()),
        Who::Cookie => Err(Problem::new(Code::NotAllowed, "the cookie is for reading alone: send the token")),
        Who::Anybody => Err(Problem::new(Code::Unauthorized, "no token, or a wrong one").hint("`Authorization: Bearer …`")),
        Who::Unit(unit) => {
            let given = snapshot.allow.get(unit).map_or(&[][..], Vec::as_slice);
            match missing(given, need, units) {
                None => Ok(()),
                Some(word) => Err(
                    Problem::new(Code::NotAllowed, format!("processes of unit `{unit}` may not ask for `{word}`"))
                        .hint(format!("`[control] allow` can give it: allow = {{ {unit} = [\"{word}\"] }}")),
                ),
            }
        }
    }
}

fn missing(given: &[String], need: Need, units: &[&str]) -> Option<String> {
    let has = |word: &str| {
        let verb = word.split_once(':').map_or(word, |(verb, _)| verb);
        let any = |entry: &str| entry == word || entry == verb || entry.strip_suffix(":*") == Some(verb);
        given.iter().any(|entry| any(entry))
    };
    match need {
        Need::Nothing => None,
        Need::Word(word) => (!has(word)).then(|| word.to_owned()),
        Need::Unit(verb) if units.is_empty() => (!has(verb)).then(|| verb.to_owned()),
        Need::Unit(verb) => units.iter().map(|unit| format!("{verb}:{unit}")).find(|word| !has(word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::Time;
    use std::sync::Arc;

    fn snapshot(given: &[&str]) -> Snapshot {
        let mut snapshot = Snapshot::empty(1, Time(jiff::Timestamp::UNIX_EPOCH));
        let given = given.iter().map(|word| (*word).to_owned()).collect();
        snapshot.allow = Arc::new([("agent".to_owned(), given)].into());
        snapshot
    }

    fn may(given: &[&str], need: Need, units: &[&str]) -> bool {
        let who = Who::Unit("agent".into());
        allow(&who, need, &Method::POST, units, &snapshot(given)).is_ok()
    }

    #[test]
    fn a_unit_may_what_it_was_given() {
        assert!(may(&["status"], Need::Word("status"), &[]));
        assert!(!may(&["status"], Need::Word("down"), &[]));
        assert!(may(&["restart:dev"], Need::Unit("restart"), &["dev"]));
        assert!(!may(&["restart:dev"], Need::Unit("restart"), &["dev", "sync"]));
        assert!(!may(&["restart:dev"], Need::Unit("stop"), &["dev"]));
        assert!(!may(&["restart:dev"], Need::Unit("restart"), &[]));
        assert!(may(&["logs"], Need::Unit("logs"), &["dev"]));
        assert!(may(&["start:*"], Need::Unit("start"), &["dev"]));
        assert!(may(&["sync:flush"], Need::Word("sync:flush"), &[]));
        assert!(!may(&["sync:flush"], Need::Word("sync:pull"), &[]));
        assert!(may(&[], Need::Nothing, &[]));
    }

    #[test]
    fn units_that_are_not_named_may_nothing() {
        let who = Who::Unit("dev".into());
        let problem = allow(&who, Need::Word("status"), &Method::GET, &[], &snapshot(&["status"])).unwrap_err();
        assert_eq!(problem.code, Code::NotAllowed);
        assert_eq!(problem.detail, "processes of unit `dev` may not ask for `status`");
    }

    #[test]
    fn a_cookie_reads_and_a_token_does_all() {
        let ask = |who, method: Method| allow(&who, Need::Word("down"), &method, &[], &snapshot(&[])).map_err(|problem| problem.code);
        assert_eq!(ask(Who::Cookie, Method::GET), Ok(()));
        assert_eq!(ask(Who::Cookie, Method::POST), Err(Code::NotAllowed));
        assert_eq!(ask(Who::Token, Method::POST), Ok(()));
        assert_eq!(ask(Who::Owner, Method::POST), Ok(()));
        assert_eq!(ask(Who::Anybody, Method::GET), Err(Code::Unauthorized));
    }
}
