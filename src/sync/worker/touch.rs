//! What was touched: from the watcher's word and from walks to dirty paths.

use super::{Held, Lane, Worker};
use crate::sync::path::TreePath;
use crate::sync::rules::Rules;
use crate::sync::side_by_side::side_by_side;
use crate::sync::walk::{Judge, Walk};
use crate::sync::watch::Touched;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

impl Worker {
    /// Takes what the watcher says.
    pub(super) fn meet(&mut self) {
        let Touched { paths, lost } = self.watch.take();
        if lost {
            tracing::info!("events were lost: the whole tree is looked at");
            self.walk();
            return;
        }
        let root = self.engine.project.root.path().to_owned();
        let mut rules_changed = false;
        let mut files = Vec::new();
        for path in paths {
            let Ok(relative) = path.strip_prefix(&root) else { continue };
            if relative.as_os_str().is_empty() {
                rules_changed = true;
                continue;
            }
            let Ok(path) = TreePath::from_relative(relative) else {
                // Its name is odd: the walk says so.
                rules_changed = true;
                continue;
            };
            rules_changed |= matches!(path.file_name(), ".gitignore" | ".sandkeepignore");
            files.push(path);
        }
        self.meet_paths(files);
        if rules_changed {
            self.walk();
        }
    }

    pub(super) fn meet_paths(&mut self, paths: Vec<TreePath>) {
        let mut directories = BTreeSet::new();
        let mut dirty = Vec::new();
        {
            let project = &self.engine.project;
            let mut judge = Judge::new(&project.root, &project.rules);
            for path in paths {
                let stat = project.root.lstat(&path).ok().flatten();
                let is_directory = stat.is_some_and(|stat| stat.kind == crate::sync::beneath::Kind::Directory);
                if is_directory || self.watch.is_watched(path.as_str()) {
                    // It may be another directory under the same name.
                    self.watch.forget(&project.root, path.as_str());
                    dirty.extend(below(&self.engine.index.files, &path));
                }
                match stat {
                    None => dirty.extend(below(&self.engine.index.files, &path)),
                    Some(_) if is_directory => {
                        if judge.keeps(&path, true) {
                            directories.insert(path);
                        }
                    }
                    Some(_) if judge.keeps(&path, false) => dirty.push(path),
                    Some(_) => {
                        if self.excluded_changed.len() < 10_000 {
                            self.excluded_changed.insert(path.to_string());
                        }
                    }
                }
            }
        }
        for path in dirty {
            self.mark(path);
        }
        for directory in directories {
            if !self.watch.is_watched(directory.as_str()) {
                let project = &self.engine.project;
                match self.watch.scan(&project.root, &project.rules, directory.as_str()) {
                    Ok(walk) => self.mark_walk(walk),
                    Err(error) => tracing::debug!("{error}"),
                }
            }
        }
    }

    pub(super) fn mark(&mut self, path: TreePath) {
        let lane = if Rules::is_urgent(&path) { Lane::Fast } else { Lane::Batch };
        let now = self.now();
        if lane == Lane::Fast && !self.lanes.is_dirty(&path) {
            self.ahead.push(path.clone());
        }
        self.lanes.mark(path, lane, now);
    }

    /// Marks what a walk of a part of the tree found to differ from the index.
    fn mark_walk(&mut self, walk: Walk) {
        for (path, stat) in &walk.files {
            self.deletes.back(path);
            if !self.engine.index.files.get(path).is_some_and(|entry| entry.is_unchanged(stat)) {
                self.mark(path.clone());
            }
        }
        self.engine.odd.extend(walk.odd);
    }

    /// Looks at the whole tree.
    pub(super) fn walk(&mut self) {
        let begun = Instant::now();
        self.engine.project.refresh_tracked();
        if !self.engine.root_in_place() {
            self.held = Some(Held::Root);
            self.walk_at = self.now() + self.options.walk_every;
            return;
        }
        let project = &self.engine.project;
        match self.watch.scan(&project.root, &project.rules, "") {
            Ok(walk) => self.take_walk(walk),
            Err(error) => {
                self.errors += 1;
                self.last_error = Some(error.to_string());
            }
        }
        self.walk_took = begun.elapsed();
        let pause = if self.watch.polling().is_some() {
            (self.walk_took * 50).max(Duration::from_secs(5)).min(self.options.walk_every)
        } else {
            self.options.walk_every
        };
        self.walk_at = self.now() + pause;
    }

    fn take_walk(&mut self, walk: Walk) {
        self.beside_is_due = true;
        let (mut missing, mut dirty) = (Vec::new(), Vec::new());
        for (path, stat, entry) in side_by_side(&walk.files, &self.engine.index.files) {
            match (stat, entry) {
                (None, _) => missing.push(path.clone()),
                (Some(stat), Some(entry)) if entry.is_unchanged(stat) => {}
                (Some(_), _) => dirty.push(path.clone()),
            }
        }
        for path in missing {
            // Left out by a rule since, but still there: it stays in the store as it was.
            if matches!(self.engine.project.root.lstat(&path), Ok(None)) {
                let now = self.now();
                self.deletes.gone(path, now);
            }
        }
        self.deletes.back_where(|path| walk.files.contains_key(path));
        dirty.into_iter().for_each(|path| self.mark(path));
        if self.engine.manifest.empty != walk.empty && self.engine.index.restored {
            self.engine.set_empty(walk.empty.clone());
        }
        self.engine.odd = walk.odd;
        let left_out = walk.left_out;
        if !self.left_out.is_empty() {
            let changed = left_out
                .iter()
                .filter(|(path, stat)| self.left_out.get(*path).is_none_or(|before| before.mtime_ns != stat.mtime_ns));
            self.excluded_changed.extend(changed.map(|(path, _)| path.clone()).take(10_000));
        }
        self.left_out = left_out;
    }

    /// At the start nothing waits for a batch.
    pub(super) fn lanes_to_front(&mut self) {
        let now = self.now();
        for path in self.lanes.take_all() {
            self.lanes.mark(path, Lane::Fast, now.saturating_sub(Duration::from_secs(1)));
        }
    }
}

/// The index's files at or below a path.
fn below<T>(files: &BTreeMap<TreePath, T>, path: &TreePath) -> Vec<TreePath> {
    let prefix = format!("{path}/");
    let inside = files
        .range::<str, _>((std::ops::Bound::Included(prefix.as_str()), std::ops::Bound::Unbounded))
        .map(|(path, _)| path)
        .take_while(|path| path.as_str().starts_with(&prefix));
    inside.chain(files.contains_key(path).then_some(path)).cloned().collect()
}
