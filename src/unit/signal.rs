//! Signals by name: `SIGTERM`, `TERM`, `SIGRTMIN+3`. signal(7).

use nix::sys::signal::Signal;

/// The number of a signal's name, with or without `SIG`; `None` for no signal.
pub fn parse(text: &str) -> Option<i32> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return real_time(offset);
    }
    let signal: Signal = format!("SIG{name}").parse().ok()?;
    Some(signal as i32)
}

fn real_time(offset: &str) -> Option<i32> {
    let offset = match offset.strip_prefix('+') {
        Some(number) => number.parse::<u8>().ok()?,
        None if offset.is_empty() => 0,
        None => return None,
    };
    let number = libc::SIGRTMIN() + i32::from(offset);
    (number <= libc::SIGRTMAX()).then_some(number)
}

/// The name of a signal's number.
pub fn name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("SIGRTMIN+{}", number - libc::SIGRTMIN()),
    }
}

/// Every name, for suggestions.
pub fn names() -> impl Iterator<Item = &'static str> {
    Signal::iterator().map(Signal::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names() {
        assert_eq!(parse("SIGTERM"), Some(15));
        assert_eq!(parse("USR2"), Some(12));
        assert_eq!(parse("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        for text in ["", "SIG", "SIGFOO", "term", "SIGRTMIN+99", "SIGRTMIN3", "15"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for signal in names() {
            assert_eq!(parse(signal).map(name).as_deref(), Some(signal));
        }
        assert_eq!(parse(&name(libc::SIGRTMIN() + 3)), Some(libc::SIGRTMIN() + 3));
    }
}
