//! What can end an act of sync, and whether it is final.

use super::path::TreePath;
use super::store::StoreError;
use std::io;

/// Why an act of sync failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The configuration. Final.
    #[error("{0}")]
    Config(String),
    /// The bucket's prefix belongs to another project. Final.
    #[error("the store {store} belongs to the project `{owner}`, not to `{project}`")]
    Owner {
        /// The store.
        store: String,
        /// Whose it is.
        owner: String,
        /// Whose it should be.
        project: String,
    },
    /// What is in the store was written by a newer sandkeep, or cannot be read. Final.
    #[error("{0}")]
    Form(String),
    /// A newer box of the project has taken over.
    #[error("another box of this project (`{0}`) has taken over: this one has stopped writing")]
    Fenced(String),
    /// The file system.
    #[error("{act} `{path}`: {error}")]
    Local {
        /// What was being done.
        act: &'static str,
        /// To what.
        path: String,
        /// Why it failed.
        error: io::Error,
    },
    /// Another sandkeep works on the same state.
    #[error("another sandkeep syncs this directory already")]
    Busy,
}

impl SyncError {
    /// Whether no later attempt can succeed without a person: exit code 78.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Store(error) => error.is_final(),
            Self::Config(_) | Self::Owner { .. } | Self::Form(_) => true,
            Self::Fenced(_) | Self::Local { .. } | Self::Busy => false,
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Store(StoreError::Denied(_)) => Some("check the keys (R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY) and what they may do"),
            Self::Store(StoreError::Missing(_)) => Some("check the bucket's name and R2_ENDPOINT"),
            Self::Store(StoreError::Unavailable(_)) => Some("it is tried again; `sandkeep doctor` looks at the network"),
            Self::Owner { .. } => Some("check SANDKEEP_PROJECT_ID and the prefix in the store's address"),
            Self::Form(_) => Some("update sandkeep"),
            Self::Fenced(_) => Some("restart the sync unit here to take the project back"),
            Self::Local { error, .. } if error.kind() == io::ErrorKind::StorageFull => Some("free some space; nothing was lost"),
            Self::Local { error, .. } if matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
                Some("sandkeep must be able to write to the project's directory; nothing was lost")
            }
            Self::Busy => Some("use `sandkeep sync pull` or `flush`, which ask the running one"),
            Self::Store(_) | Self::Config(_) | Self::Local { .. } => None,
        }
    }

    /// An error of the file system.
    pub fn local(act: &'static str, path: &TreePath) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_string();
        move |error| Self::Local { act, path, error }
    }
}
