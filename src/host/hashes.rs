//! The content of what a unit watches, remembered over runs of the supervisor.

use super::globs::{Depth, Globs};
use crate::ordered::IntoMap;
use crate::unit::Unit;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Hash of the content by path relative to the root.
pub(super) type Hashes = BTreeMap<String, String>;

fn file_of(unit: &Unit, state: &Path) -> PathBuf {
    state.join("hashes").join(format!("{}.json", unit.name))
}

/// Remembers the content of what the unit watches.
pub(super) fn take(unit: &Unit, root: &Path, state: &Path) -> io::Result<()> {
    if unit.watch.is_empty() {
        return Ok(());
    }
    let path = file_of(unit, state);
    fs::create_dir_all(path.parent().unwrap_or(state))?;
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(&of(&unit.watch, root))?)?;
    fs::rename(temporary, path)
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// The first path that differs; all patterns where nothing is remembered.
    pub(super) path: String,
    /// Whether there was anything to compare with.
    pub(super) is_remembered: bool,
}

/// The first path whose content differs from what was remembered; `None` when all is the same. A unit that watches something and of which
/// nothing is remembered has changed.
pub(super) fn changed(unit: &Unit, root: &Path, state: &Path) -> Option<Changed> {
    if unit.watch.is_empty() {
        return None;
    }
    let remembered = fs::read(file_of(unit, state))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Hashes>(&bytes).ok());
    let Some(remembered) = remembered else {
        return Some(Changed {
            path: unit.watch.join(" "),
            is_remembered: false,
        });
    };
    let seen = of(&unit.watch, root);
    let different = seen
        .iter()
        .find(|(path, hash)| remembered.get(*path) != Some(hash))
        .map(|(path, _)| path);
    let path = different
        .or_else(|| remembered.keys().find(|path| !seen.contains_key(*path)))?
        .clone();
    Some(Changed { path, is_remembered: true })
}

fn of(patterns: &[String], root: &Path) -> Hashes {
    let files = Globs::new(patterns).files(root);
    files
        .into_iter()
        .filter_map(|path| Some((path.clone(), hash(&root.join(path)).ok()?)))
        .into_map()
}

/// What a few small files hold; `None` where the patterns reach below directories, or match more than is read in no time.
pub(super) fn of_few(patterns: &[String], root: &Path) -> Option<Hashes> {
    const FILES: usize = 64;
    const BYTES: u64 = 1 << 20;
    let globs = Globs::new(patterns);
    if globs.starts().iter().any(|(_, depth)| *depth == Depth::Below) {
        return None;
    }
    let files = globs.files(root);
    let bytes: u64 = files.iter().filter_map(|path| Some(root.join(path).metadata().ok()?.len())).sum();
    (files.len() <= FILES && bytes <= BYTES).then(|| of(patterns, root))
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut Writer(&mut hasher))?;
    Ok(hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

struct Writer<'a>(&'a mut Sha256);

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
