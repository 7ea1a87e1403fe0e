//! How long to wait before trying again. Pure; the caller keeps the time.
