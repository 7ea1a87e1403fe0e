//! What needs `unsafe`: the system calls that no crate offers in a safe form. Nothing here decides anything.
#![allow(
    unsafe_code,
    reason = "clone with a child that does more than exec, pidfds, waitid with WNOWAIT and prctl have no safe form"
)]

use super::clone3;
use crate::supervisor::event::{ExitStatus, Pid};
use std::ffi::{CString, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    /// The call that makes the process.
    Clone = 1,
    /// `setsid`.
    Session,
    /// `prctl(PR_SET_PDEATHSIG)`.
    DeathSignal,
    /// Moving into its cgroup.
    Cgroup,
    /// Putting pipes and `/dev/null` in place.
    Descriptors,
    /// `setrlimit`, of the n-th.
    Limit,
    /// `setpriority`.
    Nice,
    /// Writing `oom_score_adj`.
    OomScore,
    /// `setgroups` or `setresgid`.
    Group,
    /// `setresuid`.
    User,
    /// `chdir`.
    Directory,
    /// `prctl(PR_SET_NO_NEW_PRIVS)`.
    NoNewPrivileges,
    /// `execve`.
    Execute,
}

/// A step that failed, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) errno: i32,
    /// Which of several, for `Limit`.
    pub(super) index: usize,
}

/// Who the child becomes.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// A resource limit to set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rlimit {
    pub(super) resource: c_int,
    pub(super) soft: u64,
    pub(super) hard: u64,
    /// Whether the unit asked for it; what it did not ask for may fail in silence.
    pub(super) named: bool,
}

/// A list of C strings as `execve` takes it. The strings own their memory, so the pointers stay good when the value moves.
#[derive(Debug)]
pub(super) struct StringArray {
    #[expect(dead_code, reason = "owns what the pointers point to")]
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl From<Vec<CString>> for StringArray {
    fn from(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Self { strings, pointers }
    }
}

impl StringArray {
    /// As `execve` takes it; good for as long as the value lives.
    pub(super) fn pointers(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

/// Everything that the child does between clone and exec, made ready before, so that the child allocates nothing.
#[derive(Debug)]
pub(super) struct Image {
    /// Tried one after the other, as `execvp` does.
    pub(super) programs: Vec<CString>,
    pub(super) arguments: StringArray,
    pub(super) environment: StringArray,
    pub(super) directory: CString,
    /// Become 0, 1 and 2; each above 2.
    pub(super) standard: [RawFd; 3],
    /// The directory of its cgroup.
    pub(super) cgroup: Option<RawFd>,
    pub(super) death_signal: c_int,
    pub(super) credentials: Option<Credentials>,
    pub(super) limits: Vec<Rlimit>,
    pub(super) umask: Option<u32>,
    pub(super) nice: Option<i32>,
    pub(super) oom_score: Option<CString>,
    pub(super) no_new_privileges: bool,
    /// Whether limits, nice value and OOM score that cannot be had are failures.
    pub(super) strict: bool,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) handle: Handle,
    /// Steps that failed and were done without.
    pub(super) refused: Vec<Failure>,
}

/// Names a process for good: through its pidfd where the kernel has them. Without one the pid alone is used, which is only right for
/// children of ours that have not been reaped.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) pid: Pid,
    descriptor: Option<OwnedFd>,
}

impl Handle {
    /// Takes hold of a process that exists at this moment.
    pub(super) fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            pid,
            descriptor: own(descriptor),
        })
    }

    /// What an earlier image of this process held: the descriptor is a pidfd of this process.
    pub(super) fn inherited(pid: Pid, descriptor: Option<OwnedFd>) -> Self {
        Self { pid, descriptor }
    }

    /// A child of ours that is tracked by its pid, for kernels without pidfds.
    pub(super) fn bare(pid: Pid) -> Self {
        Self { pid, descriptor: None }
    }

    /// The pidfd; readable once the process has ended.
    pub(super) fn descriptor(&self) -> Option<&OwnedFd> {
        self.descriptor.as_ref()
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: c_int) -> io::Result<()> {
        let result = match &self.descriptor {
            // SAFETY: a null siginfo is allowed and asks for what kill(2) would send.
            Some(fd) => unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, ptr::null::<c_void>(), 0) },
            // SAFETY: kill takes two integers; the pid is positive, so it names one process.
            None => unsafe { libc::c_long::from(libc::kill(self.pid, signal)) },
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// SIGKILL for a whole process group, which must not be ours.
pub(super) fn kill_group(group: Pid) {
    // SAFETY: getpgrp cannot fail and killpg takes integers.
    unsafe {
        if group > 1 && group != libc::getpgrp() {
            libc::killpg(group, libc::SIGKILL);
        }
    }
}

