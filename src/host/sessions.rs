//! The process set without cgroups.
//!
//! A set is put together from what a process cannot easily lose:
//!
//! - it is one that we started, or descends from one of the set;
//! - it is in a session that one of the set began (a session is never left but by beginning another);
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
use super::set::Freshness;
use crate::ordered::IntoMap;
use crate::supervisor::event::Pid;
use nix::sys::resource::{Resource, getrlimit};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How old a picture of /proc may be to serve for another signal: a step of the supervisor stops many units at once. A picture that took
/// long serves longer, so that no more than a small part of the time goes into taking them.
const FRESH: Duration = Duration::from_millis(10);
const FRESH_FOR_COST: u32 = 5;

/// Marks are this many below the limit that we were given; a limit that is no multiple of it is already marked by a supervisor above us.
const MARKS: u64 = 4096;
/// What stands for no limit when it is to be marked.
const UNLIMITED: u64 = 1 << 40;

/// How many dead processes of a run are remembered for what they said before they died.
const REMEMBERED: usize = 256;

/// Everything that ran at one moment, and whose it was.
#[derive(Debug)]
struct Picture {
    /// Until when it is as good as now.
    fresh_until: Instant,
    processes: BTreeMap<Pid, Process>,
    owners: HashMap<Pid, Key>,
    of_run: BTreeMap<Key, Vec<Pid>>,
}

impl Picture {
    fn living(&self, pids: impl IntoIterator<Item = Pid>) -> impl Iterator<Item = &Process> {
        pids.into_iter()
            .filter_map(|pid| self.processes.get(&pid))
            .filter(|process| !process.is_dead())
    }

    fn of_run(&self, key: &Key) -> impl Iterator<Item = &Process> {
        self.living(self.of_run.get(key).into_iter().flatten().copied())
    }

    fn descends(&self, pid: Pid, ancestor: Pid) -> bool {
        let line = std::iter::successors(self.processes.get(&pid), |process| self.processes.get(&process.parent));
        line.take(self.processes.len()).any(|process| process.parent == ancestor)
    }
}

/// What passes from one image of the process to the next.
#[derive(serde::Serialize, serde::Deserialize)]
struct Known {
    last_mark: u64,
    sessions: Vec<(Pid, crate::unit::Name, crate::supervisor::event::Invocation)>,
}

/// What is known of sessions, and the last look at /proc.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Whether orphans come to us and `/proc` lists our children.
    adopts: bool,
    /// The limit that marks are taken off; `None` where they cannot be used.
    unmarked: Option<u64>,
    last_mark: u64,
    of_session: HashMap<Pid, Key>,
    picture: Option<Rc<Picture>>,
}

impl Sessions {
    /// Process sets for a supervisor that adopts orphans, or does not.
    pub(super) fn new(adopts: bool) -> Self {
        let unmarked = match getrlimit(Resource::RLIMIT_MSGQUEUE) {
            Ok((_, libc::RLIM_INFINITY)) => Some(UNLIMITED),
            Ok((_, hard)) => Some(hard).filter(|hard| hard % MARKS == 0 && *hard >= 16 * MARKS),
            Err(_) => None,
        };
        // Not the same first marks in every supervisor: survivors of one are told from processes of another by them.
        let last_mark = fastrand::u64(1..MARKS);
        Self {
            adopts,
            unmarked,
            last_mark,
            of_session: HashMap::new(),
            picture: None,
        }
    }

    /// A mark that no other run has.
    pub(super) fn mark(&mut self, runs: &Runs) -> Option<u64> {
        let unmarked = self.unmarked?;
        (1..MARKS).find_map(|_| {
            self.last_mark = self.last_mark % (MARKS - 1) + 1;
            Some(unmarked - self.last_mark).filter(|mark| runs.of_mark(*mark).is_none())
        })
    }

    /// What it knows, for the next image of this process.
    pub(super) fn hand_over(&self) -> serde_json::Value {
        let sessions = self.of_session.iter().map(|(session, (unit, run))| (*session, unit.clone(), *run));
        let known = Known {
            last_mark: self.last_mark,
            sessions: sessions.collect(),
        };
        serde_json::to_value(known).unwrap_or_default()
    }

