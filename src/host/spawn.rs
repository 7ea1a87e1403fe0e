//! From a unit and a stage to a running process.

use super::account::Account;
use super::auto_user;
use super::environment::{self, Environment, Variables};
use super::fault::{StartFault, Subject};
use super::ladder::OomScores;
use super::sys::{self, Image, Rlimit};
use crate::supervisor::event::{ExitStatus, Invocation, Stage, StartError};
use crate::unit::{Command, Main, Service, Unit};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What the caller wants started.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Whose process.
    pub unit: &'a Unit,
    /// Of which run.
    pub invocation: Invocation,
    /// Which of its commands.
    pub stage: Stage,
    /// Becomes its standard output: the journal's pipe.
    pub stdout: BorrowedFd<'a>,
    /// Becomes its standard error.
    pub stderr: BorrowedFd<'a>,
    /// Set beside everything else: `SANDKEEP_CONFIG_JSON` of a worker.
    pub environment: &'a [(&'a str, &'a str)],
}

/// What every start needs.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) environment: Environment,
    pub(super) control_socket: PathBuf,
    /// The project's.
    pub(super) root_directory: PathBuf,
    pub(super) binary: PathBuf,
    pub(super) oom_scores: OomScores,
    pub(super) root: bool,
    pub(super) null: File,
    /// The soft limit of open files that we were started with; ours is raised.
    pub(super) open_files: (u64, u64),
}

/// What is true of this one start.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) spawn: &'a Spawn<'a>,
    pub(super) command: &'a [Word<'a>],
    /// Its standard input, where that is not `/dev/null`.
    pub(super) stdin: Option<BorrowedFd<'a>>,
    pub(super) id: &'a str,
    pub(super) notify: NotifyAddress,
    pub(super) mark: Option<u64>,
    pub(super) cgroup: Option<BorrowedFd<'a>>,
    pub(super) main: Option<i32>,
    pub(super) main_exit: Option<ExitStatus>,
    /// The user that was made for the unit.
    pub(super) account: Option<Account>,
}

/// Where the unit finds the notify socket.
#[derive(Clone, Debug)]
pub(super) struct NotifyAddress {
    pub(super) ours: OsString,
    pub(super) others: OsString,
}

/// A word of a command line.
pub(super) type Word<'a> = &'a OsStr;

/// The command of a stage, as words.
pub(super) fn words<'a>(unit: &'a Unit, stage: Stage, binary: &'a std::path::Path) -> Option<Vec<Word<'a>>> {
    let command = match stage {
        Stage::Main => match &unit.main {
            Main::Worker(worker) => {
                return Some([binary.as_os_str()].into_iter().chain(worker.arguments().map(OsStr::new)).collect());
            }
            Main::Exec(command) => command,
        },
        Stage::StartPre(n) => unit.exec_start_pre.get(n)?,
        Stage::StartPost(n) => unit.exec_start_post.get(n)?,
        Stage::Reload(n) => unit.exec_reload.get(n)?,
        Stage::Stop(n) => unit.exec_stop.get(n)?,
        Stage::StopPost(n) => unit.exec_stop_post.get(n)?,
    };
    Some(words_of(command))
}

/// A command, as words.
pub(super) fn words_of(command: &Command) -> Vec<Word<'_>> {
    match command {
        Command::Shell(line) => ["/bin/sh", "-c", line].map(OsStr::new).to_vec(),
        Command::Argv(words) => words.iter().map(OsStr::new).collect(),
    }
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) handle: sys::Handle,
    /// What was done without, for people.
    pub(super) warnings: Vec<String>,
    /// Whether it could not be put into the cgroup that it was to be in.
    pub(super) outside: bool,
}

/// Starts it.
pub(super) fn start(launcher: &mut sys::Launcher, around: &Surroundings, start: &Start<'_>) -> Result<Started, StartError> {
    try_start(launcher, around, start).map_err(StartError::from)
}

