//! The keys of `[sync]`. A key that is added here is read, checked, suggested, and in the JSON Schema; nothing else needs to know it.
//! The worker finds the value of one that has no field in `config::Sync` in `config::Sync::settings`.

use super::keys::{Key, Kind, key};

/// Every key of `[sync]`.
pub(super) const SYNC_KEYS: &[Key] = &[
    key(
        "store",
        Kind::Store,
        "Where files are kept: s3://bucket/prefix?endpoint=…&region=auto, file:///directory, or \"off\". Empty: what R2_ENDPOINT, \
         R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and R2_BUCKET_NAME name.",
    ),
    key(
        "batch_files",
        Kind::Whole(1, 100_000),
        "Changed files after which a batch is sent. Default: 10.",
    ),
    key(
        "batch_interval",
        Kind::Duration,
        "Time after which a batch is sent. Default: \"30s\".",
    ),
    key("include", Kind::Globs, "Globs that are always kept."),
    key("exclude", Kind::Globs, "Globs that are left out unless Git tracks them."),
    key("env_files", Kind::Bool, "Whether `.env*` files are kept. Default: false."),
    key("hold", Kind::Bool, "Whether uploads are held. Default: false."),
];
