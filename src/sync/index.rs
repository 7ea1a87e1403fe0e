//! The stat index: what this box last had in common with the store, file by file. Kept in the state directory.
//!
//! It is the base of every comparison: local work is what differs from it here, foreign work what differs from it there. It begins with
//! a checksum; one that does not hold counts as lost, and a lost index costs a comparison of everything, never data. So its form may
//! change with any version.

mod form;

use super::beneath::{Kind, Stat};
use super::content::{Content, Digest};
use super::path::TreePath;
use super::store::Etag;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

/// A change younger than this when a file was hashed may have been followed by another one with the same time.
const RACY_NS: i64 = 20_000_000;

/// One file that was in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was hashed; `None` = to be hashed again.
    pub stat: Option<Stat>,
    /// What was in it.
    pub content: Content,
    /// Under which token the store has it.
    pub etag: Etag,
}

impl Entry {
    /// An entry for a file that was hashed between two equal looks at it, at `now_ns` since the epoch.
    pub fn new(stat: Stat, content: Content, etag: Etag, now_ns: i64) -> Self {
        let racy = now_ns - stat.ctime_ns < RACY_NS;
        Self {
            stat: (!racy).then_some(stat),
            content,
            etag,
        }
    }

    /// Whether the file is certainly as it was.
    pub fn is_unchanged(&self, stat: &Stat) -> bool {
        self.stat.as_ref() == Some(stat)
    }
}

/// The whole index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// The generation that it is in step with.
    pub generation: u64,
    /// The token of that manifest.
    pub manifest: Option<Etag>,
    /// Whether a restore has completed here; until then nothing may be removed from the store.
    pub restored: bool,
    /// The boot of the machine under which it was last compared with tree and store.
    pub boot: Option<String>,
    /// The root that it speaks of: device and inode.
    pub root: (u64, u64),
    /// The files.
    pub files: BTreeMap<TreePath, Entry>,
    /// Kept empty directories.
    pub empty: BTreeSet<TreePath>,
    /// What is kept beside the tree, by its key.
    pub beside: BTreeMap<TreePath, Entry>,
}

impl Index {
    /// Reads an index; `None` when there is none, it is damaged, or of another form.
    pub fn load(path: &Path) -> Option<Self> {
        let bytes = std::fs::read(path).ok()?;
        let (digest, body) = bytes.split_at_checked(32)?;
        if Digest::of(body).as_bytes() != digest {
            tracing::warn!("the stat index {} is damaged: everything is compared anew", path.display());
            return None;
        }
        form::read(body)
    }

    /// Writes it whole or not at all.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let body = form::write(self);
        let temporary = path.with_extension("tmp");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(Digest::of(&body).as_bytes())?;
        file.write_all(&body)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    }

    /// Whether it speaks of this root.
    pub fn is_of(&self, root: &Stat) -> bool {
        self.root == (root.dev, root.ino) && root.kind == Kind::Directory
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|entry| entry.content.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_index_counts_as_lost() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("index");
        let index = Index {
            generation: 7,
            restored: true,
            ..Index::default()
        };
        index.save(&path).expect("saved");
        assert_eq!(Index::load(&path), Some(index));
        let mut bytes = std::fs::read(&path).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(Index::load(&path), None);
    }
}