    /// Goes on with what an earlier image of this process knew; what cannot be read is found out anew, for whoever can be asked.
    pub(super) fn take_over(&mut self, handed: serde_json::Value) {
        if let Ok(Known { last_mark, sessions }) = serde_json::from_value(handed) {
            self.last_mark = last_mark;
            self.of_session = sessions.into_iter().map(|(session, unit, run)| (session, (unit, run))).collect();
        }
    }

    /// A process of the run was started, and began a session.
    pub(super) fn started(&mut self, key: &Key, pid: Pid) {
        self.picture = None;
        self.of_session.insert(pid, key.clone());
    }

    /// The living processes of a run that we do not hold.
    pub(super) fn others(&mut self, runs: &mut Runs, key: &Key, freshness: Freshness) -> Vec<Process> {
        let picture = self.picture(runs, freshness);
        picture
            .of_run(key)
            .filter(|process| runs.of_pid(process.pid).is_none())
            .cloned()
            .collect()
    }

    /// The living processes of a session that one of ours began, without those that we hold.
    pub(super) fn in_session(&mut self, runs: &mut Runs, session: Pid) -> Vec<Process> {
        // What is left of a session without its leader has a topmost ancestor that we adopted: mostly there is none.
        let leader_lives = runs.of_pid(session).is_some();
        if !leader_lives && self.adopted(runs).is_some_and(|adopted| adopted.is_empty()) {
            return Vec::new();
        }
        let picture = self.picture(runs, Freshness::Now);
        let owned = picture.living(picture.owners.keys().copied());
        owned
            .filter(|process| process.session == session && runs.of_pid(process.pid).is_none())
            .cloned()
            .collect()
    }

    /// The run that a process belongs to; of one that is gone, as far as it is remembered.
    pub(super) fn owner(&mut self, runs: &mut Runs, pid: Pid) -> Option<Key> {
        if let Some(key) = runs.of_pid(pid) {
            return Some(key.clone());
        }
        let mut line = BTreeMap::new();
        let mut at = pid;
        while let Some(process) = proc::process(at).filter(|_| !line.contains_key(&at)) {
            at = process.parent;
            line.insert(process.pid, process);
        }
        let Some(process) = line.get(&pid) else {
            return runs
                .all
                .iter()
                .find(|(_, run)| run.seen.contains_key(&pid))
                .map(|(key, _)| key.clone());
        };
        let mut owners = HashMap::new();
        self.decide(runs, &line, pid, &mut owners);
        let key = owners.remove(&pid).flatten()?;
        self.remember(runs, process, &key);
        Some(key)
    }

    /// Of these runs, those that nothing is left of.
    pub(super) fn emptied(&mut self, runs: &mut Runs, keys: Vec<Key>) -> Vec<Key> {
        let held = |key: &Key| runs.all.get(key).is_some_and(|run| !run.tracked.is_empty());
        let candidates: Vec<Key> = keys.into_iter().filter(|key| !held(key)).collect();
        if candidates.is_empty() {
            return candidates;
        }
        let empty: BTreeSet<Key> = match self.adopted(runs) {
            Some(adopted) => {
                // One that has died since the last reaping may have left us children after ours were listed. It counts as living; its own
                // SIGCHLD makes us look again.
                let owners: Vec<Option<Key>> = adopted.iter().map(|process| self.by_itself(runs, process)).collect();
                if adopted
                    .iter()
                    .zip(&owners)
                    .any(|(process, owner)| process.is_dead() && owner.is_none())
                {
                    return Vec::new();
                }
                let owners: BTreeSet<Key> = owners.into_iter().flatten().collect();
                candidates.into_iter().filter(|key| !owners.contains(key)).collect()
            }
            None => {
                let picture = self.picture(runs, Freshness::Now);
                candidates.into_iter().filter(|key| picture.of_run(key).next().is_none()).collect()
            }
        };
        // Nobody is in their sessions any more, and the numbers may be given to others.
        self.of_session.retain(|_, key| !empty.contains(key));
        empty.into_iter().collect()
    }

