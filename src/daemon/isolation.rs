//! `secret_isolation`, measured: a child in each unit's surroundings tries to get at what others hold.
//!
//! It runs as the unit does (user, groups, limits), opens `/proc/PID/environ` for reading and `/proc/PID/mem` for writing of every process
//! that holds secrets (for both the kernel asks what it asks before a ptrace attach), and asks `sudo -n` and the doors of container daemons
//! whether they would make it root. Nothing is read and nothing is changed. What it finds holds for this moment; it is measured again when
//! other runs than the measured ones are there.
//!
//! The supervisor's own memory holds the secrets, too, and stays open to others of its user, unlike the workers'. As root that is nobody
//! but root. As another user a process that is not dumpable could not write its children's `oom_score_adj` (before exec they share its
//! memory, and with it who owns their `/proc` files), and who looks from outside (`doctor`, the search for survivors) would not see it; and
//! a unit of the same user can still become its debugger's equal in other ways. The measure therefore says `none` or `same-uid` there.

use super::probes::Answer;
use crate::control::document::SecretIsolation;
use crate::host::Host;
use crate::supervisor::{ExitStatus, Invocation, Pid, Supervisor};
use crate::tasks;
use crate::unit::{Command, Main, Name, Unit, Worker};
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) isolation: SecretIsolation,
    /// Why it is not more.
    pub(super) reason: String,
}

impl Default for Finding {
    fn default() -> Self {
        Self {
            isolation: SecretIsolation::None,
            reason: "not measured yet: no unit has run".to_owned(),
        }
    }
}

/// What the child tells with its exit status, one bit each.
const READS_ENVIRONMENT: u8 = 1;
const READS_MEMORY: u8 = 2;
const MAY_BECOME_ROOT: u8 = 4;
const RULES_CONTAINERS: u8 = 8;
const IS_ROOT: u8 = 16;

/// The child. A shell is everywhere, and may be executed by everyone, which this binary may not.
fn script(targets: &[Pid]) -> Command {
    let targets = targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    Command::Shell(format!(
        "r=0; [ \"$(id -u)\" = 0 ] && r={IS_ROOT}
for p in {targets}; do
(exec 3</proc/$p/environ) 2>/dev/null && r=$((r | {READS_ENVIRONMENT}))
(exec 3<>/proc/$p/mem) 2>/dev/null && r=$((r | {READS_MEMORY}))
done
command -v sudo >/dev/null && sudo -n true </dev/null >/dev/null 2>&1 && r=$((r | {MAY_BECOME_ROOT}))
for s in /var/run/docker.sock /run/podman/podman.sock /run/containerd/containerd.sock; do
[ -w $s ] && r=$((r | {RULES_CONTAINERS}))
done
exit $r"
    ))
}

/// One run that is to be looked at.
type Run = (Name, Invocation);

/// What is known, and for which runs.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    measured: Vec<Run>,
}

impl Isolation {
    /// Measures if other runs are there than the last time. The answer comes by itself.
    pub(super) fn look(&mut self, supervisor: &mut Supervisor, host: &mut Host, answers: &mpsc::UnboundedSender<Answer>) {
        let status = supervisor.status();
        let running = status
            .units
            .iter()
            .filter_map(|unit| Some((Arc::clone(&unit.spec), unit.invocation, unit.pid?)));
        let running: Vec<(Arc<Unit>, Invocation, Pid)> = running.collect();
        let runs: Vec<Run> = running
            .iter()
            .map(|(unit, invocation, _)| (unit.name.clone(), *invocation))
            .collect();
        if runs.is_empty() || runs == self.measured {
            return;
        }
        let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") else {
            return;
        };
        self.measured = runs;
        let holders: Vec<&(Arc<Unit>, Invocation, Pid)> = running.iter().filter(|(unit, ..)| !unit.secrets.is_empty()).collect();
        let mut asked = Vec::new();
        let mut who: Vec<String> = Vec::new();
        for (unit, invocation, _) in running.iter().filter(|(unit, ..)| runs_others_code(unit)) {
            let name = account(unit);
            if who.contains(&name) {
                continue;
            }
            who.push(name);
            let others = holders.iter().filter(|(other, ..)| other.name != unit.name).map(|(_, _, pid)| *pid);
            let targets: Vec<Pid> = others.chain([std::process::id().cast_signed()]).collect();
            let child = host.spawn_probe(unit, *invocation, &script(&targets), null.as_fd());
            asked.push((unit.name.clone(), child));
        }
        let shared = shares_a_user(&running);
        let answers = answers.clone();
        tasks::spawn(async move {
            let mut found = Vec::new();
            for (unit, child) in asked {
                let code = match child {
                    Ok(child) => match child.exit.await {
                        Ok(ExitStatus::Code(code)) => Some((child.pid, code)),
                        Ok(ExitStatus::Signal { .. }) | Err(_) => None,
                    },
                    Err(_) => None,
                };
                let code = code.map(|(pid, code)| {
                    let _ = answers.send(Answer::KillProbe(pid));
                    code
                });
                found.push((unit, code));
            }
            let _ = answers.send(Answer::Isolation(judge(&found, shared)));
        });
    }
}

