//! The intent log: what is about to be written to the store, and what was. On disk before the first byte is sent, so that after a crash
//! one's own half-finished writes are known as such.
//!
//! One record a line with a checksum before it; the first line whose checksum fails ends the log (a torn write).

use super::content::{Content, Digest};
use super::path::TreePath;
use super::store::Etag;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// This content is about to be written to this path.
    Intent(TreePath, Content),
    /// It was, and got this token.
    Ack(TreePath, Etag),
    /// This path is about to be removed; the object had this token.
    Remove(TreePath, Etag),
}

/// What a log says after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Written, with their tokens, but perhaps in no manifest yet.
    pub written: BTreeMap<TreePath, (Content, Etag)>,
    /// Perhaps written.
    pub unsure: BTreeMap<TreePath, Vec<Content>>,
}

/// The log, open for writing.
#[derive(Debug)]
pub struct Log {
    file: File,
}

impl Log {
    /// Opens a log and reads what is in it.
    pub fn open(path: &Path) -> io::Result<(Self, Replay)> {
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        let (records, good) = parse(&bytes);
        // What follows a torn line would be unreachable.
        file.set_len(good as u64)?;
        file.seek(io::SeekFrom::End(0))?;
        Ok((Self { file }, replay(records)))
    }

    /// Appends records; they are on the disk when this returns.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for record in records {
            let json = serde_json::to_string(record)?;
            writeln!(lines, "{} {json}", checksum(json.as_bytes()))?;
        }
        self.file.write_all(&lines)?;
        self.file.sync_data()
    }

    /// Empties it, once the index has everything.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }
}

fn checksum(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()[..16].to_owned()
}

fn parse(bytes: &[u8]) -> (Vec<Record>, usize) {
    let (mut records, mut good) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some((sum, json)) = line.strip_suffix(b"\n").and_then(|line| line.split_at_checked(17)) else {
            break;
        };
        if sum.strip_suffix(b" ") != Some(checksum(json).as_bytes()) {
            break;
        }
        let Ok(record) = serde_json::from_slice(json) else { break };
        records.push(record);
        good += line.len();
    }
    (records, good)
}

fn replay(records: Vec<Record>) -> Replay {
    let mut replay = Replay::default();
    for record in records {
        match record {
            Record::Intent(path, content) => replay.unsure.entry(path).or_default().push(content),
            Record::Ack(path, etag) => {
                if let Some(content) = replay.unsure.remove(&path).and_then(|mut intents| intents.pop()) {
                    replay.written.insert(path, (content, etag));
                }
            }
            Record::Remove(path, _) => {
                replay.written.remove(&path);
                replay.unsure.remove(&path);
            }
        }
    }
    replay
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn intent(name: &str, bytes: &[u8]) -> Record {
        let content = Content {
            sha256: Digest::of(bytes),
            size: bytes.len() as u64,
            mode: 0o644,
            link: false,
        };
        Record::Intent(TreePath::parse(name).expect("good"), content)
    }

    fn ack(name: &str) -> Record {
        Record::Ack(TreePath::parse(name).expect("good"), Etag(name.into()))
    }

    #[test]
    fn what_was_acknowledged_is_written_and_the_rest_unsure() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let (mut log, replay) = Log::open(&path).expect("opened");
        assert_eq!(replay, Replay::default());
        log.append(&[intent("a", b"1"), intent("b", b"2"), ack("a")]).expect("appended");
        let (mut log, replay) = Log::open(&path).expect("opened");
        assert_eq!(replay.written.len(), 1);
        assert_eq!(replay.unsure.keys().map(TreePath::as_str).collect::<Vec<_>>(), ["b"]);
        log.clear().expect("cleared");
        assert_eq!(Log::open(&path).expect("opened").1, Replay::default());
    }

    proptest! {
        #[test]
        fn a_torn_log_is_a_shorter_log(cut in 0_usize..400, noise in proptest::collection::vec(any::<u8>(), 0..40)) {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("log");
            let (mut log, _) = Log::open(&path).expect("opened");
            let records = [intent("a", b"1"), ack("a"), intent("b", b"2"), ack("b")];
            log.append(&records).expect("appended");
            let mut bytes = std::fs::read(&path).expect("read");
            bytes.truncate(cut);
            // The noise may begin with just the line's end that was cut off.
            bytes.extend(noise);
            let (whole, good) = parse(&bytes);
            prop_assert_eq!(&whole[..], &records[..whole.len()]);
            std::fs::write(&path, &bytes).expect("written");
            let (mut log, _) = Log::open(&path).expect("opened");
            prop_assert!(good as u64 <= std::fs::metadata(&path).expect("there").len());
            log.append(&[ack("c")]).expect("appended");
            let (again, _) = parse(&std::fs::read(&path).expect("read"));
            prop_assert_eq!(again.len(), whole.len() + 1);
        }
    }
}
