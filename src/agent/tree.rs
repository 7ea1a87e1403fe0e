//! claude and everything it started: found in `/proc`, ended through pidfds.
//!
//! Tools run in sessions of their own, so neither a process group nor a parent's death reaches them. What claude starts inherits a
//! variable with a mark of this one claude; a process counts as its own if it carries the mark, or descends from one that does.

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
    /// What is outside the session of this leader: tools and what they left, but not claude nor its MCP servers.
    OutsideSession(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    pid: i32,
    started: u64,
}

#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: i32,
    session: i32,
    started: u64,
}

/// Ends the processes with this mark and waits until they are gone. Returns how many there were.
pub async fn end(mark: &str, scope: Scope) -> u32 {
    let mut ended = BTreeSet::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(2);
    loop {
        let members = find(mark, scope);
        if members.is_empty() {
            break;
        }
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

/// Whether this process, or one that it descends from, was started by a claude of ours.
pub fn is_marked(pid: i32) -> bool {
    let mut next = pid;
    for _ in 0..64 {
        if next <= 1 {
            return false;
        }
        if mark_of(next).is_some() {
            return true;
        }
        let Some(stat) = stat(next) else { return false };
        next = stat.parent;
    }
    false
}

fn find(mark: &str, scope: Scope) -> Vec<Member> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut stats = BTreeMap::new();
    let mut members = BTreeSet::new();
    for pid in pids().filter(|&pid| pid != own) {
        let Some(stat) = stat(pid) else { continue };
        stats.insert(pid, stat);
        if mark_of(pid).is_some_and(|found| found == mark) {
            members.insert(pid);
        }
    }
    // Children of members that have cleared their environment.
    loop {
        let more: Vec<i32> = stats
            .iter()
            .filter(|(pid, stat)| members.contains(&stat.parent) && !members.contains(pid))
            .map(|(&pid, _)| pid)
            .collect();
        if more.is_empty() {
            break;
        }
        members.extend(more);
    }
    let wanted = |stat: &Stat| match scope {
        Scope::Everything => true,
        Scope::OutsideSession(leader) => stat.session != leader,
    };
    let found = members
        .into_iter()
        .filter_map(|pid| stats.get(&pid).filter(|stat| wanted(stat)).map(|stat| (pid, stat.started)));
    found.map(|(pid, started)| Member { pid, started }).collect()
}

/// A recycled pid is not touched: the start time is compared once the pidfd holds the process.
fn kill(member: Member) {
    let Some(pid) = Pid::from_raw(member.pid) else { return };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if stat(member.pid).is_some_and(|stat| stat.started == member.started)
        && let Err(error) = pidfd_send_signal(&handle, Signal::KILL)
    {
        tracing::debug!("killing pid {}: {error}", member.pid);
    }
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `/proc/<pid>/stat`, proc(5); `None` for zombies and what is gone.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in brackets and may hold any character.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let dead = matches!(*fields.first()?, "Z" | "X");
    (!dead).then_some(())?;
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
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
        stat(i32::try_from(pid).unwrap()).is_some()
    }

    #[tokio::test]
    async fn ends_strays_with_and_without_the_mark() {
        let mark = format!("test-{}", std::process::id());
        let script = "setsid sleep 1000 & env -i sleep 1000 & echo ready; wait";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .env(MARK, &mark)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.as_mut().unwrap()), &mut line).unwrap();
        assert!(is_marked(i32::try_from(shell.id()).unwrap()));
        let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        assert!(end(&mark, Scope::Everything).await >= 3);
        assert!(find(&mark, Scope::Everything).is_empty());
        assert!(alive(bystander.id()));
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        shell.wait().unwrap();
    }
}
