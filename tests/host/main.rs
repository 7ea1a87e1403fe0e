//! The host with real processes: what it starts, how it hears of their ends, and that nothing is left of them.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;

mod alone;
mod world;

mod cgroups;
mod empty;
mod exits;
mod files;
mod notify;
mod probes;
mod start;
mod surroundings;
mod survivors;
mod users;
