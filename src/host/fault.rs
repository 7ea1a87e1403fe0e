//! Why a process could not be started, in words.

use super::sys::{Failure, Step};
use crate::supervisor::event::StartError;
use nix::errno::Errno;
use std::io;

/// A start that failed: what was being done, to what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartFault(StartError);

impl StartFault {
    /// A fault out of a system error.
    pub(super) fn new(act: String, why: &io::Error) -> Self {
        let errno = why.raw_os_error();
        let reason = errno.map_or_else(|| why.to_string(), reason);
        Self(StartError {
            message: format!("{act}: {reason}"),
            hint: None,
            temporary: errno.is_some_and(is_temporary),
        })
    }

    /// A fault that trying again cannot mend.
    pub(super) fn final_fault(message: String) -> Self {
        Self(StartError {
            message,
            hint: None,
            temporary: false,
        })
    }

    /// Adds what to do.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
}

impl From<StartFault> for StartError {
    fn from(fault: StartFault) -> Self {
        fault.0
    }
}

/// Whether the same call may work a moment later.
fn is_temporary(errno: i32) -> bool {
    matches!(
        errno,
        libc::EAGAIN | libc::ENOMEM | libc::ETXTBSY | libc::EMFILE | libc::ENFILE | libc::EINTR
    )
}

/// An errno in words, lower case.
pub(super) fn reason(errno: i32) -> String {
    match errno {
        libc::ENOENT => "not found".to_owned(),
        libc::ENOEXEC => "not a program, and no script with a `#!` line".to_owned(),
        libc::EAGAIN => "no more processes can be made (a limit is reached)".to_owned(),
        _ => {
            let text = Errno::from_raw(errno).desc();
            let mut characters = text.chars();
            characters
                .next()
                .map(|first| first.to_lowercase().chain(characters).collect())
                .unwrap_or_default()
        }
    }
}

/// What a step was applied to, for its message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) program: &'a str,
    /// The `PATH` that the program was looked for on, where it was.
    pub(super) search_path: Option<&'a str>,
    pub(super) directory: &'a str,
    pub(super) user: &'a str,
    pub(super) group: &'a str,
    pub(super) limits: &'a [(&'static str, Option<u64>)],
    pub(super) nice: i32,
    pub(super) oom_score: i32,
}

impl Subject<'_> {
    /// What was being done, to what.
    fn act(&self, failure: Failure) -> String {
        match failure.step {
            Step::Clone => "making a process".to_owned(),
            Step::Session => "beginning a session".to_owned(),
            Step::DeathSignal => "setting the parent-death signal".to_owned(),
            Step::Cgroup => "moving into its cgroup".to_owned(),
            Step::Descriptors => "connecting its output".to_owned(),
            Step::Limit => match self.limits.get(failure.index) {
                Some((name, Some(value))) => format!("setting limit `{name}` to {value}"),
                Some((name, None)) => format!("setting limit `{name}` to infinity"),
                None => "setting a limit".to_owned(),
            },
            Step::Nice => format!("setting nice value {}", self.nice),
            Step::OomScore => format!("setting OOM score {}", self.oom_score),
            Step::Group => format!("setting group `{}`", self.group),
            Step::User => format!("setting user `{}`", self.user),
            Step::Directory => format!("changing to directory `{}`", self.directory),
            Step::NoNewPrivileges => "giving up new privileges".to_owned(),
            Step::Execute => format!("executing `{}`", self.program),
        }
    }

    /// The failure of a start.
    pub(super) fn fault(&self, mut failure: Failure) -> StartFault {
        if (failure.step, failure.errno) == (Step::Execute, libc::EACCES) && self.is_nowhere() {
            // What may not be entered is a directory of the path, and it does not hold the program either.
            failure.errno = libc::ENOENT;
        }
        let message = format!("{}: {}", self.act(failure), reason(failure.errno));
        let hint = match (failure.step, failure.errno) {
            (Step::Execute, libc::ENOENT) => Some(self.missing_hint()),
            (Step::Execute, libc::EACCES) => Some(format!(
                "`chmod +x {}`, and see that its user may enter the directories above",
                self.program
            )),
            (Step::Directory, libc::ENOENT) => Some("`working_directory` must exist before the unit starts".to_owned()),
            _ => None,
        };
        StartFault(StartError {
            message,
            hint,
            temporary: is_temporary(failure.errno),
        })
    }

    fn is_nowhere(&self) -> bool {
        let is_there = |directory: &str| std::path::Path::new(directory).join(self.program).exists();
        self.search_path.is_some_and(|path| !path.split(':').any(is_there))
    }

    fn missing_hint(&self) -> String {
        if let Some(path) = self.search_path {
            return format!("it is in no directory of PATH ({path})");
        }
        match interpreter(self.program) {
            Some(interpreter) => format!("it exists, but its interpreter `{interpreter}` does not"),
            None => "a relative path is looked up in `working_directory`".to_owned(),
        }
    }

    /// What was done without.
    pub(super) fn warning(&self, failure: Failure) -> String {
        format!("{}: {}", self.act(failure), reason(failure.errno))
    }
}

/// The interpreter that a script names, when the script itself is there.
fn interpreter(program: &str) -> Option<String> {
    let start = std::fs::read(program).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let text = String::from_utf8_lossy(line);
    text.split_ascii_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'_> = Subject {
        program: "/x/y",
        search_path: None,
        directory: "/nowhere",
        user: "app",
        group: "staff",
        limits: &[("nofile", Some(9)), ("core", None)],
        nice: -5,
        oom_score: -100,
    };

    fn message(step: Step, errno: i32, index: usize) -> (String, bool) {
        let error = StartError::from(SUBJECT.fault(Failure { step, errno, index }));
        (error.message, error.temporary)
    }

    #[test]
    fn a_fault_names_act_subject_and_reason() {
        assert_eq!(
            message(Step::Execute, libc::ENOENT, 0),
            ("executing `/x/y`: not found".to_owned(), false)
        );
        assert_eq!(
            message(Step::Execute, libc::EACCES, 0),
            ("executing `/x/y`: permission denied".to_owned(), false)
        );
        assert_eq!(
            message(Step::User, libc::EPERM, 0),
            ("setting user `app`: operation not permitted".to_owned(), false)
        );
        assert_eq!(
            message(Step::Directory, libc::ENOTDIR, 0),
            ("changing to directory `/nowhere`: not a directory".to_owned(), false)
        );
        assert_eq!(
            message(Step::Limit, libc::EPERM, 1),
            ("setting limit `core` to infinity: operation not permitted".to_owned(), false)
        );
        assert!(message(Step::Clone, libc::EAGAIN, 0).1);
        assert!(message(Step::Execute, libc::ETXTBSY, 0).1);
    }
}
