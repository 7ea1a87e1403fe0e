//! The program image of this process and its change in place: what stays open over exec, the exec itself, and the way back.
//!
//! ```text
//! old image ─ keeps descriptors, writes the state into sealed memory, blocks signals ─ exec ─▶ new image
//! new image ─ works with duplicates; the originals stay as they are ─┬▶ all is well: closes the originals
//!                                                                    └▶ it is not: executes the old image, which finds all in place
//! ```
//!
//! The pid stays, and with it the children, their parent-death signal, the subreaper's mark and whatever the kernel counts for a process.
#![allow(
    unsafe_code,
    reason = "descriptors by number, and a handler of fatal signals that executes another program"
)]

use super::sys::StringArray;
use crate::ordered::IntoMap;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use std::ffi::{CString, OsString, c_int};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

/// A descriptor that stays open over exec, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Descriptor(RawFd);

impl Descriptor {
    /// Of an argument.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|fd| *fd >= 0).map(Self)
    }

    /// The number, for an argument.
    pub fn number(self) -> RawFd {
        self.0
    }

    /// A duplicate, which does not survive another exec.
    pub fn duplicate(self) -> io::Result<OwnedFd> {
        // SAFETY: fcntl with F_DUPFD_CLOEXEC takes integers; what it returns is new and ours alone.
        unsafe {
            let copy = libc::fcntl(self.0, libc::F_DUPFD_CLOEXEC, 3);
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(OwnedFd::from_raw_fd(copy))
        }
    }
}

/// The descriptors that stay open over exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Kept(Vec<RawFd>);

impl Kept {
    /// Adds one. It has to stay open until the exec.
    pub fn keep(&mut self, descriptor: &impl AsFd) -> Descriptor {
        let number = descriptor.as_fd().as_raw_fd();
        self.0.push(number);
        Descriptor(number)
    }

    /// Adds one by its number.
    pub fn add(&mut self, descriptor: Descriptor) {
        self.0.push(descriptor.0);
    }

