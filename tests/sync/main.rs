//! The sync worker as its users meet it: the real binary, real trees, a real server.

#![cfg(feature = "sync")]

mod archive;
mod bad_input;
mod conformance;
mod crash;
mod git;
mod restore;
mod server;
mod tree;
mod worker;
