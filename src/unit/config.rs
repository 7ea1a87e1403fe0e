//! The whole of a `sandkeep.toml`, valid by type.

use super::spec::{Name, Unit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A checked configuration: what `up` runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from; `None` when it was made from flags or found out.
    pub file: Option<PathBuf>,
    /// SHA-256 of everything in it, hex: equal hashes mean equal behaviour.
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
    pub units: Vec<Unit>,
}

/// `[sync]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync {
    /// A store URL (`s3://…`, `file://…`); `None` = off.
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
}

/// `[agent]`. The agent worker checks the values of the keys that it alone knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// Path or name of the `claude` executable.
    pub command: String,
    /// Every other key as written.
    pub settings: toml::Table,
}
