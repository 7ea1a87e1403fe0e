//! The whole of a `sandkeep.toml`, valid by type.

use super::spec::{Name, Unit};
use crate::ordered::IntoMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A checked configuration: what `up` runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The file it was read from; `None` when it was made from flags or found out.
    pub file: Option<PathBuf>,
    /// SHA-256 of everything in it but the file's name, hex: equal hashes mean equal behaviour.
    pub hash: String,
    /// `[project] id`: whose files these are; empty when there is none.
    pub project_id: String,
    /// `[project] root`, absolute.
    pub root: PathBuf,
    /// `[project] port`: the dev server's, where it is known.
    pub port: Option<u16>,
    /// `[sandbox] id`; empty = the hostname, for display alone.
    pub sandbox_id: String,
    /// `[sandbox] expires_at`, seconds since the epoch.
    pub expires_at: Option<i64>,
    /// `[health] listen`; `None` = off.
    pub listen: Option<SocketAddr>,
    /// `[health] token`; `None` = one is made.
    pub token: Option<String>,
    /// `[report] url`; `None` = off.
    pub report_url: Option<String>,
    /// `[journal] max_size`, bytes of one file of a unit.
    pub journal_max_size: u64,
    /// `[journal] keep`, rotated files of a unit.
    pub journal_keep: u32,
    /// `[shutdown] budget`; `None` = 30 s, or 8 s as PID 1 of a container.
    pub shutdown_budget: Option<Duration>,
    /// `[secrets] names`: patterns of variable names (`*` and `?`).
    pub secret_names: Vec<String>,
    /// `[sync]`, as the sync worker reads it.
    pub sync: Sync,
    /// `[agent]`, as the agent worker reads it.
    pub agent: Agent,
    /// `[control] allow`: what processes of a unit may ask for.
    pub allow: BTreeMap<Name, Vec<String>>,
    /// The units, in start order: each after all that it is ordered after.
    pub units: Vec<Arc<Unit>>,
}

impl Config {
    /// What matches is a secret unless `[secrets] names` says otherwise.
    pub const SECRET_NAMES: [&str; 8] = [
        "R2_*",
        "AWS_*",
        "ANTHROPIC_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CONVEX_DEPLOY_KEY",
        "SANDBOX_TOKEN",
        "SANDKEEP_*TOKEN",
        "VERCEL_OIDC_TOKEN",
    ];

    /// What processes of `agent` may ask for unless `[control] allow` says otherwise.
    pub const AGENT_ALLOW: [&str; 7] = ["status", "why", "logs", "wait", "restart:dev", "restart:install", "sync:flush"];

    /// Where it listens unless `[health] listen` says otherwise.
    pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7878);

    /// These units, which must be in start order, with every other setting at its default and the root `/`.
    pub fn of_units(units: Vec<Unit>) -> Self {
        let mut config = Self::without_hash(units);
        config.hash = config.digest();
        config
    }

    /// The same for who changes it afterwards: the hash is still to be taken.
    pub(super) fn without_hash(units: Vec<Unit>) -> Self {
        let agent_allow = Self::AGENT_ALLOW.map(str::to_owned).to_vec();
        Self {
            file: None,
            hash: String::new(),
            project_id: String::new(),
            root: PathBuf::from("/"),
            port: None,
            sandbox_id: String::new(),
            expires_at: None,
            listen: Some(Self::LISTEN),
            token: None,
            report_url: None,
            journal_max_size: 16 << 20,
            journal_keep: 4,
            shutdown_budget: None,
            secret_names: Self::SECRET_NAMES.map(str::to_owned).to_vec(),
            sync: Sync::default(),
            agent: Agent::default(),
            allow: Name::new("agent").map(|agent| (agent, agent_allow)).into_iter().into_map(),
            units: units.into_iter().map(Arc::new).collect(),
        }
    }

    /// The hash that belongs to what it holds. The file's name is left out.
    pub fn digest(&self) -> String {
        let content = Self {
            file: None,
            hash: String::new(),
            ..self.clone()
        };
        let mut digest = std::io::BufWriter::new(Digester(Sha256::new()));
        serde_json::to_writer(&mut digest, &content).expect("every map's key is a string");
        let Digester(digest) = digest.into_inner().expect("it takes everything");
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The unit of this name.
    pub fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.iter().map(|unit| &**unit).find(|unit| unit.name.as_str() == name)
    }
}

