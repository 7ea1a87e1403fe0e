//! The machine: memory, disk, limits, ports, and the worker of the way before this one.

use super::{Finding, Patient};
use crate::cli::out::size;
use crate::host::ports;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::path::Path;

/// Less memory than this is little for a dev server.
const LITTLE_MEMORY: u64 = 256 << 20;
/// Less disk than this is little for an install.
const LITTLE_DISK: u64 = 500 << 20;
/// Less disk than this is as good as none.
const NO_DISK: u64 = 20 << 20;

pub(super) fn findings(patient: &Patient) -> Vec<Finding> {
    let mut findings = vec![memory()];
    findings.push(disk("project", &patient.root()));
    findings.push(disk("state", existing(&patient.places.state)));
    findings.push(disk("runtime", existing(&patient.places.runtime)));
    findings.extend(watches());
    findings.extend(descriptors());
    findings.extend(taken_ports(patient));
    findings.extend(old_worker(patient));
    findings
}

fn memory() -> Finding {
    let about = "memory";
    let Ok(text) = fs::read_to_string("/proc/meminfo") else {
        return Finding::warn(about, "/proc/meminfo cannot be read");
    };
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (total, free) = (field("MemTotal:").unwrap_or(0), field("MemAvailable:").unwrap_or(0));
    let read = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let limit = read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let used = read("/sys/fs/cgroup/memory.current").or_else(|| read("/sys/fs/cgroup/memory/memory.usage_in_bytes"));
    let (total, free) = match (limit, used) {
        (Some(limit), Some(used)) if limit < total => (limit, limit.saturating_sub(used).min(free)),
        _ => (total, free),
    };
    let said = format!("{} of {} are free", size(free), size(total));
    if free < LITTLE_MEMORY {
        Finding::warn(about, said).hint("a dev server may be killed for want of memory: `sandkeep status` shows who needs how much")
    } else {
        Finding::ok(about, said)
    }
}

/// The nearest directory above that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

fn disk(what: &str, path: &Path) -> Finding {
    let about = format!("{what} disk");
    let shown = path.display();
    let found = match statvfs(path) {
        Ok(found) => found,
        Err(error) => return Finding::fail(about, format!("looking at {shown}: {error}")),
    };
    if let Err(error) = access(path, AccessFlags::W_OK) {
        return Finding::fail(about, format!("{shown} cannot be written: {error}"));
    }
    // The types of these fields differ from one libc to another.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (free, inodes, free_inodes) = (
        u64::from(found.blocks_available()).saturating_mul(found.fragment_size() as u64),
        found.files() as u64,
        found.files_available() as u64,
    );
    let said = format!("{} are free at {shown}", size(free));
    if free < NO_DISK {
        Finding::fail(about, said)
    } else if inodes > 0 && free_inodes < inodes / 100 {
        Finding::warn(about, format!("{said}, but hardly any inode ({free_inodes})"))
    } else if free < LITTLE_DISK {
        Finding::warn(about, said)
    } else {
        Finding::ok(about, said)
    }
}

/// Sync watches every directory of the project.
fn watches() -> Option<Finding> {
    let text = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?;
    let limit: u64 = text.trim().parse().ok()?;
    let said = format!("{limit} directories may be watched");
    Some(if limit < 65_536 {
        Finding::warn("watches", said)
            .hint("`sysctl fs.inotify.max_user_watches=524288`; beyond the limit changes are found by looking again and again")
    } else {
        Finding::ok("watches", said)
    })
}

fn descriptors() -> Option<Finding> {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).ok()?;
    (soft < 1024).then(|| {
        Finding::warn("open files", format!("a process may have {soft} (at most {hard})")).hint("`ulimit -n 65536` before `sandkeep up`")
    })
}

/// Ports that the configuration wants and somebody else has.
fn taken_ports(patient: &Patient) -> Vec<Finding> {
    let Some(config) = &patient.config else { return Vec::new() };
    let listen = config.listen.map(|address| address.port()).filter(|_| patient.status.is_none());
    let wanted = config
        .port
        .map(|port| ("dev", port))
        .into_iter()
        .chain(listen.map(|port| ("[health] listen", port)));
    wanted.map(|(who, port)| taken(patient, who, port)).collect()
}

fn taken(patient: &Patient, who: &str, port: u16) -> Finding {
    let about = format!("port {port}");
    let units = patient.status.iter().flat_map(|status| &status.units);
    let own = units
        .filter(|unit| unit.ports.iter().any(|found| found.port == port))
        .map(|unit| &unit.name)
        .next();
    if let Some(own) = own {
        return Finding::ok(about, format!("`{own}` listens on it"));
    }
    match ports::holders(port).first() {
        Some(holder) => {
            let command = ports::lineage(holder.pid, |_| None);
            let said = format!("taken by pid {} ({command}), and {who} wants it", holder.pid);
            Finding::fail(about, said).hint(format!("`kill {}`, or choose another port", holder.pid))
        }
        None if ports::is_taken(port) => Finding::fail(
            about,
            format!("taken by a process that cannot be seen from here, and {who} wants it"),
        ),
        None => Finding::ok(about, format!("free for {who}")),
    }
}

/// A worker that was started with nohup, the way before this one: it would sync and answer beside ours.
fn old_worker(patient: &Patient) -> Vec<Finding> {
    let about = "old worker";
    let file = Path::new("/tmp/worker.pid");
    let noted = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let ours: Vec<i32> = patient
        .status
        .iter()
        .flat_map(|status| &status.units)
        .filter_map(|unit| unit.pid)
        .collect();
    let mut findings = Vec::new();
    for pid in workers() {
        if !ours.contains(&pid) && !is_supervised(pid) {
            let said = format!("pid {pid} runs a sandbox-worker.js that nobody supervises: it syncs beside us");
            findings.push(Finding::fail(about, said).hint(format!("`kill {pid}; rm -f {}`", file.display())));
        }
    }
    if findings.is_empty() && file.exists() {
        let said = match noted {
            Some(pid) if Path::new(&format!("/proc/{pid}")).exists() => {
                format!("{} names pid {pid}, which is another process", file.display())
            }
            _ => format!("{} is left over", file.display()),
        };
        findings.push(Finding::warn(about, said).hint(format!("`rm -f {}`", file.display())));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(about, "none runs"));
    }
    findings
}

fn workers() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = command.split(|byte| *byte == 0);
        arguments.next().is_some_and(|program| program.ends_with(b"node"))
            && arguments.any(|argument| argument.ends_with(b"sandbox-worker.js"))
    })
    .collect()
}

/// Whether a supervisor started it, by the variable that every unit's process has.
fn is_supervised(pid: i32) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|variable| variable.starts_with(b"SANDKEEP_UNIT="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;

    #[test]
    fn the_machine_that_builds_this_is_well_enough() {
        assert_ne!(memory().level, Level::Fail);
        assert_eq!(disk("temporary", Path::new("/nonexistent/x")).level, Level::Fail);
        assert_eq!(existing(Path::new("/nonexistent/x/y")), Path::new("/"));
    }

    #[test]
    fn a_process_without_the_variable_is_nobodys() {
        assert!(!is_supervised(1) || std::env::var_os("SANDKEEP_UNIT").is_some());
        assert!(!is_supervised(i32::MAX));
    }
}
