//! The past and the end: generations, going back to one, comparing, verifying, and removing everything.

use super::arrive::Silent;
use super::content::Digest;
use super::engine::{Engine, TRASH};
use super::error::SyncError;
use super::lease::{Claim, LEASE, OWNER, check_owner};
use super::manifest::{FileEntry, GENERATIONS, Manifest};
use super::path::TreePath;
use super::power;
use super::project::Project;
use super::read::{Reading, read};
use super::store::{Store, list_all, read_small};
use super::walk::walk;
use crate::ordered::{IntoMap, Order};
use futures_util::StreamExt;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

const MANIFEST_MOST: u64 = 256 << 20;
/// Requests at once.
const AT_ONCE: usize = 16;

/// A generation that one can go back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Generation {
    /// Its number.
    pub generation: u64,
    /// When it was written; RFC 3339.
    pub created: String,
    /// By which box.
    pub sandbox: String,
    /// Its files.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
}

impl Generation {
    fn of(manifest: &Manifest) -> Self {
        let created = jiff::Timestamp::from_millisecond(manifest.created_ms).unwrap_or_default();
        Self {
            generation: manifest.generation,
            created: created.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            sandbox: manifest.sandbox.clone(),
            files: manifest.files.len(),
            bytes: manifest.files.values().map(|entry| entry.content.size).sum(),
        }
    }
}

/// The newest generations, the newest first.
pub async fn history(project: &Project, most: usize) -> Result<Vec<Generation>, SyncError> {
    check_owner(&*project.store, &project.id, Claim::No).await?;
    let mut keys: Vec<_> = list_all(&*project.store, GENERATIONS)
        .await?
        .into_iter()
        .map(|object| object.key)
        .collect();
    keys.order_by(|a, b| b.cmp(a));
    keys.truncate(most);
    let mut generations = Vec::new();
    for key in keys {
        if let Some(manifest) = read_manifest(&*project.store, &key).await? {
            generations.push(Generation::of(&manifest));
        }
    }
    Ok(generations)
}

pub(super) async fn read_manifest(store: &dyn Store, key: &str) -> Result<Option<Manifest>, SyncError> {
    match read_small(store, key, MANIFEST_MOST).await? {
        Some((_, bytes)) => Manifest::decode(&bytes)
            .map(Some)
            .map_err(|error| SyncError::Form(format!("{key}: {error}"))),
        None => Ok(None),
    }
}

/// What going back did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WentBack {
    /// To which generation.
    pub generation: u64,
    /// Files that were brought.
    pub restored: u64,
    /// Files that were removed, because they were not there then.
    pub removed: u64,
    /// Files that were as they were then.
    pub unchanged: u64,
    /// What could not be brought, with the reason.
    pub refused: BTreeMap<String, String>,
}

/// Makes the tree what it was in a generation. To the worker that is an edit like any other, which goes to the store as a new generation.
pub async fn go_back(project: Project, generation: u64) -> Result<WentBack, SyncError> {
    let _lock = project.lock()?;
    check_owner(&*project.store, &project.id, Claim::No).await?;
    let key = Manifest::generation_key(generation);
    let Some(then) = read_manifest(&*project.store, &key).await? else {
        return Err(SyncError::Config(format!(
            "generation {generation} is not kept: `sandkeep sync history` shows those that are"
        )));
    };
    // First everything here is sent, so that nothing is lost by going back.
    let mut engine = Engine::open_to_write(project).await?;
    if !engine.index.restored || engine.may_have_lost_bytes() {
        engine.arrive(&Silent).await?;
    }
    engine.adopt_index();
    send_all(&mut engine).await?;
    let mut went = WentBack {
        generation,
        ..WentBack::default()
    };
    for (path, entry) in &then.files {
        bring(&mut engine, path, entry, &mut went).await?;
    }
    let newer: Vec<_> = engine
        .index
        .files
        .keys()
        .filter(|path| !then.files.contains_key(*path))
        .cloned()
        .collect();
    for path in newer {
        engine.project.root.remove(&path).map_err(SyncError::local("removing", &path))?;
        went.removed += 1;
    }
    power::make_durable(&engine.project.root)?;
    send_all(&mut engine).await?;
    let gone: Vec<_> = engine
        .index
        .files
        .keys()
        .filter(|path| matches!(engine.project.root.lstat(path), Ok(None)))
        .cloned()
        .collect();
    engine.remove(&gone).await?;
    engine.commit(true).await?;
    engine.save_index()?;
    Ok(went)
}

async fn send_all(engine: &mut Engine) -> Result<(), SyncError> {
    let found = walk(&engine.project.root, &engine.project.rules).map_err(|error| SyncError::Local {
        act: "walking",
        path: error.directory,
        error: error.error,
    })?;
    let paths: Vec<_> = found.files.into_keys().collect();
    engine.send(&paths).await?;
    engine.commit(true).await.map(drop)
}

