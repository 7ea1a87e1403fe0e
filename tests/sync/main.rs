//! The sync worker as its users meet it: the real binary, real trees, a real server.

#![cfg(feature = "sync")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;

mod archive;
mod bad_input;
mod conformance;
mod crash;
mod git;
mod peers;
mod restore;
mod server;
mod tree;
mod worker;
