//! The hands: spawn, reap, signal, probes, notify socket, journal. Thin: does what the supervisor decided and reports what happened.
//!
//! [`Host`] is the part that deals with processes. Its contract, for the loop that owns it:
//!
//! 1. Make it with [`Host::new`] on the main thread, under the instance's lock; [`Host::configure`] it whenever the configuration was read.
//!    Call [`end_survivors`] before: it reads the record that a host begins anew.
//! 2. Perform `Action::Spawn` with [`Host::spawn`] (its answer is an event for the supervisor at once), `Action::Signal` with
//!    [`Host::signal`], `Action::Empty` with [`Host::empty`], `Action::TakeHashes` with [`Host::take_hashes`]. Do them in order.
//! 3. Call [`Host::events`] after the actions of a step were performed, when [`Host::wakeups`] or the descriptor is readable, and at
//!    [`Host::next_poll`]. It never blocks. What it returns goes to `step` in the order given: what a process said comes before its end,
//!    its end before the news that nothing is left of its unit.
//! 4. Everything that can be waited for is behind the one descriptor (SIGCHLD, notify socket, file changes). `next_poll` is `None` unless
//!    something is being killed or files are settling: no timer runs for nothing.
//!
//! One host a process: it reaps every child, so nobody else in the process may start any (`std::process`, `tokio::process`). Commands of
//! probes are started with [`Host::spawn_probe`].

mod account;
mod auto_user;
mod cgroup;
mod clone3;
mod conditions;
mod environment;
mod fault;
mod globs;
mod handover;
mod hashes;
pub mod image;
pub mod journal;
mod ladder;
pub mod mask;
mod notice;
mod notify_socket;
mod oom;
mod packages;
pub mod ports;
pub mod preview;
pub mod probe;
mod proc;
mod processes;
mod runs;
pub mod runtime_dir;
mod sessions;
mod set;
mod spawn;
mod stale;
mod sys;
mod watch;

pub use cgroup::{Rung as CgroupRung, Usage, look as look_at_cgroups};
pub use environment::{Environment, matches_any};
pub use handover::HandedHost;
pub use ladder::{Capabilities, forget_the_start, power_off_as_init};
pub use processes::{Host, HostError, HostSettings, ProbeChild, end_survivors};
pub use spawn::Spawn;

/// Keeps a worker's secrets from other processes of its user. To be called first of all in a worker, while there is no other thread.
pub fn become_private() {
    sys::become_private();
}

/// Has the kernel keep connections to itself until their clients have said something, for a while at most.
pub fn accept_when_there_is_something_to_read(listener: &std::net::TcpListener) {
    sys::accept_when_there_is_something_to_read(std::os::fd::AsFd::as_fd(listener));
}
