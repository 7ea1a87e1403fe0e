//! What can be had on this machine, found once at start. Less capability is less isolation, never less correctness.

use super::{proc, sys};
use serde::{Deserialize, Serialize};
use std::fs;

/// The rungs of the ladder, as the status document shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// We are process 1 of our pid namespace: every orphan comes to us, and with us the box ends.
    pub pid1: bool,
    /// Orphans among our descendants are given to us.
    pub subreaper: bool,
    /// We may become any user.
    pub root: bool,
    /// Each unit has a cgroup of its own.
    pub cgroup2: bool,
    /// Which limits these have, and why not all.
    pub cgroup: super::cgroup::Rung,
    /// Processes are held by descriptors that no other process can come to be behind.
    pub pidfd: bool,
    /// `/proc` is of our pid namespace and tells whose children processes are.
    pub proc: bool,
    /// OOM scores can be lowered: the supervisor is the last to be killed.
    pub oom_score: bool,
    /// The kernel is gVisor, which fits many of these out with less.
    pub gvisor: bool,
}

impl Capabilities {
    /// Looks at the machine, and becomes subreaper where that is possible.
    pub(super) fn find() -> Self {
        let pid1 = std::process::id() == 1;
        Self {
            pid1,
            subreaper: sys::become_subreaper() || pid1,
            root: nix::unistd::geteuid().is_root(),
            cgroup2: false,
            cgroup: super::cgroup::Rung::default(),
            pidfd: sys::has_pidfd(),
            proc: proc_is_ours() && proc::own_children().is_some(),
            oom_score: false,
            gvisor: kernel_is_gvisor(),
        }
    }
}

/// Whether we are the first process of the machine itself, not of a container: nobody is left to say what comes after us, and the kernel
/// panics when we just end.
fn is_machines_init() -> bool {
    // The number of the first pid namespace is part of the kernel's interface.
    std::process::id() == 1 && fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() == "pid:[4026531836]")
}

/// Switches the machine off when we are its first process; else does nothing.
pub fn power_off_as_init() {
    if is_machines_init() {
        let why = sys::power_off();
        tracing::error!(%why, "the machine cannot be switched off");
    }
}

/// Gives what is mapped of this binary back to the page cache, so that what only a start needs is not on our account for days. What
/// is needed again is mapped again when it is touched.
pub fn forget_the_start() {
    sys::unmap_what_is_clean();
}

fn proc_is_ours() -> bool {
    fs::read_link("/proc/self").is_ok_and(|target| target.as_os_str() == std::process::id().to_string().as_str())
}

/// gVisor says that it is this build of Linux, whatever it runs on.
fn kernel_is_gvisor() -> bool {
    nix::sys::utsname::uname().is_ok_and(|name| name.version().to_string_lossy().contains("Sun Jan 10 15:06:54 PST 2016"))
}

/// How likely the OOM killer picks a process; each unit's is relative to what the supervisor was started with. proc_pid_oom_score_adj(5).
#[derive(Clone, Copy, Debug)]
pub(super) struct OomScores {
    base: i32,
}

/// The supervisor's own, relative to what it was started with.
const SUPERVISOR: i32 = -900;

impl OomScores {
    /// Lowers our own score where allowed; says whether it was. `base`: what an earlier image of this process was started with.
    pub(super) fn lower_ours(base: Option<i32>) -> (Self, bool) {
        let path = "/proc/self/oom_score_adj";
        let ours = || fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        let base = base.or_else(ours).unwrap_or(0);
        let lowered = fs::write(path, clamp(base + SUPERVISOR).to_string()).is_ok();
        (Self { base }, lowered)
    }

    /// What the supervisor was started with.
    pub(super) fn base(self) -> i32 {
        self.base
    }

    /// The score of a unit that does not set one: the dev server dies first, then the agent, then what keeps the files.
    pub(super) fn of(self, unit: &crate::unit::Unit) -> i32 {
        use crate::unit::{Main, Worker};
        let above = match unit.main {
            Main::Worker(Worker::Sync | Worker::Restore) => 100,
            Main::Worker(Worker::Agent) => 200,
            Main::Exec(_) => 300,
        };
        clamp(self.base + above)
    }
}

fn clamp(score: i32) -> i32 {
    score.clamp(-1000, 1000)
}
