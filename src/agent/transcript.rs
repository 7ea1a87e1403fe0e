//! The conversations on disk: claude's own files, and the copies that go into the store so that another box can go on with them.
//!
//! `<state>/transcripts/<claude's session>.jsonl` is a mirror, written line by line as claude says them; `<state>/transcripts/<hash of
//! the session's name>.json` says which claude session a name stands for. Sync uploads the directory; restore brings it back before the
//! agent starts.

mod mend;

use crate::host::mask::Masker;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What is remembered of a session by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub session: String,
    /// claude's id of it.
    pub claude_session: String,
    /// What it has cost so far, as claude counts it.
    #[serde(default)]
    pub total_cost_usd: f64,
}

/// What claude has of a session and of a message in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: the session begins.
    Nothing,
    /// The conversation, but not the message. A turn that is cut off in it belongs to a prompt that is over.
    Session,
    /// The message: what is cut off is its turn.
    Message,
}

/// All conversations of this box.
pub struct Transcripts {
    directory: PathBuf,
    config_dir: PathBuf,
    root: PathBuf,
    masker: Masker,
    /// Mirrors that have been written to.
    written: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for Transcripts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transcripts")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Transcripts {
    /// Those under `directory`, for a claude with this configuration directory that works in `root`.
    pub fn open(directory: PathBuf, config_dir: PathBuf, root: PathBuf, masker: Masker) -> io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        Ok(Self {
            directory,
            config_dir,
            root,
            masker,
            written: BTreeSet::new(),
        })
    }

    /// The record of a session; a new one where there is none.
    pub fn record(&self, session: &str) -> Record {
        let found = std::fs::read(self.record_path(session))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        found.unwrap_or_else(|| Record {
            session: session.to_owned(),
            claude_session: uuid::Uuid::new_v4().to_string(),
            total_cost_usd: 0.0,
        })
    }

    /// Keeps a record.
    pub fn keep(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record).unwrap_or_default();
        replace(&self.record_path(&record.session), &text)
    }

    fn record_path(&self, session: &str) -> PathBuf {
        self.directory.join(format!("{}.json", name_hash(session)))
    }

    /// Makes claude's file of the session fit to go on from: whole lines, completed from the mirror or put back from it.
    pub fn prepare(&self, claude_session: &str, message: &str) -> io::Result<Begun> {
        let own = self
            .find(claude_session)
            .map(|file| Ok::<_, io::Error>((mend::whole_lines(&file)?, file)));
        let (mut contents, file) = match own.transpose()? {
            Some((contents, file)) if contents.conversation => (contents, file),
            empty => {
                empty.map_or(Ok(()), |(_, file)| std::fs::remove_file(file))?;
                let Some(back) = self.put_back(claude_session)? else {
                    return Ok(Begun::Nothing);
                };
                back
            }
        };
        mend::complete(&file, &mut contents, &self.mirror_of(claude_session))?;
        mend::go_on_at_the_end(&file, &contents, claude_session)?;
        Ok(match contents.ids.contains(message) {
            true => Begun::Message,
            false => Begun::Session,
        })
    }

    fn put_back(&self, claude_session: &str) -> io::Result<Option<(mend::Contents, PathBuf)>> {
        let mirror = self.mirror_of(claude_session);
        if !mirror.exists() {
            return Ok(None);
        }
        let contents = mend::whole_lines(&mirror)?;
        let folder = self.config_dir.join("projects").join(munged(&self.root));
        let file = folder.join(format!("{claude_session}.jsonl"));
        if contents.conversation {
            std::fs::create_dir_all(&folder)?;
            std::fs::copy(&mirror, &file)?;
        }
        Ok(contents.conversation.then_some((contents, file)))
    }

    fn mirror_of(&self, claude_session: &str) -> PathBuf {
        self.directory.join(format!("{claude_session}.jsonl"))
    }

    fn find(&self, claude_session: &str) -> Option<PathBuf> {
        let projects = std::fs::read_dir(self.config_dir.join("projects")).ok()?;
        let files = projects
            .flatten()
            .map(|project| project.path().join(format!("{claude_session}.jsonl")));
        files.into_iter().find(|file| file.exists())
    }

    /// Appends lines to the mirror of the file that claude keeps them in.
    pub fn mirror(&mut self, file: &str, mut entries: Vec<Value>) -> io::Result<()> {
        let Some(relative) = mirrored_path(file) else { return Ok(()) };
        let path = self.directory.join(relative);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&path)?;
        let mut lines = Vec::new();
        if !ends_a_line(&mut file)? {
            lines.push(b'\n');
        }
        for entry in &mut entries {
            self.masker.mask_json(entry);
            serde_json::to_writer(&mut lines, entry)?;
            lines.push(b'\n');
        }
        self.written.insert(path);
        file.write_all(&lines)
    }

    /// Brings what has been mirrored to the disk.
    pub fn rest(&mut self) -> io::Result<()> {
        let written = std::mem::take(&mut self.written);
        written.iter().try_for_each(|path| File::open(path)?.sync_data())
    }

    /// The last text of the model in the turn of the message with this id: of what follows from it, not merely after it.
    pub fn answer_to(&self, claude_session: &str, message: &str) -> Option<String> {
        let file = File::open(self.find(claude_session)?).ok()?;
        let mut turn = BTreeSet::new();
        let mut answer = None;
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            let Ok(entry) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            let Some(id) = entry["uuid"].as_str() else { continue };
            let parents = ["parentUuid", "logicalParentUuid"].map(|key| entry[key].as_str());
            if id != message && !parents.into_iter().flatten().any(|parent| turn.contains(parent)) {
                continue;
            }
            turn.insert(id.to_owned());
            if entry["type"] == "assistant" && entry["isSidechain"] != true {
                let blocks = entry["message"]["content"].as_array().map(Vec::as_slice).unwrap_or_default();
                let text = blocks
                    .iter()
                    .filter_map(|block| block["text"].as_str())
                    .collect::<Vec<_>>()
                    .join("\n");
                if !text.is_empty() {
                    answer = Some(text);
                }
            }
        }
        answer
    }
}

