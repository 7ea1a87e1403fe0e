//! Whether the kernel's OOM killer ended a process: as well as it can be known without a cgroup of one's own.

use crate::supervisor::event::{ExitStatus, Pid};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// The kernel's log, where it can be read, names the victims; else its counter says whether there were any since the last look.
#[derive(Debug)]
pub(super) struct OomKills {
    log: Option<File>,
    count: Option<u64>,
}

impl OomKills {
    /// Begins to watch: what was before does not count.
    pub(super) fn watch() -> Self {
        let log = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/kmsg")
            .ok();
        let log = log.and_then(|mut log| log.seek(SeekFrom::End(0)).ok().map(|_| log));
        Self { log, count: count() }
    }

    /// How many it had ended when this was last looked at.
    pub(super) fn count_so_far(&self) -> Option<u64> {
        self.count
    }

    /// Counts from where an earlier image of this process left off; the kernel's log is looked through from the start, since what it said
    /// meanwhile nobody has read.
    pub(super) fn go_on_from(&mut self, count: Option<u64>) {
        self.count = count.or(self.count);
        if let Some(log) = &mut self.log {
            let _ = log.seek(SeekFrom::Start(0));
        }
    }

    /// Whether the OOM killer ended this process. Asked once for each end.
    pub(super) fn did(&mut self, pid: Pid, status: ExitStatus) -> bool {
        if !is_suspicious(status) {
            return false;
        }
        let count = count();
        let more = count > self.count;
        self.count = count;
        match (&mut self.log, status) {
            (Some(log), ExitStatus::Signal { .. }) if more => names_victim(log, pid) || !pids_are_global(),
            _ => more,
        }
    }
}

/// Whether it looks like the OOM killer's work. A shell reports the death of its child by SIGKILL as 137.
pub(super) fn is_suspicious(status: ExitStatus) -> bool {
    matches!(status, ExitStatus::Signal { signal: libc::SIGKILL, .. } | ExitStatus::Code(137))
}

/// How many processes were ended since boot. The counter is the whole machine's.
fn count() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.parse().ok()
}

fn names_victim(log: &mut File, pid: Pid) -> bool {
    let wanted = format!("Killed process {pid} ");
    let mut record = [0; 8192];
    let mut found = false;
    loop {
        match log.read(&mut record) {
            Ok(read) if read > 0 => found |= String::from_utf8_lossy(&record[..read]).contains(&wanted),
            // Records were overwritten before they were read.
            Err(why) if why.raw_os_error() == Some(libc::EPIPE) => {}
            Ok(_) | Err(_) => return found,
        }
    }
}

/// The log speaks in pids of the first namespace.
fn pids_are_global() -> bool {
    proc_status_pids() == Some(1)
}

fn proc_status_pids() -> Option<usize> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    Some(
        text.lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?
            .split_ascii_whitespace()
            .count(),
    )
}