fn own(descriptor: libc::c_long) -> Option<OwnedFd> {
    let descriptor = RawFd::try_from(descriptor).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What the child leaves for the parent in the memory that they share until exec.
#[derive(Debug, Default)]
struct Report {
    failed: Option<Failure>,
    refused: [Option<Failure>; 24],
    refusals: usize,
}

struct Shared<'a> {
    image: &'a Image,
    parent: Pid,
    /// The cgroup that the child is to move into by itself: the kernel could not put it there at its birth.
    enter: Option<RawFd>,
    report: *mut Report,
}

/// Starts processes. Holds the stack that each child uses for the moments before exec; as the parent stands still meanwhile, one is enough.
#[derive(Debug)]
pub(super) struct Launcher {
    stack: Box<[MaybeUninit<u128>]>,
    pidfd: bool,
}

impl Launcher {
    /// A launcher; `pidfd` says whether the kernel has them.
    pub(super) fn new(pidfd: bool) -> Self {
        Self {
            stack: Box::new_uninit_slice(4096),
            pidfd,
        }
    }

    /// Starts what the image says. Returns when the child has executed it or failed. Must be called on the main thread, for the
    /// parent-death signal comes at the end of the thread that started a child.
    pub(super) fn launch(&mut self, image: &Image) -> Result<Child, Failure> {
        let mut report = Report::default();
        let mut shared = Shared {
            image,
            parent: pid_as_seen_by_children(),
            enter: None,
            report: &raw mut report,
        };
        let mut descriptor: c_int = -1;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | if self.pidfd { libc::CLONE_PIDFD } else { 0 };
        let all: u64 = !0;
        let mut before: u64 = 0;
        // SAFETY: both masks are eight bytes, as the kernel's. With every signal blocked no handler of ours can run in the child, which
        // shares our memory.
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, 8) };
        let born = image.cgroup.map(|cgroup| {
            // SAFETY: as below.
            unsafe { clone3::clone_into(cgroup, flags, &raw mut descriptor, &mut self.stack, child, (&raw mut shared).cast()) }
        });
        let (pid, errno) = match born {
            Some(Ok(pid)) => (pid, 0),
            Some(Err(errno)) if !matches!(errno, libc::ENOSYS | libc::EINVAL | libc::E2BIG) => (-1, errno),
            Some(Err(_)) | None => {
                shared.enter = image.cgroup;
                // SAFETY: the stack is ours, aligned to 16 bytes, large enough for `child` and used by nobody else: CLONE_VFORK lets us go
                // on only after the child has left this memory. `shared` and what it points to live longer than the call. `child`
                // allocates nothing, takes no lock and calls nothing but the kernel.
                unsafe {
                    let top = self.stack.as_mut_ptr().add(self.stack.len()).cast::<c_void>();
                    let pid = libc::clone(child, top, flags, (&raw mut shared).cast(), &raw mut descriptor);
                    (pid, *libc::__errno_location())
                }
            }
        };
        // SAFETY: restores the mask read above.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const before,
                ptr::null_mut::<u64>(),
                8,
            )
        };
        if pid < 0 {
            // What a cgroup may answer, and a clone without one never does.
            let cgroup = image.cgroup.is_some()
                && matches!(
                    errno,
                    libc::EBUSY | libc::EACCES | libc::EPERM | libc::EBADF | libc::ENODEV | libc::EOPNOTSUPP | libc::ENOENT
                );
            return Err(Failure {
                step: if cgroup { Step::Cgroup } else { Step::Clone },
                errno,
                index: 0,
            });
        }
        // SAFETY: the child has left; it wrote through this pointer behind the compiler's back, hence the volatile read.
        let report = unsafe { ptr::read_volatile(&raw const report) };
        let handle = Handle {
            pid,
            descriptor: own(descriptor.into()),
        };
        if let Some(failure) = report.failed {
            reap(pid);
            return Err(failure);
        }
        Ok(Child {
            handle,
            refused: report.refused.into_iter().flatten().collect(),
        })
    }
}

