//! What /proc says about processes. proc(5).

use crate::ordered::Order;
use crate::supervisor::event::Pid;
use std::fs::File;
use std::io::Read;

/// One process, from `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) parent: Pid,
    pub(super) group: Pid,
    pub(super) session: Pid,
    /// Clock ticks after boot. With the pid it names a process for as long as the machine runs.
    pub(super) start: u64,
    pub(super) state: u8,
    pub(super) command: String,
}

impl Process {
    /// Whether it has ended already and only waits for its parent to notice.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads one process; `None` when there is none of this pid.
pub(super) fn process(pid: Pid) -> Option<Process> {
    let mut buffer = [0; 1024];
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    let read = file.read(&mut buffer).ok()?;
    parse_stat(pid, &buffer[..read])
}

fn parse_stat(pid: Pid, text: &[u8]) -> Option<Process> {
    // The command may hold anything, brackets and spaces too: it ends at the last bracket.
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(close + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let start = fields.nth(15)?.parse().ok()?;
    let command = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
    Some(Process {
        pid,
        parent,
        group,
        session,
        start,
        state,
        command,
    })
}

/// Every process that can be seen, by pid.
pub(super) fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut found: Vec<Process> = pids.filter_map(process).collect();
    found.order_by_key(|process| process.pid);
    found
}

/// Our children: all that we started and all that we adopted. Dead ones are among them until they are reaped. `None` where the kernel
/// does not tell.
///
/// The file may skip entries while children are being removed; ours are removed by our own reaping alone, and new ones are put at its
/// end, so that whatever was there when the reading began is seen.
pub(super) fn own_children() -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("children")).ok()?;
        found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<Pid>().ok()));
    }
    Some(found)
}

/// The value of a variable in the environment that a process was executed with.
pub(super) fn variable(pid: Pid, name: &str) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|&byte| byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(String::from_utf8_lossy(value).into_owned())
    })
}

/// The hard limit of POSIX message queues, in bytes; `u64::MAX` for none.
pub(super) fn message_queue_limit(pid: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max msgqueue size"))?;
    match line.split_ascii_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// Names this boot of the machine.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_and_spaces_is_told_from_the_fields() {
        let line = b"12 (a) b (c) S 3 4 5 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 777 1 2 3";
        let expected = Process {
            pid: 12,
            parent: 3,
            group: 4,
            session: 5,
            start: 777,
            state: b'S',
            command: "a) b (c".to_owned(),
        };
        assert_eq!(parse_stat(12, line), Some(expected));
    }

    #[test]
    fn cut_lines_are_no_process() {
        let line = b"12 (a) S 3 4 5 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 777 1";
        for end in 0..line.len() - 6 {
            assert_eq!(parse_stat(12, &line[..end]), None, "{end}");
        }
    }

    #[test]
    fn we_see_ourselves() {
        let me = Pid::try_from(std::process::id()).unwrap();
        let seen = process(me).unwrap();
        assert!(!seen.is_dead());
        assert!(all().iter().any(|process| process.pid == me && process.start == seen.start));
        assert_eq!(variable(me, "SANDKEEP_NO_SUCH_VARIABLE"), None);
        assert!(message_queue_limit(me).is_some());
    }
}
