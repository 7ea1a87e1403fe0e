//! Git's references: what upstream does not have goes into a bundle, and comes back onto a fresh clone.
//!
//! Branches, tags, the stash and the index (as a commit under `refs/sandkeep/`) are bundled; a restore moves the clone's branch only
//! forward, and puts what would not be forward beside it, under `sandkeep/`.

use super::content::Digest;
use super::git::{Git, GitError};
use super::manifest::GitState;
use std::io::BufRead;
use std::path::Path;

const INDEX: &str = "refs/sandkeep/index";
const STASH: &str = "refs/sandkeep/stash/";
const FROM: &str = "refs/sandkeep/from/";

impl Git {
    /// Brings `refs/sandkeep/` up to date and tells what all references are.
    pub fn note_refs(&self) -> Result<Digest, GitError> {
        self.note_index();
        let _ = self.note_stash();
        let refs = self.text(&[
            "for-each-ref",
            "--format=%(refname) %(objectname)",
            "refs/heads",
            "refs/tags",
            "refs/remotes",
            "refs/sandkeep",
        ])?;
        let head = self
            .text(&["symbolic-ref", "-q", "HEAD"])
            .or_else(|_| self.text(&["rev-parse", "HEAD"]))?;
        Ok(Digest::of(format!("{refs}\n{head}").as_bytes()))
    }

    /// What is staged, where that is not what is committed. A conflict in the index cannot be noted.
    fn note_index(&self) {
        let staged = self.text(&["write-tree"]).ok();
        let committed = self.text(&["rev-parse", "HEAD^{tree}"]).ok();
        let noted = match (staged, committed) {
            (Some(staged), committed) if Some(&staged) != committed.as_ref() => self.plain_commit(&staged),
            _ => None,
        };
        let _ = match noted {
            Some(commit) => self.text(&["update-ref", INDEX, &commit]),
            None => self.text(&["update-ref", "-d", INDEX]),
        };
    }

    /// The same tree always makes the same commit.
    fn plain_commit(&self, tree: &str) -> Option<String> {
        let who = ["-c", "user.name=sandkeep", "-c", "user.email=sandkeep@localhost"];
        let arguments = [&who[..], &["commit-tree", tree, "-p", "HEAD", "-m", "what was staged"]].concat();
        self.text_at_epoch(&arguments).ok()
    }

    fn note_stash(&self) -> Result<(), GitError> {
        let listed = self.text(&["stash", "list", "--format=%H"]).unwrap_or_default();
        let known = self.text(&["for-each-ref", "--format=%(refname)", STASH])?;
        for name in known.lines() {
            self.text(&["update-ref", "-d", name])?;
        }
        for (at, commit) in listed.lines().enumerate() {
            self.text(&["update-ref", &format!("{STASH}{at:04}"), commit])?;
        }
        Ok(())
    }

