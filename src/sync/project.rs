//! One project as the workers see it: its tree, its rules, its store, its own directory for state.

use super::beneath::Root;
use super::credentials::Source;
use super::error::SyncError;
use super::git::Git;
use super::rules::{Rules, Settings};
use super::store::address::Address;
use super::store::file::FileStore;
use super::store::s3::S3Store;
use super::store::{Store, StoreError};
use crate::unit::WorkerConfig;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A project, opened.
#[derive(Debug)]
pub struct Project {
    /// Its id, the prefix in the store.
    pub id: String,
    /// This box's id, for people.
    pub sandbox: String,
    /// Its tree.
    pub root: Root,
    /// Which files are kept.
    pub rules: Rules,
    /// Where they are kept.
    pub store: Arc<dyn Store>,
    /// Its Git repository, where there is one.
    pub git: Option<Git>,
    /// Where the stat index and the intent log are.
    pub state: PathBuf,
    /// The box's state directory, of which transcripts and postmortems are kept too.
    pub beside: PathBuf,
    /// Files that make a batch.
    pub batch_files: usize,
    /// Time that makes a batch.
    pub batch_interval: Duration,
    /// When the box will be taken away, seconds since the epoch.
    pub expires_at: Option<i64>,
}

impl Project {
    /// Opens a project. Makes no request. `None` when there is no store.
    pub fn open(config: &WorkerConfig, look_up: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, SyncError> {
        let unusable = |error: &dyn std::fmt::Display| SyncError::Config(error.to_string());
        let address = match config.sync.store.as_deref().filter(|store| !store.is_empty()) {
            Some(url) => Some(Address::parse(url).map_err(|error| unusable(&error))?),
            None => Address::from_variables(&look_up).map_err(|error| unusable(&error))?,
        };
        let Some(address) = address else { return Ok(None) };
        if config.project_id.is_empty() {
            return Err(SyncError::Config(
                "there is a store but no project id: set SANDKEEP_PROJECT_ID or [project] id".into(),
            ));
        }
        let address = address.for_project(&config.project_id).map_err(|error| unusable(&error))?;
        let root = Root::open(&config.root).map_err(|error| SyncError::Local {
            act: "opening the project's directory",
            path: config.root.display().to_string(),
            error,
        })?;
        let settings = Settings {
            include: config.sync.include.clone(),
            exclude: config.sync.exclude.clone(),
            env_files: config.sync.env_files,
        };
        let mut rules = Rules::new(&settings).map_err(|error| unusable(&error))?;
        let git = Git::find(root.path());
        if let Some(git) = &git {
            rules.set_tracked(git.tracked());
        }
        let state = state_directory(&config.state_dir, &config.project_id, root.path(), &address)?;
        Ok(Some(Self {
            id: config.project_id.clone(),
            sandbox: if config.sandbox_id.is_empty() {
                host_name()
            } else {
                config.sandbox_id.clone()
            },
            rules,
            store: connect(address, &look_up)?,
            git,
            state,
            beside: config.state_dir.clone(),
            root,
            batch_files: config.sync.batch_files as usize,
            batch_interval: config.sync.batch_interval,
            expires_at: config.expires_at,
        }))
    }

    /// The stat index.
    pub fn index_path(&self) -> PathBuf {
        self.state.join("index")
    }

    /// The intent log.
    pub fn log_path(&self) -> PathBuf {
        self.state.join("intents")
    }

    /// Makes sure that nobody else works on the same state.
    pub fn lock(&self) -> Result<Flock<File>, SyncError> {
        let path = self.state.join("lock");
        let failed = |error| SyncError::Local {
            act: "locking",
            path: path.display().to_string(),
            error,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| SyncError::Busy)
    }

    /// Asks Git anew what it tracks.
    pub fn refresh_tracked(&mut self) {
        if self.git.is_none() {
            self.git = Git::find(self.root.path());
        }
        if let Some(git) = &mut self.git
            && git.index_changed()
        {
            self.rules.set_tracked(git.tracked());
        }
    }
}

/// Opens the store at an address.
pub fn connect(address: Address, look_up: impl Fn(&str) -> Option<String>) -> Result<Arc<dyn Store>, SyncError> {
    Ok(match address {
        Address::File(path) => Arc::new(FileStore::open(&path)?),
        Address::S3 {
            bucket,
            prefix,
            endpoint,
            region,
        } => {
            let source = Source::from_variables(look_up).map_err(|error| StoreError::Denied(error.to_string()))?;
            Arc::new(S3Store::new(bucket, prefix, endpoint, region, source))
        }
    })
}

fn state_directory(state: &Path, id: &str, root: &Path, address: &Address) -> Result<PathBuf, SyncError> {
    // The same project in two directories, or against two stores, has two indexes.
    let place = super::content::Digest::of(format!("{}\0{address:?}", root.display()).as_bytes()).to_string();
    let path = state.join("sync").join(format!("{}-{}", id.replace('/', "_"), &place[..12]));
    let failed = |error| SyncError::Local {
        act: "making the state directory",
        path: path.display().to_string(),
        error,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(failed)?;
    Ok(path)
}

fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".into(), |name| name.to_string_lossy().into_owned())
}
