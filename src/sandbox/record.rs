//! What is remembered of a sandbox on this side: one file a sandbox, written whole or not at all, and a lock beside it.
//!
//! It holds what `status`, `logs`, `stop` need when they are given a name, and what a failed start may remove. Names of variables, never
//! values; addresses of repositories without what was before the `@`.

use super::fault::{Code, Fault};
use super::progress::StepDone;
use super::provider::Settings;
use crate::ordered::Order;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The form of the file.
const VERSION: u32 = 1;
/// Between two attempts to get the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What was made by us, and so may be removed by us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    /// The sandbox itself.
    pub sandbox: bool,
    /// The project's directory.
    pub checkout: bool,
    /// The directory with our binary.
    pub place: bool,
    /// A supervisor was started.
    pub supervisor: bool,
}

/// What is known of a sandbox. Fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The form of the file.
    pub version: u32,
    /// The sandbox's name.
    pub name: String,
    /// Where it is.
    pub provider: Settings,
    /// What the provider calls it; empty until it is made.
    #[serde(default)]
    pub id: String,
    /// Which of its lives the rest is about.
    #[serde(default)]
    pub session: String,
    /// The repository.
    #[serde(default)]
    pub repo: Option<String>,
    /// Its branch.
    #[serde(default)]
    pub branch: Option<String>,
    /// Who we are in there.
    #[serde(default)]
    pub user: String,
    /// The user's home.
    #[serde(default)]
    pub home: String,
    /// The project's directory.
    #[serde(default)]
    pub directory: String,
    /// Our own directory, with the binary in it.
    #[serde(default)]
    pub place: String,
    /// The supervisor's `--instance`.
    #[serde(default)]
    pub instance: String,
    /// What `up` was given.
    #[serde(default)]
    pub up: Vec<String>,
    /// The names of the variables that were handed over.
    #[serde(default)]
    pub variables: Vec<String>,
    /// What was made by us.
    #[serde(default)]
    pub made: Made,
    /// The dev server's port, where it was given or found out.
    #[serde(default)]
    pub port: Option<u16>,
    /// The health endpoint's port.
    #[serde(default)]
    pub health_port: Option<u16>,
    /// The preview.
    #[serde(default)]
    pub url: Option<String>,
    /// The health endpoint.
    #[serde(default)]
    pub health_url: Option<String>,
    /// When the provider ends it.
    #[serde(default)]
    pub expires_at: Option<jiff::Timestamp>,
    /// When it was asked for first.
    pub created_at: jiff::Timestamp,
    /// The steps of the last start that were done.
    #[serde(default)]
    pub steps: Vec<StepDone>,
    /// The last start came to its end.
    #[serde(default)]
    pub complete: bool,
    /// It was stopped on request, and not started since.
    #[serde(default)]
    pub stopped: bool,
    /// Why the last start failed.
    #[serde(default)]
    pub fault: Option<Fault>,
}

impl Record {
    /// Of a sandbox of which nothing is known but what was asked for.
    pub fn new(name: &str, provider: Settings, now: jiff::Timestamp) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            provider,
            id: String::new(),
            session: String::new(),
            repo: None,
            branch: None,
            user: String::new(),
            home: String::new(),
            directory: String::new(),
            place: String::new(),
            instance: String::new(),
            up: Vec::new(),
            variables: Vec::new(),
            made: Made::default(),
            port: None,
            health_port: None,
            url: None,
            health_url: None,
            expires_at: None,
            created_at: now,
            steps: Vec::new(),
            complete: false,
            stopped: false,
            fault: None,
        }
    }

    /// What runs our binary in there.
    pub fn binary(&self) -> String {
        format!("{}/sandkeep", self.place)
    }
}

/// The directory of the records.
#[derive(Clone, Debug)]
pub struct Records {
    directory: PathBuf,
}

/// Holds a sandbox's lock: nobody else starts or stops it.
#[derive(Debug)]
pub struct Held {
    _lock: File,
}

