//! The form of the files: names, the side index, cursors. Nothing here does I/O.
//!
//! `<unit>.log` holds the bytes as they came, `<unit>.idx` says when and from where. A file that is full is renamed to
//! `<unit>.log.<generation>`, its index to `<unit>.idx.<generation>`; generations count up for ever, so a generation and an offset
//! name a place in a unit's output whatever is rotated meanwhile.

use crate::unit::Name;
use serde::{Deserialize, Serialize};

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// The unit's standard output.
    Stdout,
    /// The unit's standard error.
    Stderr,
    /// The supervisor itself: transitions, and what was lost.
    Journal,
}

impl Stream {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Journal => "journal",
        }
    }

    fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Stderr,
            2 => Self::Journal,
            _ => Self::Stdout,
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
            Self::Journal => 2,
        }
    }
}

/// Length of the index's header and of each of its entries.
pub(super) const ENTRY_LEN: usize = 40;

const MAGIC: [u8; 8] = *b"skidx\x001\n";

/// The source ended here: what it left without a newline is a line.
pub(super) const ENDED: u8 = 1;
/// Some other source has an unterminated line before this entry.
pub(super) const OTHERS_PENDING: u8 = 2;
/// Every source before this entry has ended: the supervisor was started anew.
pub(super) const ALL_ENDED: u8 = 4;

/// From `offset` to the next entry's offset, the log's bytes came from this source at this time.
///
/// Reads of the same source within a millisecond share an entry. An entry is written before its bytes, so whoever looks at the log's
/// length first and at the index afterwards finds every byte accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its bytes begin.
    pub(super) offset: u64,
    /// Wall-clock time, nanoseconds since the epoch.
    pub(super) wall: i64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub(super) monotonic: u64,
    /// Which run of the unit.
    pub(super) invocation: u64,
    /// Which pipe; 0 is the journal itself. Counted anew by each supervisor.
    pub(super) source: u32,
    /// Which stream that pipe is.
    pub(super) stream: Stream,
    /// `ENDED`, `OTHERS_PENDING`, `ALL_ENDED`.
    pub(super) flags: u8,
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        out[0..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..16].copy_from_slice(&self.wall.to_le_bytes());
        out[16..24].copy_from_slice(&self.monotonic.to_le_bytes());
        out[24..32].copy_from_slice(&self.invocation.to_le_bytes());
        out[32..36].copy_from_slice(&self.source.to_le_bytes());
        out[36] = self.stream.to_byte();
        out[37] = self.flags;
        out
    }

    pub(super) fn decode(bytes: &[u8; ENTRY_LEN]) -> Self {
        Self {
            offset: u64_at(bytes, 0),
            wall: u64_at(bytes, 8).cast_signed(),
            monotonic: u64_at(bytes, 16),
            invocation: u64_at(bytes, 24),
            source: u32::from_le_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]),
            stream: Stream::from_byte(bytes[36]),
            flags: bytes[37],
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

fn u64_at(bytes: &[u8; ENTRY_LEN], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The first `ENTRY_LEN` bytes of an index: a magic number and the generation.
pub(super) fn encode_header(generation: u64) -> [u8; ENTRY_LEN] {
    let mut out = [0; ENTRY_LEN];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..16].copy_from_slice(&generation.to_le_bytes());
    out
}

/// The generation that a header names; `None` when it is none of ours.
pub(super) fn decode_header(bytes: &[u8; ENTRY_LEN]) -> Option<u64> {
    (bytes[0..8] == MAGIC).then(|| u64_at(bytes, 8))
}

/// `<unit>.log`, or `<unit>.log.<generation>` of one that was rotated away.
pub(super) fn log_name(unit: &Name, rotated: Option<u64>) -> String {
    file_name(unit, "log", rotated)
}

/// `<unit>.idx`, or `<unit>.idx.<generation>`.
pub(super) fn index_name(unit: &Name, rotated: Option<u64>) -> String {
    file_name(unit, "idx", rotated)
}

fn file_name(unit: &Name, kind: &str, rotated: Option<u64>) -> String {
    match rotated {
        None => format!("{unit}.{kind}"),
        Some(generation) => format!("{unit}.{kind}.{generation}"),
    }
}

/// The unit and generation (`None`: the current one) of a log's file name. A unit may be called `a.log.1` itself: only a name that ends
/// in `.log` or in `.log.<number>` is a log, so the two cannot be confused.
pub(super) fn parse_log_name(file: &str) -> Option<(Name, Option<u64>)> {
    if let Some(unit) = file.strip_suffix(".log") {
        return Some((Name::new(unit)?, None));
    }
    let (rest, number) = file.rsplit_once('.')?;
    let generation = number.parse().ok().filter(|g: &u64| g.to_string() == number)?;
    Some((Name::new(rest.strip_suffix(".log")?)?, Some(generation)))
}

/// What the line was that ended at a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum After {
    /// One with a newline.
    #[default]
    Line,
    /// A part of one: what follows from the same source is not joined with what came before.
    Cut,
    /// The so many-th that has no newline, since its source ended here.
    Ended(u32),
}

/// A place in a unit's output: every line that ended before it has been seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) generation: u64,
    pub(super) offset: u64,
    pub(super) after: After,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.generation, self.offset)?;
        match self.after {
            After::Line => Ok(()),
            After::Cut => f.write_str("+"),
            After::Ended(n) => write!(f, "!{n}"),
        }
    }
}

impl Position {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (generation, rest) = text.split_once(':')?;
        let (offset, after) = match (rest.strip_suffix('+'), rest.split_once('!')) {
            (Some(offset), _) => (offset, After::Cut),
            (None, Some((offset, n))) => (offset, After::Ended(n.parse().ok()?)),
            (None, None) => (rest, After::Line),
        };
        Some(Self {
            generation: generation.parse().ok()?,
            offset: offset.parse().ok()?,
            after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn file_names_are_told_apart() {
        for unit in ["dev", "dev.log", "dev.log.1", "log", "1", "a.idx"] {
            for rotated in [None, Some(0), Some(1), Some(u64::MAX)] {
                assert_eq!(
                    parse_log_name(&log_name(&name(unit), rotated)),
                    Some((name(unit), rotated)),
                    "{unit} {rotated:?}"
                );
                assert_eq!(parse_log_name(&index_name(&name(unit), rotated)), None);
            }
        }
        assert_eq!(parse_log_name("dev.log.01"), None);
        assert_eq!(parse_log_name("dev.log.x"), None);
        assert_eq!(parse_log_name(".log"), None);
    }

    #[test]
    fn header_is_recognised() {
        assert_eq!(decode_header(&encode_header(77)), Some(77));
        assert_eq!(decode_header(&[0; ENTRY_LEN]), None);
    }

    proptest! {
        #[test]
        fn entries_survive(offset: u64, wall: i64, monotonic: u64, invocation: u64, source: u32, stream in 0u8..3, flags: u8) {
            let entry = Entry { offset, wall, monotonic, invocation, source, stream: Stream::from_byte(stream), flags };
            prop_assert_eq!(Entry::decode(&entry.encode()), entry);
        }

        #[test]
        fn positions_survive(generation: u64, offset: u64, after in 0usize..3) {
            let after = [After::Line, After::Cut, After::Ended(7)][after];
            let position = Position { generation, offset, after };
            prop_assert_eq!(Position::parse(&position.to_string()), Some(position));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC*") {
            let _ = Position::parse(&text);
            let _ = parse_log_name(&text);
        }
    }
}
