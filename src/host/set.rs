//! Which processes belong to a run: the process set. The seam behind which cgroups stand beside the sessions.

use super::proc::Process;
use super::runs::{Key, Runs};
use super::sessions::Sessions;
use crate::supervisor::event::Pid;

/// How processes are found to belong to a run.
#[derive(Debug)]
pub(super) enum ProcessSet {
    /// Sessions, descent, environment and mark.
    Sessions(Sessions),
}

impl ProcessSet {
    /// A mark for a new run, where marks can be used.
    pub(super) fn mark(&mut self, runs: &Runs) -> Option<u64> {
        match self {
            Self::Sessions(sessions) => sessions.mark(runs),
        }
    }

    /// A process of the run was started, and began a session.
    pub(super) fn started(&mut self, key: &Key, pid: Pid) {
        match self {
            Self::Sessions(sessions) => sessions.started(key, pid),
        }
    }

    /// The living processes of a run that we do not hold.
    pub(super) fn others(&mut self, runs: &mut Runs, key: &Key, freshness: Freshness) -> Vec<Process> {
        match self {
            Self::Sessions(sessions) => sessions.others(runs, key, freshness),
        }
    }

    /// The living processes of a session that one of ours began, without those that we hold.
    pub(super) fn in_session(&mut self, runs: &mut Runs, session: Pid) -> Vec<Process> {
        match self {
            Self::Sessions(sessions) => sessions.in_session(runs, session),
        }
    }

    /// The run that a process belongs to; of one that is gone, as far as it is remembered.
    pub(super) fn owner(&mut self, runs: &mut Runs, pid: Pid) -> Option<Key> {
        match self {
            Self::Sessions(sessions) => sessions.owner(runs, pid),
        }
    }

    /// Of these runs, those that nothing is left of.
    pub(super) fn emptied(&mut self, runs: &mut Runs, keys: Vec<Key>) -> Vec<Key> {
        match self {
            Self::Sessions(sessions) => sessions.emptied(runs, keys),
        }
    }

    /// Everything that descends from us and lives.
    pub(super) fn descendants(&mut self, runs: &mut Runs) -> Vec<Process> {
        match self {
            Self::Sessions(sessions) => sessions.descendants(runs),
        }
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
