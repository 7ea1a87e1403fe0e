//! claude and everything it started: found in `/proc`, ended through pidfds.
//!
//! Tools run in sessions of their own, so neither a process group nor a parent's death reaches them. What claude starts inherits a
//! variable with a mark of this one claude; a process counts as its own if it carries the mark, or descends from one that does. What has
//! shed both, as `env -i setsid` does, is an orphan, and orphans are given to the agent: of its children it knows those that it started.

use super::children::{Leaders, Ticks};
use crate::ordered::IntoMap;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The variable that carries the mark.
pub const MARK: &str = "SANDKEEP_AGENT_RUN";

/// How long processes may take to be gone after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Everything,
    /// What is outside claude's session: tools and what they left, but not claude nor its MCP servers.
    OutsideSession,
}

/// Whose processes are to be ended, and which.
#[derive(Clone, Debug)]
pub struct Target {
    /// The mark of a claude.
    pub mark: String,
    /// Its process id, which is its session's id too.
    pub leader: i32,
    /// Which of its processes.
    pub scope: Scope,
    /// Orphans that do not show whose they are count as its own if they were started before this.
    pub orphans_before: Ticks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    pid: i32,
    started: Ticks,
}

/// A process, as far as it matters whose it is.
#[derive(Clone, Debug)]
struct Process {
    parent: i32,
    session: i32,
    started: Ticks,
    mark: Option<String>,
}

/// `/proc/<pid>/stat`, proc(5).
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) parent: i32,
    pub(super) session: i32,
    pub(super) started: Ticks,
    /// Whether it has ended, and only waits to be reaped.
    pub(super) dead: bool,
}

