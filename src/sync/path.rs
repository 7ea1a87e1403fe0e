//! Names of files in the tree and in the store: relative, `/` between components, nothing in them that could lead elsewhere.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The longest key that S3 and R2 take, in bytes.
pub const MAX_KEY: usize = 1024;

/// A file's path relative to the root; what comes out of a bucket becomes one or is refused.
///
/// Never empty, never absolute, no `.` or `..`, no empty component, no NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Arc<str>);

/// Why a name cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Its bytes are no UTF-8, which keys of S3 must be.
    #[error("the name is not UTF-8")]
    NotUtf8,
    /// Longer than a key can be.
    #[error("the name is longer than {MAX_KEY} bytes")]
    TooLong,
    /// `..`, `.`, an empty component, a leading slash or a NUL.
    #[error("the name could lead out of the tree")]
    Hostile,
}

impl TreePath {
    /// Takes a name from outside.
    pub fn parse(name: &str) -> Result<Self, PathFault> {
        if name.len() > MAX_KEY {
            return Err(PathFault::TooLong);
        }
        let hostile = name.contains('\0') || name.split('/').any(|part| matches!(part, "" | "." | ".."));
        if hostile { Err(PathFault::Hostile) } else { Ok(Self(name.into())) }
    }

    /// Takes a relative path of the file system.
    pub fn from_relative(path: &Path) -> Result<Self, PathFault> {
        Self::parse(path.to_str().ok_or(PathFault::NotUtf8)?)
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that it is in; `None` at the top.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// Its last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// Every directory above it, the highest first.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for TreePath {
    fn as_ref(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl std::borrow::Borrow<str> for TreePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for TreePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl serde::de::Visitor<'_> for Name {
            type Value = TreePath;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<TreePath, E> {
                TreePath::parse(name).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Name)
    }
}

impl From<TreePath> for String {
    fn from(path: TreePath) -> Self {
        path.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_stays_inside() {
        for name in ["a", "a/b", ".env", "a b/ü.ts", "...", "a\u{1}b"] {
            assert_eq!(TreePath::parse(name).map(String::from), Ok(name.to_owned()));
        }
    }

    #[test]
    fn refuses_what_could_lead_out() {
        for name in ["", "/", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/.", "a\0b"] {
            assert_eq!(TreePath::parse(name), Err(PathFault::Hostile), "{name:?}");
        }
        assert_eq!(TreePath::parse(&"x".repeat(1025)), Err(PathFault::TooLong));
    }

    #[test]
    fn ancestors_go_down() {
        let path = TreePath::parse("a/b/c").expect("a good path");
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(path.parent(), Some("a/b"));
        assert_eq!(path.file_name(), "c");
    }
}
