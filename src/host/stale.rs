//! What a killed supervisor left behind: a record of live processes, and their end at the next start.
//!
//! The record is a file of lines in the runtime directory, only ever appended to and now and then written anew. A line that was cut short by
//! the supervisor's end is passed over; nothing needs to be synced, for a machine that lost it lost the processes too. A process is the
//! recorded one if pid, start time and boot are the same: a recycled pid is never touched.

use super::cgroup::Stale;
use super::proc::{self, Process};
use super::sys::Handle;
use crate::ordered::IntoMap;
use crate::supervisor::event::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// After how many lines more than there are live processes the file is written anew.
const SLACK: usize = 512;
/// How long what got SIGKILL may take.
const UNKILLABLE: Duration = Duration::from_secs(2);

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    pid: Pid,
    start: u64,
    id: String,
    mark: Option<u64>,
    unit: String,
}

impl Entry {
    fn line(&self) -> String {
        let Self {
            pid,
            start,
            id,
            mark,
            unit,
        } = self;
        format!("{pid} {start} {id} {} {unit}\n", mark.unwrap_or_default())
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.strip_suffix('\n')?.split(' ');
        let entry = Self {
            pid: fields.next()?.parse().ok()?,
            start: fields.next()?.parse().ok()?,
            id: fields.next().filter(|id| !id.is_empty())?.to_owned(),
            mark: Some(fields.next()?.parse().ok()?).filter(|mark| *mark != 0),
            unit: fields.next()?.to_owned(),
        };
        Some(entry)
    }
}

/// The record that a living supervisor keeps.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    file: Option<File>,
    live: BTreeMap<Pid, Entry>,
    /// Started, but not yet written: a step that starts many units writes once.
    unwritten: Vec<(Pid, String, Option<u64>, String)>,
    lines: usize,
}

impl Record {
    /// An empty record that is not written yet.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            file: None,
            live: BTreeMap::new(),
            unwritten: Vec::new(),
            lines: 0,
        }
    }

    /// Writes it in place of the one that is there.
    pub(super) fn begin(&mut self) {
        self.flush();
        self.rewrite();
    }

    /// A process was started.
    pub(super) fn started(&mut self, pid: Pid, id: &str, mark: Option<u64>, unit: &str) {
        self.unwritten.push((pid, id.to_owned(), mark, unit.to_owned()));
    }

    /// A process ended.
    pub(super) fn ended(&mut self, pid: Pid) {
        self.live.remove(&pid);
        self.unwritten.retain(|(started, ..)| *started != pid);
    }

    /// Writes what is not written yet.
    pub(super) fn flush(&mut self) {
        if self.unwritten.is_empty() {
            return;
        }
        let mut text = String::new();
        for (pid, id, mark, unit) in std::mem::take(&mut self.unwritten) {
            // Not reaped yet, for then it would have been taken out: the pid is still this process's.
            let Some(process) = proc::process(pid) else { continue };
            let entry = Entry {
                pid,
                start: process.start,
                id,
                mark,
                unit,
            };
            text.push_str(&entry.line());
            self.live.insert(pid, entry);
            self.lines += 1;
        }
        if self.lines > self.live.len() * 2 + SLACK {
            self.rewrite();
        } else if let Some(file) = &mut self.file
            && let Err(why) = file.write_all(text.as_bytes())
        {
            tracing::warn!(path = %self.path.display(), %why, "the record of live processes could not be written");
        }
    }

    fn rewrite(&mut self) {
        match self.try_rewrite() {
            Ok(file) => self.file = Some(file),
            Err(why) => tracing::warn!(path = %self.path.display(), %why, "the record of live processes could not be written"),
        }
        self.lines = self.live.len();
    }

    fn try_rewrite(&self) -> io::Result<File> {
        let temporary = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        let lines: String = self.live.values().map(Entry::line).collect();
        file.write_all(format!("boot {}\n{lines}", proc::boot_id()).as_bytes())?;
        fs::rename(&temporary, &self.path)?;
        Ok(file)
    }
}

