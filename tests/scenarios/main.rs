//! The real binary on real processes, judged from outside: its status, its exit codes, its logs, /proc.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic, and nobody else uses it")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;

mod sandbox;

mod dependencies;
mod doors;
mod environment;
mod faults;
mod isolation;
mod last_message;
mod leftovers;
mod lifecycle;
mod logs;
mod probes;
mod reload;
mod restarts;
mod supervisor_death;
mod upgrade;
mod upgrade_broken;
mod upgrade_jobs;
mod watch;
