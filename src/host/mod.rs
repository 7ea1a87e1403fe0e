//! The hands: spawn, reap, signal, probes, notify socket, journal. Thin: does what the supervisor decided and reports what happened.

pub mod journal;
pub mod mask;
pub mod ports;
pub mod preview;
pub mod probe;
