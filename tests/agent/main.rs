//! The agent worker with the real Claude Code CLI, on a loopback Messages API; tools really run.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on fails")]

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;
mod support;

mod cli;
mod convex;
mod ends;
mod functions;
mod mcp;
mod portable;
mod resume;
mod scripted;
mod supervised;
mod turns;
