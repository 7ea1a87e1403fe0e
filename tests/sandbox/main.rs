//! `sandkeep sandbox`: providers by their contract, and the command from end to end.
#![cfg(feature = "sandbox")]

mod contract;
mod providers;