impl Records {
    /// The records in this directory, which is made when the first is written.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// Waits for the lock of a name.
    ///
    /// # Errors
    /// [`Code::Busy`] when another still has it after this time; [`Code::Record`] when it cannot be made.
    pub async fn hold(&self, name: &str, limit: Duration) -> Result<Held, Fault> {
        let path = self.directory.join(format!("{name}.lock"));
        let lock = self.make_directory().and_then(|()| {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(|error| fault("opening", &path, &error))
        })?;
        let end = std::time::Instant::now() + limit;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Held { _lock: lock }),
                Err(TryLockError::WouldBlock) if std::time::Instant::now() < end => tokio::time::sleep(LOCK_PAUSE).await,
                Err(TryLockError::WouldBlock) => {
                    return Err(Fault::new(
                        Code::Busy,
                        format!("another command starts or stops the sandbox `{name}` at this moment"),
                    )
                    .hint("wait for it to end, then try again"));
                }
                Err(TryLockError::Error(error)) => return Err(fault("locking", &path, &error)),
            }
        }
    }

    /// The record of a name; `None` if there is none.
    ///
    /// # Errors
    /// [`Code::Record`] when it cannot be read.
    pub fn load(&self, name: &str) -> Result<Option<Record>, Fault> {
        check_name(name)?;
        let path = self.file(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault("reading", &path, &error)),
        };
        let broken = |why: String| {
            Fault::new(Code::Record, format!("reading `{}`: {why}", path.display()))
                .hint("remove the file; `sandbox start` with the same name finds the sandbox again")
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if record.version > VERSION {
            return Err(broken(format!("version {} is newer than this program's {VERSION}", record.version)));
        }
        Ok(Some(record))
    }

    /// The record of a name.
    ///
    /// # Errors
    /// [`Code::NoSuchSandbox`] if there is none; [`Code::Record`] when it cannot be read.
    pub fn known(&self, name: &str) -> Result<Record, Fault> {
        self.load(name)?.ok_or_else(|| {
            Fault::new(Code::NoSuchSandbox, format!("no sandbox is called `{name}`"))
                .hint("`sandkeep sandbox list` shows those that were started from here")
        })
    }

    /// Writes a record, whole or not at all. The lock must be held.
    ///
    /// # Errors
    /// [`Code::Record`] when it cannot be written.
    pub fn save(&self, record: &Record) -> Result<(), Fault> {
        check_name(&record.name)?;
        self.make_directory()?;
        let path = self.file(&record.name);
        let new = self.directory.join(format!("{}.json.new", record.name));
        let text = serde_json::to_vec_pretty(record).map_err(|error| Fault::new(Code::Record, format!("writing a record: {error}")))?;
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|error| fault("writing", &path, &error))
    }

    /// Forgets a sandbox. The lock must be held.
    ///
    /// # Errors
    /// [`Code::Record`] when the file cannot be removed.
    pub fn forget(&self, name: &str) -> Result<(), Fault> {
        check_name(name)?;
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault("removing", &path, &error)),
            _ => Ok(()),
        }
    }

    /// All of them, by name. Files that cannot be read as a record are left out.
    ///
    /// # Errors
    /// [`Code::Record`] when the directory cannot be read.
    pub fn all(&self) -> Result<Vec<Record>, Fault> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fault("reading", &self.directory, &error)),
        };
        let mut records: Vec<Record> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                self.load(name.to_str()?.strip_suffix(".json")?).ok()?
            })
            .collect();
        records.order_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    fn make_directory(&self) -> Result<(), Fault> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(|error| fault("making", &self.directory, &error))
    }
}

/// Refuses what is no name, and so could be a path.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn check_name(name: &str) -> Result<(), Fault> {
    if crate::unit::Name::new(name).is_some() {
        return Ok(());
    }
    Err(Fault::new(Code::BadRequest, format!("`{name}` cannot be a sandbox's name"))
        .hint("letters, digits, `_`, `.`, `-`, at most 64, the first a letter or a digit"))
}

fn fault(act: &str, path: &Path, error: &io::Error) -> Fault {
    Fault::new(Code::Record, format!("{act} `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> (tempfile::TempDir, Records) {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().join("records"));
        (directory, records)
    }

    fn record(name: &str) -> Record {
        Record::new(
            name,
            Settings::Local { root: "/tmp/x".into() },
            jiff::Timestamp::from_second(1_700_000_000).unwrap(),
        )
    }

    #[test]
    fn what_is_saved_is_loaded_until_it_is_forgotten() {
        let (_directory, records) = records();
        assert_eq!(records.load("a").unwrap(), None);
        records.save(&record("b")).unwrap();
        records.save(&record("a")).unwrap();
        assert_eq!(records.load("a").unwrap(), Some(record("a")));
        let names: Vec<_> = records.all().unwrap().into_iter().map(|record| record.name).collect();
        assert_eq!(names, ["a", "b"]);
        records.forget("a").unwrap();
        records.forget("a").unwrap();
        assert_eq!(records.load("a").unwrap(), None);
    }

    #[test]
    fn a_name_is_no_path() {
        let (_directory, records) = records();
        for name in ["", "..", "a/b", ".hidden"] {
            assert_eq!(records.load(name).unwrap_err().code, Code::BadRequest, "{name}");
        }
    }

    #[test]
    fn half_a_record_and_one_of_the_future_are_refused() {
        let (_directory, records) = records();
        records.save(&record("a")).unwrap();
        fs::write(records.file("a"), "{\"version\":1").unwrap();
        assert_eq!(records.load("a").unwrap_err().code, Code::Record);
        let mut later = record("a");
        later.version = VERSION + 1;
        records.save(&later).unwrap();
        assert!(records.load("a").unwrap_err().message.contains("newer"));
    }

    #[tokio::test]
    async fn one_at_a_time_holds_a_name() {
        let (_directory, records) = records();
        let held = records.hold("a", Duration::ZERO).await.unwrap();
        records.hold("b", Duration::ZERO).await.unwrap();
        assert_eq!(records.hold("a", Duration::ZERO).await.unwrap_err().code, Code::Busy);
        drop(held);
        records.hold("a", Duration::from_secs(30)).await.unwrap();
    }
}
