//! The status document and its parts: what `GET /v1/status`, `/readyz` and `/healthz` answer, and what the client reads back.
//!
//! The names and shapes are a contract with the orchestrator: fields are added, never renamed. Times are RFC 3339 in UTC with
//! milliseconds.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

/// An instant of the wall clock; `2026-02-03T04:05:06.007Z` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-02-03T04:05:06.007Z")]
#[serde(transparent)]
pub struct Time(pub jiff::Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How the sandbox does as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Every required unit is ready and nothing else is wrong.
    Ok,
    /// A required unit is on its way to ready.
    Starting,
    /// The required units run, but an optional one failed, a required one does not answer or was stopped by hand, or sync lags or is
    /// fenced.
    Degraded,
    /// A required unit failed.
    Failed,
    /// It is shutting down.
    Stopping,
}

impl Status {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Starting => "starting",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }

    /// Whether `/healthz` answers 200.
    pub fn is_healthy(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

/// systemd's ActiveState, and `skipped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnitState {
    /// Nothing of it runs.
    #[default]
    Inactive,
    /// On its way up.
    Activating,
    /// Up.
    Active,
    /// Up, reading its configuration anew.
    Reloading,
    /// On its way down.
    Deactivating,
    /// Ended, and not started again by itself.
    Failed,
    /// A condition was not met.
    Skipped,
}

impl UnitState {
    /// Takes the supervisor's word; `None` for any other.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "inactive" => Self::Inactive,
            "activating" => Self::Activating,
            "active" => Self::Active,
            "reloading" => Self::Reloading,
            "deactivating" => Self::Deactivating,
            "failed" => Self::Failed,
            "skipped" => Self::Skipped,
            _ => return None,
        })
    }

    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Activating => "activating",
            Self::Active => "active",
            Self::Reloading => "reloading",
            Self::Deactivating => "deactivating",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// A unit in one word, as `/readyz` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// Something that it needs is not ready.
    Waiting,
    /// On its way.
    Starting,
    /// Ready.
    Ready,
    /// It was ready, and does not answer.
    Unready,
    /// A condition was not met.
    Skipped,
    /// Stopped by hand.
    Stopped,
    /// Failed.
    Failed,
}

impl Readiness {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Skipped => "skipped",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What the machine lets the supervisor do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capabilities {
    /// It is PID 1.
    pub pid1: bool,
    /// It adopts orphans.
    pub subreaper: bool,
    /// It is root.
    pub root: bool,
    /// It has a cgroup v2 subtree that it may write: each unit has a cgroup of its own. Else a unit's processes are found by session,
    /// descent and mark.
    pub cgroup2: bool,
    /// The controllers that units' cgroups have: of `cpu` (for `cpu_weight`), `memory` (`memory_max`), `pids` (`tasks_max`).
    #[serde(default)]
    pub cgroup_controllers: Vec<String>,
    /// Why there are no cgroups, or not all controllers, for people.
    #[serde(default)]
    pub cgroup_reason: Option<String>,
}

/// What keeps one unit's secrets from another unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SecretIsolation {
    /// Nothing that counts: a unit may become root.
    #[default]
    None,
    /// Environments alone: units run as the same user.
    SameUid,
    /// Users of their own.
    SeparateUid,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BoxFacts {
    /// Memory in use.
    pub memory_bytes: u64,
    /// Memory there is, or may be used.
    pub memory_total: u64,
    /// Free space where the project is.
    pub disk_free: u64,
    /// Processes that the kernel's OOM killer ended since the start.
    pub oom_kills: u64,
}

/// How a unit's main process last ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastExit {
    /// Its exit code, if it exited.
    pub code: Option<u8>,
    /// The number of the signal that killed it.
    pub signal: Option<i32>,
    /// systemd's Result: `success exit-code signal core-dump timeout watchdog oom-kill start-limit-hit resources`.
    pub reason: String,
    /// When.
    pub at: Time,
    /// Why, in the process's own words, where the exit failed: its last line that says it is an error, else the last one on stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A port that a unit's own processes listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// The port.
    pub port: u16,
    /// The address.
    pub address: String,
}

/// A unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// `simple`, `notify` or `oneshot`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// systemd's ActiveState, and `skipped`.
    pub state: UnitState,
    /// `waiting start-pre start ready-wait running exited stop-term stop-kill auto-restart dead`.
    pub sub_state: String,
    /// Why it is in this state, for people.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether the sandbox is not ready without it.
    pub required: bool,
    /// The main process.
    pub pid: Option<i32>,
    /// Its run, counted from 1.
    pub invocation: u64,
    /// Since when it has been in this state.
    pub since: Option<Time>,
    /// How often it was started again by itself.
    pub restarts: u64,
    /// How its main process last ended.
    pub last_exit: Option<LastExit>,
    /// Found, not configured.
    pub ports: Vec<Port>,
    /// Memory of all its processes.
    pub memory_bytes: Option<u64>,
    /// CPU time of all its processes; with a cgroup also of those that are gone.
    pub cpu_usec: Option<u64>,
    /// Processes of it that the kernel's OOM killer ended; `null` where the kernel does not count that by unit.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// What it does without: limits that cannot be enforced here, rights that cannot be had. For people.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it last said with `STATUS=`.
    pub status_text: Option<String>,
    /// `startup`, `readiness`, `liveness` → `passing`, `failing` or `unknown`.
    pub probes: BTreeMap<String, String>,
}