/// A process of another pid namespace that becomes our child sees us as 0; ours see us as we do.
fn pid_as_seen_by_children() -> Pid {
    // SAFETY: getpid cannot fail.
    unsafe { libc::getpid() }
}

fn errno() -> i32 {
    // SAFETY: the C library gives a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() }
}

/// Runs in the child, on the launcher's stack, in the parent's memory. Raw system calls where the C library's wrapper would do more
/// (setresuid and its like tell all threads of what it believes to be the process).
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: `launch` passes a pointer to its `Shared`, and stands still until we are gone.
    let shared = unsafe { &*argument.cast::<Shared<'_>>() };
    let failure = become_image(shared);
    // SAFETY: the report outlives us, as above, and the parent does not read it before we are gone.
    unsafe {
        ptr::write_volatile(&raw mut (*shared.report).failed, Some(failure));
        libc::_exit(127)
    }
}

fn refuse(shared: &Shared<'_>, failure: Failure) -> Result<(), Failure> {
    if shared.image.strict {
        return Err(failure);
    }
    // SAFETY: as in `child`.
    let report = unsafe { &mut *shared.report };
    if let Some(slot) = report.refused.get_mut(report.refusals) {
        *slot = Some(failure);
        report.refusals += 1;
    }
    Ok(())
}

/// Only returns when it failed.
fn become_image(shared: &Shared<'_>) -> Failure {
    match prepare(shared) {
        Err(failure) => failure,
        Ok(()) => execute(shared.image),
    }
}

fn check(step: Step, result: libc::c_long) -> Result<(), Failure> {
    if result < 0 {
        Err(Failure {
            step,
            errno: errno(),
            index: 0,
        })
    } else {
        Ok(())
    }
}

fn prepare(shared: &Shared<'_>) -> Result<(), Failure> {
    let image = shared.image;
    default_signals();
    // SAFETY: setsid touches no memory.
    check(Step::Session, unsafe { libc::syscall(libc::SYS_setsid) })?;
    set_death_signal(shared)?;
    if let Some(cgroup) = shared.enter {
        enter_cgroup(cgroup)?;
    }
    for (index, limit) in image.limits.iter().enumerate() {
        let value = libc::rlimit64 {
            rlim_cur: limit.soft,
            rlim_max: limit.hard,
        };
        // SAFETY: `value` has the kernel's layout and lives through the call.
        let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, limit.resource, &raw const value, ptr::null_mut::<c_void>()) };
        if let (Err(failure), true) = (check(Step::Limit, result), limit.named) {
            refuse(shared, Failure { index, ..failure })?;
        }
    }
    if let Some(mask) = image.umask {
        // SAFETY: umask touches no memory and cannot fail.
        unsafe { libc::syscall(libc::SYS_umask, mask) };
    }
    if let Some(nice) = image.nice {
        // SAFETY: setpriority takes integers; 0 is the calling process.
        let result = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice) };
        check(Step::Nice, result).or_else(|failure| refuse(shared, failure))?;
    }
    if let Some(score) = &image.oom_score {
        write_oom_score(score).or_else(|failure| refuse(shared, failure))?;
    }
    if let Some(credentials) = &image.credentials {
        set_credentials(credentials)?;
        // The kernel forgets the death signal when a process changes its user.
        set_death_signal(shared)?;
    }
    // SAFETY: the string is terminated and lives through the call.
    check(Step::Directory, unsafe { libc::syscall(libc::SYS_chdir, image.directory.as_ptr()) })?;
    if image.no_new_privileges {
        // SAFETY: this prctl takes integers alone.
        let result = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        check(Step::NoNewPrivileges, result)?;
    }
    place_descriptors(image)
}

