//! From the surroundings of a process to a running worker.

use super::claude::{self, Key, Surroundings};
use super::door;
use super::inbox::Inbox;
use super::inbox::convex::{self, Convex};
use super::inbox::local::Local;
use super::outbox::{Outbox, OutboxError};
use super::probe::{self, Features};
use super::settings::{Settings, SettingsError};
use super::transcript::Transcripts;
use super::worker::{self, Parts, WorkerError};
use crate::host::mask::Masker;
use crate::tasks;
use crate::unit::WorkerConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// What the agent is trusted with. Taken out of the environment as soon as the process starts.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// By name.
    pub values: BTreeMap<String, String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Secrets {
    /// The variables that are taken.
    pub const NAMES: [&str; 4] = [
        "ANTHROPIC_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "SANDBOX_TOKEN",
        "ANTHROPIC_AUTH_TOKEN",
    ];

    fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn key(&self) -> Option<Key> {
        let api = self.value("ANTHROPIC_API_KEY").map(|key| Key::Api(key.to_owned()));
        api.or_else(|| self.value("CLAUDE_CODE_OAUTH_TOKEN").map(|token| Key::OAuth(token.to_owned())))
    }
}

/// What the process was given.
#[derive(Clone, Debug)]
pub struct Given {
    /// The configuration.
    pub config: WorkerConfig,
    /// The secrets.
    pub secrets: Secrets,
    /// Everything else.
    pub environment: BTreeMap<OsString, OsString>,
    /// The supervisor's control socket, where there is one.
    pub control: Option<PathBuf>,
    /// Where to listen.
    pub door: PathBuf,
}

/// Starting the worker: why it did not start, or what ended it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `[agent]` is wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no claude.
    #[error("the agent needs Claude Code, but there is no executable `{command}`")]
    NoClaude {
        /// What was looked for.
        command: String,
    },
    /// Convex is half configured.
    #[error("CONVEX_URL is set, but {missing} is not")]
    Convex {
        /// What is missing.
        missing: &'static str,
    },
    /// Another agent has this state.
    #[error("another agent works with {}", .0.display())]
    Locked(PathBuf),
    /// Files.
    #[error("{act} {}: {source}", .path.display())]
    Files {
        /// What was being done.
        act: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// It ran, and ended.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl RunError {
    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoClaude { .. } => Some("`npm install -g @anthropic-ai/claude-code`, or set [agent] command to where it is"),
            Self::Convex { .. } => Some("the app gives each sandbox both; unset CONVEX_URL to do without Convex"),
            Self::Settings(_) | Self::Locked(_) | Self::Files { .. } | Self::Outbox(_) | Self::Worker(_) => None,
        }
    }

    /// Whether another start would end the same.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::NoClaude { .. } | Self::Convex { .. })
    }
}