/// What is hashed need not be in memory as a whole.
#[derive(Debug)]
struct Digester(Sha256);

impl std::io::Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `[sync]`. Written and read as the table it is in the file, the store resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "toml::Table", try_from = "toml::Table")]
pub struct Sync {
    /// A store URL (`s3://…`, `file://…`); `None` = off. Never holds a key.
    pub store: Option<String>,
    /// Files after which a batch is sent. Default 10.
    pub batch_files: u32,
    /// Time after which a batch is sent. Default 30 s.
    pub batch_interval: Duration,
    /// Globs that are always kept.
    pub include: Vec<String>,
    /// Globs that are left out unless Git tracks them.
    pub exclude: Vec<String>,
    /// Whether `.env*` files are kept.
    pub env_files: bool,
    /// Whether uploads are held: `up --skip-restore`, since what is there may be half a project.
    pub hold: bool,
    /// Every other key as written; `sync_keys` has their names and types.
    pub settings: toml::Table,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            store: None,
            batch_files: 10,
            batch_interval: Duration::from_secs(30),
            include: Vec::new(),
            exclude: Vec::new(),
            env_files: false,
            hold: false,
            settings: toml::Table::new(),
        }
    }
}

/// `[agent]`. The agent worker checks the values of the keys that it alone knows. Written and read as the table it is in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "toml::Table", try_from = "toml::Table")]
pub struct Agent {
    /// Path or name of the `claude` executable.
    pub command: String,
    /// Every other key as written; `agent_keys` has their names and types.
    pub settings: toml::Table,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            command: "claude".to_owned(),
            settings: toml::Table::new(),
        }
    }
}

impl From<Agent> for toml::Table {
    fn from(Agent { command, settings }: Agent) -> Self {
        let mut table = settings;
        table.insert("command".to_owned(), command.into());
        table
    }
}

impl TryFrom<toml::Table> for Agent {
    type Error = String;

    fn try_from(mut table: toml::Table) -> Result<Self, String> {
        let command = take(&mut table, "command")?.unwrap_or_else(|| Self::default().command);
        Ok(Self { command, settings: table })
    }
}

impl From<Sync> for toml::Table {
    fn from(sync: Sync) -> Self {
        let Sync {
            store,
            batch_files,
            batch_interval,
            include,
            exclude,
            env_files,
            hold,
            settings,
        } = sync;
        let mut table = settings;
        if let Some(store) = store {
            table.insert("store".to_owned(), store.into());
        }
        table.insert("batch_files".to_owned(), i64::from(batch_files).into());
        table.insert("batch_interval".to_owned(), super::duration::format(batch_interval).into());
        table.insert("include".to_owned(), include.into());
        table.insert("exclude".to_owned(), exclude.into());
        table.insert("env_files".to_owned(), env_files.into());
        table.insert("hold".to_owned(), hold.into());
        table
    }
}

impl TryFrom<toml::Table> for Sync {
    type Error = String;

    fn try_from(mut table: toml::Table) -> Result<Self, String> {
        let default = Self::default();
        let interval = take::<String>(&mut table, "batch_interval")?;
        let batch_interval = match interval {
            Some(text) => super::duration::parse(&text).map_err(|why| format!("`batch_interval`: {why}"))?,
            None => default.batch_interval,
        };
        Ok(Self {
            store: take(&mut table, "store")?.filter(|store: &String| !store.is_empty()),
            batch_files: take(&mut table, "batch_files")?.unwrap_or(default.batch_files),
            batch_interval,
            include: take(&mut table, "include")?.unwrap_or_default(),
            exclude: take(&mut table, "exclude")?.unwrap_or_default(),
            env_files: take(&mut table, "env_files")?.unwrap_or_default(),
            hold: take(&mut table, "hold")?.unwrap_or_default(),
            settings: table,
        })
    }
}

fn take<T: serde::de::DeserializeOwned>(table: &mut toml::Table, key: &str) -> Result<Option<T>, String> {
    let value = table.remove(key);
    value
        .map(|value| value.try_into().map_err(|error| format!("`{key}`: {error}")))
        .transpose()
}
