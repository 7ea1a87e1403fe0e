//! The tree as it is: every kept file, and what cannot be kept with the reason.

use super::beneath::{Kind, Root, Stat, is_absent};
use super::path::{PathFault, TreePath};
use super::rules::{Folder, Rule, Rules, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use unicode_normalization::UnicodeNormalization;

/// What a walk has found.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// Kept files and links.
    pub files: BTreeMap<TreePath, Stat>,
    /// Kept directories with nothing kept in them.
    pub empty: BTreeSet<TreePath>,
    /// What should be kept but cannot, with the reason.
    pub odd: BTreeMap<String, String>,
    /// Files that a rule leaves out, in the entered directories.
    pub left_out: BTreeMap<String, Stat>,
}

/// Why there is no walk.
#[derive(Debug, thiserror::Error)]
#[error("reading the directory `{directory}`: {error}")]
pub struct WalkError {
    /// Relative to the root.
    pub directory: String,
    /// The cause.
    pub error: io::Error,
}

/// Walks the whole tree.
pub fn walk(root: &Root, rules: &Rules) -> Result<Walk, WalkError> {
    walk_below(root, rules, "", &mut |_| {})
}

/// Walks one directory and what is below it. Ignore files above it count. `enter` is told of each directory before it is read.
pub fn walk_below(root: &Root, rules: &Rules, directory: &str, enter: &mut dyn FnMut(&str)) -> Result<Walk, WalkError> {
    let mut walker = Walker {
        root,
        rules,
        enter,
        walk: Walk::default(),
        above: Vec::new(),
    };
    let mut left_out = false;
    if !directory.is_empty() {
        let mut parents = vec![String::new()];
        parents.extend(directory.match_indices('/').map(|(at, _)| directory[..at].to_owned()));
        let next = parents.iter().skip(1).map(String::as_str).chain([directory]);
        for (parent, child) in parents.iter().zip(next) {
            walker.above.push(folder(root, parent));
            if left_out || !rules.judge(child, true, &walker.above).kept {
                left_out = true;
                if !rules.may_keep_below(child) {
                    return Ok(walker.walk);
                }
            }
        }
    }
    walker.enter(directory, left_out)?;
    let mut walk = walker.walk;
    find_twins(&mut walk);
    Ok(walk)
}

/// Which rule decides on a path, as `status --explain` shows it.
pub fn explain(root: &Root, rules: &Rules, path: &TreePath) -> Verdict {
    let mut above = vec![folder(root, "")];
    let mut left_out = None;
    for directory in path.ancestors() {
        if left_out.is_none() {
            let verdict = rules.judge(directory, true, &above);
            if !verdict.kept {
                left_out = Some((directory.to_owned(), verdict.rule));
            }
        }
        above.push(folder(root, directory));
    }
    let is_directory = root.lstat(path).ok().flatten().is_some_and(|stat| stat.kind == Kind::Directory);
    let verdict = rules.judge(path.as_str(), is_directory, &above);
    match left_out {
        Some((directory, rule)) if rule == Rule::Ours || !matches!(verdict.rule, Rule::Included | Rule::Tracked) => Verdict {
            kept: false,
            rule: Rule::Above(directory, Box::new(rule)),
        },
        _ => verdict,
    }
}

/// Decides about single paths, remembering the folders that it has read.
#[derive(Debug)]
pub struct Judge<'a> {
    root: &'a Root,
    rules: &'a Rules,
    folders: BTreeMap<String, Folder>,
}

impl<'a> Judge<'a> {
    /// A judge who has read nothing yet.
    pub fn new(root: &'a Root, rules: &'a Rules) -> Self {
        Self {
            root,
            rules,
            folders: BTreeMap::new(),
        }
    }

