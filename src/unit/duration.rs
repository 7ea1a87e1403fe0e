//! Durations as the configuration writes them: `"250ms"`, `"5s"`, `"1min 30s"`. systemd.time(7).

use std::time::Duration;

const UNITS: [(&str, u64); 21] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("msec", 1_000_000),
    ("s", 1_000_000_000),
    ("sec", 1_000_000_000),
    ("second", 1_000_000_000),
    ("seconds", 1_000_000_000),
    ("m", 60_000_000_000),
    ("min", 60_000_000_000),
    ("minute", 60_000_000_000),
    ("minutes", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("hr", 3_600_000_000_000),
    ("hour", 3_600_000_000_000),
    ("hours", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("day", 86_400_000_000_000),
    ("days", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

/// The longest duration that is taken: 100 years. Longer ones are slips, and deadlines must not overflow.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Reads one or more numbers, each with its unit.
///
/// # Errors
/// What is wrong with the text, without the text.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (nanoseconds, after) = part(rest)?;
        total = total.saturating_add(nanoseconds);
        rest = after.trim_start();
    }
    let total = u64::try_from(total).ok().map(Duration::from_nanos);
    total
        .filter(|total| *total <= LONGEST)
        .ok_or_else(|| "it is longer than 100 years".to_owned())
}

fn part(text: &str) -> Result<(u128, &str), String> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(number_end);
    if number.is_empty() {
        return Err("it does not begin with a number".to_owned());
    }
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    if unit.is_empty() {
        return Err(format!("`{number}` has no unit"));
    }
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` is not a unit of time"));
    };
    let nanoseconds = scaled(number, *scale).ok_or_else(|| format!("`{number}` is not a number that fits"))?;
    Ok((nanoseconds, rest))
}

/// `number`, which may have a fraction, times `scale`, rounded down.
pub(super) fn scaled(number: &str, scale: u64) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let fraction = fraction.get(..18).unwrap_or(fraction);
    let digits = u32::try_from(fraction.len()).ok()?;
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = fraction.parse().ok()?;
    let part = u128::from(fraction) * u128::from(scale) / 10_u128.checked_pow(digits)?;
    Some(u128::from(whole) * u128::from(scale) + part)
}

/// Writes a duration so that `parse` reads the same: the largest unit that leaves no rest.
pub fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let units = [
        ("h", 3_600_000_000_000),
        ("min", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ];
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let fitting = units.iter().find(|(_, scale)| nanoseconds.is_multiple_of(*scale));
    let (unit, scale) = fitting.copied().unwrap_or(("ns", 1));
    format!("{}{unit}", nanoseconds / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_systemd_reads() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("2min", 120_000),
            ("1.5s", 1_500),
            ("1min 30s", 90_000),
            ("1h30min", 5_400_000),
            ("0s", 0),
            ("2 hours", 7_200_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, why) in [
            ("", "it is empty"),
            ("5", "`5` has no unit"),
            ("-5s", "it does not begin with a number"),
            ("5 parsecs", "`parsecs` is not a unit of time"),
            ("1.2.3s", "`1.2.3` is not a number that fits"),
            ("99999999999999999999s", "`99999999999999999999` is not a number that fits"),
            ("5200000000w", "it is longer than 100 years"),
            ("101000d", "it is longer than 100 years"),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(nanoseconds in 0..u64::MAX / 8) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
