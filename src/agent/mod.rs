//! Worker: runs Claude Code for prompts and reports what it says.
//!
//! `session` decides (pure: claim, run, resume, cancel, end once), `worker` does. Prompts come from an `inbox` (the queue on this disk,
//! the app's Convex deployment), `claude` runs them over its stream-json `protocol`, and what happens is numbered and on disk in the
//! `outbox` before anybody hears of it.

pub mod children;
pub mod claude;
pub mod door;
pub mod flush;
pub mod inbox;
pub mod leader;
pub mod outbox;
pub mod permission;
pub mod probe;
pub mod prompt;
pub mod protocol;
pub mod run;
pub mod session;
pub mod settings;
pub mod transcript;
pub mod tree;
pub mod worker;
