//! Worker: keeps the project's files in a store and brings them back.

pub mod beneath;
pub mod content;
pub mod credentials;
pub mod deletes;
pub mod index;
pub mod intent;
pub mod lanes;
pub mod manifest;
pub mod path;
pub mod plan;
pub mod rules;
pub mod store;
pub mod walk;