fn enter_cgroup(cgroup: RawFd) -> Result<(), Failure> {
    // SAFETY: the name is terminated, the byte is static ("0" is the writing process), the descriptor is used and closed here alone.
    unsafe {
        let file = libc::syscall(libc::SYS_openat, cgroup, c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(Step::Cgroup, file)?;
        let result = check(Step::Cgroup, libc::syscall(libc::SYS_write, file, b"0".as_ptr(), 1));
        libc::syscall(libc::SYS_close, file);
        result
    }
}

fn default_signals() {
    // The kernel's sigaction with SIG_DFL, no flags and an empty mask: all zero, at most 32 bytes on every 64-bit machine.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: reads the array; SIGKILL and SIGSTOP are refused, which is what they do anyway. The child has a table of its own.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<c_void>(), 8) };
    }
}

fn set_death_signal(shared: &Shared<'_>) -> Result<(), Failure> {
    // SAFETY: this prctl and getppid take integers alone.
    unsafe {
        check(
            Step::DeathSignal,
            libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, shared.image.death_signal, 0, 0, 0),
        )?;
        // The parent may have been killed before: then nobody would tell us any more.
        if libc::syscall(libc::SYS_getppid) != libc::c_long::from(shared.parent) {
            libc::_exit(127);
        }
    }
    Ok(())
}

fn write_oom_score(score: &CString) -> Result<(), Failure> {
    // SAFETY: both strings are terminated and live through the calls; the descriptor is used and closed here alone.
    unsafe {
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_WRONLY | libc::O_CLOEXEC);
        check(Step::OomScore, file)?;
        let result = check(
            Step::OomScore,
            libc::syscall(libc::SYS_write, file, score.as_ptr(), score.as_bytes().len()),
        );
        libc::syscall(libc::SYS_close, file);
        result
    }
}

fn set_credentials(credentials: &Credentials) -> Result<(), Failure> {
    let Credentials { uid, gid, groups } = credentials;
    // SAFETY: the list of groups lives through the call; the others take integers.
    unsafe {
        check(Step::Group, libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(Step::Group, libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid))?;
        check(Step::User, libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid))
    }
}

fn place_descriptors(image: &Image) -> Result<(), Failure> {
    for (target, source) in (0..).zip(image.standard) {
        // SAFETY: dup3 takes integers; source and target differ, for sources are above 2.
        check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_dup3, source, target, 0) })?;
    }
    // What others left open in us must not reach a unit. A kernel without close_range leaves it to the descriptors' own flags.
    // SAFETY: close_range takes integers; with CLOEXEC nothing is closed before exec.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}

fn execute(image: &Image) -> Failure {
    let none: u64 = 0;
    let mut failure = Failure {
        step: Step::Execute,
        errno: libc::ENOENT,
        index: 0,
    };
    // SAFETY: the mask is eight bytes, as the kernel's; handlers are all default by now.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null_mut::<u64>(),
            8,
        )
    };
    for program in &image.programs {
        // SAFETY: path and arrays are terminated and outlive the call.
        unsafe {
            libc::syscall(
                libc::SYS_execve,
                program.as_ptr(),
                image.arguments.pointers.as_ptr(),
                image.environment.pointers.as_ptr(),
            );
        }
        match errno() {
            libc::ENOENT | libc::ENOTDIR => {}
            // Remembered, but a later directory of the path may have one that works.
            libc::EACCES => failure.errno = libc::EACCES,
            other => return Failure { errno: other, ..failure },
        }
    }
    failure
}

/// A child that has ended and waits to be reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) pid: Pid,
    pub(super) status: ExitStatus,
}

/// A dead child, left as it is: its pid cannot be given away before `reap`.
pub(super) fn next_dead() -> Option<Dead> {
    loop {
        // SAFETY: siginfo_t is plain data, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is valid for writing.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
        if result < 0 && errno() == libc::EINTR {
            continue;
        }
        // SAFETY: waitid filled in the fields of a SIGCHLD, or left zeros.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        return (result == 0 && pid > 0).then(|| Dead {
            pid,
            status: exit_status(info.si_code, status),
        });
    }
}

