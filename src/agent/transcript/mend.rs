//! Makes claude's own file of a conversation fit to go on from, after whatever ended the process that wrote it.
//!
//! claude writes a line some 100 ms after it has said it, and a kill leaves what it leaves: half a line, a file with no message in it
//! (which `--resume` does not find and `--session-id` takes for one in use), in a home that came from elsewhere an end that is older
//! than the mirror's, and a note of where to go on that is older than the file's end. That note is a `last-prompt` line, which claude
//! writes now and then and when it has time to end; if it names an entry that a later attempt has turned away from, `--resume` goes on
//! there, and all that came after is forgotten. And where a resumed claude was killed before it said a word, the file ends with the
//! sentence by which it told itself to go on, and the next one takes that for the end of a turn that is answered.

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
    #[serde(borrow, default, rename = "leafUuid")]
    leaf: Option<Cow<'a, str>>,
    #[serde(default, rename = "isSidechain")]
    aside: Option<bool>,
    #[serde(default, rename = "isMeta")]
    meta: Option<bool>,
}

/// What a resumed claude (2.1) says to itself first, as an entry that is not shown.
const GO_ON: &[u8] = b"\"Continue from where you left off.\"";

/// What a file holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    /// The ids of its entries.
    pub(super) ids: BTreeSet<String>,
    /// The id of the last of them.
    pub(super) last: Option<String>,
    /// The last that is not a subagent's, nor claude's word to itself to go on.
    leaf: Option<String>,
    /// Where the file itself says to go on.
    noted: Option<String>,
    /// Whether anybody says anything in it.
    pub(super) conversation: bool,
}

impl Contents {
    /// Takes a line in; `None` = it is no entry.
    fn take(&mut self, line: &[u8]) -> Option<()> {
        let entry = serde_json::from_slice::<Entry<'_>>(line).ok()?;
        self.conversation |= matches!(entry.kind.as_deref(), Some("user" | "assistant"));
        if entry.kind.as_deref() == Some("last-prompt") {
            self.noted = entry.leaf.map(Cow::into_owned);
        }
        if let Some(id) = entry.uuid {
            let goes_on = entry.meta == Some(true) && line.windows(GO_ON.len()).any(|part| part == GO_ON);
            if entry.aside != Some(true) && !goes_on {
                self.leaf = Some(id.clone().into_owned());
            }
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

/// Notes that the file's end is where to go on. An older CLI makes no notes, and goes on there anyway.
pub(super) fn go_on_at_the_end(path: &Path, contents: &Contents, session: &str) -> io::Result<()> {
    if contents.noted.is_none() || contents.noted == contents.leaf {
        return Ok(());
    }
    let note = serde_json::json!({"type": "last-prompt", "leafUuid": contents.leaf, "sessionId": session});
    OpenOptions::new()
        .append(true)
        .open(path)?
        .write_all(format!("{note}\n").as_bytes())
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
    fn an_old_note_is_followed_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let aside = "{\"uuid\":\"c\",\"isSidechain\":true}\n";
        let go_on = "{\"type\":\"user\",\"uuid\":\"d\",\"isMeta\":true,\"message\":{\"content\":\"Continue from where you left off.\"}}\n";
        let note = |leaf: &str| format!("{{\"type\":\"last-prompt\",\"leafUuid\":\"{leaf}\",\"sessionId\":\"s\"}}\n");
        let [a, b] = ["a", "b"].map(line);
        for (before, added) in [
            (format!("{a}{}{b}{aside}", note("a")), note("b")),
            (format!("{a}{b}{}", note("b")), String::new()),
            (format!("{a}{b}{go_on}{}", note("d")), note("b")),
            (format!("{a}{b}"), String::new()),
        ] {
            std::fs::write(&path, &before).unwrap();
            go_on_at_the_end(&path, &whole_lines(&path).unwrap(), "s").unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), before + &added);
        }
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