    /// Writes a bundle with what upstream does not have. `false` when it has everything.
    pub fn bundle(&self, file: &Path) -> Result<bool, GitError> {
        let file = file.to_string_lossy();
        let has_remote = !self.text(&["for-each-ref", "--count=1", "refs/remotes"])?.is_empty();
        let mut arguments = vec![
            "bundle",
            "create",
            "-q",
            &file,
            "--branches",
            "--tags",
            "--glob=refs/sandkeep/*",
            "HEAD",
        ];
        if has_remote {
            arguments.extend(["--not", "--remotes"]);
        }
        match self.text(&arguments) {
            Ok(_) => Ok(true),
            Err(error) if error.why.contains("empty bundle") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Before files are brought: a clean clone of another branch is moved to the branch that the box was on.
    pub fn align(&self, state: &GitState) -> Result<(), GitError> {
        let Some(branch) = &state.branch else { return Ok(()) };
        if self.branch().as_ref() == Some(branch) || !self.text(&["status", "--porcelain", "-uno"])?.is_empty() {
            return Ok(());
        }
        let upstream = format!("origin/{branch}");
        let has = |name: &str| self.text(&["rev-parse", "--verify", "-q", &format!("{name}^{{commit}}")]).is_ok();
        let start = [upstream.as_str(), state.base.as_str()].into_iter().find(|name| has(name));
        match start {
            Some(start) => self.text(&["checkout", "-q", "-B", branch, start]).map(drop),
            None => Ok(()),
        }
    }

    /// After files were brought: branches, stash and index come back out of a bundle. Gives what could not be put where it was.
    pub fn take_bundle(&self, file: Option<&Path>, state: &GitState) -> Result<Vec<String>, GitError> {
        let mut beside = Vec::new();
        if let Some(file) = file {
            let file = file.to_string_lossy();
            let refspecs = ["+refs/heads/*:refs/sandkeep/from/*", "+refs/sandkeep/*:refs/sandkeep/*"];
            self.complete(Path::new(&*file))?;
            self.text(&["fetch", "-q", "--no-tags", "--no-write-fetch-head", &file, refspecs[0], refspecs[1]])?;
            // A tag that is here already stays.
            let _ = self.text(&["fetch", "-q", "--no-write-fetch-head", &file, "refs/tags/*:refs/tags/*"]);
            for name in self.text(&["for-each-ref", "--format=%(refname)", FROM])?.lines() {
                if let Some(branch) = name.strip_prefix(FROM) {
                    beside.extend(self.take_branch(branch, name)?);
                }
                self.text(&["update-ref", "-d", name])?;
            }
        }
        for (branch, commit) in &state.branches {
            let own = format!("refs/heads/{branch}");
            if self.text(&["rev-parse", "--verify", "-q", &own]).is_err() {
                // A commit that is not here belongs to a bundle that could not be had.
                let _ = self.text(&["update-ref", &own, commit]);
            }
        }
        if self.head().as_ref() == Some(&state.head) {
            self.take_index()?;
        }
        self.take_stash()?;
        Ok(beside)
    }

    /// Fetches what a bundle builds upon and this clone lacks: a shallow one, or one of a rewritten upstream.
    fn complete(&self, bundle: &Path) -> Result<(), GitError> {
        let has = |commit: &String| self.text(&["cat-file", "-e", &format!("{commit}^{{commit}}")]).is_ok();
        let missing: Vec<_> = builds_upon(bundle).into_iter().filter(|commit| !has(commit)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let shallow = self.text(&["rev-parse", "--is-shallow-repository"])? == "true";
        let mut arguments = vec!["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=20"];
        arguments.extend(["fetch", "-q", "--no-tags", "--no-write-fetch-head"]);
        if shallow {
            arguments.push("--depth=1");
        }
        arguments.push("origin");
        arguments.extend(missing.iter().map(String::as_str));
        self.text(&arguments).map(drop)
    }

    /// A branch that is new or ahead is taken; one that went another way goes beside the one that is here.
    fn take_branch(&self, branch: &str, from: &str) -> Result<Option<String>, GitError> {
        let own = format!("refs/heads/{branch}");
        let is_new = self.text(&["rev-parse", "--verify", "-q", &own]).is_err();
        if is_new || self.text(&["merge-base", "--is-ancestor", &own, from]).is_ok() {
            self.text(&["update-ref", &own, from])?;
            return Ok(None);
        }
        if self.text(&["merge-base", "--is-ancestor", from, &own]).is_ok() {
            return Ok(None);
        }
        let beside = format!("sandkeep/{branch}");
        self.text(&["update-ref", &format!("refs/heads/{beside}"), from])?;
        Ok(Some(format!(
            "upstream went another way: your commits of `{branch}` are on the branch `{beside}`"
        )))
    }

    fn take_index(&self) -> Result<(), GitError> {
        let tree = if self.text(&["rev-parse", "--verify", "-q", INDEX]).is_ok() {
            INDEX
        } else {
            "HEAD"
        };
        self.text(&["read-tree", tree])?;
        // Says by its exit code that files differ, which is no failure.
        let _ = self.text(&["update-index", "-q", "--refresh"]);
        Ok(())
    }

    fn take_stash(&self) -> Result<(), GitError> {
        if self.text(&["rev-parse", "--verify", "-q", "refs/stash"]).is_ok() {
            return Ok(());
        }
        let noted = self.text(&["for-each-ref", "--sort=-refname", "--format=%(objectname) %(subject)", STASH])?;
        for line in noted.lines() {
            let (commit, message) = line.split_once(' ').unwrap_or((line, "stash"));
            self.text(&["stash", "store", "-m", message, commit])?;
        }
        Ok(())
    }
}

/// The commits that a bundle's head says it builds upon.
fn builds_upon(bundle: &Path) -> Vec<String> {
    let Ok(file) = std::fs::File::open(bundle) else {
        return Vec::new();
    };
    let mut lines = std::io::BufReader::new(file).split(b'\n').map_while(Result::ok).skip(1);
    let mut commits = Vec::new();
    // After them come the references, then an empty line and the pack. A newer form has lines with `@` before.
    while let Some(line) = lines.next().filter(|line| matches!(line.first(), Some(b'-' | b'@'))) {
        let text = String::from_utf8_lossy(&line);
        let commit = text.strip_prefix('-').and_then(|rest| rest.split(' ').next());
        commits.extend(commit.map(str::to_owned));
    }
    commits
}
