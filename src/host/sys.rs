//! What needs `unsafe`: the system calls that no crate offers in a safe form. Nothing here decides anything.
#![allow(
    unsafe_code,
    reason = "clone with a child that does more than exec, pidfds, waitid with WNOWAIT and prctl have no safe form"
)]

mod child;
mod ourselves;

use super::clone3;
use crate::supervisor::event::{ExitStatus, Pid};
use child::child;
pub(super) use ourselves::{
    accept_when_there_is_something_to_read, ask_for_short_slices, become_private, become_subreaper, power_off, scrub_environment,
    unmap_what_is_clean,
};
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

/// Whether pidfds can be opened and signalled through.
pub(super) fn has_pidfd() -> bool {
    Pid::try_from(std::process::id()).is_ok_and(|me| Handle::open(me).is_ok_and(|handle| handle.signal(0).is_ok()))
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
