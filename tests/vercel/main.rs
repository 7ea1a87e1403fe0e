//! Vercel: the vendor's own clients against the double, so that it counts; then ours.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;
mod double;
mod vendor;
