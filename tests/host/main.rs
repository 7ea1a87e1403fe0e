//! The host with real processes: what it starts, how it hears of their ends, and that nothing is left of them.

mod alone;
mod world;

mod empty;
mod exits;
mod notify;
mod start;
