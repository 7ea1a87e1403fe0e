//! sandkeep keeps a sandbox alive: one binary that supervises processes, keeps files, runs the agent and answers whoever asks.
//!
//! A pure machine decides, a thin shell does, and the two talk in two enums:
//!
//! ```text
//! sandkeep.toml → unit::file → unit::check → diagnostics | units → unit::graph
//!       ▼
//! inbox ──(now, event)──▶ supervisor.step ─┬ Spawn Signal Probe ─▶ host ─▶ child
//!   ▲        │ next_deadline → sleep       ├ Announce ─▶ log line · metrics · event stream
//!   │        │ status → snapshot ─▶ HTTP   ├ Reply ─▶ waiting client
//!   │                                      └ Halt ─▶ flush, exit
//!   ├ Notified ◀ notify socket   ├ Exited ◀ reaper   ├ Probed ◀ probes
//!   └ Command ◀ control ◀ CLI · HTTP · MCP               stdout, stderr ─▶ journal
//! ```
//!
//! The table of who may use whom is in ARCHITECTURE.md and held by `tests/architecture.rs`.

pub mod backoff;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod host;
pub mod ordered;
pub mod sd_notify;
pub mod supervisor;
pub mod tasks;
pub mod unit;
pub mod web;

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "agent")]
pub mod mcp;
#[cfg(feature = "sandbox")]
pub mod sandbox;
#[cfg(feature = "sync")]
pub mod sync;
