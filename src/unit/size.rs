//! Sizes as the configuration writes them: `"64MiB"`, `"512K"`, `"1GB"`.

const UNITS: [(&str, u64); 15] = [
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a number and its unit; a bare number is bytes, `K`, `M`, `G`, `T` are powers of 1024 as in systemd.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit = unit.trim();
    if number.is_empty() {
        return Err("it does not begin with a number".to_owned());
    }
    let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` is not a unit of size"));
    };
    let bytes = super::duration::scaled(number, *scale).ok_or_else(|| format!("`{number}` is not a number that fits"))?;
    // TOML integers are signed: what is larger could not be written again.
    let fits = i64::try_from(bytes).is_ok();
    u64::try_from(bytes)
        .ok()
        .filter(|_| fits)
        .ok_or_else(|| "it is larger than 8 EiB".to_owned())
}

/// Writes a size so that `parse` reads the same: the largest unit that leaves no rest.
pub fn format(bytes: u64) -> String {
    let units = [("TiB", 1_u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fitting = units.iter().find(|(_, scale)| bytes != 0 && bytes.is_multiple_of(*scale));
    let (unit, scale) = fitting.copied().unwrap_or(("B", 1));
    format!("{}{unit}", bytes / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_sizes() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("512K", 512 << 10),
            ("1.5G", 3 << 29),
            ("1 GB", 1_000_000_000),
            ("17", 17),
            ("0B", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "5 bananas", "9999999TiB", "1.2.3M"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,30}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read(bytes in 0..i64::MAX as u64) {
            prop_assert_eq!(parse(&format(bytes)), Ok(bytes));
        }
    }
}
