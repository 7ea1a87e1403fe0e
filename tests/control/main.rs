//! The API and the doors, against a fake daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;

mod api;
mod doors;
mod fake;
mod page;
