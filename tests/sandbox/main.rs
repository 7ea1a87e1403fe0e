//! `sandkeep sandbox`: providers by their contract, and the command from end to end.
#![cfg(feature = "sandbox")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bad_input;
mod contract;
mod local;
mod providers;
mod ssh;
mod support;
mod upgrade;
