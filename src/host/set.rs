//! Which processes belong to a run: the process set.
//!
//! Without cgroups a set is put together from what a process cannot easily lose:
//!
//! - it is one that we started, or descends from one of the set;
//! - it is in a session that one of the set began (sessions are never left but by beginning another);
//! - it was seen to belong to the set before (pid and start time);
//! - its environment carries the run's `SANDKEEP_INVOCATION_ID`;
//! - its limit of POSIX message queues carries the run's mark. A limit is inherited over fork, exec, `setsid` and a cleared environment, so
//!   this finds the double-forked orphan that lost everything else. The mark lowers the limit (819200 bytes on every Linux) by less than
//!   4096 bytes.
//!
//! As subreaper we get every orphan. So whatever is left of a run, its topmost living ancestor is a child of ours: either one that we
//! started or one that we adopted. That makes "nothing is left" one look at our own children, exact and cheap; all of /proc is only read to
//! find whom to signal.

use super::proc::{self, Process};
use super::runs::{Key, Runs};
use crate::supervisor::event::Pid;
use nix::sys::resource::{Resource, getrlimit};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How old a picture of /proc may be to serve for another signal: a step of the supervisor stops many units at once.
const FRESH: Duration = Duration::from_millis(10);

/// Marks are this many below the limit that we were given; a limit that is no multiple of it is already marked by a supervisor above us.
const MARKS: u64 = 4096;