    /// Whether a file, or what could be below a directory, is kept.
    pub fn keeps(&mut self, path: &TreePath, is_directory: bool) -> bool {
        let mut above = vec![self.folder("")];
        for directory in path.ancestors() {
            let verdict = self.rules.judge(directory, true, &above);
            if !verdict.kept {
                let may = verdict.rule != Rule::Ours && self.rules.may_keep_below(directory);
                return may && (is_directory || self.rules.judge_below_left_out(path.as_str()));
            }
            above.push(self.folder(directory));
        }
        let verdict = self.rules.judge(path.as_str(), is_directory, &above);
        verdict.kept || (is_directory && verdict.rule != Rule::Ours && self.rules.may_keep_below(path.as_str()))
    }

    fn folder(&mut self, directory: &str) -> Folder {
        if let Some(folder) = self.folders.get(directory) {
            return folder.clone();
        }
        let read = folder(self.root, directory);
        self.folders.insert(directory.to_owned(), read.clone());
        read
    }
}

fn folder(root: &Root, directory: &str) -> Folder {
    folder_of(root, directory, &root.entries(directory).unwrap_or_default())
}

fn folder_of(root: &Root, directory: &str, entries: &[(OsString, Stat)]) -> Folder {
    Folder::new(directory, entries.iter().filter_map(|(name, _)| name.to_str()), |name| {
        let path = TreePath::parse(&join(directory, name)).ok()?;
        io::read_to_string(root.open_file(&path).ok()?).ok()
    })
}

/// A name in a directory, `""` being the root.
pub fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

struct Walker<'a> {
    root: &'a Root,
    rules: &'a Rules,
    enter: &'a mut dyn FnMut(&str),
    walk: Walk,
    above: Vec<Folder>,
}

impl Walker<'_> {
    fn enter(&mut self, directory: &str, left_out: bool) -> Result<usize, WalkError> {
        (self.enter)(directory);
        let entries = match self.root.entries(directory) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) && !directory.is_empty() => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !directory.is_empty() => {
                self.walk.odd.insert(directory.to_owned(), format!("it cannot be read: {error}"));
                return Ok(1);
            }
            Err(error) => {
                return Err(WalkError {
                    directory: directory.to_owned(),
                    error,
                });
            }
        };
        self.above.push(folder_of(self.root, directory, &entries));
        let mut kept = 0;
        let mut result = Ok(());
        for (name, stat) in entries {
            match name.to_str() {
                Some(name) => match self.meet(&join(directory, name), &stat, left_out) {
                    Ok(found) => kept += found,
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                },
                None if left_out => {}
                None => {
                    let shown = Path::new(directory).join(name).to_string_lossy().into_owned();
                    self.walk.odd.insert(shown, PathFault::NotUtf8.to_string());
                    kept += 1;
                }
            }
        }
        self.above.pop();
        result.map(|()| kept)
    }

    fn meet(&mut self, path: &str, stat: &Stat, left_out: bool) -> Result<usize, WalkError> {
        let is_directory = stat.kind == Kind::Directory;
        let kept = if left_out {
            self.rules.judge_below_left_out(path)
        } else {
            self.rules.judge(path, is_directory, &self.above).kept
        };
        if is_directory {
            return self.meet_directory(path, kept);
        }
        if !kept {
            if stat.kind == Kind::File {
                self.walk.left_out.insert(path.to_owned(), *stat);
            }
            return Ok(0);
        }
        let why = match (stat.kind, TreePath::parse(path)) {
            (Kind::File | Kind::Link, Ok(path)) => {
                self.walk.files.insert(path, *stat);
                return Ok(1);
            }
            (Kind::File | Kind::Link, Err(fault)) => fault.to_string(),
            (Kind::Special | Kind::Directory, _) => "it is neither a file nor a link".to_owned(),
        };
        self.walk.odd.insert(path.to_owned(), why);
        Ok(1)
    }

    fn meet_directory(&mut self, path: &str, kept: bool) -> Result<usize, WalkError> {
        let is_ours = matches!(path.rsplit('/').next(), Some(".git" | ".sandkeep"));
        if is_ours || (!kept && !self.rules.may_keep_below(path)) {
            return Ok(0);
        }
        let found = self.enter(path, !kept)?;
        if found == 0
            && kept
            && let Ok(path) = TreePath::parse(path)
        {
            self.walk.empty.insert(path);
            return Ok(1);
        }
        Ok(found)
    }
}

