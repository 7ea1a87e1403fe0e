//! What the supervisor hands a worker: the one type that the daemon writes and the workers read.

use super::config::{Agent, Config, Sync};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A worker's configuration, the JSON of `SANDKEEP_CONFIG_JSON`. Holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerConfig {
    /// `[project] id`; empty when there is none.
    pub project_id: String,
    /// `[project] root`, absolute.
    pub root: PathBuf,
    /// `[sandbox] id`; empty when there is none.
    pub sandbox_id: String,
    /// `[sandbox] expires_at`, seconds since the epoch.
    pub expires_at: Option<i64>,
    /// `[project] port`, where it is known.
    pub port: Option<u16>,
    /// Where the worker may keep its own files: stat index, queues.
    pub state_dir: PathBuf,
    /// `[sync]`, the store resolved.
    pub sync: Sync,
    /// `[agent]`.
    pub agent: Agent,
}

impl WorkerConfig {
    /// The variable that carries it.
    pub const VARIABLE: &str = "SANDKEEP_CONFIG_JSON";

    /// What of this configuration the workers are told.
    pub fn new(config: &Config, state_dir: &Path) -> Self {
        Self {
            project_id: config.project_id.clone(),
            root: config.root.clone(),
            sandbox_id: config.sandbox_id.clone(),
            expires_at: config.expires_at,
            port: config.port,
            state_dir: state_dir.to_owned(),
            sync: config.sync.clone(),
            agent: config.agent.clone(),
        }
    }

    /// The value of the variable.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("every map's key is a string")
    }

    /// Reads the value of the variable.
    ///
    /// # Errors
    /// What serde has to say about a text that is no such JSON.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_environment() {
        let mut config = Config::of_units(Vec::new());
        config.sync.store = Some("file:///store".to_owned());
        config.sync.settings.insert("max_file_size".to_owned(), "64MiB".into());
        config.agent.settings.insert("max_turns".to_owned(), 3.into());
        let written = WorkerConfig::new(&config, Path::new("/state"));
        let json = written.to_json();
        assert_eq!(WorkerConfig::from_json(&json).unwrap(), written);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["sync"]["store"], "file:///store");
        assert_eq!(value["sync"]["batch_interval"], "30s");
        assert_eq!(value["agent"]["command"], "claude");
        assert_eq!(value["agent"]["max_turns"], 3);
    }
}
