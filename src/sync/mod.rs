//! Worker: keeps the project's files in a store and brings them back.