    /// Everything that descends from us and lives.
    pub(super) fn descendants(&mut self, runs: &mut Runs) -> Vec<Process> {
        if self.adopts && proc::own_children().is_some_and(|children| children.is_empty()) {
            return Vec::new();
        }
        let picture = self.picture(runs, Freshness::Now);
        let living = picture.living(picture.processes.keys().copied());
        living.filter(|process| picture.descends(process.pid, own_pid())).cloned().collect()
    }

    /// Orphans that were given to us, living or not yet reaped; `None` where that cannot be known.
    fn adopted(&self, runs: &Runs) -> Option<Vec<Process>> {
        let children = self.adopts.then(proc::own_children).flatten()?;
        Some(
            children
                .into_iter()
                .filter(|pid| runs.of_pid(*pid).is_none())
                .filter_map(proc::process)
                .collect(),
        )
    }

    /// Whether there are orphans that were given to us, or may be somewhere else.
    pub(super) fn has_orphans(&self, runs: &Runs) -> bool {
        self.adopted(runs).is_none_or(|adopted| !adopted.is_empty())
    }

    fn picture(&mut self, runs: &mut Runs, freshness: Freshness) -> Rc<Picture> {
        if let Some(picture) = &self.picture
            && freshness == Freshness::Recent
            && Instant::now() < picture.fresh_until
        {
            return Rc::clone(picture);
        }
        let picture = Rc::new(self.take_picture(runs));
        self.picture = Some(Rc::clone(&picture));
        picture
    }

    fn take_picture(&mut self, runs: &mut Runs) -> Picture {
        let begun = Instant::now();
        let processes = proc::all().into_iter().map(|process| (process.pid, process)).into_map();
        let sessions: HashSet<Pid> = processes.values().map(|process| process.session).collect();
        self.of_session
            .retain(|session, _| runs.of_pid(*session).is_some() || sessions.contains(session));
        for run in runs.all.values_mut().filter(|run| run.seen.len() > REMEMBERED) {
            run.seen
                .retain(|pid, start| processes.get(pid).is_some_and(|process| process.start == *start));
        }
        let mut owners = HashMap::new();
        for &pid in processes.keys() {
            self.decide(runs, &processes, pid, &mut owners);
        }
        let owners: HashMap<Pid, Key> = owners.into_iter().filter_map(|(pid, owner)| Some((pid, owner?))).collect();
        let mut of_run: BTreeMap<Key, Vec<Pid>> = BTreeMap::new();
        for (&pid, key) in &owners {
            if let Some(process) = processes.get(&pid) {
                self.remember(runs, process, key);
                of_run.entry(key.clone()).or_default().push(pid);
            }
        }
        let fresh_until = Instant::now() + FRESH.max(begun.elapsed() * FRESH_FOR_COST);
        Picture {
            fresh_until,
            processes,
            owners,
            of_run,
        }
    }

    /// Finds whose a process is, by itself or by its ancestors, and notes it for all on the way up.
    fn decide(&self, runs: &Runs, processes: &BTreeMap<Pid, Process>, pid: Pid, owners: &mut HashMap<Pid, Option<Key>>) {
        let mut below = Vec::new();
        let mut at = pid;
        let owner = loop {
            if let Some(owner) = owners.get(&at) {
                break owner.clone();
            }
            let Some(process) = processes.get(&at).filter(|_| !below.contains(&at)) else {
                break None;
            };
            below.push(at);
            if let Some(owner) = self.by_itself(runs, process) {
                break Some(owner);
            }
            at = process.parent;
        };
        owners.extend(below.into_iter().map(|pid| (pid, owner.clone())));
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

    /// Notes whose a process is, for when it is gone or has lost its parent.
    pub(super) fn remember(&mut self, runs: &mut Runs, process: &Process, key: &Key) {
        if runs.of_pid(process.pid).is_none()
            && let Some(run) = runs.all.get_mut(key)
        {
            run.seen.insert(process.pid, process.start);
        }
        if process.session == process.pid && !process.is_dead() {
            self.of_session.entry(process.session).or_insert_with(|| key.clone());
        }
    }
}

fn own_pid() -> Pid {
    Pid::try_from(std::process::id()).unwrap_or(Pid::MAX)
}
