//! What this claude can do. It says so only with the first prompt of a process, so it is remembered for each version.

use super::transcript::replace;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The capability of a CLI whose results name the messages that they answer.
const MESSAGE_LIFECYCLE: &str = "msg_lifecycle";

/// Capabilities by version.
#[derive(Debug)]
pub struct Features {
    path: PathBuf,
    known: BTreeMap<String, Vec<String>>,
}

impl Features {
    /// Reads what was found out before.
    pub fn open(path: PathBuf) -> Self {
        let known = std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Self { path, known }
    }

    /// Whether results have to be taken in order, since they do not say what they answer. Unknown versions count as such: a result that
    /// does name its message is matched by that anyway.
    pub fn fifo(&self, version: &str) -> bool {
        let capabilities = self.known.get(version).map(Vec::as_slice).unwrap_or_default();
        !capabilities.iter().any(|capability| capability.starts_with(MESSAGE_LIFECYCLE))
    }

    /// Remembers what a version said of itself.
    pub fn learn(&mut self, version: String, capabilities: Vec<String>) -> io::Result<()> {
        if self.known.get(&version) == Some(&capabilities) {
            return Ok(());
        }
        self.known.insert(version, capabilities);
        replace(&self.path, &serde_json::to_vec(&self.known).unwrap_or_default())
    }
}

/// Asks claude for its version; `None` = it does not say one.
pub async fn version(program: &Path) -> Option<String> {
    let asked = Command::new(program)
        .arg("--version")
        .env("DISABLE_AUTOUPDATER", "1")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), asked).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_whitespace().next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("features.json");
        let mut features = Features::open(path.clone());
        assert!(features.fifo("2.1.330"));
        features.learn("2.1.330".into(), vec!["msg_lifecycle_v1".into()]).unwrap();
        assert!(!Features::open(path.clone()).fifo("2.1.330"));
        assert!(Features::open(path).fifo("2.1.197"));
    }
}