/// What a person who opens the preview would see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// `ready compiling loopback_only wrong_owner port_drift crashed off`.
    pub state: String,
    /// The dev server's port.
    pub port: Option<u16>,
    /// Why it is not ready, and what to do.
    pub reason: Option<String>,
}

impl Default for Preview {
    fn default() -> Self {
        Self {
            state: "off".into(),
            port: None,
            reason: None,
        }
    }
}

/// The sync worker's part, in its own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SyncPart {
    /// `off restoring idle uploading held fenced offline`.
    pub state: String,
    /// Counts what was brought to the store.
    pub generation: u64,
    /// Changes that are not in the store yet.
    pub pending: u64,
    /// The age of the oldest of them.
    pub oldest_unsynced_ms: u64,
    /// Files that changed and are left out by the rules.
    pub excluded_changed: u64,
    /// The last upload.
    pub last_upload_at: Option<String>,
    /// Files in the store.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
    /// Errors since the start.
    pub errors: u64,
    /// Whatever else the worker says.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Default for SyncPart {
    fn default() -> Self {
        Self {
            state: "off".into(),
            generation: 0,
            pending: 0,
            oldest_unsynced_ms: 0,
            excluded_changed: 0,
            last_upload_at: None,
            files: 0,
            bytes: 0,
            errors: 0,
            more: BTreeMap::new(),
        }
    }
}

impl SyncPart {
    /// A lag over this is a degraded sandbox.
    pub const LAG_LIMIT_MS: u64 = 5 * 60 * 1000;

    /// Whether files are not being kept as they should.
    pub fn is_degraded(&self) -> bool {
        self.state == "fenced" || self.oldest_unsynced_ms > Self::LAG_LIMIT_MS
    }
}

/// The agent worker's part, in its own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AgentPart {
    /// `off idle running requires_action retrying stalled`.
    pub state: String,
    /// The prompts that run.
    pub running: Vec<serde_json::Value>,
    /// Prompts that wait.
    pub queued: u64,
    /// Prompts that ended well.
    pub done: u64,
    /// Prompts that did not.
    pub failed: u64,
    /// Whatever else the worker says.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Default for AgentPart {
    fn default() -> Self {
        Self {
            state: "off".into(),
            running: Vec::new(),
            queued: 0,
            done: 0,
            failed: 0,
            more: BTreeMap::new(),
        }
    }
}

/// Everything: `GET /v1/status`, and what `[report]` pushes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusDocument {
    /// `[project] id`.
    pub project: String,
    /// `[sandbox] id`, or the hostname.
    pub sandbox: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The supervisor's version.
    pub version: String,
    /// Equal hashes mean equal behaviour.
    pub config_hash: String,
    /// The supervisor's pid.
    pub pid: i32,
    /// When the supervisor started; an upgrade in place is no start.
    pub started_at: Time,
    /// How the last upgrade in place went, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// When the sandbox ends.
    pub expires_at: Option<Time>,
    /// How the sandbox does as a whole.
    pub status: Status,
    /// Whether every required unit is ready.
    pub ready: bool,
    /// What the machine lets the supervisor do.
    pub capabilities: Capabilities,
    /// What keeps one unit's secrets from another unit.
    pub secret_isolation: SecretIsolation,
    /// Why it is not more, for people; empty for `separate-uid`.
    #[serde(default)]
    pub secret_isolation_reason: String,
    /// The machine.
    #[serde(rename = "box")]
    pub machine: BoxFacts,
    /// The units, in start order.
    pub units: Vec<UnitStatus>,
    /// What a person who opens the preview would see.
    pub preview: Preview,
    /// The sync worker's part.
    pub sync: SyncPart,
    /// The agent worker's part.
    pub agent: AgentPart,
}

/// An upgrade in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// When it ended.
    pub at: Time,
    /// The version before.
    pub from: String,
    /// The version after; where it was taken back, the one that did not come up.
    pub to: String,
    /// The binary's path.
    pub binary: String,
    /// The binary's SHA-256, hex.
    pub sha256: String,
    /// How many have succeeded since the supervisor started.
    pub count: u64,
    /// Why it was taken back; then the supervisor is what it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Upgrade {
    /// One at this time of which nothing is known yet.
    pub fn begun(at: Time) -> Self {
        Self {
            at,
            from: String::new(),
            to: String::new(),
            binary: String::new(),
            sha256: String::new(),
            count: 0,
            error: None,
        }
    }
}

/// `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readyz {
    /// Whether every required unit is ready.
    pub ready: bool,
    /// Every unit in one word.
    pub units: BTreeMap<String, Readiness>,
}

/// `GET /healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Healthz {
    /// How the sandbox does as a whole.
    pub status: Status,
    /// Every unit in short.
    pub units: Vec<HealthzUnit>,
}

/// A unit as `/healthz` gives it: nothing that must be hidden from who has no token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthzUnit {
    /// Its name.
    pub name: String,
    /// In one word.
    pub state: Readiness,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether the sandbox is not ready without it.
    pub required: bool,
}

/// `GET /livez`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Livez {
    /// Always true.
    pub alive: bool,
}
