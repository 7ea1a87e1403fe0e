//! Which processes belong to a run: the process set, on two rungs. A cgroup for each unit where that can be had; sessions, descent,
//! environment and mark everywhere: they also find who left its cgroup, as root may.

use super::cgroup::Tree;
use super::proc::{self, Process};
use super::runs::{Key, Runs};
use super::sessions::Sessions;
use crate::ordered::IntoMap;
use crate::supervisor::event::Pid;
use crate::unit::{Config, Limits};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// How processes are found to belong to a run.
#[derive(Debug)]
pub(super) struct ProcessSet {
    tree: Option<Tree>,
    sessions: Sessions,
}

impl ProcessSet {
    /// Process sets by cgroups, where there is a tree of them, and by sessions.
    pub(super) fn new(tree: Option<Tree>, sessions: Sessions) -> Self {
        Self { tree, sessions }
    }

    /// A mark for a new run, where marks can be used.
    pub(super) fn mark(&mut self, runs: &Runs) -> Option<u64> {
        self.sessions.mark(runs)
    }

    /// A run begins: it gets a cgroup, and the cgroup its limits. What could not be had, for people.
    pub(super) fn begin(&mut self, key: &Key, limits: &Limits) -> Vec<String> {
        let Some(tree) = &mut self.tree else { return Vec::new() };
        match tree.begin(key, limits) {
            Ok(refused) => refused,
            Err(why) => vec![format!("making its cgroup: {why}")],
        }
    }

    /// The same for a run that an earlier image of ours began: `path` is what [`ProcessSet::cgroup_path`] said then. `false` if that is
    /// not there any more.
    pub(super) fn adopt(&mut self, key: &Key, path: PathBuf) -> bool {
        self.tree.as_mut().is_some_and(|tree| tree.adopt(key, path).is_ok())
    }

    /// The directory of a run's cgroup, for its processes to be born in.
    pub(super) fn cgroup(&self, key: &Key) -> Option<BorrowedFd<'_>> {
        self.tree.as_ref()?.descriptor(key)
    }

    /// The path of the same.
    pub(super) fn cgroup_path(&self, key: &Key) -> Option<&Path> {
        self.tree.as_ref()?.path(key)
    }

    /// The run's processes could not be put into its cgroup: it does without.
    pub(super) fn do_without_cgroup(&mut self, key: &Key) {
        if let Some(tree) = &mut self.tree {
            tree.forget(key);
        }
    }

    /// Takes a configuration over: limits of what runs, and cgroups of units that are no more.
    pub(super) fn configure(&mut self, config: &Config) {
        let Some(tree) = &mut self.tree else { return };
        for refused in tree.limit(config) {
            tracing::warn!("{refused}");
        }
        tree.prune(|key| config.units.iter().any(|unit| unit.name == key.0));
    }

    /// How many processes of a run the OOM killer has ended; `None` where that is not counted. Only differences mean something.
    pub(super) fn oom_kills(&self, key: &Key) -> Option<u64> {
        self.tree.as_ref()?.oom_kills(key)
    }

    /// A process of the run was started, and began a session.
    pub(super) fn started(&mut self, key: &Key, pid: Pid) {
        self.sessions.started(key, pid);
    }

    /// The living processes of a run that we do not hold.
    pub(super) fn others(&mut self, runs: &mut Runs, key: &Key, freshness: Freshness) -> Vec<Process> {
        let Some(pids) = self.tree.as_ref().and_then(|tree| tree.processes(key)) else {
            return self.sessions.others(runs, key, freshness);
        };
        let members = pids.into_iter().filter(|pid| runs.of_pid(*pid).is_none());
        let members = members.filter_map(proc::process).filter(|process| !process.is_dead());
        let mut found = members.map(|process| (process.pid, process)).into_map();
        // Who left the cgroup is found by the older means, which cost more.
        if self.sessions.has_orphans(runs) {
            let others = self.sessions.others(runs, key, freshness);
            found.extend(others.into_iter().map(|process| (process.pid, process)));
        }
        found.into_values().collect()
    }

    /// SIGKILL for everything in the run's cgroup at once, where it has one.
    pub(super) fn kill(&self, key: &Key, signal_one: impl Fn(Pid)) {
        if let Some(tree) = &self.tree {
            tree.kill(key, signal_one);
        }
    }

    /// The living processes of a session that one of ours began, without those that we hold.
    pub(super) fn in_session(&mut self, runs: &mut Runs, session: Pid) -> Vec<Process> {
        self.sessions.in_session(runs, session)
    }

    /// The run that a process belongs to; of one that is gone, as far as it is remembered.
    pub(super) fn owner(&mut self, runs: &mut Runs, pid: Pid) -> Option<Key> {
        if let Some(key) = runs.of_pid(pid) {
            return Some(key.clone());
        }
        let Some(key) = self.tree.as_ref().and_then(|tree| tree.owner(pid)).cloned() else {
            return self.sessions.owner(runs, pid);
        };
        if let Some(process) = proc::process(pid) {
            self.sessions.remember(runs, &process, &key);
        }
        Some(key)
    }

    /// Of these runs, those that nothing is left of.
    pub(super) fn emptied(&mut self, runs: &mut Runs, keys: Vec<Key>) -> Vec<Key> {
        let mut emptied = self.sessions.emptied(runs, keys);
        if let Some(tree) = &self.tree {
            emptied.retain(|key| !tree.is_populated(key));
        }
        emptied
    }

    /// Whether somebody is in the run's cgroup of whose end no child of ours will tell: who came from outside, or is still on the way out.
    pub(super) fn lingers(&self, runs: &Runs, key: &Key) -> bool {
        let held = runs.all.get(key).is_some_and(|run| !run.tracked.is_empty());
        !held && self.tree.as_ref().is_some_and(|tree| tree.is_populated(key)) && !self.sessions.has_orphans(runs)
    }

    /// Whoever goes on with this process finds every cgroup as it is.
    pub(super) fn leave_as_it_is(&mut self) {
        std::mem::forget(self.tree.take());
    }

    /// What it knows beside cgroups, for the next image of this process.
    pub(super) fn hand_over(&self) -> serde_json::Value {
        self.sessions.hand_over()
    }

    /// Goes on with what an earlier image of this process knew.
    pub(super) fn take_over(&mut self, handed: serde_json::Value) {
        self.sessions.take_over(handed);
    }

    /// Everything that descends from us and lives.
    pub(super) fn descendants(&mut self, runs: &mut Runs) -> Vec<Process> {
        self.sessions.descendants(runs)
    }
}

/// How recent the view of /proc must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As good as now: shared between signals of one step.
    Recent,
    /// Read anew.
    Now,
}
