//! The manifest: an index beside the objects, written after them, so that it names a consistent cut. The objects are the truth; what the
//! manifest says of one counts only while its token is the same.

use super::content::{Content, Digest};
use super::path::TreePath;
use super::store::Etag;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Where it is.
pub const KEY: &str = ".sandkeep/manifest";
/// Where the kept generations are.
pub const GENERATIONS: &str = ".sandkeep/generations/";
/// The version that is written. One is added for every change that an older reader would misread.
const VERSION: u32 = 1;
/// What a manifest may have unpacked; a million files have some 250 MB.
const MOST: u64 = 512 << 20;

/// A file in the store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Flat<Etag>")]
pub struct FileEntry {
    /// What is in it.
    pub content: Content,
    /// Last change of the content, nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// The object's token when it was written.
    pub etag: Etag,
    /// Whether the pack has it too, as it is here.
    pub packed: bool,
}

/// A file as it is written. serde's own flattening would hold every field of every file in a map of its own first.
#[derive(Serialize, Deserialize)]
struct Flat<E> {
    sha256: Digest,
    size: u64,
    mode: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    link: bool,
    mtime_ns: i64,
    etag: E,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    packed: bool,
}

impl From<Flat<Etag>> for FileEntry {
    fn from(flat: Flat<Etag>) -> Self {
        let Flat {
            sha256,
            size,
            mode,
            link,
            mtime_ns,
            etag,
            packed,
        } = flat;
        let content = Content { sha256, size, mode, link };
        Self {
            content,
            mtime_ns,
            etag,
            packed,
        }
    }
}

impl Serialize for FileEntry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            content,
            mtime_ns,
            etag,
            packed,
        } = self;
        let Content { sha256, size, mode, link } = *content;
        Flat {
            sha256,
            size,
            mode,
            link,
            mtime_ns: *mtime_ns,
            etag,
            packed: *packed,
        }
        .serialize(serializer)
    }
}

/// The state of the project's Git repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    /// The commit that a fresh clone is compared with: the last one that upstream has.
    pub base: String,
    /// The branch that was checked out; `None` for a detached head.
    pub branch: Option<String>,
    /// The commit that was checked out.
    pub head: String,
    /// Local branches, so that those come back too that have no commit of their own.
    #[serde(default)]
    pub branches: BTreeMap<String, String>,
    /// What differs from the base, with the blob that the base has there. A path that is here and not among the files was deleted.
    pub changed: BTreeMap<TreePath, Option<String>>,
    /// The bundle with what upstream does not have; `None` when it has everything.
    pub bundle: Option<Bundle>,
    /// What the references were when it was last looked for such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refs: Option<Digest>,
}

/// A Git bundle in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// Its key.
    pub key: String,
    /// Of its bytes.
    pub sha256: Digest,
}

/// A compressed pack of small files, beside their objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRef {
    /// Its key.
    pub key: String,
    /// Of its bytes.
    pub sha256: Digest,
    /// Its length.
    pub size: u64,
    /// The files that it has, as they were when it was written.
    pub files: u64,
}

/// The manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of its form, of one that was read. Always written as the newest.
    #[serde(serialize_with = "newest")]
    pub v: u32,
    /// Whose files these are.
    pub project: String,
    /// Which box wrote it.
    pub sandbox: String,
    /// The lease under which it was written.
    pub epoch: u64,
    /// One more at every write.
    pub generation: u64,
    /// When, milliseconds since the epoch. For people alone: nothing is ordered by it.
    pub created_ms: i64,
    /// Tells one's own write from another's.
    pub nonce: u64,
    /// The files.
    pub files: BTreeMap<TreePath, FileEntry>,
    /// Empty directories.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub empty: BTreeSet<TreePath>,
    /// Deleted files whose objects may still be there, with their tokens.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tombstones: BTreeMap<TreePath, Etag>,
    /// Of the Git repository, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitState>,
    /// The pack, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<PackRef>,
}

/// Why a manifest cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is none; the objects still are what they are.
    #[error("the manifest is not readable: {0}")]
    Garbage(String),
    /// A newer sandkeep wrote it. Final.
    #[error("the manifest has version {0}, this sandkeep reads up to {VERSION}")]
    Newer(u32),
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

fn newest<S: serde::Serializer>(_read: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(VERSION)
}

impl Manifest {
    /// As it is sent: JSON, compressed with zstd.
    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("every part of a manifest is JSON");
        zstd::encode_all(json.as_slice(), 3).expect("memory takes what is written to it")
    }

    /// Reads one.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let garbage = |error: &dyn std::fmt::Display| ManifestError::Garbage(error.to_string());
        let mut json = Vec::new();
        let decoder = zstd::Decoder::new(bytes).map_err(|error| garbage(&error))?;
        decoder.take(MOST).read_to_end(&mut json).map_err(|error| garbage(&error))?;
        // Most are of a known form: only what is not is read a second time, for its version.
        let manifest = serde_json::from_slice::<Self>(&json);
        let version = match &manifest {
            Ok(manifest) => manifest.v,
            Err(_) => serde_json::from_slice::<Version>(&json).map_err(|error| garbage(&error))?.v,
        };
        if version > VERSION {
            return Err(ManifestError::Newer(version));
        }
        manifest.map_err(|error| garbage(&error))
    }

    /// Where a generation is kept.
    pub fn generation_key(generation: u64) -> String {
        format!("{GENERATIONS}{generation:010}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Manifest {
        let content = Content {
            sha256: Digest::of(b"x"),
            size: 1,
            mode: 0o644,
            link: false,
        };
        let file = FileEntry {
            content,
            mtime_ns: 5,
            etag: Etag("\"e\"".into()),
            packed: false,
        };
        Manifest {
            v: 1,
            project: "p".into(),
            generation: 3,
            files: [(TreePath::parse("a/b").expect("good"), file)].into(),
            ..Manifest::default()
        }
    }

    #[test]
    fn it_goes_both_ways() {
        assert_eq!(Manifest::decode(&example().encode()), Ok(example()));
    }

    #[test]
    fn a_newer_one_is_named_and_garbage_is_told_apart() {
        let newer = zstd::encode_all(&br#"{"v":2,"files":"in another form"}"#[..], 1).expect("packed");
        assert_eq!(Manifest::decode(&newer), Err(ManifestError::Newer(2)));
        assert!(matches!(Manifest::decode(b"<html>"), Err(ManifestError::Garbage(_))));
        assert!(matches!(Manifest::decode(b""), Err(ManifestError::Garbage(_))));
        let hostile = zstd::encode_all(
            &br#"{"v":1,"project":"","sandbox":"","epoch":1,"generation":1,"created_ms":0,"nonce":0,"files":{"../x":{}}}"#[..],
            1,
        );
        assert!(matches!(
            Manifest::decode(&hostile.expect("packed")),
            Err(ManifestError::Garbage(_))
        ));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..100, flip in any::<u8>()) {
            let _ = Manifest::decode(&bytes);
            let mut damaged = example().encode();
            let at = at % damaged.len();
            damaged[at] ^= flip;
            let _ = Manifest::decode(&damaged);
        }
    }
}
