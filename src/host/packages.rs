//! Whether a package manager is at work: what it changes is not finished before it ends.

use super::proc;
use crate::supervisor::event::Pid;
use std::fs;
use std::path::Path;

const MANAGERS: &[&str] = &["npm", "npm-cli", "pnpm", "yarn", "yarnpkg", "bun", "uv", "pip", "pip3", "poetry"];

/// What of theirs changes manifests and what is installed; `npm run dev` is no such thing.
const CHANGING: &[&str] = &[
    "add",
    "ci",
    "clean-install",
    "dedupe",
    "i",
    "import",
    "in",
    "init",
    "install",
    "lock",
    "pip",
    "prune",
    "rebuild",
    "remove",
    "rm",
    "sync",
    "un",
    "uninstall",
    "up",
    "update",
    "upgrade",
];

/// Whether one runs whose working directory is the root or below it.
pub(super) fn manager_works_in(root: &Path) -> bool {
    let managers = proc::all()
        .into_iter()
        .filter(|process| !process.is_dead() && is_changing(&command_line(process.pid)));
    managers
        .map(|process| process.pid)
        .any(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(root)))
}

/// The words of a command line. A program that shows a title of its own has put it all into the first.
fn command_line(pid: Pid) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.split(['\0', ' '])
        .filter(|word| !word.is_empty())
        .take(8)
        .map(str::to_owned)
        .collect()
}

fn is_changing(words: &[String]) -> bool {
    let base = |word: &String| {
        let name = word.rsplit('/').next().unwrap_or(word).to_owned();
        [".js", ".cjs", ".mjs", ".py"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .map_or(name.clone(), str::to_owned)
    };
    // The manager itself, or the interpreter and then the manager (`node …/npm-cli.js`, `python3 -m pip`).
    let Some(at) = words.iter().take(3).position(|word| MANAGERS.contains(&base(word).as_str())) else {
        return false;
    };
    let verb = words[at + 1..].iter().find(|word| !word.starts_with('-'));
    match verb {
        Some(verb) => CHANGING.contains(&verb.as_str()),
        // yarn alone installs; the others show their help.
        None => base(&words[at]).starts_with("yarn"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_is_told_from_running() {
        for (line, expected) in [
            ("npm install left-pad", true),
            ("npm i", true),
            ("node /usr/lib/node_modules/npm/bin/npm-cli.js ci", true),
            ("/usr/bin/node /usr/bin/pnpm.cjs add x", true),
            ("yarn", true),
            ("yarn dev", false),
            ("npm run dev", false),
            ("node /usr/bin/npm-cli.js run dev", false),
            ("python3 -m pip install x", true),
            ("uv --quiet sync", true),
            ("uv run fastapi dev", false),
            ("node server.js install", false),
            ("bash -c cd x && npm install", false),
            ("", false),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(is_changing(&words), expected, "{line}");
        }
    }
}