/// Runs the worker until it is told to end.
pub async fn run(given: Given) -> Result<(), RunError> {
    let table = agent_table(&given.config);
    let settings = Settings::read(table)?;
    let variable = |name: &str| given.environment.get(OsStr::new(name));
    let program = claude::find_program(&settings.command, variable("PATH").map(OsString::as_os_str)).ok_or_else(|| RunError::NoClaude {
        command: settings.command.clone(),
    })?;
    let directory = given.config.state_dir.join("agent");
    make(&directory)?;
    let _lock = lock(&directory)?;
    let home = variable("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let config_dir = settings.config_dir.clone().unwrap_or_else(|| home.join(".claude"));
    let masker = masker(&given);
    let transcripts_dir = given.config.state_dir.join("transcripts");
    let transcripts = Transcripts::open(
        transcripts_dir.clone(),
        config_dir.clone(),
        given.config.root.clone(),
        masker.clone(),
    )
    .map_err(files("making the directory", &transcripts_dir))?;
    let (notice, notices) = mpsc::unbounded_channel();
    let outbox_dir = directory.join("outbox");
    let outbox = Outbox::open(&outbox_dir, masker.clone())?;
    let prompts = directory.join("prompts");
    let local = Local::open(&prompts, notice.clone()).map_err(files("reading the queue", &prompts))?;
    outbox
        .prune(|id| local.entry(id).is_some() || convex::undelivered(&directory, id))
        .map_err(files("tidying", &outbox_dir))?;
    let convex = convex_inbox(&given, &directory, notice)?;
    let (knock, knocks) = mpsc::unbounded_channel();
    let listener = door::bind(&given.door).map_err(files("listening on", &given.door))?;
    let serving = tasks::spawn(door::serve(listener, knock, settings.max_prompt_bytes));
    let version = probe::version(&program).await;
    let own_binary = std::env::current_exe().map_err(files("finding", Path::new("/proc/self/exe")))?;
    let parts = Parts {
        version,
        features: Features::open(directory.join("features.json")),
        surroundings: Surroundings {
            program,
            root: given.config.root.clone(),
            config_dir,
            own_binary,
            key: given.secrets.key(),
            environment: given.environment,
        },
        settings,
        directory,
        control: given.control,
        transcripts,
        outbox,
        local,
        convex,
        notices,
        knocks,
        masker,
    };
    let ended = worker::run(parts).await;
    serving.abort();
    let _ = std::fs::remove_file(&given.door);
    Ok(ended?)
}

fn agent_table(config: &WorkerConfig) -> serde_json::Value {
    let mut table = serde_json::to_value(&config.agent.settings).unwrap_or_default();
    table["command"] = config.agent.command.clone().into();
    table
}

fn convex_inbox(
    given: &Given,
    directory: &Path,
    notices: mpsc::UnboundedSender<super::inbox::Notice>,
) -> Result<Option<Box<dyn Inbox>>, RunError> {
    let variable = |name: &str| {
        given
            .environment
            .get(OsStr::new(name))
            .and_then(|value| value.to_str())
            .filter(|value| !value.is_empty())
    };
    let Some(url) = variable("CONVEX_URL") else { return Ok(None) };
    let Some(token) = given.secrets.value("SANDBOX_TOKEN") else {
        return Err(RunError::Convex { missing: "SANDBOX_TOKEN" });
    };
    let sandbox = if given.config.sandbox_id.is_empty() {
        variable("SANDBOX_ID").unwrap_or_default()
    } else {
        &given.config.sandbox_id
    };
    if sandbox.is_empty() {
        return Err(RunError::Convex { missing: "SANDBOX_ID" });
    }
    let account = convex::Account {
        url: url.trim_end_matches('/').to_owned(),
        sandbox: sandbox.to_owned(),
        token: token.to_owned(),
    };
    let convex = Convex::start(account, directory, notices).map_err(files("preparing Convex's inbox in", directory))?;
    Ok(Some(Box::new(convex)))
}

fn make(directory: &Path) -> Result<(), RunError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(files("making the directory", directory))
}

/// One agent for one state: the lock goes with the process.
fn lock(directory: &Path) -> Result<std::fs::File, RunError> {
    let path = directory.join("lock");
    let file = std::fs::File::create(&path).map_err(files("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(RunError::Locked(directory.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(files("locking", &path)(source)),
    }
}

fn files<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RunError + 'a {
    move |source| RunError::Files {
        act,
        path: path.to_owned(),
        source,
    }
}

/// Hides the agent's own secrets, and those in the project's `.env` files, which any tool may print.
fn masker(given: &Given) -> Masker {
    let own = given.secrets.values.values().cloned();
    Masker::new(own.chain(env_file_secrets(&given.config.root)))
}

fn env_file_secrets(root: &Path) -> Vec<String> {
    let files = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let env_files = files.filter(|path| {
        path.file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.starts_with(".env"))
    });
    let texts = env_files.filter_map(|path| std::fs::read_to_string(path).ok());
    texts
        .flat_map(|text| text.lines().filter_map(secret_of_line).collect::<Vec<_>>())
        .collect()
}

fn secret_of_line(line: &str) -> Option<String> {
    const WORDS: [&str; 7] = ["KEY", "SECRET", "TOKEN", "PASSWORD", "PASSWD", "CREDENTIAL", "DATABASE_URL"];
    let (name, value) = line.trim().trim_start_matches("export ").split_once('=')?;
    let name = name.trim().to_ascii_uppercase();
    let value = value.trim().trim_matches(['"', '\'']);
    (WORDS.iter().any(|word| name.contains(word)) && !name.starts_with("NEXT_PUBLIC_") && value.len() >= 8).then(|| value.to_owned())
}