/// Ends these processes and waits until they are gone. Returns how many there were.
pub async fn end(target: &Target, leaders: &Leaders) -> u32 {
    let mut ended = BTreeSet::new();
    let mut empty = false;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(2);
    loop {
        let members = find(target, &leaders.all());
        // A child of one that dies is given to us in the middle of a look: what was seen of it before and of its parent after does not
        // fit together. The next look sees it.
        if members.is_empty() && (empty || ended.is_empty()) {
            break;
        }
        empty = members.is_empty();
        for member in members {
            kill(member);
            ended.insert(member);
        }
        if tokio::time::Instant::now() >= deadline {
            tracing::warn!("processes of claude are still there {PATIENCE:?} after SIGKILL");
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    u32::try_from(ended.len()).unwrap_or(u32::MAX)
}

/// Whether this process, or one that it descends from, was started by a claude of ours. The agent itself starts nothing else.
pub fn is_inside(pid: i32) -> bool {
    let mut next = pid;
    for _ in 0..64 {
        if next <= 1 {
            return false;
        }
        if mark_of(next).is_some() {
            return true;
        }
        let Some(stat) = living(next) else { return false };
        next = stat.parent;
        if next == own() {
            return true;
        }
    }
    false
}

fn find(target: &Target, leaders: &BTreeMap<i32, String>) -> BTreeSet<Member> {
    let own = own();
    let processes = pids().filter(|&pid| pid != own).filter_map(|pid| {
        let stat = living(pid)?;
        let process = Process {
            parent: stat.parent,
            session: stat.session,
            started: stat.started,
            mark: mark_of(pid),
        };
        Some((pid, process))
    });
    select(target, leaders, own, &processes.into_map())
}

fn select(target: &Target, leaders: &BTreeMap<i32, String>, own: i32, processes: &BTreeMap<i32, Process>) -> BTreeSet<Member> {
    let orphan = |pid: &i32, process: &Process| {
        let anothers = process
            .mark
            .as_ref()
            .is_some_and(|mark| leaders.values().any(|other| other == mark));
        process.parent == own && !leaders.contains_key(pid) && !anothers && process.started < target.orphans_before
    };
    let mut members: BTreeSet<i32> = processes
        .iter()
        .filter(|(pid, process)| process.mark.as_ref() == Some(&target.mark) || orphan(pid, process))
        .map(|(&pid, _)| pid)
        .collect();
    // Children of members that have cleared their environment.
    loop {
        let more: Vec<i32> = processes
            .iter()
            .filter(|(pid, process)| members.contains(&process.parent) && !members.contains(pid))
            .map(|(&pid, _)| pid)
            .collect();
        if more.is_empty() {
            break;
        }
        members.extend(more);
    }
    let spared = |session: i32| match session == target.leader {
        true => target.scope == Scope::OutsideSession,
        false => leaders.get(&session).is_some_and(|mark| *mark != target.mark),
    };
    let found = members.into_iter().filter_map(|pid| {
        processes
            .get(&pid)
            .filter(|process| !spared(process.session))
            .map(|process| (pid, process.started))
    });
    found.map(|(pid, started)| Member { pid, started }).collect()
}

/// A recycled pid is not touched: the start time is compared once the pidfd holds the process.
fn kill(member: Member) {
    let Some(pid) = Pid::from_raw(member.pid) else { return };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if living(member.pid).is_some_and(|stat| stat.started == member.started)
        && let Err(error) = pidfd_send_signal(&handle, Signal::KILL)
    {
        tracing::debug!("killing pid {}: {error}", member.pid);
    }
}

pub(super) fn own() -> i32 {
    i32::try_from(std::process::id()).unwrap_or_default()
}

pub(super) fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `None` for zombies and what is gone.
fn living(pid: i32) -> Option<Stat> {
    stat(pid).filter(|stat| !stat.dead)
}

pub(super) fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in brackets and may hold any character.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    Some(Stat {
        dead: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: Ticks(fields.get(19)?.parse().ok()?),
    })
}

fn mark_of(pid: i32) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{MARK}=");
    let found = environment
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    String::from_utf8(found.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn alive(pid: u32) -> bool {
        living(i32::try_from(pid).unwrap()).is_some()
    }

    #[tokio::test]
    async fn ends_strays_with_and_without_the_mark() {
        let target = Target {
            mark: format!("test-{}", std::process::id()),
            leader: 0,
            scope: Scope::Everything,
            orphans_before: Ticks::NEVER,
        };
        let script = "setsid sleep 1000 & env -i sleep 1000 & echo ready; wait";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .env(MARK, &target.mark)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.as_mut().unwrap()), &mut line).unwrap();
        assert!(is_inside(i32::try_from(shell.id()).unwrap()));
        let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(end(&target, &Leaders::default()).await >= 3);
        assert!(find(&target, &BTreeMap::new()).is_empty());
        assert!(alive(bystander.id()));
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        shell.wait().unwrap();
    }

    const AGENT: i32 = 10;

    /// Two claudes, 20 and 30, each with a tool in a session of its own; orphans that shed their mark.
    fn two_claudes() -> BTreeMap<i32, Process> {
        let process = |parent, session, started, mark: &str| Process {
            parent,
            session,
            started: Ticks(started),
            mark: Some(mark.to_owned()).filter(|mark| !mark.is_empty()),
        };
        BTreeMap::from([
            (20, process(AGENT, 20, 100, "a")),
            (21, process(20, 20, 101, "a")),
            (22, process(20, 22, 102, "a")),
            (23, process(22, 23, 103, "")),
            (30, process(AGENT, 30, 200, "b")),
            (32, process(30, 32, 202, "b")),
            (40, process(AGENT, 40, 150, "")),
            (41, process(40, 41, 250, "")),
            (42, process(AGENT, 42, 300, "")),
            (43, process(AGENT, 43, 301, "b")),
            (44, process(AGENT, 30, 302, "")),
            (45, process(AGENT, 45, 303, "of one that has ended")),
            (50, process(1, 50, 104, "")),
        ])
    }

    fn selected(scope: Scope, orphans_before: Ticks, leaders: &[(i32, &str)]) -> Vec<i32> {
        let target = Target {
            mark: "a".into(),
            leader: 20,
            scope,
            orphans_before,
        };
        let leaders = leaders.iter().map(|&(pid, mark)| (pid, mark.to_owned())).collect();
        let found = select(&target, &leaders, AGENT, &two_claudes());
        found.into_iter().map(|member| member.pid).collect()
    }

    #[test]
    fn orphans_without_a_mark_are_of_who_may_have_left_them() {
        let both = [(20, "a"), (30, "b")];
        assert_eq!(selected(Scope::OutsideSession, Ticks::NEVER, &both), [22, 23]);
        assert_eq!(selected(Scope::OutsideSession, Ticks(200), &both), [22, 23, 40, 41]);
        assert_eq!(selected(Scope::OutsideSession, Ticks::FOREVER, &both), [22, 23, 40, 41, 42, 45]);
        assert_eq!(selected(Scope::Everything, Ticks::NEVER, &both), [20, 21, 22, 23]);
        assert_eq!(selected(Scope::Everything, Ticks::NEVER, &[(20, "a")]), [20, 21, 22, 23]);
        // It has ended, and is not known any more.
        assert_eq!(
            selected(Scope::Everything, Ticks::FOREVER, &both[1..]),
            [20, 21, 22, 23, 40, 41, 42, 45]
        );
    }
}