    /// Makes them survive an exec, or not.
    pub fn survive(&self, survive: bool) -> io::Result<()> {
        let flags = if survive { 0 } else { libc::FD_CLOEXEC };
        for number in &self.0 {
            // SAFETY: fcntl with F_SETFD takes integers.
            if unsafe { libc::fcntl(*number, libc::F_SETFD, flags) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Closes the originals, once there are duplicates of what is needed.
    pub fn close(self) {
        for number in self.0 {
            // SAFETY: they came open over the exec, and nobody else in this process knows their numbers: everything else works with
            // duplicates.
            unsafe { libc::close(number) };
        }
    }
}

/// Writes a text into memory that has no name and that nobody can change afterwards.
pub fn seal(name: &str, text: &[u8]) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    let memory = memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(text)?;
    file.seek(SeekFrom::Start(0))?;
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    // gVisor and old kernels may lack seals: nobody else has the descriptor anyway.
    let _ = fcntl(&file, FcntlArg::F_ADD_SEALS(seals));
    Ok(file.into())
}

/// Reads it back, from its beginning.
pub fn unseal(memory: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(memory);
    let mut text = Vec::new();
    // Whoever tries this by hand may bring a pipe.
    let _ = file.seek(SeekFrom::Start(0));
    file.read_to_end(&mut text)?;
    Ok(text)
}

/// What is executed.
#[derive(Debug)]
pub enum Program<'a> {
    /// The file of this path.
    Path(&'a std::path::Path),
    /// The file behind this descriptor, whatever has become of its path.
    Open(Descriptor),
}

/// A command line and an environment.
#[derive(Debug)]
pub struct Call {
    /// The words.
    pub arguments: Vec<OsString>,
    /// The variables.
    pub environment: Vec<(OsString, OsString)>,
}

impl Call {
    fn words(&self) -> io::Result<Vec<CString>> {
        let word = |word: &OsString| CString::new(word.clone().into_vec()).map_err(io::Error::from);
        self.arguments.iter().map(word).collect()
    }

    fn variables(&self) -> Vec<CString> {
        super::environment::as_strings(self.environment.iter().cloned().into_map())
    }
}

/// Puts another program in the place of this one. Returns when that failed. Must be called on the main thread: the children's
/// parent-death signal hangs on it.
pub fn execute(program: &Program<'_>, call: &Call) -> io::Error {
    let (words, variables) = match call.words() {
        Ok(words) => (StringArray::from(words), StringArray::from(call.variables())),
        Err(error) => return error,
    };
    match program {
        Program::Path(path) => {
            let Ok(path) = CString::new(path.as_os_str().as_encoded_bytes()) else {
                return io::ErrorKind::InvalidInput.into();
            };
            // SAFETY: path and arrays are terminated and outlive the call.
            unsafe { libc::execve(path.as_ptr(), words.pointers(), variables.pointers()) };
            io::Error::last_os_error()
        }
        Program::Open(descriptor) => execute_open(descriptor.0, &words, &variables),
    }
}

/// Async-signal-safe.
fn execute_open(descriptor: RawFd, words: &StringArray, variables: &StringArray) -> io::Error {
    // SAFETY: path and arrays are terminated and outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            descriptor,
            c"".as_ptr(),
            words.pointers(),
            variables.pointers(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// As many files as we may open, may be open.
pub fn raise_open_files() {
    let _ = super::spawn::raise_open_files();
}

/// Signals that are sent from now on wait until [`let_signals_in`]; those that tell of a fault of ours do not.
pub fn hold_signals() {
    let mut held = SigSet::all();
    for fault in FAULTS {
        held.remove(fault);
    }
    // Blocking signals does not fail.
    let _ = held.thread_set_mask();
}

/// Sends a signal to this process. While signals are held it waits with the others.
pub fn send_to_ourselves(signal: i32) {
    // SAFETY: kill takes integers, and our own pid is always good.
    unsafe { libc::kill(libc::getpid(), signal) };
}

/// Everything that was held comes in.
pub fn let_signals_in() {
    let _ = SigSet::empty().thread_set_mask();
}

/// What the kernel sends to a program that went wrong.
const FAULTS: [Signal; 7] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGABRT,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// Where the handler finds the way back.
static BACK: AtomicPtr<Prepared> = AtomicPtr::new(ptr::null_mut());

#[derive(Debug)]
struct Prepared {
    program: RawFd,
    words: StringArray,
    crashed: StringArray,
    late: StringArray,
}

/// The variable that tells the old image why it is back.
pub const TAKEN_BACK: &str = "SANDKEEP_TAKEN_BACK";

/// The way back to the image before this one, open until it is given up: also a crash, or an hour of nothing, ends there.
#[derive(Debug)]
pub struct WayBack {
    program: Descriptor,
    call: Call,
    handlers: Vec<(c_int, libc::sigaction)>,
}

impl WayBack {
    /// Opens it. With no `close` within the time given, the old image takes over again.
    pub fn open(program: Descriptor, call: Call, within: Duration) -> io::Result<Self> {
        let told = |why: &str| -> StringArray {
            let mut variables = call.environment.clone();
            variables.retain(|(name, _)| name != TAKEN_BACK);
            variables.push((TAKEN_BACK.into(), why.into()));
            super::environment::as_strings(variables.into_iter().into_map()).into()
        };
        let prepared = Box::new(Prepared {
            program: program.0,
            words: call.words()?.into(),
            crashed: told("it crashed"),
            late: told(&format!("it did not come up within {within:?}")),
        });
        BACK.store(Box::into_raw(prepared), Ordering::SeqCst);
        let signals = FAULTS.iter().map(|signal| *signal as c_int).chain([libc::SIGALRM]);
        let handlers = signals.map(|signal| (signal, handle(signal))).collect();
        let mut alarm = SigSet::empty();
        alarm.add(Signal::SIGALRM);
        alarm.thread_unblock()?;
        nix::unistd::alarm::set(u32::try_from(within.as_secs()).unwrap_or(u32::MAX));
        Ok(Self { program, call, handlers })
    }

    /// Goes back. Returns only when that failed.
    pub fn take(mut self, why: &str) -> io::Error {
        self.disarm();
        self.call.environment.retain(|(name, _)| name != TAKEN_BACK);
        self.call.environment.push((TAKEN_BACK.into(), why.into()));
        execute(&Program::Open(self.program), &self.call)
    }

    /// Gives it up: this image stays.
    pub fn close(mut self) {
        self.disarm();
    }

    fn disarm(&mut self) {
        nix::unistd::alarm::cancel();
        for (signal, before) in self.handlers.drain(..) {
            // SAFETY: the structure was filled in by sigaction itself.
            unsafe { libc::sigaction(signal, &raw const before, ptr::null_mut()) };
        }
        // What the handler looked at stays where it is: a few kilobytes, once in an image's life.
        BACK.store(ptr::null_mut(), Ordering::SeqCst);
    }
}

/// Puts our handler in place; what was there before.
fn handle(signal: c_int) -> libc::sigaction {
    let handler: extern "C" fn(c_int) = go_back;
    // SAFETY: sigaction is plain data, for which zero is a value; both structures outlive the call; the handler calls nothing but the
    // kernel.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigaction(signal, &raw const action, &raw mut before);
        before
    }
}

/// The handler: executes the old image.
extern "C" fn go_back(signal: c_int) {
    let prepared = BACK.load(Ordering::SeqCst);
    // SAFETY: the pointer is null or came from `Box::into_raw` and is never freed; everything behind it was made ready before.
    unsafe {
        if let Some(prepared) = prepared.as_ref() {
            let variables = if signal == libc::SIGALRM {
                &prepared.late
            } else {
                &prepared.crashed
            };
            let _ = execute_open(prepared.program, &prepared.words, variables);
        }
        libc::_exit(127);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_comes_back_and_cannot_be_changed() {
        let memory = seal("test", b"state").unwrap();
        let mut copy = File::from(memory.try_clone().unwrap());
        assert_eq!(unseal(memory).unwrap(), b"state");
        assert!(copy.write_all(b"x").is_err(), "sealed");
    }

    #[test]
    fn a_duplicate_is_another_descriptor_of_the_same_file() {
        let memory = seal("test", b"state").unwrap();
        let mut kept = Kept::default();
        let descriptor = kept.keep(&memory);
        let copy = descriptor.duplicate().unwrap();
        assert_ne!(copy.as_raw_fd(), memory.as_raw_fd());
        assert_eq!(unseal(copy).unwrap(), b"state");
        kept.survive(true).unwrap();
        kept.survive(false).unwrap();
        assert!(Descriptor(i32::MAX).duplicate().is_err());
        assert_eq!(Descriptor::parse("-1"), None);
    }
}
