//! The agent worker with the real Claude Code CLI, on a loopback Messages API; tools really run.

#[macro_use]
#[path = "../common/skip.rs"]
mod skip;
mod support;

mod ends;
mod portable;
mod resume;
mod turns;
