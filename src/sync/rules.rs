//! Which files are kept. The strongest rule that speaks of a path decides:
//!
//! 1. never: `.git`, `.sandkeep`, our temporary files, what is neither file, link nor directory;
//! 2. what the config includes;
//! 3. what Git tracks;
//! 4. what the config excludes;
//! 5. `.env*`: as `env_files` says;
//! 6. the built-in list: dependencies, build output beside a package manifest, caches, temporaries, logs;
//! 7. `.gitignore` and `.sandkeepignore`;
//! 8. everything else is kept.
//!
//! A directory that is left out is not entered, unless something below it is tracked or included by name.

use super::path::TreePath;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

/// Names of dependencies and caches, left out wherever they are.
const ALWAYS: &[&str] = &[
    "node_modules",
    ".cache",
    ".turbo",
    ".parcel-cache",
    ".svelte-kit",
    ".nuxt",
    ".output",
    ".vercel",
    ".netlify",
    ".wrangler",
    ".pnpm-store",
    ".yarn-cache",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".venv",
    ".tox",
    ".nyc_output",
    ".DS_Store",
    "Thumbs.db",
];

/// Names of build output, left out only beside a package manifest.
const BESIDE_MANIFEST: &[&str] = &[".next", "dist", "build", "out", "target", "coverage", "venv", ".vite"];

/// What makes a directory a package.
const MANIFESTS: &[&str] = &[
    "package.json",
    "Cargo.toml",
    "pyproject.toml",
    "setup.py",
    "requirements.txt",
    "go.mod",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "composer.json",
    "Gemfile",
    "mix.exs",
    "deno.json",
];

/// Endings of temporaries and logs.
const ENDINGS: &[&str] = &[".log", ".tmp", ".swp", ".swo", ".swx", "~", ".crdownload", ".part"];

/// The settings of `[sync]` that say what is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Globs that are always kept.
    pub include: Vec<String>,
    /// Globs that are left out unless Git tracks them.
    pub exclude: Vec<String>,
    /// Whether `.env*` files are kept.
    pub env_files: bool,
}

/// A glob in the settings that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{glob}` is not a glob: {why}")]
pub struct BadGlob {
    /// As written.
    pub glob: String,
    /// The reason.
    pub why: String,
}

/// Which rule decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `.git`, `.sandkeep`, temporary files of ours.
    Ours,
    /// `[sync] include`.
    Included,
    /// `git ls-files`.
    Tracked,
    /// `[sync] exclude`.
    Excluded,
    /// `.env*` and `env_files`.
    EnvFile,
    /// The built-in list, with what matched.
    BuiltIn(&'static str),
    /// An ignore file, with the line.
    Ignored(String),
    /// A directory above it is left out.
    Above(String, Box<Self>),
    /// None of them.
    Default,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => f.write_str("never kept: Git's or sandkeep's own"),
            Self::Included => f.write_str("[sync] include"),
            Self::Tracked => f.write_str("tracked by Git"),
            Self::Excluded => f.write_str("[sync] exclude"),
            Self::EnvFile => f.write_str("[sync] env_files"),
            Self::BuiltIn(what) => write!(f, "built-in list: {what}"),
            Self::Ignored(line) => write!(f, "ignore file: {line}"),
            Self::Above(directory, rule) => write!(f, "{directory}/ is left out: {rule}"),
            Self::Default => f.write_str("kept by default"),
        }
    }
}

/// Whether something is kept, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is kept.
    pub kept: bool,
    /// By which rule.
    pub rule: Rule,
}

impl Verdict {
    fn kept(rule: Rule) -> Self {
        Self { kept: true, rule }
    }

    fn left_out(rule: Rule) -> Self {
        Self { kept: false, rule }
    }
}

/// What there is to know of one directory: its ignore files and whether it is a package.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    ignore: std::sync::Arc<Vec<Gitignore>>,
    is_package: bool,
}

impl Folder {
    /// Reads what `names` say of the directory: its `.gitignore` and `.sandkeepignore` through `read`, which may fail.
    pub fn new<'a>(relative: &str, names: impl IntoIterator<Item = &'a str>, mut read: impl FnMut(&str) -> Option<String>) -> Self {
        let (mut folder, mut ignore) = (Self::default(), Vec::new());
        for name in names {
            folder.is_package |= MANIFESTS.contains(&name);
            if matches!(name, ".gitignore" | ".sandkeepignore")
                && let Some(text) = read(name)
            {
                let mut builder = GitignoreBuilder::new(Path::new("/").join(relative));
                for line in text.lines() {
                    // A line that is no pattern is passed over, as Git does.
                    let _ = builder.add_line(None, line);
                }
                ignore.extend(builder.build());
            }
        }
        folder.ignore = ignore.into();
        folder
    }
}

/// The rules of one project.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    include: GlobSet,
    include_prefixes: Vec<String>,
    exclude: GlobSet,
    env_files: bool,
    tracked: BTreeSet<String>,
    tracked_directories: BTreeSet<String>,
}

