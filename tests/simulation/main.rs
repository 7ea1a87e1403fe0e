//! The pure core, tried in virtual time.
#![allow(missing_docs, reason = "tests")]

mod bench;
mod facts;
mod invariants;
mod kit;
mod random;
mod scenario;
mod scenarios;
mod world;