/// What an earlier supervisor wrote down, if that was in this boot.
fn read(path: &Path) -> Vec<Entry> {
    let text = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let mut lines = text.split_inclusive('\n');
    let boot = lines.next().and_then(|line| line.strip_prefix("boot ")).map(str::trim_end);
    if boot != Some(&proc::boot_id()) {
        return Vec::new();
    }
    lines.filter_map(Entry::parse).collect()
}

/// Finds what an earlier supervisor of this instance left and ends it: SIGTERM, and SIGKILL after the grace. Blocks until it is gone.
/// Returns what was found, for people.
pub(super) fn end_survivors(record: &Path, control_socket: &Path, cgroups: &Stale, grace: Duration) -> Vec<String> {
    let entries = read(record);
    let begun = Instant::now();
    let (mut asked, mut killed) = (BTreeSet::new(), BTreeSet::new());
    let mut found = Vec::new();
    loop {
        let (survivors, spared) = survivors(&entries, &control_socket.to_string_lossy(), cgroups);
        let kill = begun.elapsed() >= grace;
        for (process, unit) in &survivors {
            let which = (process.pid, process.start);
            if asked.insert(which) {
                found.push(format!("{unit}: pid {} ({})", process.pid, process.command));
                end(process, libc::SIGTERM);
            }
            if kill && killed.insert(which) {
                end(process, libc::SIGKILL);
            }
        }
        if kill {
            cgroups.kill(&spared);
        }
        if survivors.is_empty() || begun.elapsed() > grace + UNKILLABLE {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn end(process: &Process, signal: i32) {
    let Ok(handle) = Handle::open(process.pid) else { return };
    if proc::process(process.pid).is_some_and(|seen| seen.start == process.start) {
        let _ = handle.signal(signal);
    }
}

/// Who survived, with its unit; and who is spared.
fn survivors(entries: &[Entry], control_socket: &str, cgroups: &Stale) -> (Vec<(Process, String)>, BTreeSet<Pid>) {
    let processes = proc::all().into_iter().map(|process| (process.pid, process)).into_map();
    let spared = ancestors(&processes);
    // Whoever is in the old supervisor's cgroups is its own without a doubt.
    let mut owners = cgroups.processes().into_iter().filter(|(pid, _)| !spared.contains(pid)).into_map();
    for process in processes
        .values()
        .filter(|process| !process.is_dead() && !spared.contains(&process.pid))
    {
        if owners.contains_key(&process.pid) {
            continue;
        }
        let unit = recorded(entries, process, &processes, &spared).or_else(|| by_environment(process, control_socket));
        if let Some(unit) = unit {
            owners.insert(process.pid, unit);
        }
    }
    let descends = |process: &Process| {
        let line = std::iter::successors(processes.get(&process.parent), |parent| processes.get(&parent.parent));
        line.take(processes.len()).find_map(|ancestor| owners.get(&ancestor.pid).cloned())
    };
    let living = processes
        .values()
        .filter(|process| !process.is_dead() && !spared.contains(&process.pid));
    let survivors = living
        .filter_map(|process| Some((process.clone(), owners.get(&process.pid).cloned().or_else(|| descends(process))?)))
        .collect();
    (survivors, spared)
}

/// Ourselves and those above us: a supervisor may be started from a shell that a unit of the old one had opened.
fn ancestors(processes: &BTreeMap<Pid, Process>) -> BTreeSet<Pid> {
    let me = processes.get(&Pid::try_from(std::process::id()).unwrap_or(Pid::MAX));
    let line = std::iter::successors(me, |process| processes.get(&process.parent));
    line.take(processes.len()).map(|process| process.pid).chain([1]).collect()
}

fn recorded(entries: &[Entry], process: &Process, processes: &BTreeMap<Pid, Process>, reapers: &BTreeSet<Pid>) -> Option<String> {
    let same = |entry: &&Entry| entry.pid == process.pid && entry.start == process.start;
    if let Some(entry) = entries.iter().find(same) {
        return Some(entry.unit.clone());
    }
    // In a session that a recorded process began: surely, while that process lives; else only with the run's mark on it.
    let of_session = |entry: &&Entry| {
        let leader = processes
            .get(&entry.pid)
            .filter(|leader| leader.start == entry.start && !leader.is_dead());
        entry.pid == process.session && process.start >= entry.start && (leader.is_some() || is_marked(entry, process))
    };
    // An orphan that was given to init, or to another reaper above us, with the run's mark on it.
    let of_reaper = |entry: &&Entry| {
        reapers.contains(&process.parent) && process.start >= entry.start && !init_is_ours(processes) && is_marked(entry, process)
    };
    entries
        .iter()
        .find(of_session)
        .or_else(|| entries.iter().find(of_reaper))
        .map(|entry| entry.unit.clone())
}

fn is_marked(entry: &Entry, process: &Process) -> bool {
    entry.mark.is_some() && entry.mark == proc::message_queue_limit(process.pid)
}

/// Whether init is another sandkeep, whose units may carry the same marks.
fn init_is_ours(processes: &BTreeMap<Pid, Process>) -> bool {
    processes.get(&1).is_some_and(|init| init.command == "sandkeep")
}

fn by_environment(process: &Process, control_socket: &str) -> Option<String> {
    let socket = proc::variable(process.pid, "SANDKEEP_SOCKET")?;
    if socket != control_socket {
        return None;
    }
    proc::variable(process.pid, "SANDKEEP_INVOCATION_ID")?;
    proc::variable(process.pid, "SANDKEEP_UNIT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: Pid, start: u64) -> Entry {
        Entry {
            pid,
            start,
            id: "ab12".to_owned(),
            mark: Some(819_000),
            unit: "web".to_owned(),
        }
    }

    #[test]
    fn lines_come_back_and_cut_ones_do_not() {
        let line = entry(7, 99).line();
        assert_eq!(Entry::parse(&line), Some(entry(7, 99)));
        for end in 0..line.len() {
            assert_eq!(Entry::parse(&line[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_record_of_another_boot_says_nothing() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("runs");
        fs::write(&path, format!("boot other\n{}", entry(7, 99).line())).unwrap();
        assert_eq!(read(&path), []);
        fs::write(&path, format!("boot {}\n{}7 cut", proc::boot_id(), entry(7, 99).line())).unwrap();
        assert_eq!(read(&path), [entry(7, 99)]);
    }

    #[test]
    fn a_record_is_written_anew_when_most_of_it_is_past() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("runs");
        let mut record = Record::new(&path);
        record.begin();
        let me = Pid::try_from(std::process::id()).unwrap();
        for _ in 0..2000 {
            record.started(me, "ab12", None, "web");
            record.flush();
            record.ended(me);
        }
        record.started(me, "last", None, "web");
        record.flush();
        let kept = read(&path);
        assert!(kept.len() < 2 * SLACK, "{}", kept.len());
        assert_eq!(kept.last().map(|entry| entry.id.as_str()), Some("last"));
    }

    #[test]
    fn a_recycled_pid_is_not_the_recorded_process() {
        let processes: BTreeMap<Pid, Process> = proc::all().into_iter().map(|process| (process.pid, process)).collect();
        let me = &processes[&Pid::try_from(std::process::id()).unwrap()];
        let mut same = entry(me.pid, me.start);
        assert_eq!(
            recorded(std::slice::from_ref(&same), me, &processes, &BTreeSet::new()),
            Some("web".to_owned())
        );
        same.start -= 1;
        same.mark = None;
        assert_eq!(recorded(&[same], me, &processes, &BTreeSet::new()), None);
    }
}
