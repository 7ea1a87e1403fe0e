//! The project's Git repository, through the `git` command: what it tracks, what differs from upstream, what upstream does not have.
//!
//! What is written to the repository: references under `refs/sandkeep/` for a bundle, and at a restore what `git_refs.rs` says.

use super::manifest::GitState;
use super::path::TreePath;
use crate::ordered::IntoMap;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

/// A repository with a work tree.
#[derive(Debug)]
pub struct Git {
    root: PathBuf,
    pub(super) directory: PathBuf,
    seen: Option<(SystemTime, u64)>,
}

/// A command of Git that failed.
#[derive(Debug, thiserror::Error)]
#[error("git {command}: {why}")]
pub struct GitError {
    /// What was asked.
    pub command: String,
    /// What it said.
    pub why: String,
}

impl Git {
    /// The repository whose work tree is `root`; `None` where there is none, or no `git`.
    pub fn find(root: &Path) -> Option<Self> {
        if !root.join(".git").exists() {
            return None;
        }
        let mut git = Self {
            root: root.to_owned(),
            directory: PathBuf::new(),
            seen: None,
        };
        git.directory = PathBuf::from(git.text(&["rev-parse", "--absolute-git-dir"]).ok()?);
        git.index_changed();
        Some(git)
    }

    /// Whether what Git tracks may have changed since this was asked last.
    pub fn index_changed(&mut self) -> bool {
        let stat = std::fs::metadata(self.directory.join("index")).ok();
        let now = stat.and_then(|stat| Some((stat.modified().ok()?, stat.len())));
        let changed = now != self.seen;
        self.seen = now;
        changed
    }

    /// Paths that Git tracks; none when it does not answer.
    pub fn tracked(&self) -> Vec<String> {
        self.lines(&["ls-files", "-z"]).unwrap_or_default()
    }

    /// The blobs of a commit.
    pub fn blobs(&self, commit: &str) -> Result<BTreeMap<TreePath, String>, GitError> {
        let mut blobs = BTreeMap::new();
        for line in self.lines(&["ls-tree", "-r", "-z", commit])? {
            // <mode> blob <oid>\t<path>
            if let Some((meta, path)) = line.split_once('\t')
                && let [_, "blob", oid] = meta.split(' ').collect::<Vec<_>>()[..]
                && let Ok(path) = TreePath::parse(path)
            {
                blobs.insert(path, oid.to_owned());
            }
        }
        Ok(blobs)
    }

    /// Tracked paths whose content here differs from a commit's, and those that only one of both has.
    pub fn differing(&self, commit: &str) -> Result<BTreeSet<TreePath>, GitError> {
        let lines = self.lines(&["diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", commit, "--"])?;
        Ok(lines.iter().filter_map(|path| TreePath::parse(path).ok()).collect())
    }

    /// The commit that is checked out; `None` before the first.
    pub fn head(&self) -> Option<String> {
        self.text(&["rev-parse", "--verify", "-q", "HEAD^{commit}"]).ok()
    }

    /// The branch that is checked out; `None` for a detached head.
    pub fn branch(&self) -> Option<String> {
        self.text(&["symbolic-ref", "-q", "--short", "HEAD"]).ok()
    }

    fn branches(&self) -> BTreeMap<String, String> {
        let listed = self
            .text(&["for-each-ref", "--format=%(objectname) %(refname:lstrip=2)", "refs/heads"])
            .unwrap_or_default();
        let pairs = listed.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(commit, name)| (name.to_owned(), commit.to_owned())).into_map()
    }

    /// The newest commit that upstream has too: what a fresh clone will have at least. `None` when there is no upstream.
    pub fn base(&self) -> Option<String> {
        let upstream = ["@{upstream}", "origin/HEAD"];
        let found = upstream
            .iter()
            .find_map(|upstream| self.text(&["merge-base", "HEAD", upstream]).ok());
        found.or_else(|| {
            // Another branch may have been pushed: the newest commit below any remote branch.
            let remote = self.lines(&["for-each-ref", "--format=%(refname)%00", "refs/remotes"]).ok()?;
            let mut names = remote.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
            names.find_map(|name| self.text(&["merge-base", "HEAD", name]).ok())
        })
    }

    /// The state that goes into the manifest, for these kept files; `None` before the first commit.
    pub fn state<'a>(&self, kept: impl Iterator<Item = &'a TreePath>) -> Result<Option<GitState>, GitError> {
        let Some(head) = self.head() else { return Ok(None) };
        let base = self.base().unwrap_or_else(|| head.clone());
        let blobs = self.blobs(&base)?;
        let mut changed: BTreeMap<TreePath, Option<String>> = BTreeMap::new();
        for path in self.differing(&base)? {
            let blob = blobs.get(&path).cloned();
            changed.insert(path, blob);
        }
        changed.extend(kept.filter(|path| !blobs.contains_key(*path)).map(|path| (path.clone(), None)));
        Ok(Some(GitState {
            base,
            branch: self.branch(),
            head,
            branches: self.branches(),
            changed,
            bundle: None,
            refs: None,
        }))
    }

    /// Runs a command and gives what it wrote, split at NULs.
    pub fn lines(&self, arguments: &[&str]) -> Result<Vec<String>, GitError> {
        let output = self.run(arguments)?;
        let lines = output.stdout.split(|byte| *byte == 0).filter(|line| !line.is_empty());
        Ok(lines.filter_map(|line| String::from_utf8(line.to_vec()).ok()).collect())
    }

    /// Runs a command and gives what it wrote, trimmed.
    pub fn text(&self, arguments: &[&str]) -> Result<String, GitError> {
        let output = self.run(arguments)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The same at the beginning of time, so that the same commit comes of the same tree.
    pub(super) fn text_at_epoch(&self, arguments: &[&str]) -> Result<String, GitError> {
        let mut command = self.command(arguments);
        command.env("GIT_AUTHOR_DATE", "@0 +0000").env("GIT_COMMITTER_DATE", "@0 +0000");
        let output = Self::finish(command, arguments)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn run(&self, arguments: &[&str]) -> Result<Output, GitError> {
        Self::finish(self.command(arguments), arguments)
    }

    fn finish(mut command: Command, arguments: &[&str]) -> Result<Output, GitError> {
        let failed = |why: String| GitError {
            command: arguments.join(" "),
            why,
        };
        let output = command.output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            Ok(output)
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            // The sandbox often runs as root in a directory of another user.
            .args([
                "-c",
                "safe.directory=*",
                "-c",
                "core.quotePath=false",
                "-c",
                "core.fsmonitor=false",
                "-c",
                "gc.auto=0",
                "-C",
            ])
            .arg(&self.root)
            .args(arguments)
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
        command
    }
}
