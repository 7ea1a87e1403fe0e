//! What becomes of bytes on their way to a reader.

use std::borrow::Cow;

/// Takes escape sequences (ECMA-48: CSI, OSC and other strings, two-byte ones) and carriage returns at the end out of a line.
pub(super) fn strip_ansi(line: &str) -> Cow<'_, str> {
    let line = line.trim_end_matches('\r');
    if !line.contains(['\x1b', '\u{9b}']) {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{9b}' => skip_control(&mut chars),
            '\x1b' => match chars.next() {
                Some('[') => skip_control(&mut chars),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut chars),
                Some(' '..='/') => skip_designation(&mut chars),
                Some(_) | None => {}
            },
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}

/// To the final byte of a control sequence.
fn skip_control(chars: &mut std::str::Chars<'_>) {
    for c in chars {
        if ('@'..='~').contains(&c) {
            return;
        }
    }
}

/// To the terminator of a control string: BEL or ESC \.
fn skip_string(chars: &mut std::str::Chars<'_>) {
    while let Some(c) = chars.next() {
        if c == '\x07' || (c == '\x1b' && chars.next().is_some()) {
            return;
        }
    }
}

/// To the end of a sequence with intermediate bytes, as `ESC ( B`.
fn skip_designation(chars: &mut std::str::Chars<'_>) {
    for c in chars {
        if !(' '..='/').contains(&c) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequences_go_and_text_stays() {
        for (with, without) in [
            ("plain", "plain"),
            ("\x1b[32m➜\x1b[39m  Local", "➜  Local"),
            ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\ end", "link end"),
            ("\x1b(Bx", "x"),
            ("\x1b[2K\x1b[1Gdone\r", "done"),
            ("cut \x1b[3", "cut "),
            ("\x1b", ""),
        ] {
            assert_eq!(strip_ansi(with), without, "{with:?}");
        }
    }

    proptest! {
        #[test]
        fn no_escape_is_left(line in "(\\PC|\x1b|\\[|m|\u{9b}|\x07){0,40}") {
            let left = strip_ansi(&line).contains(['\x1b', '\u{9b}']);
            prop_assert!(!left);
        }
    }
}
