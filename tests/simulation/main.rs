//! The pure core, tried in virtual time.

#![allow(missing_docs, reason = "tests")]

mod bench;
mod kit;
mod scenarios;
