//! The runs of units and the processes that are known to belong to them.

use super::sys::Handle;
use crate::supervisor::event::{ExitStatus, Invocation, Pid, Stage};
use crate::unit::Name;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A run of a unit.
pub(super) type Key = (Name, Invocation);

/// What a process that we started is to its unit.
#[derive(Debug)]
pub(super) enum Role {
    /// The command of a stage; its end is told to the supervisor.
    Stage(Stage),
    /// Was the main process until another one took its place.
    Former,
    /// A probe's command; its end is told to who asked.
    Probe(oneshot::Sender<ExitStatus>),
}

/// A process that we hold.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) handle: Handle,
    pub(super) role: Role,
    /// Whether it was started by somebody else: a main process that was named with `MAINPID=`.
    pub(super) foreign: bool,
}

/// What is wanted once nothing of a run is left.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) kill: bool,
    pub(super) since: Instant,
    /// When to look, and kill, again; `None` when the end of a child of ours will tell.
    pub(super) next: Option<Instant>,
    pub(super) wait: Duration,
}

impl Pending {
    /// Between the first two rounds of killing; doubled from one to the next.
    const FIRST_ROUND: Duration = Duration::from_millis(5);

    /// The first look is at once.
    pub(super) fn begin(kill: bool, now: Instant) -> Self {
        Self {
            kill,
            since: now,
            next: Some(now),
            wait: Self::FIRST_ROUND,
        }
    }
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    /// `SANDKEEP_INVOCATION_ID`.
    pub(super) id: String,
    /// Marks its processes in a resource limit; see `set`.
    pub(super) mark: Option<u64>,
    /// Nearly always one.
    pub(super) tracked: Vec<Tracked>,
    /// Processes that were found to be its own: start time by pid.
    pub(super) seen: HashMap<Pid, u64>,
    pub(super) pending: Option<Pending>,
    pub(super) main_exit: Option<ExitStatus>,
    /// Whether we sent SIGKILL to it.
    pub(super) killed: bool,
    /// What its cgroup's count of OOM kills was when it began, or when it was last told.
    pub(super) oom_kills: Option<u64>,
}

impl Run {
    pub(super) fn new(mark: Option<u64>) -> Self {
        Self {
            id: uuid::Uuid::new_v4().simple().to_string(),
            mark,
            tracked: Vec::new(),
            seen: HashMap::new(),
            pending: None,
            main_exit: None,
            killed: false,
            oom_kills: None,
        }
    }

    /// The pids of those that we hold.
    pub(super) fn pids(&self) -> impl Iterator<Item = Pid> {
        self.tracked.iter().map(|tracked| tracked.handle.pid)
    }

    /// The one of this pid.
    pub(super) fn tracked(&self, pid: Pid) -> Option<&Tracked> {
        self.tracked.iter().find(|tracked| tracked.handle.pid == pid)
    }

    /// The pid of the process that runs the command of a stage.
    pub(super) fn process(&self, stage: Stage) -> Option<&Tracked> {
        self.tracked
            .iter()
            .find(|tracked| matches!(tracked.role, Role::Stage(of) if of == stage))
    }
}

/// All runs that may have processes, and the way from a process to its run.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) all: BTreeMap<Key, Run>,
    by_pid: HashMap<Pid, Key>,
    by_id: HashMap<String, Key>,
    by_mark: HashMap<u64, Key>,
}

impl Runs {
    /// The run, made if it is new. Earlier runs of the unit that nothing is left of are forgotten then.
    pub(super) fn begin(&mut self, key: &Key, mark: impl FnOnce(&Self) -> Option<u64>) -> &mut Run {
        if !self.all.contains_key(key) {
            self.forget(|other, run| other.0 == key.0 && run.tracked.is_empty() && run.pending.is_none());
            let mark = mark(self);
            self.insert(key.clone(), Run::new(mark));
        }
        self.all.get_mut(key).expect("it is there or was put there")
    }

    /// Adds a run.
    pub(super) fn insert(&mut self, key: Key, run: Run) {
        self.by_id.insert(run.id.clone(), key.clone());
        if let Some(mark) = run.mark {
            self.by_mark.insert(mark, key.clone());
        }
        self.all.insert(key, run);
    }

    /// Forgets the runs of which this is true.
    pub(super) fn forget(&mut self, done: impl Fn(&Key, &Run) -> bool) {
        let gone: Vec<Key> = self
            .all
            .iter()
            .filter(|(key, run)| done(key, run))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some(run) = self.all.remove(&key) {
                self.by_id.remove(&run.id);
                run.mark.map(|mark| self.by_mark.remove(&mark));
                for pid in run.pids() {
                    self.by_pid.remove(&pid);
                }
            }
        }
    }

    /// Holds a process from here on.
    pub(super) fn track(&mut self, key: &Key, tracked: Tracked) {
        let pid = tracked.handle.pid;
        if let Some(run) = self.all.get_mut(key) {
            self.by_pid.insert(pid, key.clone());
            run.tracked.retain(|other| other.handle.pid != pid);
            run.tracked.reserve_exact(1);
            run.tracked.push(tracked);
        }
    }

    /// Lets go of a process that has ended.
    pub(super) fn release(&mut self, pid: Pid) -> Option<(Key, Tracked)> {
        let key = self.by_pid.remove(&pid)?;
        let held = &mut self.all.get_mut(&key)?.tracked;
        let place = held.iter().position(|tracked| tracked.handle.pid == pid)?;
        let tracked = held.remove(place);
        Some((key, tracked))
    }

    /// The run that a held process belongs to.
    pub(super) fn of_pid(&self, pid: Pid) -> Option<&Key> {
        self.by_pid.get(&pid)
    }

    /// The run with this `SANDKEEP_INVOCATION_ID`.
    pub(super) fn of_id(&self, id: &str) -> Option<&Key> {
        self.by_id.get(id)
    }

    /// The run with this mark.
    pub(super) fn of_mark(&self, mark: u64) -> Option<&Key> {
        self.by_mark.get(&mark)
    }
}