/// Not so where a crash left half a line.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(last == [b'\n'])
}

/// What follows `projects/<folder>/`: a file name, or one in the session's own folder. Nothing that leads out.
fn mirrored_path(file: &str) -> Option<PathBuf> {
    let after = file.rsplit_once("/projects/")?.1;
    let (_, relative) = after.split_once('/')?;
    let plain = Path::new(relative)
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    (plain && relative.ends_with(".jsonl")).then(|| PathBuf::from(relative))
}

/// claude's folder name for a directory.
fn munged(root: &Path) -> String {
    root.to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect()
}

/// A file name for a session's name, which may be any text.
pub fn name_hash(session: &str) -> String {
    let digest = Sha256::digest(session.as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file so that it is there as a whole or not at all, and on the disk when this returns.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(text)?;
    file.sync_data()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mirror_is_put_back_into_an_empty_home() {
        let state = tempfile::tempdir().unwrap();
        let home = tempfile::tempdir().unwrap();
        let open = |home: &Path| {
            Transcripts::open(
                state.path().into(),
                home.into(),
                "/srv/my.app".into(),
                Masker::new(["s3cret-s3cret"]),
            )
            .unwrap()
        };
        let mut transcripts = open(home.path());
        assert_eq!(transcripts.prepare("abc", "m1").unwrap(), Begun::Nothing);
        let entries = vec![
            json!({"uuid": "m1", "type": "user", "message": {"content": "s3cret-s3cret?"}}),
            json!({"uuid": "b1", "parentUuid": "m0", "type": "assistant", "message": {"content": [{"type": "text", "text": "no"}]}}),
            json!({"uuid": "a1", "parentUuid": "m1", "type": "assistant", "message": {"content": [{"type": "text", "text": "yes"}]}}),
            json!({"uuid": "b2", "parentUuid": "b1", "type": "assistant", "message": {"content": [{"type": "text", "text": "no"}]}}),
        ];
        transcripts.mirror("/root/.claude/projects/-srv-my-app/abc.jsonl", entries).unwrap();
        assert_eq!(transcripts.prepare("abc", "m1").unwrap(), Begun::Message);
        assert_eq!(transcripts.prepare("abc", "m2").unwrap(), Begun::Session);
        let text = std::fs::read_to_string(home.path().join("projects/-srv-my-app/abc.jsonl")).unwrap();
        assert!(text.contains("***") && !text.contains("s3cret-s3cret"));
        assert_eq!(transcripts.answer_to("abc", "m1").as_deref(), Some("yes"));
        assert_eq!(transcripts.answer_to("abc", "m2"), None);
        let mirror = state.path().join("abc.jsonl");
        let whole = std::fs::read_to_string(&mirror).unwrap();
        std::fs::write(&mirror, format!("{whole}{{\"uuid\":\"torn")).unwrap();
        transcripts
            .mirror("/root/.claude/projects/-srv-my-app/abc.jsonl", vec![json!({"uuid": "a2"})])
            .unwrap();
        transcripts.rest().unwrap();
        assert!(
            std::fs::read_to_string(&mirror).unwrap().ends_with("torn\n{\"uuid\":\"a2\"}\n"),
            "half a line spoils no other"
        );
        let record = transcripts.record("main/../x");
        transcripts.keep(&record).unwrap();
        assert_eq!(open(home.path()).record("main/../x"), record);
    }

    #[test]
    fn a_mirror_stays_in_its_directory() {
        assert_eq!(mirrored_path("/h/projects/-x/../../etc.jsonl"), None);
        assert_eq!(mirrored_path("/h/projects/-x/a/b.jsonl"), Some("a/b.jsonl".into()));
        assert_eq!(mirrored_path("x.jsonl"), None);
    }
}