fn exit_status(code: c_int, status: c_int) -> ExitStatus {
    match code {
        libc::CLD_EXITED => ExitStatus::Code(u8::try_from(status & 0xff).unwrap_or(u8::MAX)),
        _ => ExitStatus::Signal {
            signal: status,
            core: code == libc::CLD_DUMPED,
        },
    }
}

/// Waits for a child of ours that has ended, or is about to.
pub(super) fn reap(pid: Pid) {
    let Ok(id) = libc::id_t::try_from(pid) else { return };
    // SAFETY: a null siginfo is allowed.
    while unsafe { libc::waitid(libc::P_PID, id, ptr::null_mut(), libc::WEXITED) } < 0 && errno() == libc::EINTR {}
}

/// Makes us the one that orphans among our descendants are given to. `false` where the kernel cannot.
pub(super) fn become_subreaper() -> bool {
    // SAFETY: this prctl takes integers alone.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 }
}

/// Switches the machine off. Returns only if that cannot be done.
pub(super) fn power_off() -> io::Error {
    // SAFETY: sync touches no memory; this reboot takes an integer alone.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    io::Error::last_os_error()
}

/// Whether pidfds can be opened and signalled through.
pub(super) fn has_pidfd() -> bool {
    Pid::try_from(std::process::id()).is_ok_and(|me| Handle::open(me).is_ok_and(|handle| handle.signal(0).is_ok()))
}

/// Overwrites the values of variables in the memory where exec put them, which is what `/proc/PID/environ` shows. The copies that
/// `std::env` works with are taken away too. Must be called while there is no other thread.
pub(super) fn scrub_environment(is_secret: impl Fn(&str) -> bool) {
    let names: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_str().is_some_and(&is_secret))
        .collect();
    for name in &names {
        let Ok(text) = CString::new(name.as_encoded_bytes()) else {
            continue;
        };
        // SAFETY: getenv gives a terminated string inside the environment block, which is writable and ours; nobody else reads it now,
        // and as many bytes are written as it is long.
        unsafe {
            let value = libc::getenv(text.as_ptr());
            if !value.is_null() {
                ptr::write_bytes(value, b'x', libc::strlen(value));
            }
            std::env::remove_var(name);
        }
    }
}

/// Moves the values of all variables but ours out of the memory that `/proc/PID/environ` shows, and keeps the memory of this process from
/// others of its user: no ptrace, no `/proc/PID/mem`, no core file. What it executes later is as open as ever. Must be called while there
/// is no other thread.
pub(super) fn become_private() {
    let ours = ["SANDKEEP_UNIT", "SANDKEEP_INVOCATION_ID", "SANDKEEP_SOCKET"];
    for (name, value) in std::env::vars_os().filter(|(name, _)| ours.iter().all(|ours| name != ours)) {
        let Ok(text) = CString::new(name.as_encoded_bytes()) else {
            continue;
        };
        // SAFETY: as in `scrub_environment`; the C library keeps the value that is set next in memory of its own.
        unsafe {
            let shown = libc::getenv(text.as_ptr());
            if !shown.is_null() {
                ptr::write_bytes(shown, b'x', libc::strlen(shown));
            }
            std::env::set_var(name, value);
        }
    }
    // SAFETY: this prctl takes integers alone.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Watches a descriptor that is ours alone for something to read.
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always names the same open descriptor, and the `AsyncFd` keeps it open for as long as it watches it.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_and_deaths_are_told_apart() {
        assert_eq!(exit_status(libc::CLD_EXITED, 3), ExitStatus::Code(3));
        assert_eq!(exit_status(libc::CLD_KILLED, 9), ExitStatus::Signal { signal: 9, core: false });
        assert_eq!(exit_status(libc::CLD_DUMPED, 11), ExitStatus::Signal { signal: 11, core: true });
        assert_eq!(exit_status(libc::CLD_KILLED, 40), ExitStatus::Signal { signal: 40, core: false });
    }

    #[test]
    fn a_handle_names_a_living_process() {
        let me = Pid::try_from(std::process::id()).unwrap();
        assert!(Handle::open(me).unwrap().signal(0).is_ok());
        assert!(Handle::open(i32::MAX).is_err());
        assert!(Handle::bare(me).signal(0).is_ok());
    }
}