impl Rules {
    /// Rules by the settings, with nothing tracked.
    pub fn new(settings: &Settings) -> Result<Self, BadGlob> {
        Ok(Self {
            include: globs(&settings.include)?,
            include_prefixes: settings.include.iter().map(|glob| literal_prefix(glob)).collect(),
            exclude: globs(&settings.exclude)?,
            env_files: settings.env_files,
            ..Self::default()
        })
    }

    /// Takes what Git tracks.
    pub fn set_tracked(&mut self, paths: impl IntoIterator<Item = String>) {
        self.tracked = paths.into_iter().collect();
        self.tracked_directories.clear();
        for path in &self.tracked {
            for (at, _) in path.match_indices('/') {
                if !self.tracked_directories.contains(&path[..at]) {
                    self.tracked_directories.insert(path[..at].to_owned());
                }
            }
        }
    }

    /// Whether Git tracks it.
    pub fn is_tracked(&self, path: &str) -> bool {
        self.tracked.contains(path)
    }

    /// Decides on one name in a directory; `above` are the folders from the root to that directory.
    pub fn judge(&self, path: &str, is_directory: bool, above: &[Folder]) -> Verdict {
        let name = path.rsplit('/').next().unwrap_or(path);
        if matches!(name, ".git" | ".sandkeep") || name.starts_with(super::beneath::TEMPORARY) {
            return Verdict::left_out(Rule::Ours);
        }
        if self.include.is_match(path) {
            return Verdict::kept(Rule::Included);
        }
        if !is_directory && self.tracked.contains(path) {
            return Verdict::kept(Rule::Tracked);
        }
        if self.exclude.is_match(path) {
            return Verdict::left_out(Rule::Excluded);
        }
        if !is_directory && (name == ".env" || name.starts_with(".env.")) {
            return Verdict {
                kept: self.env_files,
                rule: Rule::EnvFile,
            };
        }
        if let Some(what) = built_in(name, is_directory, above.last().is_some_and(|folder| folder.is_package)) {
            return Verdict::left_out(Rule::BuiltIn(what));
        }
        ignored(path, is_directory, above)
    }

    /// Whether something below a directory that is left out may still be kept.
    pub fn may_keep_below(&self, directory: &str) -> bool {
        let inside =
            |prefix: &String| !prefix.is_empty() && (prefix == directory || is_below(prefix, directory) || is_below(directory, prefix));
        self.tracked_directories.contains(directory) || self.include_prefixes.iter().any(inside)
    }

    /// Decides on a path below a directory that is left out: only what is tracked or included is kept there.
    pub fn judge_below_left_out(&self, path: &str) -> bool {
        self.tracked.contains(path) || self.include.is_match(path)
    }

    /// Whether it is among the files whose change is sent at once.
    pub fn is_urgent(path: &TreePath) -> bool {
        let name = path.file_name();
        const NAMES: &[&str] = &[
            "package.json",
            "package-lock.json",
            "npm-shrinkwrap.json",
            "pnpm-lock.yaml",
            "pnpm-workspace.yaml",
            "yarn.lock",
            "bun.lock",
            "bun.lockb",
            "deno.json",
            "deno.lock",
            "Cargo.toml",
            "Cargo.lock",
            "pyproject.toml",
            "uv.lock",
            "poetry.lock",
            "requirements.txt",
            "go.mod",
            "go.sum",
            "Gemfile",
            "Gemfile.lock",
            "composer.json",
            "composer.lock",
            "schema.prisma",
            "Dockerfile",
            "sandkeep.toml",
            ".gitignore",
            ".sandkeepignore",
            ".npmrc",
            "components.json",
            "turbo.json",
            "vercel.json",
        ];
        NAMES.contains(&name)
            || name.starts_with(".env")
            || (name.starts_with("tsconfig") && name.ends_with(".json"))
            || name.contains(".config.")
    }
}

fn built_in(name: &str, is_directory: bool, beside_manifest: bool) -> Option<&'static str> {
    let named = |list: &'static [&'static str]| list.iter().copied().find(|entry| *entry == name);
    if let Some(what) = named(ALWAYS) {
        return Some(what);
    }
    if is_directory && beside_manifest {
        return named(BESIDE_MANIFEST);
    }
    if is_directory {
        None
    } else {
        ENDINGS.iter().copied().find(|ending| name.ends_with(ending))
    }
}

fn ignored(path: &str, is_directory: bool, above: &[Folder]) -> Verdict {
    if above.iter().all(|folder| folder.ignore.is_empty()) {
        return Verdict::kept(Rule::Default);
    }
    let full = Path::new("/").join(path);
    for folder in above.iter().rev() {
        for ignore in folder.ignore.iter().rev() {
            match ignore.matched(&full, is_directory) {
                ignore::Match::Ignore(glob) => return Verdict::left_out(Rule::Ignored(glob.original().to_owned())),
                ignore::Match::Whitelist(glob) => return Verdict::kept(Rule::Ignored(glob.original().to_owned())),
                ignore::Match::None => {}
            }
        }
    }
    Verdict::kept(Rule::Default)
}