fn try_start(launcher: &mut sys::Launcher, around: &Surroundings, start: &Start<'_>) -> Result<Started, StartFault> {
    let unit = start.spawn.unit;
    let mut warnings = Vec::new();
    let account = match &start.account {
        Some(made) => Some(made.clone()),
        // Who cannot make users can become none either: said below.
        None if auto_user::wants_one(unit) => None,
        None => Account::of(unit)?,
    };
    if account.is_none() && auto_user::wants_one(unit) {
        let message = "making its user: only root can, and it runs as the supervisor's own".to_owned();
        if unit.strict {
            return Err(StartFault::final_fault(message));
        }
        warnings.push(message);
    }
    let switch = account.as_ref().filter(|account| !account.is_ours(unit));
    let switch = match switch {
        Some(_) if !around.root => {
            let who = unit.user.as_ref().map_or("group", |_| "user");
            let name = unit.user.as_ref().or(unit.group.as_ref()).map_or("", String::as_str);
            let message = format!(
                "setting {who} `{name}`: only root can, and the supervisor runs as uid {}",
                nix::unistd::geteuid()
            );
            if unit.strict {
                return Err(StartFault::final_fault(message));
            }
            warnings.push(message);
            None
        }
        other => other,
    };
    let variables = variables(around, start, switch)?;
    let program = start.command.first().copied().unwrap_or_default();
    let search_path = (!program.as_bytes().contains(&b'/')).then(|| variables.get(OsStr::new("PATH")).cloned().unwrap_or_default());
    let programs = programs(program, search_path.as_deref())?;
    let limits: Vec<(&'static str, Option<u64>)> = unit.limits.rlimits.iter().map(|(name, value)| (*name, *value)).collect();
    let oom_score = unit.oom_score_adjust.unwrap_or_else(|| around.oom_scores.of(unit));
    let mut image = Image {
        programs,
        arguments: start
            .command
            .iter()
            .map(|word| c_string(word))
            .collect::<Result<Vec<_>, _>>()?
            .into(),
        environment: environment::as_strings(variables).into(),
        directory: c_string(unit.working_directory.as_os_str())?,
        standard: [
            start.stdin.map_or(around.null.as_raw_fd(), |stdin| stdin.as_raw_fd()),
            start.spawn.stdout.as_raw_fd(),
            start.spawn.stderr.as_raw_fd(),
        ],
        cgroup: start.cgroup.map(|fd| fd.as_raw_fd()),
        death_signal: libc::SIGTERM,
        credentials: switch.map(Account::credentials),
        limits: rlimits(&limits, around.open_files, start.mark)?,
        umask: unit.umask.or_else(|| switch.filter(|account| account.is_made()).map(|_| 0o002)),
        nice: unit.nice,
        oom_score: CString::new(oom_score.to_string()).ok(),
        no_new_privileges: unit.no_new_privileges,
        strict: unit.strict,
    };
    let subject = Subject {
        program: &program.to_string_lossy(),
        search_path: search_path.as_ref().and_then(|path| path.to_str()),
        directory: &unit.working_directory.to_string_lossy(),
        user: unit.user.as_deref().unwrap_or_default(),
        group: unit.group.as_deref().or(unit.user.as_deref()).unwrap_or_default(),
        limits: &limits,
        nice: unit.nice.unwrap_or_default(),
        oom_score,
    };
    let mut outside = false;
    let child = match launcher.launch(&image) {
        Err(failure) if failure.step == sys::Step::Cgroup && !unit.strict => {
            warnings.push(subject.warning(failure));
            outside = true;
            image.cgroup = None;
            launcher.launch(&image)
        }
        other => other,
    };
    let child = child.map_err(|failure| subject.fault(failure))?;
    // Nobody asked for a score in particular: that it cannot be had is no news of this unit.
    let worth_telling = |failure: &&sys::Failure| failure.step != sys::Step::OomScore || unit.oom_score_adjust.is_some();
    warnings.extend(child.refused.iter().filter(worth_telling).map(|failure| subject.warning(*failure)));
    Ok(Started {
        handle: child.handle,
        warnings,
        outside,
    })
}

fn variables(around: &Surroundings, start: &Start<'_>, switch: Option<&Account>) -> Result<Variables, StartFault> {
    let unit = start.spawn.unit;
    let mut variables = around.environment.of_unit(unit, switch)?;
    if switch.is_some_and(Account::is_made) && !variables.contains_key(OsStr::new("GIT_CONFIG_COUNT")) {
        variables.extend(
            auto_user::git_variables(&around.root_directory)
                .into_iter()
                .map(|(name, value)| (name.into(), value)),
        );
    }
    let mut set = |name: &str, value: OsString| variables.insert(name.into(), value);
    for (name, value) in start.spawn.environment {
        set(name, value.into());
    }
    set("SANDKEEP_UNIT", unit.name.as_str().into());
    set("SANDKEEP_INVOCATION_ID", start.id.into());
    set("SANDKEEP_SOCKET", around.control_socket.clone().into());
    if unit.service == Service::Notify || unit.watchdog.is_some() || matches!(unit.main, Main::Worker(_)) {
        set(
            "NOTIFY_SOCKET",
            if switch.is_some() {
                start.notify.others.clone()
            } else {
                start.notify.ours.clone()
            },
        );
    }
    if let (Some(watchdog), Stage::Main) = (unit.watchdog, start.spawn.stage) {
        // WATCHDOG_PID is left out: the child's pid is not known before it runs, and without it every process of the unit may answer.
        set("WATCHDOG_USEC", watchdog.as_micros().to_string().into());
    }
    if let (Some(main), Stage::StartPost(_) | Stage::Reload(_) | Stage::Stop(_)) = (start.main, start.spawn.stage) {
        set("MAINPID", main.to_string().into());
    }
    if let (Some(exit), Stage::Stop(_) | Stage::StopPost(_)) = (start.main_exit, start.spawn.stage) {
        let (code, status) = match exit {
            ExitStatus::Code(code) => ("exited", code.to_string()),
            ExitStatus::Signal { signal, core } => (if core { "dumped" } else { "killed" }, signal_name(signal)),
        };
        set("EXIT_CODE", code.into());
        set("EXIT_STATUS", status.into());
    }
    Ok(variables)
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or_else(
        |_| signal.to_string(),
        |signal| signal.as_str().trim_start_matches("SIG").to_owned(),
    )
}

/// Where the program may be: as it is when it has a slash, else in each directory of the path.
fn programs(program: &OsStr, search_path: Option<&OsStr>) -> Result<Vec<CString>, StartFault> {
    let Some(path) = search_path else {
        return Ok(vec![c_string(program)?]);
    };
    let directories = path.as_bytes().split(|&byte| byte == b':');
    let candidates = directories.map(|directory| {
        let mut candidate = if directory.is_empty() { b".".to_vec() } else { directory.to_vec() };
        candidate.push(b'/');
        candidate.extend(program.as_bytes());
        c_string(&OsString::from_vec(candidate))
    });
    candidates.collect()
}

fn c_string(text: &OsStr) -> Result<CString, StartFault> {
    CString::new(text.as_bytes())
        .map_err(|_| StartFault::final_fault(format!("executing `{}`: it holds a NUL byte", text.to_string_lossy())))
}

/// The kernel's number of a resource.
fn resource(name: &str) -> Option<i32> {
    // The constants' type differs between C libraries.
    #[allow(clippy::unnecessary_cast, reason = "the constants are unsigned with glibc")]
    let number = match name.strip_prefix("limit_").unwrap_or(name) {
        "as" => libc::RLIMIT_AS as i32,
        "core" => libc::RLIMIT_CORE as i32,
        "cpu" => libc::RLIMIT_CPU as i32,
        "data" => libc::RLIMIT_DATA as i32,
        "fsize" => libc::RLIMIT_FSIZE as i32,
        "locks" => libc::RLIMIT_LOCKS as i32,
        "memlock" => libc::RLIMIT_MEMLOCK as i32,
        "msgqueue" => libc::RLIMIT_MSGQUEUE as i32,
        "nice" => libc::RLIMIT_NICE as i32,
        "nofile" => libc::RLIMIT_NOFILE as i32,
        "nproc" => libc::RLIMIT_NPROC as i32,
        "rss" => libc::RLIMIT_RSS as i32,
        "rtprio" => libc::RLIMIT_RTPRIO as i32,
        "rttime" => libc::RLIMIT_RTTIME as i32,
        "sigpending" => libc::RLIMIT_SIGPENDING as i32,
        "stack" => libc::RLIMIT_STACK as i32,
        _ => return None,
    };
    Some(number)
}

/// The unit's limits first, in order; then ours, which are not the unit's business.
fn rlimits(limits: &[(&'static str, Option<u64>)], open_files: (u64, u64), mark: Option<u64>) -> Result<Vec<Rlimit>, StartFault> {
    let mut all = Vec::with_capacity(limits.len() + 2);
    for (name, value) in limits {
        let resource = resource(name).ok_or_else(|| StartFault::final_fault(format!("setting limit `{name}`: there is no such limit")))?;
        let value = value.unwrap_or(libc::RLIM64_INFINITY);
        all.push(Rlimit {
            resource,
            soft: value,
            hard: value,
            named: true,
        });
    }
    let ours = [("nofile", Some(open_files)), ("msgqueue", mark.map(|mark| (mark, mark)))];
    for (name, value) in ours {
        let resource = resource(name).filter(|number| all.iter().all(|limit| limit.resource != *number));
        if let (Some(resource), Some((soft, hard))) = (resource, value) {
            all.push(Rlimit {
                resource,
                soft,
                hard,
                named: false,
            });
        }
    }
    Ok(all)
}

/// Lets us open as many files as we may: three for each unit. Returns what we had, which is what the units get.
pub(super) fn raise_open_files() -> (u64, u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return (1024, 4096);
    };
    if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        tracing::debug!(soft, hard, "the limit of open files stays as it is");
    }
    (soft, hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_slash_is_looked_for_on_the_path() {
        let found = programs(OsStr::new("npm"), Some(OsStr::new("/a:/b/c::d"))).unwrap();
        let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(found, ["/a/npm", "/b/c/npm", "./npm", "d/npm"]);
        assert_eq!(programs(OsStr::new("./x"), None).unwrap(), [c"./x".to_owned()]);
        assert!(programs(OsStr::new("a\0b"), None).is_err());
    }

    #[test]
    fn the_units_own_limits_win() {
        let limits = rlimits(&[("nofile", Some(9)), ("core", None)], (1024, 4096), Some(819_199)).unwrap();
        let seen: Vec<_> = limits.iter().map(|limit| (limit.soft, limit.named)).collect();
        assert_eq!(seen, [(9, true), (u64::MAX, true), (819_199, false)]);
        assert!(rlimits(&[("teapots", None)], (1, 1), None).is_err());
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal_name(15), "TERM");
        assert_eq!(signal_name(40), "40");
    }
}