/// How processes are found to belong to a run. Cgroups come in here beside the sessions.
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

    /// A process of the run began a session, named by its own pid.
    pub(super) fn started(&mut self, key: &Key, pid: Pid) {
        match self {
            Self::Sessions(sessions) => {
                sessions.picture = None;
                sessions.of_session.insert(pid, key.clone());
            }
        }
    }

    /// The living processes of a run that we do not hold.
    pub(super) fn others(&mut self, runs: &mut Runs, key: &Key, freshness: Freshness) -> Vec<Process> {
        match self {
            Self::Sessions(sessions) => sessions.others(runs, key, freshness),
        }
    }

    /// The run that a process belongs to.
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

    /// Children of ours that belong to no run: orphans that hid from all of the above.
    pub(super) fn strays(&mut self, runs: &mut Runs) -> Vec<Process> {
        match self {
            Self::Sessions(sessions) => {
                let picture = sessions.picture(runs, Freshness::Now);
                let me = own_pid();
                let unowned = picture.processes.values().filter(|process| picture.descends(process.pid, me));
                unowned
                    .filter(|process| !picture.owners.contains_key(&process.pid) && !process.is_dead())
                    .cloned()
                    .collect()
            }
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

/// Everything that ran at one moment, and whose it was.
#[derive(Debug)]
struct Picture {
    taken: Instant,
    processes: BTreeMap<Pid, Process>,
    owners: HashMap<Pid, Key>,
    of_run: BTreeMap<Key, Vec<Pid>>,
}

impl Picture {
    fn descends(&self, pid: Pid, ancestor: Pid) -> bool {
        let parents = std::iter::successors(self.processes.get(&pid), |process| self.processes.get(&process.parent));
        parents.take(self.processes.len()).any(|process| process.parent == ancestor)
    }
}

/// The process set without cgroups.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Whether orphans come to us and `/proc` lists our children.
    adopts: bool,
    /// The unmarked limit.
    unmarked: Option<u64>,
    next_mark: u64,
    of_session: HashMap<Pid, Key>,
    picture: Option<Rc<Picture>>,
}

impl Sessions {
    /// Process sets for a supervisor that adopts orphans, or does not.
    pub(super) fn new(adopts: bool) -> Self {
        let limit = getrlimit(Resource::RLIMIT_MSGQUEUE)
            .ok()
            .map(|(_, hard)| hard)
            .filter(|hard| *hard >= 16 * MARKS);
        let unmarked = match limit {
            Some(libc::RLIM_INFINITY) => Some(1 << 40),
            other => other.filter(|hard| hard % MARKS == 0),
        };
        Self {
            adopts,
            unmarked,
            next_mark: 0,
            of_session: HashMap::new(),
            picture: None,
        }
    }

    fn mark(&mut self, runs: &Runs) -> Option<u64> {
        let unmarked = self.unmarked?;
        for _ in 1..MARKS {
            self.next_mark = self.next_mark % (MARKS - 1) + 1;
            let mark = unmarked - self.next_mark;
            if runs.of_mark(mark).is_none() {
                return Some(mark);
            }
        }
        None
    }

    fn others(&mut self, runs: &mut Runs, key: &Key, freshness: Freshness) -> Vec<Process> {
        let picture = self.picture(runs, freshness);
        let pids = picture.of_run.get(key).into_iter().flatten();
        let living = pids
            .filter(|pid| runs.of_pid(**pid).is_none())
            .filter_map(|pid| picture.processes.get(pid));
        living.filter(|process| !process.is_dead()).cloned().collect()
    }

    fn picture(&mut self, runs: &mut Runs, freshness: Freshness) -> Rc<Picture> {
        match &self.picture {
            Some(picture) if freshness == Freshness::Recent && picture.taken.elapsed() < FRESH => Rc::clone(picture),
            _ => {
                let picture = Rc::new(self.take_picture(runs));
                self.picture = Some(Rc::clone(&picture));
                picture
            }
        }
    }

    fn take_picture(&mut self, runs: &mut Runs) -> Picture {
        let taken = Instant::now();
        let processes: BTreeMap<Pid, Process> = proc::all().into_iter().map(|process| (process.pid, process)).collect();
        self.of_session
            .retain(|session, _| runs.of_pid(*session).is_some() || processes.values().any(|process| process.session == *session));
        let mut owners = HashMap::new();
        let mut of_run: BTreeMap<Key, Vec<Pid>> = BTreeMap::new();
        // Parents first, whatever the order of pids: what is known of a parent decides for its children.
        for &pid in processes.keys() {
            self.decide(runs, &processes, pid, &mut owners);
        }
        let owners: HashMap<Pid, Key> = owners.into_iter().filter_map(|(pid, owner)| Some((pid, owner?))).collect();
        for (&pid, key) in &owners {
            of_run.entry(key.clone()).or_default().push(pid);
            self.remember(runs, &processes[&pid], key);
        }
        Picture {
            taken,
            processes,
            owners,
            of_run,
        }
    }

    fn decide(&self, runs: &Runs, processes: &BTreeMap<Pid, Process>, pid: Pid, owners: &mut HashMap<Pid, Option<Key>>) {
        let mut chain = Vec::new();
        let mut at = pid;
        let inherited = loop {
            if let Some(owner) = owners.get(&at) {
                break owner.clone();
            }
            let Some(process) = processes.get(&at).filter(|_| !chain.contains(&at)) else {
                break None;
            };
            if let Some(owner) = self.by_itself(runs, process) {
                owners.insert(at, Some(owner.clone()));
                break Some(owner);
            }
            chain.push(at);
            at = process.parent;
        };
        for pid in chain {
            owners.insert(pid, inherited.clone());
        }
    }

    /// The run that a process belongs to by what it is, not by whose child it is.
    fn by_itself(&self, runs: &Runs, process: &Process) -> Option<Key> {
        if let Some(key) = runs.of_pid(process.pid).or_else(|| self.of_session.get(&process.session)) {
            return Some(key.clone());
        }
        // Only who lost its parent needs to be asked more: an orphan of ours, or anyone where orphans do not come to us.
        if process.pid == own_pid() || (self.adopts && process.parent != own_pid()) {
            return None;
        }
        let seen = runs.all.iter().find(|(_, run)| run.seen.get(&process.pid) == Some(&process.start));
        if let Some((key, _)) = seen {
            return Some(key.clone());
        }
        let id = proc::variable(process.pid, "SANDKEEP_INVOCATION_ID");
        if let Some(key) = id.and_then(|id| runs.of_id(&id)) {
            return Some(key.clone());
        }
        self.unmarked?;
        runs.of_mark(proc::message_queue_limit(process.pid)?).cloned()
    }

    fn remember(&mut self, runs: &mut Runs, process: &Process, key: &Key) {
        if runs.of_pid(process.pid).is_none()
            && let Some(run) = runs.all.get_mut(key)
        {
            run.seen.insert(process.pid, process.start);
        }
        if process.session == process.pid && !process.is_dead() {
            self.of_session.entry(process.session).or_insert_with(|| key.clone());
        }
    }

    fn owner(&mut self, runs: &mut Runs, pid: Pid) -> Option<Key> {
        if let Some(key) = runs.of_pid(pid) {
            return Some(key.clone());
        }
        let mut processes = BTreeMap::new();
        let mut at = pid;
        while let Some(process) = proc::process(at).filter(|_| !processes.contains_key(&at)) {
            at = process.parent;
            processes.insert(process.pid, process);
        }
        let Some(process) = processes.get(&pid) else {
            // Gone: all that is left is what we remember.
            return runs
                .all
                .iter()
                .find(|(_, run)| run.seen.contains_key(&pid))
                .map(|(key, _)| key.clone());
        };
        let mut owners = HashMap::new();
        self.decide(runs, &processes, pid, &mut owners);
        let key = owners.remove(&pid).flatten()?;
        let process = process.clone();
        self.remember(runs, &process, &key);
        Some(key)
    }

    fn emptied(&mut self, runs: &mut Runs, keys: Vec<Key>) -> Vec<Key> {
        let candidates: Vec<Key> = keys
            .into_iter()
            .filter(|key| runs.all.get(key).is_none_or(|run| run.tracked.is_empty()))
            .collect();
        if candidates.is_empty() {
            return candidates;
        }
        let Some(children) = self.adopts.then(proc::own_children).flatten() else {
            let picture = self.picture(runs, Freshness::Now);
            let living = |key: &Key| {
                let mut pids = picture.of_run.get(key).into_iter().flatten();
                pids.any(|pid| picture.processes.get(pid).is_some_and(|process| !process.is_dead()))
            };
            return candidates.into_iter().filter(|key| !living(key)).collect();
        };
        let adopted = children
            .into_iter()
            .filter(|pid| runs.of_pid(*pid).is_none())
            .filter_map(proc::process);
        let living: Vec<Process> = adopted.filter(|process| !process.is_dead()).collect();
        let owners: Vec<Key> = living.iter().filter_map(|process| self.by_itself(runs, process)).collect();
        candidates.into_iter().filter(|key| !owners.contains(key)).collect()
    }
}

fn own_pid() -> Pid {
    Pid::try_from(std::process::id()).unwrap_or(Pid::MAX)
}
