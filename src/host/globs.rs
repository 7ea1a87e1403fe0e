//! Files below the project's root that patterns match.

use crate::ordered::Order;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::fs;
use std::path::Path;

/// More files than this are not looked at: the patterns of a unit are meant for what configures it.
const MOST_FILES: usize = 50_000;

/// Patterns, relative to the root: `*` stays within a directory, `**` does not.
#[derive(Clone, Debug)]
pub(super) struct Globs {
    set: GlobSet,
    /// Where to begin to look: the parts of each pattern that are plain directories, and whether to go on below.
    starts: Vec<(String, Depth)>,
}

/// How far below its start a pattern reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Files in that directory alone.
    Here,
    /// Any depth.
    Below,
}

impl Globs {
    /// Patterns that were checked with the configuration; one that cannot be read matches nothing.
    pub(super) fn new(patterns: &[String]) -> Self {
        let mut set = GlobSetBuilder::new();
        let mut starts = Vec::new();
        for pattern in patterns {
            let pattern = pattern.trim_start_matches("./");
            if let Ok(glob) = GlobBuilder::new(pattern).literal_separator(true).build() {
                set.add(glob);
                starts.push(start(pattern));
            }
        }
        starts.order();
        starts.dedup();
        Self {
            set: set.build().unwrap_or_else(|_| GlobSet::empty()),
            starts,
        }
    }

    /// Whether a path, relative to the root, matches and is in no place that is never looked at.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.set.is_match(path)
    }

    /// Where to begin to look.
    pub(super) fn starts(&self) -> &[(String, Depth)] {
        &self.starts
    }

    /// The files that match, sorted, relative to the root.
    pub(super) fn files(&self, root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut seen = 0;
        for (start, depth) in &self.starts {
            self.walk(root, start, *depth, &mut found, &mut seen);
        }
        found.order();
        found.dedup();
        found
    }

    fn walk(&self, root: &Path, directory: &str, depth: Depth, found: &mut Vec<String>, seen: &mut usize) {
        let Ok(entries) = fs::read_dir(root.join(directory)) else { return };
        for entry in entries.flatten() {
            let (Some(name), Ok(kind)) = (entry.file_name().to_str().map(str::to_owned), entry.file_type()) else {
                continue;
            };
            *seen += 1;
            if *seen > MOST_FILES {
                return;
            }
            let path = if directory.is_empty() {
                name.clone()
            } else {
                format!("{directory}/{name}")
            };
            if kind.is_dir() {
                if depth == Depth::Below && !is_passed_over(&name) {
                    self.walk(root, &path, depth, found, seen);
                }
            } else if self.matches(&path) {
                found.push(path);
            }
        }
    }
}

/// Directories that are never looked into: hidden ones, and what package managers fill.
pub(super) fn is_passed_over(name: &str) -> bool {
    name.starts_with('.') || name == "node_modules" || name == "__pycache__"
}

fn start(pattern: &str) -> (String, Depth) {
    let is_plain = |part: &&str| !part.contains(['*', '?', '[', '{', '\\']);
    let parts: Vec<&str> = pattern.split('/').collect();
    let plain: Vec<&str> = parts[..parts.len() - 1].iter().copied().take_while(is_plain).collect();
    let depth = if plain.len() == parts.len() - 1 && !parts[parts.len() - 1].contains("**") {
        Depth::Here
    } else {
        Depth::Below
    };
    (plain.join("/"), depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_begin_where_they_stop_being_plain() {
        for (pattern, directory, depth) in [
            ("package.json", "", Depth::Here),
            ("*.json", "", Depth::Here),
            ("**", "", Depth::Below),
            ("a/b/*.rs", "a/b", Depth::Here),
            ("a/**/c.rs", "a", Depth::Below),
            ("a/*/c.rs", "a", Depth::Below),
        ] {
            assert_eq!(start(pattern), (directory.to_owned(), depth), "{pattern}");
        }
    }

    #[test]
    fn files_are_found_and_hidden_places_passed_over() {
        let base = tempfile::tempdir().unwrap();
        for path in [
            "package.json",
            "src/a.ts",
            "src/deep/b.ts",
            "node_modules/x/package.json",
            ".git/c.ts",
            "src/.hidden/d.ts",
        ] {
            let path = base.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let files = |patterns: &[&str]| Globs::new(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).files(base.path());
        assert_eq!(files(&["package.json"]), ["package.json"]);
        assert_eq!(files(&["**/*.ts"]), ["src/a.ts", "src/deep/b.ts"]);
        assert_eq!(files(&["**"]), ["package.json", "src/a.ts", "src/deep/b.ts"]);
        assert_eq!(files(&["src/*", "./package.json"]), ["package.json", "src/a.ts"]);
    }
}
