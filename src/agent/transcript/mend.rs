//! Makes claude's own file of a conversation fit to go on from, after whatever ended the process that wrote it.
//!
//! claude writes a line some 100 ms after it has said it, and a kill leaves what it leaves: half a line, a file with no message in it
//! (which `--resume` does not find and `--session-id` takes for one in use), or, in a home that came from elsewhere, an end that is
//! older than the mirror's.

use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

/// A line, as far as it matters here.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    uuid: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// The ids of its entries.
    pub(super) ids: BTreeSet<String>,
    /// The id of the last of them.
    pub(super) last: Option<String>,
    /// Whether anybody says anything in it.
    pub(super) conversation: bool,
}

impl Contents {
    /// Takes a line in; `None` = it is no entry.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        let entry = serde_json::from_slice::<Entry<'_>>(line).ok()?;
        self.conversation |= matches!(entry.kind.as_deref(), Some("user" | "assistant"));
        if let Some(id) = entry.uuid {
            self.ids.insert(id.clone().into_owned());
            self.last = Some(id.into_owned());
        }
        Some(())
    }
}

/// Reads a file and takes away half a line at its end.
pub(super) fn whole_lines(path: &Path) -> io::Result<Contents> {
    let mut contents = Contents::default();
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut reader = BufReader::new(&mut file);
    let mut line = Vec::new();
    let mut whole = 0;
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(contents);
        }
        let entry = contents.take(&line);
        if !line.ends_with(b"\n") {
            drop(reader);
            match entry {
                Some(()) => file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(b"\n"))?,
                None => file.set_len(whole)?,
            }
            return Ok(contents);
        }
        whole += u64::try_from(length).unwrap_or_default();
    }
}

/// Appends what the mirror has beyond the last entry of the file. A file whose end the mirror does not know stays as it is.
pub(super) fn complete(path: &Path, contents: &mut Contents, mirror: &Path) -> io::Result<()> {
    let Some(last) = contents.last.clone() else { return Ok(()) };
    let mirror = match File::open(mirror) {
        Ok(mirror) => mirror,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut file = OpenOptions::new().append(true).open(path)?;
    let mut beyond = false;
    for line in BufReader::new(mirror).split(b'\n') {
        let mut line = line?;
        let Ok(entry) = serde_json::from_slice::<Entry<'_>>(&line) else {
            continue;
        };
        let id = entry.uuid.map(Cow::into_owned);
        if id.as_ref().is_some_and(|id| contents.ids.contains(id)) {
            beyond = id.as_deref() == Some(&last);
            continue;
        }
        if beyond && (id.is_some() || contents.last.as_deref() != Some(&last)) {
            contents.take(&line);
            line.push(b'\n');
            file.write_all(&line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str) -> String {
        format!("{{\"type\":\"user\",\"uuid\":\"{id}\"}}\n")
    }

    fn completed(file: &str, mirror: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (folder.path().join("own"), folder.path().join("mirror"));
        std::fs::write(&own, file).unwrap();
        std::fs::write(&other, mirror).unwrap();
        let mut contents = whole_lines(&own).unwrap();
        complete(&own, &mut contents, &other).unwrap();
        assert_eq!(whole_lines(&own).unwrap(), contents);
        std::fs::read_to_string(own).unwrap()
    }

    #[test]
    fn a_lost_end_comes_from_the_mirror() {
        let [a, b, c] = ["a", "b", "c"].map(line);
        let latch = "{\"type\":\"latch\"}\n";
        assert_eq!(
            completed(&format!("{a}{latch}"), &format!("{a}{latch}{b}{latch}{c}")),
            format!("{a}{latch}{b}{latch}{c}")
        );
        assert_eq!(
            completed(&format!("{a}{b}{latch}"), &format!("{a}{b}{latch}")),
            format!("{a}{b}{latch}")
        );
        assert_eq!(completed(&format!("{a}{b}"), ""), format!("{a}{b}"), "no mirror");
        assert_eq!(completed(&format!("{a}{b}"), &format!("{a}{c}")), format!("{a}{b}"), "another end");
        assert_eq!(
            completed(&format!("{b}{a}"), &format!("{a}{b}{c}")),
            format!("{b}{a}"),
            "another order"
        );
    }

    #[test]
    fn half_a_line_is_taken_away() {
        let [a, b] = ["a", "b"].map(line);
        assert_eq!(
            completed(&format!("{a}{}", &b[..10]), &format!("{a}{b}{}", &a[..7])),
            format!("{a}{b}")
        );
        assert_eq!(
            completed(&format!("{a}{}", b.trim_end()), ""),
            format!("{a}{b}"),
            "but not a whole one"
        );
    }

    #[test]
    fn a_file_without_a_message_has_no_conversation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "{\"type\":\"queue-operation\"}\n").unwrap();
        assert!(!whole_lines(&path).unwrap().conversation);
        std::fs::write(&path, line("a")).unwrap();
        assert!(whole_lines(&path).unwrap().conversation);
    }
}
