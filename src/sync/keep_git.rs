//! What the store keeps of the project's Git repository, and what a restore does with it.

use super::content::Digest;
use super::engine::Engine;
use super::error::SyncError;
use super::manifest::Bundle;
use super::store::{Body, Condition, Info, StoreError, read_small};
use std::io;

/// Where bundles are, by digest.
pub const BUNDLES: &str = ".sandkeep/git/";
/// The largest bundle: what a box has that upstream has not.
const MOST: u64 = 1 << 30;

impl Engine {
    /// Refreshes the bundle if any reference has changed. A repository that does not answer changes nothing.
    pub(super) async fn refresh_bundle(&mut self) -> Result<(), SyncError> {
        let Some(git) = &self.project.git else { return Ok(()) };
        let before = self.manifest.git.clone().unwrap_or_default();
        let refs = match git.note_refs() {
            Ok(refs) if before.refs == Some(refs) => return Ok(()),
            Ok(refs) => refs,
            Err(error) => {
                tracing::debug!("{error}");
                return Ok(());
            }
        };
        let file = self.project.state.join("bundle");
        let made = match git.bundle(&file) {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!("{error}");
                return Ok(());
            }
        };
        let bundle = if made { Some(self.send_bundle(&file).await?) } else { None };
        let _ = std::fs::remove_file(&file);
        self.touched = true;
        self.read_git();
        let state = self.manifest.git.get_or_insert_default();
        (state.bundle, state.refs) = (bundle, Some(refs));
        Ok(())
    }

    async fn send_bundle(&mut self, path: &std::path::Path) -> Result<Bundle, SyncError> {
        let failed = |error: io::Error| SyncError::Local {
            act: "reading the bundle",
            path: path.display().to_string(),
            error,
        };
        self.check_lease().await?;
        let bytes = std::fs::read(path).map_err(failed)?;
        let sha256 = Digest::of(&bytes);
        let key = format!("{BUNDLES}{sha256}.bundle");
        // The same name always has the same content.
        match self
            .project
            .store
            .put(&key, Body::Bytes(bytes.into()), Info::default(), Condition::Absent)
            .await
        {
            Ok(_) | Err(StoreError::Precondition) => Ok(Bundle { key, sha256 }),
            Err(error) => Err(error.into()),
        }
    }

    /// Before files are brought onto a fresh clone.
    pub(super) fn align_clone(&mut self) {
        if let (Some(git), Some(state)) = (&self.project.git, &self.manifest.git)
            && !self.index.restored
            && let Err(error) = git.align(state)
        {
            tracing::warn!("{error}");
        }
    }

    /// After files were brought onto a fresh clone. Gives what could not be put where it was.
    pub(super) async fn restore_git(&mut self) -> Result<Vec<String>, SyncError> {
        let Some(state) = self.manifest.git.clone() else {
            return Ok(Vec::new());
        };
        let Some(git) = &self.project.git else { return Ok(Vec::new()) };
        let file = self.project.state.join("bundle");
        let mut fetched = None;
        if let Some(bundle) = &state.bundle {
            let Some((_, bytes)) = read_small(&*self.project.store, &bundle.key, MOST).await? else {
                return Ok(vec!["the bundle with your unpushed commits is gone from the store".into()]);
            };
            if Digest::of(&bytes) != bundle.sha256 {
                return Ok(vec!["the bundle with your unpushed commits does not verify".into()]);
            }
            std::fs::write(&file, &bytes).map_err(|error| SyncError::Local {
                act: "writing",
                path: file.display().to_string(),
                error,
            })?;
            fetched = Some(file.as_path());
        }
        let taken = git.take_bundle(fetched, &state);
        match taken {
            Ok(beside) => {
                let _ = std::fs::remove_file(&file);
                Ok(beside)
            }
            // A shallow clone may lack the commit that the bundle builds on: it is kept for a person.
            Err(error) => {
                let kept = git.directory.join("sandkeep.bundle");
                let where_it_is = match std::fs::rename(&file, &kept).or_else(|_| std::fs::copy(&file, &kept).map(drop)) {
                    Ok(()) => kept.display().to_string(),
                    Err(_) => file.display().to_string(),
                };
                Ok(vec![format!("{error}; the unpushed commits are in {where_it_is}")])
            }
        }
    }
}