fn globs(patterns: &[String]) -> Result<GlobSet, BadGlob> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        let bad = |error: globset::Error| BadGlob {
            glob: pattern.clone(),
            why: error.kind().to_string(),
        };
        let trimmed = pattern.trim_start_matches("./").trim_end_matches('/');
        // A name matches the thing itself and all that is below it, as in .gitignore.
        for form in [trimmed.to_owned(), format!("{trimmed}/**")] {
            builder.add(GlobBuilder::new(&form).literal_separator(true).build().map_err(bad)?);
        }
    }
    builder.build().map_err(|error| BadGlob {
        glob: patterns.join(", "),
        why: error.kind().to_string(),
    })
}

fn literal_prefix(glob: &str) -> String {
    let glob = glob.trim_start_matches("./");
    let special = glob.find(['*', '?', '[', '{', '\\']).unwrap_or(glob.len());
    if special == glob.len() {
        return glob.trim_end_matches('/').to_owned();
    }
    glob[..special].rsplit_once('/').map_or("", |(directory, _)| directory).to_owned()
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(include: &[&str], exclude: &[&str]) -> Rules {
        Rules::new(&Settings {
            include: include.iter().map(|s| (*s).to_owned()).collect(),
            exclude: exclude.iter().map(|s| (*s).to_owned()).collect(),
            env_files: false,
        })
        .expect("good globs")
    }

    fn package(gitignore: &str) -> Vec<Folder> {
        vec![Folder::new("", ["package.json", ".gitignore"], |_| Some(gitignore.to_owned()))]
    }

    #[test]
    fn build_names_match_only_beside_a_manifest() {
        let rules = rules(&[], &[]);
        assert!(!rules.judge("build", true, &package("")).kept);
        assert!(!rules.judge("dist", true, &package("")).kept);
        let src = [package(""), vec![Folder::default()]].concat();
        assert!(rules.judge("src/build", true, &src).kept);
        assert!(rules.judge("app/logs", true, &src).kept);
        assert!(!rules.judge("src/node_modules", true, &src).kept);
        assert!(!rules.judge("src/x.log", false, &src).kept);
    }

    #[test]
    fn the_stronger_rule_wins() {
        let mut rules = rules(&["keep/**", "dist/index.html"], &["secret"]);
        let top = package("/ignored\n*.gen.ts\n!b.gen.ts\n");
        assert_eq!(rules.judge("ignored", true, &top).rule, Rule::Ignored("/ignored".into()));
        assert!(!rules.judge("a.gen.ts", false, &top).kept);
        assert!(rules.judge("b.gen.ts", false, &top).kept);
        assert!(!rules.judge(".env.local", false, &top).kept);
        rules.set_tracked([
            "a.gen.ts".to_owned(),
            "secret/x".into(),
            ".env.example".into(),
            "build/keep.txt".into(),
        ]);
        assert_eq!(rules.judge("a.gen.ts", false, &top).rule, Rule::Tracked);
        assert!(rules.judge(".env.example", false, &top).kept);
        assert!(rules.judge("secret/x", false, &top).kept);
        assert!(!rules.judge("secret/y", false, &top).kept);
        assert!(rules.may_keep_below("build") && rules.may_keep_below("dist") && !rules.may_keep_below("node_modules"));
        assert!(rules.judge_below_left_out("build/keep.txt") && !rules.judge_below_left_out("build/other"));
        assert_eq!(rules.judge("keep/.env", false, &top).rule, Rule::Included);
        assert_eq!(rules.judge("keep/.git", true, &top).rule, Rule::Ours);
    }

    #[test]
    fn nested_ignore_files_override_higher_ones() {
        let rules = rules(&[], &[]);
        let inner = Folder::new("pkg", [".gitignore"], |_| Some("!x.gen\nlocal\n".into()));
        let folders = [package("*.gen\n"), vec![inner]].concat();
        assert!(rules.judge("pkg/x.gen", false, &folders).kept);
        assert!(!rules.judge("pkg/y.gen", false, &folders).kept);
        assert!(!rules.judge("pkg/local", false, &folders).kept);
    }

    #[test]
    fn bad_globs_are_named() {
        let error = Rules::new(&Settings {
            include: vec!["a[".into()],
            ..Settings::default()
        });
        assert!(error.expect_err("bad").to_string().starts_with("`a[` is not a glob"));
    }

    #[test]
    fn configuration_is_urgent() {
        for name in [
            "package.json",
            "a/tsconfig.app.json",
            "vite.config.ts",
            "prisma/schema.prisma",
            ".env.local",
        ] {
            assert!(Rules::is_urgent(&TreePath::parse(name).expect("good")), "{name}");
        }
        assert!(!Rules::is_urgent(&TreePath::parse("src/app.tsx").expect("good")));
    }
}
