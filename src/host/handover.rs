//! What a host hands to the host of the next image of the same process.
//!
//! The processes stay our children, so what passes is knowledge: which pid is whose and in which role, what was seen to belong to which
//! run. Descriptors pass by number; the next host works with duplicates until it is certain that its image stays.

use super::image::{Descriptor, Kept};
use super::processes::{Host, HostError, HostSettings};
use super::runs::{Pending, Role, Run, Tracked};
use super::sys::Handle;
use crate::supervisor::event::{ExitStatus, Invocation, Pid, Stage};
use crate::unit::Name;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a host knows, for the next one. A field that a later version adds has a default.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandedHost {
    pub(super) notify: HandedNotify,
    runs: Vec<HandedRun>,
    /// The process set's own.
    #[serde(default)]
    pub(super) set: Value,
    /// What the supervisor was started with, before it changed its own.
    pub(super) oom_score: i32,
    pub(super) open_files: (u64, u64),
    #[serde(default)]
    pub(super) oom_kills: Option<u64>,
    /// Units of which a file changed that is waited for to be quiet.
    #[serde(default)]
    pub(super) retries: Vec<(Name, String)>,
    /// The users that were made for units, also for some that the configuration does not name any more.
    #[serde(default)]
    auto_users: BTreeMap<Name, u32>,
}

/// The notify socket: by path and by name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandedNotify {
    pub(super) by_path: Descriptor,
    pub(super) by_name: Option<Descriptor>,
    pub(super) path: PathBuf,
    pub(super) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct HandedRun {
    unit: Name,
    invocation: Invocation,
    id: String,
    mark: Option<u64>,
    processes: Vec<HandedProcess>,
    seen: Vec<(Pid, u64)>,
    /// Whether it is to become empty, and by force.
    #[serde(default)]
    emptying: Option<bool>,
    #[serde(default)]
    main_exit: Option<ExitStatus>,
    #[serde(default)]
    killed: bool,
    /// The directory of its cgroup, where it has one.
    #[serde(default)]
    cgroup: Option<PathBuf>,
    #[serde(default)]
    oom_kills: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HandedProcess {
    pid: Pid,
    descriptor: Option<Descriptor>,
    /// `None`: it was the main process until another took its place.
    stage: Option<Stage>,
    #[serde(default)]
    foreign: bool,
}

impl Host {
    /// What it knows, for the next image, but for the commands of probes and our own: [`Host::give_up_commands`] ends them. Complete when
    /// [`Host::events`] has nothing more to say.
    pub fn hand_over(&self, kept: &mut Kept) -> HandedHost {
        let runs = self.runs.all.iter().map(|(key @ (unit, invocation), run)| HandedRun {
            unit: unit.clone(),
            invocation: *invocation,
            id: run.id.clone(),
            mark: run.mark,
            processes: run.tracked.iter().filter_map(|tracked| handed(tracked, kept)).collect(),
            seen: run.seen.iter().map(|(pid, start)| (*pid, *start)).collect(),
            emptying: run.pending.as_ref().map(|pending| pending.kill),
            main_exit: run.main_exit,
            killed: run.killed,
            cgroup: self.set.cgroup_path(key).map(Path::to_path_buf),
            oom_kills: run.oom_kills,
        });
        let runs = runs.collect();
        HandedHost {
            notify: self.notify.hand_over(kept),
            runs,
            set: self.set.hand_over(),
            oom_score: self.around.oom_scores.base(),
            open_files: self.around.open_files,
            oom_kills: self.oom.count_so_far(),
            retries: self.watcher.retries(),
            auto_users: self.users.hand_over(),
        }
    }

    /// The host that goes on with what an earlier image handed over. It touches nothing before [`Host::stay`].
    pub fn inherit(settings: HostSettings, handed: HandedHost) -> Result<Self, HostError> {
        let runs = handed.runs;
        let handed = HandedHost {
            runs: Vec::new(),
            ..handed
        };
        let mut host = Self::make(settings, Some(&handed))?;
        for run in runs {
            host.take_run(run)?;
        }
        host.set.take_over(handed.set);
        host.oom.go_on_from(handed.oom_kills);
        host.watcher.go_on_with(handed.retries);
        host.users.go_on_with(handed.auto_users);
        Ok(host)
    }

    fn take_run(&mut self, handed: HandedRun) -> Result<(), HostError> {
        let key = (handed.unit, handed.invocation);
        let now = Instant::now();
        let mut run = Run::new(handed.mark);
        run.id = handed.id;
        run.seen = handed.seen.into_iter().collect();
        run.main_exit = handed.main_exit;
        run.killed = handed.killed;
        run.oom_kills = handed.oom_kills;
        if let Some(path) = handed.cgroup {
            // Gone, or made for another hierarchy: the run is found by the older means.
            let _ = self.set.adopt(&key, path);
        }
        run.pending = handed.emptying.map(|kill| Pending::begin(kill, now));
        self.runs.insert(key.clone(), run);
        for process in handed.processes {
            let descriptor = process.descriptor.map(Descriptor::duplicate).transpose();
            let act = || format!("taking over pid {} of {}", process.pid, key.0);
            let descriptor = descriptor.map_err(|why| HostError::new(act(), why))?;
            let handle = Handle::inherited(process.pid, descriptor);
            if process.foreign {
                self.watch_end_of(&handle);
            }
            self.runs.track(
                &key,
                Tracked {
                    handle,
                    role: process.stage.map_or(Role::Former, Role::Stage),
                    foreign: process.foreign,
                },
            );
        }
        Ok(())
    }
}

fn handed(tracked: &Tracked, kept: &mut Kept) -> Option<HandedProcess> {
    let stage = match &tracked.role {
        Role::Stage(stage) => Some(*stage),
        Role::Former => None,
        Role::Probe(_) => return None,
    };
    Some(HandedProcess {
        pid: tracked.handle.pid,
        descriptor: tracked.handle.descriptor().map(|descriptor| kept.keep(descriptor)),
        stage,
        foreign: tracked.foreign,
    })
}