/// R2 normalises keys: of two names that differ only in their normal form it would keep one. The one that is normal stays.
fn find_twins(walk: &mut Walk) {
    let mut seen: BTreeMap<String, TreePath> = BTreeMap::new();
    let mut lost = Vec::new();
    for path in walk.files.keys().filter(|path| !path.as_str().is_ascii()) {
        let normal: String = path.as_str().nfc().collect();
        match seen.get(&normal) {
            None => {
                seen.insert(normal, path.clone());
            }
            Some(other) if path.as_str() == normal => {
                lost.push((other.clone(), path.clone()));
                seen.insert(normal, path.clone());
            }
            Some(other) => lost.push((path.clone(), other.clone())),
        }
    }
    for (path, twin) in lost {
        walk.files.remove(&path);
        walk.odd
            .insert(path.to_string(), format!("the store cannot tell its name from `{twin}`"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn tree(files: &[&str]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().expect("a directory");
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, file).expect("written");
        }
        let root = Root::open(directory.path()).expect("opened");
        (directory, root)
    }

    fn names(walk: &Walk) -> Vec<&str> {
        walk.files.keys().map(TreePath::as_str).collect()
    }

    #[test]
    fn left_out_trees_are_not_entered() {
        let (_directory, root) = tree(&["package.json", "src/a.ts", "node_modules/x/y.js", ".git/config", "dist/a.js"]);
        let mut entered = Vec::new();
        let walk = walk_below(&root, &Rules::default(), "", &mut |directory| entered.push(directory.to_owned())).expect("walked");
        assert_eq!(names(&walk), ["package.json", "src/a.ts"]);
        assert_eq!(entered, ["", "src"]);
    }

    #[test]
    fn what_is_tracked_is_found_in_left_out_trees() {
        let (_directory, root) = tree(&["package.json", "dist/a.js", "dist/deep/b.js", "dist/deep/c.js"]);
        let mut rules = Rules::default();
        rules.set_tracked(["dist/deep/b.js".to_owned()]);
        let walk = walk(&root, &rules).expect("walked");
        assert_eq!(names(&walk), ["dist/deep/b.js", "package.json"]);
        let path = TreePath::parse("dist/a.js").expect("good");
        assert_eq!(
            explain(&root, &rules, &path).rule.to_string(),
            "dist/ is left out: built-in list: dist"
        );
        let path = TreePath::parse("dist/deep/b.js").expect("good");
        assert_eq!(explain(&root, &rules, &path).rule, Rule::Tracked);
    }

    #[test]
    fn odd_things_are_named() {
        use std::os::unix::ffi::OsStrExt;
        let (directory, root) = tree(&["a", "e\u{301}", "\u{e9}"]);
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        fs::write(directory.path().join(std::ffi::OsStr::from_bytes(b"b\xff")), "").expect("written");
        fs::create_dir(directory.path().join("empty")).expect("made");
        let walk = walk(&root, &Rules::default()).expect("walked");
        assert_eq!(names(&walk), ["a", "\u{e9}"]);
        assert_eq!(walk.odd.len(), 3, "{:?}", walk.odd);
        assert_eq!(walk.empty.len(), 1);
    }

    #[test]
    fn a_part_is_walked_like_the_whole() {
        let (_directory, root) = tree(&["package.json", ".gitignore", "src/a.ts", "src/deep/b.ts", "node_modules/x/y"]);
        fs::write(root.path().join(".gitignore"), "b.ts\n").expect("written");
        let part = walk_below(&root, &Rules::default(), "src", &mut |_| {}).expect("walked");
        assert_eq!(names(&part), ["src/a.ts"]);
        assert_eq!(
            walk_below(&root, &Rules::default(), "node_modules/x", &mut |_| {})
                .expect("walked")
                .files
                .len(),
            0
        );
    }
}
