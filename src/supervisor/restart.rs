//! What follows the end of a run: policies, start limits, backoff.

use super::event::{ExitStatus, Stage};
use super::saved::instants;
use super::state::End;
use crate::backoff::{self, Steps};
use crate::unit::{Command, Main, Restart, Service, Unit, Worker};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Ready for so long, a unit's next failure counts as its first.
pub const STABLE_AFTER: Duration = Duration::from_secs(10);

/// EX_CONFIG of sysexits.h: wrong configuration, expired credentials. Trying again cannot help.
pub const EX_CONFIG: u8 = 78;

/// The kinds of end that `restart` tells apart. systemd.service(5), table 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Clean,
    ExitCode,
    Abnormal,
    Watchdog,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The oneshot did what it was for.
    Succeeded,
    /// Another start, after the backoff.
    Again,
    /// A clean end.
    Ended,
    /// A bad end.
    Failed,
}

/// The kind of an end, and systemd's word for it (`Result=`).
pub(super) fn classify(spec: &Unit, end: &End) -> (Class, &'static str) {
    match end {
        End::Asked(_) => (Class::Clean, "success"),
        End::Exited { oom: true, .. } => (Class::Abnormal, "oom-kill"),
        End::Exited { status, early, .. } => match (status, clean(spec, *status)) {
            (_, true) if *early => (Class::ExitCode, "protocol"),
            (_, true) => (Class::Clean, "success"),
            (ExitStatus::Code(_), false) => (Class::ExitCode, "exit-code"),
            (ExitStatus::Signal { core: true, .. }, false) => (Class::Abnormal, "core-dump"),
            (ExitStatus::Signal { core: false, .. }, false) => (Class::Abnormal, "signal"),
        },
        End::SpawnFailed { .. } => (Class::ExitCode, "resources"),
        End::CommandFailed {
            status: ExitStatus::Code(_),
            ..
        } => (Class::ExitCode, "exit-code"),
        End::CommandFailed {
            status: ExitStatus::Signal { .. },
            ..
        } => (Class::Abnormal, "signal"),
        End::StartTimeout(_) | End::RuntimeMax(_) | End::StopTimeout => (Class::Abnormal, "timeout"),
        End::Watchdog => (Class::Watchdog, "watchdog"),
        End::Liveness(_) => (Class::Watchdog, "liveness"),
    }
}

/// Whether this is an end as it should be.
fn clean(spec: &Unit, status: ExitStatus) -> bool {
    match status {
        ExitStatus::Code(code) => code == 0 || spec.success_exit_status.codes.contains(&code),
        ExitStatus::Signal { signal, .. } => spec.success_exit_status.signals.contains(&signal),
    }
}

/// Whether a policy starts again after such an end. systemd.service(5), table 2.
fn starts_again(policy: Restart, class: Class) -> bool {
    match policy {
        Restart::No => false,
        Restart::Always => true,
        Restart::OnSuccess => class == Class::Clean,
        Restart::OnFailure => class != Class::Clean,
        Restart::OnAbnormal => matches!(class, Class::Abnormal | Class::Watchdog),
        Restart::OnWatchdog => class == Class::Watchdog,
    }
}

/// What follows an end that was not asked for.
pub(super) fn verdict(spec: &Unit, end: &End) -> Verdict {
    let (class, _) = classify(spec, end);
    if class == Class::Clean && oneshot(spec) {
        return Verdict::Succeeded;
    }
    let again = match end {
        End::SpawnFailed { error, .. } => error.temporary,
        End::Exited { status, oom: false, .. } | End::CommandFailed { status, .. } if prevented(spec, *status) => false,
        End::Exited { status, .. } if missing(command(spec, Stage::Main), *status) => false,
        End::CommandFailed { stage, status } if missing(command(spec, *stage), *status) => false,
        End::Asked(_)
        | End::Exited { .. }
        | End::CommandFailed { .. }
        | End::StartTimeout(_)
        | End::RuntimeMax(_)
        | End::StopTimeout
        | End::Watchdog
        | End::Liveness(_) => starts_again(spec.restart, class) || (restores(spec) && class != Class::Clean),
    };
    match (again, class) {
        (true, _) => Verdict::Again,
        (false, Class::Clean) => Verdict::Ended,
        (false, _) => Verdict::Failed,
    }
}

/// Whether trying again after this status is ruled out.
fn prevented(spec: &Unit, status: ExitStatus) -> bool {
    match status {
        ExitStatus::Code(code) => code == EX_CONFIG || spec.restart_prevent_exit_status.codes.contains(&code),
        ExitStatus::Signal { signal, .. } => spec.restart_prevent_exit_status.signals.contains(&signal),
    }
}

