//! Worker: keeps the project's files in a store and brings them back.

pub mod arrive;
pub mod beneath;
pub mod content;
pub mod credentials;
pub mod deletes;
pub mod door;
pub mod engine;
pub mod error;
pub mod git;
pub mod index;
pub mod intent;
pub mod lanes;
pub mod lease;
pub mod manifest;
pub mod once;
pub mod path;
pub mod plan;
pub mod project;
pub mod read;
pub mod rules;
pub mod send;
pub mod status;
pub mod store;
pub mod walk;
pub mod watch;
pub mod worker;
