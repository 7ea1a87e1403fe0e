//! The sync worker as its users meet it: the real binary, real trees, a real server.

#![cfg(feature = "sync")]

mod conformance;
mod restore;
mod server;
mod tree;
mod worker;