/// Whether this is a shell's word for a command that is not there (127) or cannot be executed (126): final, as it is for one that is
/// executed without a shell.
fn missing(command: Option<&Command>, status: ExitStatus) -> bool {
    matches!((command, status), (Some(Command::Shell(_)), ExitStatus::Code(126 | 127)))
}

/// The command of a stage; `None` for a worker.
fn command(spec: &Unit, stage: Stage) -> Option<&Command> {
    match stage {
        Stage::StartPre(n) => spec.exec_start_pre.get(n),
        Stage::Main => match &spec.main {
            Main::Exec(command) => Some(command),
            Main::Worker(_) => None,
        },
        Stage::StartPost(n) => spec.exec_start_post.get(n),
        Stage::Reload(n) => spec.exec_reload.get(n),
        Stage::Stop(n) => spec.exec_stop.get(n),
        Stage::StopPost(n) => spec.exec_stop_post.get(n),
    }
}

/// Whether its success is the end of its main process.
pub(super) fn oneshot(spec: &Unit) -> bool {
    matches!(spec.service, Service::Oneshot { .. })
}

/// Whether it is the `restore` worker. Its retries are part of one start: they go on, whatever `restart` says, until `start_timeout`,
/// counted from the first, and the start limit does not apply. What waits for it goes on waiting meanwhile.
pub(super) fn restores(spec: &Unit) -> bool {
    spec.main == Main::Worker(Worker::Restore)
}

/// How long to wait before the restart after `attempts` short runs in a row.
pub(super) fn delay(spec: &Unit, attempts: u32, random: u64) -> Duration {
    Steps {
        delay: spec.restart_delay,
        max: spec.restart_max_delay,
        steps: spec.restart_steps,
    }
    .wait(attempts, random)
}

/// The jitter of this unit's run: the same for the same seed, name and number.
pub(super) fn randomness(seed: u64, name: &str, invocation: u64) -> u64 {
    let named = name.bytes().fold(seed, |hash, byte| backoff::mix(hash, u64::from(byte)));
    backoff::mix(named, invocation)
}

/// The starts that the limit still remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Starts(#[serde(with = "instants")] VecDeque<Instant>);

impl Starts {
    /// Whether one more start would be one too many.
    pub(super) fn exhausted(&mut self, spec: &Unit, now: Instant) -> bool {
        while self
            .0
            .front()
            .is_some_and(|&at| now.duration_since(at) >= spec.start_limit_interval)
        {
            self.0.pop_front();
        }
        spec.start_limit_burst > 0 && !restores(spec) && self.0.len() >= usize::try_from(spec.start_limit_burst).unwrap_or(usize::MAX)
    }

    /// Counts one, where there is a limit that could need it.
    pub(super) fn count(&mut self, spec: &Unit, now: Instant) {
        if spec.start_limit_burst > 0 && !restores(spec) {
            self.0.push_back(now);
        }
    }

    /// Forgets them: somebody asked for this start, or the machine was paused.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Name;

    fn unit() -> Unit {
        let name = Name::new("u").expect("a name");
        Unit::new(name, Main::Exec(Command::Argv(vec!["u".into()])))
    }

    #[test]
    fn the_window_of_the_start_limit_slides() {
        let (spec, begin) = (unit(), Instant::now());
        let mut starts = Starts::default();
        for second in 0..5 {
            let at = begin + Duration::from_secs(second);
            assert!(!starts.exhausted(&spec, at));
            starts.count(&spec, at);
        }
        assert!(starts.exhausted(&spec, begin + Duration::from_millis(9999)));
        assert!(
            !starts.exhausted(&spec, begin + Duration::from_secs(10)),
            "the first one is ten seconds ago"
        );
        starts.forget();
        assert!(!starts.exhausted(&spec, begin));
    }

    #[test]
    fn jitter_is_the_same_for_the_same_run_and_differs_between_units() {
        assert_eq!(randomness(1, "dev", 2), randomness(1, "dev", 2));
        assert_ne!(randomness(1, "dev", 2), randomness(1, "dev", 3));
        assert_ne!(randomness(1, "dev", 2), randomness(1, "ved", 2));
        assert_ne!(randomness(1, "dev", 2), randomness(2, "dev", 2));
    }

    #[test]
    fn only_a_shell_says_127_for_a_missing_command() {
        let end = End::Exited {
            status: ExitStatus::Code(127),
            oom: false,
            early: false,
        };
        let again = Unit {
            restart: Restart::Always,
            ..unit()
        };
        assert_eq!(verdict(&again, &end), Verdict::Again);
        let shell = Unit {
            main: Main::Exec(Command::Shell("nope".into())),
            ..again
        };
        assert_eq!(verdict(&shell, &end), Verdict::Failed);
    }
}