/// Whether what runs in it is the project's or the agent's, and not ours.
fn runs_others_code(unit: &Unit) -> bool {
    match unit.main {
        Main::Exec(_) | Main::Worker(Worker::Agent) => true,
        Main::Worker(Worker::Sync | Worker::Restore) => false,
    }
}

/// As whom a unit runs: units of which this is equal can do the same.
fn account(unit: &Unit) -> String {
    let user = match unit.user.as_deref() {
        Some("auto") => format!("auto {}", unit.name),
        user => user.unwrap_or_default().to_owned(),
    };
    format!("{user}:{}:{}", unit.group.as_deref().unwrap_or_default(), unit.no_new_privileges)
}

/// Two units that run as one user, of which one holds secrets.
fn shares_a_user(running: &[(Arc<Unit>, Invocation, Pid)]) -> Option<(Name, Name)> {
    let user = |unit: &Unit| (unit.user.clone(), (unit.user.as_deref() == Some("auto")).then(|| unit.name.clone()));
    running
        .iter()
        .filter(|(unit, ..)| !unit.secrets.is_empty())
        .find_map(|(holder, ..)| {
            let other = running
                .iter()
                .find(|(other, ..)| other.name != holder.name && runs_others_code(other) && user(other) == user(holder));
            other.map(|(other, ..)| (other.name.clone(), holder.name.clone()))
        })
}

/// What the children's answers add up to: the worst counts.
fn judge(found: &[(Name, Option<u8>)], shared: Option<(Name, Name)>) -> Finding {
    let none = |reason: String| Finding {
        isolation: SecretIsolation::None,
        reason,
    };
    let same = |reason: String| Finding {
        isolation: SecretIsolation::SameUid,
        reason,
    };
    let with = |bit: u8| {
        found
            .iter()
            .find(|(_, code)| code.is_some_and(|code| code & bit != 0))
            .map(|(unit, _)| unit)
    };
    if let Some(unit) = with(IS_ROOT) {
        return none(format!("`{unit}` runs as root"));
    }
    if let Some(unit) = with(MAY_BECOME_ROOT) {
        return none(format!("`{unit}` may become root: sudo asks it for no password"));
    }
    if let Some(unit) = with(RULES_CONTAINERS) {
        return none(format!("`{unit}` may become root: a container daemon's socket is open to it"));
    }
    if let Some((unit, _)) = found.iter().find(|(_, code)| code.is_none()) {
        return none(format!("it could not be measured as `{unit}`"));
    }
    if let Some(unit) = with(READS_ENVIRONMENT | READS_MEMORY) {
        return same(format!("`{unit}` can read the memory of a process that holds secrets"));
    }
    if let Some((unit, holder)) = shared {
        return same(format!("`{unit}` runs as the same user as `{holder}`, which holds secrets"));
    }
    Finding {
        isolation: SecretIsolation::SeparateUid,
        reason: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn the_worst_counts() {
        let judged = |codes: &[Option<u8>]| {
            let found: Vec<_> = codes.iter().zip(["a", "b"]).map(|(code, unit)| (name(unit), *code)).collect();
            judge(&found, None)
        };
        assert_eq!(judged(&[Some(0), Some(0)]).isolation, SecretIsolation::SeparateUid);
        assert_eq!(judged(&[Some(0), Some(READS_MEMORY)]).isolation, SecretIsolation::SameUid);
        let sudo = judged(&[Some(READS_MEMORY), Some(MAY_BECOME_ROOT)]);
        assert_eq!(sudo.isolation, SecretIsolation::None);
        assert_eq!(sudo.reason, "`b` may become root: sudo asks it for no password");
        assert_eq!(judged(&[Some(0), None]).isolation, SecretIsolation::None);
        let shared = judge(&[(name("dev"), Some(0))], Some((name("dev"), name("agent"))));
        assert_eq!(shared.isolation, SecretIsolation::SameUid);
    }
}
