//! One cgroup: what is in it, what it uses, its limits and its end. Everything is a file in its directory.

use crate::supervisor::event::Pid;
use crate::unit::Limits;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A cgroup that is there.
#[derive(Debug)]
pub(in crate::host) struct Group {
    path: PathBuf,
    directory: OwnedFd,
    /// What was written last.
    limits: Limits,
}

/// What a unit's processes use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in bytes, without the file cache that could be given back at once; `None` without the controller.
    pub memory_bytes: Option<u64>,
    /// CPU time since the group was made, of processes that are gone too.
    pub cpu_usec: Option<u64>,
    /// Processes that the OOM killer ended since the group was made.
    pub oom_kills: Option<u64>,
}

impl Usage {
    /// Reads it from a group's directory. Files that are not there say nothing.
    pub fn of(directory: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let current = read("memory.current").and_then(|text| text.trim().parse::<u64>().ok());
        let idle = || read("memory.stat").and_then(|text| field(&text, "inactive_file")).unwrap_or(0);
        Self {
            memory_bytes: current.map(|bytes| bytes.saturating_sub(idle())),
            cpu_usec: read("cpu.stat").and_then(|text| field(&text, "usage_usec")),
            oom_kills: oom_kills(directory),
        }
    }
}

/// How many processes of a group the OOM killer ended.
pub(in crate::host) fn oom_kills(directory: &Path) -> Option<u64> {
    field(&fs::read_to_string(directory.join("memory.events")).ok()?, "oom_kill")
}

/// The number behind a name, in a file with one of each a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?
        .trim()
        .parse()
        .ok()
}

impl Group {
    /// Opens a group, making it if it is not there.
    pub(in crate::host) fn make(path: PathBuf) -> io::Result<Self> {
        match fs::create_dir(&path) {
            Err(why) if why.kind() != io::ErrorKind::AlreadyExists => return Err(why),
            Ok(()) | Err(_) => {}
        }
        Self::open(path)
    }

    /// Opens a group that is there.
    pub(in crate::host) fn open(path: PathBuf) -> io::Result<Self> {
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(&path)?
            .into();
        Ok(Self {
            path,
            directory,
            limits: Limits::default(),
        })
    }

    /// Its directory.
    pub(in crate::host) fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory, for `clone3`.
    pub(in crate::host) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether any process of it, or of a group below, has not ended. `true` when that cannot be known and it is there.
    pub(in crate::host) fn is_populated(&self) -> bool {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(text) => field(&text, "populated") != Some(0),
            Err(why) => why.kind() != io::ErrorKind::NotFound && why.raw_os_error() != Some(libc::ENODEV),
        }
    }

    /// Its processes and those of the groups below. One may come twice, or be gone already.
    pub(in crate::host) fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        each_below(&self.path, &mut |directory| {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            // Who is of another pid namespace is shown as 0.
            found.extend(text.lines().filter_map(|line| line.parse::<Pid>().ok()).filter(|pid| *pid > 0));
        });
        found
    }

    /// SIGKILL for everything in it and below. On kernels before 5.14 it is frozen first, so that nothing can fork its way out.
    pub(in crate::host) fn kill(&self, signal_one: impl Fn(Pid)) {
        if self.write("cgroup.kill", "1").is_ok() {
            return;
        }
        let frozen = self.write("cgroup.freeze", "1");
        for pid in self.processes() {
            signal_one(pid);
        }
        if frozen.is_ok() {
            // What was killed dies frozen; what came since is for the next round.
            let _ = self.write("cgroup.freeze", "0");
        }
    }

    /// Sets limits; those that were never set, and whose controllers may be missing, are not touched. What was refused, for people.
    pub(in crate::host) fn limit(&mut self, limits: &Limits) -> Vec<String> {
        let or_max = |value: Option<u64>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        let weight = |value: Option<u32>| value.unwrap_or(100).to_string();
        let before = &self.limits;
        let wanted = [
            (
                before.memory_max != limits.memory_max,
                "memory.max",
                "memory_max",
                or_max(limits.memory_max),
            ),
            (
                before.tasks_max != limits.tasks_max,
                "pids.max",
                "tasks_max",
                or_max(limits.tasks_max),
            ),
            (
                before.cpu_weight != limits.cpu_weight,
                "cpu.weight",
                "cpu_weight",
                weight(limits.cpu_weight),
            ),
        ];
        let mut refused = Vec::new();
        for (differs, file, key, value) in wanted {
            if differs && let Err(why) = self.write(file, &value) {
                refused.push(format!("`{key}`: writing {value} to {}: {why}", self.path.join(file).display()));
            }
        }
        self.limits.clone_from(limits);
        refused
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        write(&self.path.join(file), value)
    }

    /// Takes it away with the groups below, if nothing is in it any more.
    pub(in crate::host) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Takes a group and those below away, if nothing is in them any more. That it is gone already is well.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let mut all = Vec::new();
    each_below(path, &mut |directory| all.push(directory.to_path_buf()));
    for directory in all.iter().rev() {
        match fs::remove_dir(directory) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Writes a value to a file of the kernel's, which must be there: nothing is made.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// Calls it for a directory and every one below, parents first.
fn each_below(path: &Path, call: &mut dyn FnMut(&Path)) {
    call(path);
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each_below(&entry.path(), call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_as_far_as_there_are_files() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        assert_eq!(Usage::of(directory.path()), Usage::default());
        put("cpu.stat", "usage_usec 1500\nuser_usec 1000\n");
        assert_eq!(Usage::of(directory.path()).cpu_usec, Some(1500));
        put("memory.current", "5000\n");
        put("memory.stat", "anon 1\ninactive_file 2000\nactive_file 7\n");
        put("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n");
        let usage = Usage::of(directory.path());
        assert_eq!((usage.memory_bytes, usage.oom_kills), (Some(3000), Some(2)));
    }

    #[test]
    fn only_limits_that_differ_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut group = Group::open(path.to_path_buf()).unwrap();
        assert_eq!(group.limit(&Limits::default()), Vec::<String>::new());
        fs::write(path.join("memory.max"), "").unwrap();
        fs::write(path.join("pids.max"), "").unwrap();
        let limits = Limits {
            memory_max: Some(4096),
            ..Limits::default()
        };
        assert_eq!(group.limit(&limits), Vec::<String>::new());
        assert_eq!(fs::read_to_string(path.join("memory.max")).unwrap(), "4096");
        assert_eq!(fs::read_to_string(path.join("pids.max")).unwrap(), "");
        let weighted = Limits {
            cpu_weight: Some(7),
            ..Limits::default()
        };
        let refused = group.limit(&weighted);
        assert!(
            refused.len() == 1 && refused[0].starts_with("`cpu_weight`: writing 7"),
            "{refused:?}"
        );
    }
}
