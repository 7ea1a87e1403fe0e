//! The API and the doors, against a fake daemon.

mod api;
mod doors;
mod fake;
