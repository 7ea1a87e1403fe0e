//! Vercel: the vendor's own clients against the double, so that it counts; then ours.

#![cfg(feature = "sandbox")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;
#[path = "../common/serve.rs"]
mod client;
#[path = "../sandbox/contract.rs"]
mod contract;
mod double;
mod faults;
mod ours;
mod refusals;
mod serve;
mod start;
mod vendor;
