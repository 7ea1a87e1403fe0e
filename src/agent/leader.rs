//! What stands between the agent and claude for a moment: makes it the leader of a session of its own, and lets it die with the agent.
//! Runs as `sandkeep agent lead`, since what is to happen between fork and exec cannot be done safely from here.

use rustix::process::{Signal, getppid, set_parent_process_death_signal, setsid};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The hidden verb.
pub const VERB: [&str; 2] = ["agent", "lead"];

/// Becomes the command. Returns only when that failed.
pub fn become_command(parent: u32, command: &[OsString]) -> io::Error {
    let [program, arguments @ ..] = command else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no command");
    };
    if let Err(error) = setsid() {
        return error.into();
    }
    // Not SIGTERM: until that has ended it, it would take its closed input for a refusal of whatever waits for a person, and tell the
    // model. What its tools leave is ended by the supervisor, and by the mark when an agent starts again.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    let living = getppid().is_some_and(|pid| u32::try_from(pid.as_raw_nonzero().get()).is_ok_and(|pid| pid == parent));
    if !living {
        return io::Error::other("the agent has ended");
    }
    Command::new(program).args(arguments).exec()
}
