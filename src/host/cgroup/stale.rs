//! The tree of a supervisor that was killed: what is left in it.

use super::group::{self, Group};
use super::tree::{RECORD, unit_of};
use crate::supervisor::event::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What an earlier supervisor of this instance left behind.
#[derive(Debug, Default)]
pub(in crate::host) struct Stale {
    record: PathBuf,
    directory: Option<PathBuf>,
    groups: Vec<(String, Group)>,
}

impl Stale {
    /// Looks where the runtime directory says. A tree of an earlier boot is not there.
    pub(in crate::host) fn find(runtime: &Path) -> Self {
        let record = runtime.join(RECORD);
        let Ok(text) = fs::read_to_string(&record) else {
            return Self::default();
        };
        let directory = PathBuf::from(text.trim_end());
        let ours = directory.join("cgroup.procs").is_file()
            && directory
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("sandkeep-"));
        if !ours {
            return Self { record, ..Self::default() };
        }
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let groups = entries.filter_map(|entry| {
            let name = entry.file_name();
            let unit = unit_of(name.to_str()?)?.to_owned();
            Some((unit, Group::open(entry.path()).ok()?))
        });
        Self {
            record,
            groups: groups.collect(),
            directory: Some(directory),
        }
    }

    /// What is in it, each process with its unit.
    pub(in crate::host) fn processes(&self) -> Vec<(Pid, String)> {
        let of_group = |(unit, group): &(String, Group)| group.processes().into_iter().map(|pid| (pid, unit.clone())).collect::<Vec<_>>();
        self.groups.iter().flat_map(of_group).collect()
    }

    /// SIGKILL for everything in the groups in which none of the spared is.
    pub(in crate::host) fn kill(&self, spared: &BTreeSet<Pid>) {
        for (_, group) in &self.groups {
            if !group.processes().iter().any(|pid| spared.contains(pid)) {
                // Where the kernel cannot do it at once, the caller's own rounds do it one by one.
                group.kill(|_| ());
            }
        }
    }

    /// Takes the tree away, if nothing is in it any more.
    pub(in crate::host) fn remove(&self) {
        let gone = self.directory.as_ref().is_none_or(|directory| group::remove(directory).is_ok());
        if gone && !self.record.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.record);
        }
    }
}
