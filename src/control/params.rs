//! Words in queries and flags: durations, times, signals, lists; and the extractor that answers with a problem.

use super::document::Time;
use super::problem::{Code, Problem};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};
use std::str::FromStr;
use std::time::Duration;

/// The query of a request.
pub(super) struct Params<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = crate::web::query::read(&parts.uri);
        query.map(Self).map_err(|why| Problem::new(Code::BadRequest, why))
    }
}

/// A duration as the configuration writes it, `90s`, `1h 30min`; a bare number is seconds.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let refuse = |why| format!("`{text}` is no duration: {why}; write `250ms`, `90s`, `2min`, `1h 30min`, `1d`");
    crate::unit::duration::parse(text).map_err(refuse)
}

/// A moment: RFC 3339, a date, a time of today in UTC (`14:02`, `14:02:11`), or how long ago (`5min`).
pub fn time(text: &str, now: jiff::Timestamp) -> Result<Time, String> {
    let refuse = || format!("`{text}` is no time: write `2026-02-03T04:05:06Z`, `2026-02-03`, `14:02`, or how long ago: `5min`");
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(Time(at));
    }
    if let Ok(ago) = duration(text.strip_suffix(" ago").unwrap_or(text)) {
        let ago = jiff::SignedDuration::try_from(ago).map_err(|_| refuse())?;
        return now.checked_sub(ago).map(Time).map_err(|_| refuse());
    }
    let utc = jiff::tz::Offset::UTC;
    let local = jiff::civil::DateTime::from_str(text)
        .or_else(|_| jiff::civil::Date::from_str(text).map(Into::into))
        .or_else(|_| jiff::civil::Time::from_str(text).map(|time| utc.to_datetime(now).date().to_datetime(time)))
        .map_err(|_| refuse())?;
    utc.to_timestamp(local).map(Time).map_err(|_| refuse())
}

/// A signal's number: `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+3`.
///
/// # Errors
/// What is wrong with it.
pub fn signal(text: &str) -> Result<i32, String> {
    let refuse = || format!("`{text}` is no signal: write a name such as `TERM`, or a number from 1 to 64");
    match text.parse::<i32>() {
        Ok(number) => Some(number).filter(|number| (1..=64).contains(number)).ok_or_else(refuse),
        Err(_) => crate::unit::signal::parse(&text.to_ascii_uppercase()).ok_or_else(refuse),
    }
}

/// `a,b` → a and b.
pub(super) fn list(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
}

/// Deserializes `follow`, `follow=1`, `follow=true`, `follow=no`.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "" | "1" | "true" | "yes" => Ok(true),
        "0" | "false" | "no" => Ok(false),
        _ => Err(D::Error::custom(format!("`{text}` is neither `true` nor `false`"))),
    }
}

/// Deserializes a duration.
pub(super) fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_configuration_writes_them() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30min"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1h 2 s"), Ok(Duration::from_secs(3602)));
        for text in ["", " ", "x", "5 parsecs", "-1s", "99999999999s", "s", "ü"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_absolute_or_ago() {
        let now: jiff::Timestamp = "2026-02-03T10:00:00Z".parse().unwrap();
        let at = |text| time(text, now).map(|time| time.to_string());
        assert_eq!(at("5min").as_deref(), Ok("2026-02-03T09:55:00.000Z"));
        assert_eq!(at("5min ago").as_deref(), Ok("2026-02-03T09:55:00.000Z"));
        assert_eq!(at("2026-02-01").as_deref(), Ok("2026-02-01T00:00:00.000Z"));
        assert_eq!(at("09:30").as_deref(), Ok("2026-02-03T09:30:00.000Z"));
        assert_eq!(at("2026-02-03T04:05:06+01:00").as_deref(), Ok("2026-02-03T03:05:06.000Z"));
        assert!(at("yesterday-ish").is_err());
        assert!(at("99999w").is_err());
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal("TERM"), Ok(15));
        assert_eq!(signal("SIGKILL"), Ok(9));
        assert_eq!(signal("usr1"), Ok(10));
        assert_eq!(signal("15"), Ok(15));
        assert_eq!(signal("RTMIN+1"), Ok(libc::SIGRTMIN() + 1));
        for text in ["0", "65", "-9", "NOPE", "", "RTMIN+99", "RTMIN+2147483647"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
