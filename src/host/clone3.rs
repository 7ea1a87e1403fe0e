//! `clone3` for a child that shares our memory until it executes something else, and begins its life in a cgroup.
//!
//! Moving a process into a cgroup afterwards costs several milliseconds (the kernel waits until nobody forks), being born there nothing.
//! The C library's `clone` cannot do it, so the few instructions that start a child on a stack of its own are here.
#![allow(unsafe_code, reason = "a system call whose child begins on another stack has no safe form")]

use crate::supervisor::event::Pid;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

/// What the child runs: it never returns.
pub(super) type Entry = extern "C" fn(*mut c_void) -> c_int;

/// Starts a child in the cgroup whose directory `cgroup` is. Returns its pid, or the error number; `ENOSYS` also where this machine's
/// instructions are not known here.
///
/// # Safety
/// As for `clone(2)` with `CLONE_VM` and `CLONE_VFORK`: `stack` must be used by nobody else, `entry` must end the child with `execve` or
/// `_exit`, allocate nothing and take no lock; `argument` must be good until then. `pidfd` must be valid for writing.
pub(super) unsafe fn clone_into(
    cgroup: RawFd,
    flags: c_int,
    pidfd: *mut c_int,
    stack: &mut [MaybeUninit<u128>],
    entry: Entry,
    argument: *mut c_void,
) -> Result<Pid, i32> {
    let Ok(cgroup) = u64::try_from(cgroup) else {
        return Err(libc::EBADF);
    };
    let signal = u64::from(libc::SIGCHLD.cast_unsigned());
    let mut arguments = Arguments {
        flags: u64::from(flags.cast_unsigned()) & !signal | CLONE_INTO_CGROUP,
        pidfd: pidfd.expose_provenance() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: signal,
        stack: stack.as_mut_ptr().expose_provenance() as u64,
        stack_size: size_of_val(stack) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup,
    };
    // SAFETY: the caller's promise; `arguments` has the kernel's layout and lives through the call.
    let result = unsafe { call(&raw mut arguments, entry, argument) };
    if result < 0 {
        return Err(i32::try_from(-result).unwrap_or(libc::EINVAL));
    }
    Pid::try_from(result).map_err(|_| libc::EINVAL)
}

/// Not in every C library's headers. clone(2).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args`, which not every C library declares.
#[derive(Debug)]
#[repr(C)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The call itself. In the parent it returns what the kernel says; the child goes to `entry` on its own stack.
///
/// # Safety
/// As [`clone_into`].
#[cfg(target_arch = "x86_64")]
unsafe fn call(arguments: *mut Arguments, entry: Entry, argument: *mut c_void) -> i64 {
    let result: i64;
    // SAFETY: the system call changes rax, rcx and r11 alone. The child finds r12 and r13 as they were, an aligned stack, and never comes
    // to the end of this block.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<Arguments>(),
            in("r12") argument,
            in("r13") entry,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// The call itself, as above.
///
/// # Safety
/// As [`clone_into`].
#[cfg(target_arch = "aarch64")]
unsafe fn call(arguments: *mut Arguments, entry: Entry, argument: *mut c_void) -> i64 {
    let result: i64;
    // SAFETY: the system call changes x0 alone. The child finds x20 and x21 as they were, an aligned stack, and never comes to the end of
    // this block.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") arguments => result,
            in("x1") size_of::<Arguments>(),
            in("x8") libc::SYS_clone3,
            in("x20") argument,
            in("x21") entry,
        );
    }
    result
}

/// Elsewhere the child moves by itself.
///
/// # Safety
/// None is needed.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn call(_: *mut Arguments, _: Entry, _: *mut c_void) -> i64 {
    -i64::from(libc::ENOSYS)
}
