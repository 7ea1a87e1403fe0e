//! What this process asks of the kernel for itself.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Makes us the one that orphans among our descendants are given to. `false` where the kernel cannot.
pub(in crate::host) fn become_subreaper() -> bool {
    // SAFETY: this prctl takes integers alone.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0 }
}

/// Switches the machine off. Returns only if that cannot be done.
pub(in crate::host) fn power_off() -> io::Error {
    // SAFETY: sync touches no memory; this reboot takes an integer alone.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    io::Error::last_os_error()
}

/// Overwrites the values of variables in the memory where exec put them, which is what `/proc/PID/environ` shows. The copies that
/// `std::env` works with are taken away too. Must be called while there is no other thread.
pub(in crate::host) fn scrub_environment(is_secret: impl Fn(&str) -> bool) {
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
pub(in crate::host) fn become_private() {
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

/// As the kernel has it, in its first version (Linux 3.14).
#[repr(C)]
#[derive(Debug, Default)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for short slices of CPU time instead of long ones: whoever asks for less is let in sooner, so that a box full of busy units does
/// not keep the supervisor from answering. It gets no more time for it, and what it starts gets slices as ever. Linux 6.12; earlier ones
/// and those of another policy stay as they are. Must be called on the main thread.
pub(in crate::host) fn ask_for_short_slices() {
    const SLICE: u64 = 100_000;
    const RESET_ON_FORK: u64 = 1;
    let size = u32::try_from(size_of::<Scheduling>()).expect("48 bytes");
    let mut found = Scheduling::default();
    // SAFETY: the structure is the kernel's, as large as is said, and lives through the call; 0 is this thread.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0) } == 0;
    // A negative nice value would not reach the units any more.
    if known && found.policy == libc::SCHED_OTHER.cast_unsigned() && found.nice >= 0 {
        let wanted = Scheduling {
            size,
            flags: RESET_ON_FORK,
            nice: found.nice,
            runtime: SLICE,
            ..Scheduling::default()
        };
        // SAFETY: as above; the kernel only reads it.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    }
}

/// Has the kernel keep a connection to itself until there is something to read on it, for a while at most. Who accepts is woken up once and
/// not twice, and who says nothing takes nobody's time. tcp(7), TCP_DEFER_ACCEPT; where there is no such thing all is as ever.
pub(in crate::host) fn accept_when_there_is_something_to_read(listener: BorrowedFd<'_>) {
    let seconds: libc::c_int = 15;
    let size = libc::socklen_t::try_from(size_of_val(&seconds)).expect("4 bytes");
    // SAFETY: the kernel reads an integer of this size.
    unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size,
        )
    };
}

/// Unmaps the pages of our own file, which come back from the page cache when they are touched. Only of segments that cannot be
/// written, so that nothing is lost.
pub(in crate::host) fn unmap_what_is_clean() {
    unsafe extern "C" fn each(object: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> i32 {
        // SAFETY: the C library hands over a description of an object that is loaded, with as many headers as it says.
        let (base, headers) = unsafe {
            let object = &*object;
            (
                object.dlpi_addr,
                std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)),
            )
        };
        // SAFETY: it only looks up a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let address = |at: u64| usize::try_from(at).expect("an address in this process");
        for header in headers {
            if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
                continue;
            }
            let start = address(base + header.p_vaddr);
            let end = start + address(header.p_memsz);
            let first = start / page * page;
            let at = ptr::with_exposed_provenance_mut(first);
            // SAFETY: a segment of the program that is mapped from its file and never written: its pages come back as they are.
            unsafe {
                // Where the file system keeps the file in large pieces, a touch would bring 2 MiB back.
                libc::madvise(at, end - first, libc::MADV_NOHUGEPAGE);
                libc::madvise(at, end - first, libc::MADV_DONTNEED);
            }
        }
        // The program itself comes first; what else is loaded is shared with others.
        1
    }
    // SAFETY: the callback keeps nothing and calls nothing that loads or unloads.
    unsafe { libc::dl_iterate_phdr(Some(each), ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_unmapped_comes_back() {
        let mapped = || {
            let rollup = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let own = std::env::current_exe().unwrap();
            let lines = rollup
                .lines()
                .skip_while(|line| !(line.contains(" r-xp ") && line.ends_with(own.to_str().unwrap())));
            let rss = lines.clone().find_map(|line| line.strip_prefix("Rss:")).unwrap();
            rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let read = || std::fs::read("/proc/self/maps").map(|text| text.len()).unwrap();
        let before = (mapped(), read() > 0);
        super::unmap_what_is_clean();
        let after = (mapped(), read() > 0);
        assert!(after.0 < before.0, "{before:?} {after:?}");
        assert!(after.1);
    }
}
