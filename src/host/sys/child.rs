//! What a child does between its birth and exec, on the launcher's stack and in the parent's memory: it allocates nothing, takes no lock
//! and calls nothing but the kernel.

use super::{Credentials, Failure, Image, Shared, Step, errno};
use std::ffi::{CString, c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;

/// Runs in the child, on the launcher's stack, in the parent's memory. Raw system calls where the C library's wrapper would do more
/// (setresuid and its like tell all threads of what it believes to be the process).
pub(super) extern "C" fn child(argument: *mut c_void) -> c_int {
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