async fn bring(engine: &mut Engine, path: &TreePath, entry: &FileEntry, went: &mut WentBack) -> Result<(), SyncError> {
    if let Reading::Local(local) = read(&engine.project.root, path)
        && local.content.same(&entry.content)
    {
        went.unchanged += 1;
        return Ok(());
    }
    let store = std::sync::Arc::clone(&engine.project.store);
    let current = engine
        .manifest
        .files
        .get(path)
        .is_some_and(|now| now.content.sha256 == entry.content.sha256);
    let mut keys = vec![format!("{TRASH}{}", entry.content.sha256)];
    if current {
        keys.insert(0, path.to_string());
    }
    let elsewhere = engine
        .manifest
        .files
        .iter()
        .find(|(_, now)| now.content.sha256 == entry.content.sha256 && !now.content.link);
    keys.extend(elsewhere.map(|(path, _)| path.to_string()));
    for key in keys {
        if let Some((_, bytes)) = read_small(&*store, &key, 1 << 30).await?
            && Digest::of(&bytes) == entry.content.sha256
        {
            engine.put_here(path, entry, &bytes)?;
            went.restored += 1;
            return Ok(());
        }
    }
    went.refused.insert(path.to_string(), "its content is no longer kept".into());
    Ok(())
}

/// What differs between the tree and the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Only here.
    pub added: Vec<TreePath>,
    /// Different.
    pub changed: Vec<TreePath>,
    /// Only in the store.
    pub missing: Vec<TreePath>,
}

/// Compares the tree with the manifest, by content. One request.
pub async fn diff(project: Project) -> Result<Difference, SyncError> {
    let engine = Engine::open(project).await?;
    let found = walk(&engine.project.root, &engine.project.rules).map_err(|error| SyncError::Local {
        act: "walking",
        path: error.directory,
        error: error.error,
    })?;
    let mut difference = Difference::default();
    for path in found.files.keys() {
        match (engine.manifest.files.get(path), read(&engine.project.root, path)) {
            (None, _) => difference.added.push(path.clone()),
            (Some(there), Reading::Local(local)) if local.content.same(&there.content) => {}
            (Some(_), _) => difference.changed.push(path.clone()),
        }
    }
    let absent = |path: &&TreePath| matches!(engine.project.root.lstat(path), Ok(None));
    difference.missing = engine.manifest.files.keys().filter(absent).cloned().collect();
    Ok(difference)
}

/// What verifying found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Objects that are what the manifest says.
    pub good: u64,
    /// In the manifest, but not in the store.
    pub missing: Vec<TreePath>,
    /// Written by somebody else since.
    pub foreign: Vec<String>,
    /// The token is right and the content is not.
    pub damaged: Vec<TreePath>,
}

/// Compares the store with its manifest: by tokens, and with `deep` by reading everything.
pub async fn verify(project: Project, deep: bool) -> Result<Verified, SyncError> {
    let engine = Engine::open(project).await?;
    let store = std::sync::Arc::clone(&engine.project.store);
    let listed = list_all(&*store, "").await?;
    let there = listed
        .into_iter()
        .filter(|object| !object.key.starts_with(".sandkeep/"))
        .map(|object| (object.key, object.etag))
        .into_map();
    let mut verified = Verified::default();
    let mut to_read = Vec::new();
    for (path, entry) in &engine.manifest.files {
        match there.get(path.as_str()) {
            None => verified.missing.push(path.clone()),
            Some(etag) if *etag != entry.etag => verified.foreign.push(path.to_string()),
            Some(_) if deep => to_read.push((path.clone(), entry.content.sha256)),
            Some(_) => verified.good += 1,
        }
    }
    verified.foreign.extend(
        there
            .keys()
            .filter(|key| !engine.manifest.files.contains_key(key.as_str()))
            .cloned(),
    );
    let reads = futures_util::stream::iter(to_read).map(|(path, wanted)| {
        let store = std::sync::Arc::clone(&store);
        async move {
            let Some(mut fetched) = store.get(path.as_str()).await? else {
                return Ok((path, false));
            };
            let mut hasher = Sha256::new();
            while let Some(chunk) = fetched.body.next().await {
                hasher.update(&chunk?);
            }
            Ok::<_, SyncError>((path, Digest::finish(hasher) == wanted))
        }
    });
    let mut reads = reads.buffer_unordered(AT_ONCE);
    while let Some(result) = reads.next().await {
        match result? {
            (_, true) => verified.good += 1,
            (path, false) => verified.damaged.push(path),
        }
    }
    Ok(verified)
}

/// Removes all of a project from the store. The lease goes first, so that a running box stops writing, and the owner record last.
pub async fn purge(project: &Project) -> Result<u64, SyncError> {
    let store = &*project.store;
    check_owner(store, &project.id, Claim::No).await?;
    store.delete(&[LEASE.to_owned()]).await?;
    let keys: Vec<_> = list_all(store, "")
        .await?
        .into_iter()
        .map(|object| object.key)
        .filter(|key| key != OWNER)
        .collect();
    store.delete(&keys).await?;
    store.delete(&[OWNER.to_owned()]).await?;
    Ok(keys.len() as u64)
}
