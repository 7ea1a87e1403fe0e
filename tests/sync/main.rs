//! The sync worker as its users meet it: the real binary, real trees, a real server.

#![cfg(feature = "sync")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;

mod archive;
mod bad_input;
mod beside;
mod conformance;
mod crash;
mod ending;
mod fatal;
mod git;
mod keys;
mod peers;
mod power;
mod progress;
mod projects;
mod restore;
mod server;
mod tree;
mod watching;
mod wire;
mod worker;
