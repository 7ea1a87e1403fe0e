//! `sandkeep serve`: the API over a real socket with sandboxes that do as they are told, a thousand of them for the fleet, and the real
//! binary with the real provider `local`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "a test that cannot go on fails"
)]

mod api;
#[path = "../common/serve.rs"]
mod client;
mod events;
mod fake;
mod fleet;
mod nextjs;
mod process;
mod restart;
mod rounds;
mod server;
