//! What installs packages: which files it reads and what it makes, so that it is run again when, and only when, it has to be.

use super::spec::Command;

/// What an install command reads and makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inputs {
    /// Manifests and lock files.
    pub(super) watch: &'static [&'static str],
    /// The directory it fills.
    pub(super) creates: &'static [&'static str],
}

/// Program, files it reads, directories it fills.
const PROGRAMS: [(&str, Inputs); 10] = [
    ("npm", node(&["package.json", "package-lock.json"])),
    ("pnpm", node(&["package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml"])),
    ("yarn", node(&["package.json", "yarn.lock"])),
    ("bun", node(&["package.json", "bun.lock", "bun.lockb"])),
    ("uv", python(&["pyproject.toml", "uv.lock", "requirements.txt"])),
    ("poetry", python(&["pyproject.toml", "poetry.lock"])),
    ("pdm", python(&["pyproject.toml", "pdm.lock"])),
    ("pipenv", python(&["Pipfile", "Pipfile.lock"])),
    ("pip", python(&["requirements.txt", "pyproject.toml"])),
    ("bundle", python(&["Gemfile", "Gemfile.lock"])),
];

const fn node(watch: &'static [&'static str]) -> Inputs {
    Inputs {
        watch,
        creates: &["node_modules"],
    }
}

/// Where the environment lies differs from machine to machine: nothing is said about what is made.
const fn python(watch: &'static [&'static str]) -> Inputs {
    Inputs { watch, creates: &[] }
}

/// What this command reads and makes; nothing where that is not plain to see. Only the project's root is spoken of: a command that
/// goes elsewhere first is left alone.
pub(super) fn inputs(command: &Command) -> Inputs {
    let words: Vec<&str> = match command {
        Command::Shell(text) => text
            .split(|c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')'))
            .collect(),
        Command::Argv(words) => words.iter().map(String::as_str).collect(),
    };
    let elsewhere = ["cd", "-C", "--prefix", "--dir", "--cwd", "--directory", "pushd"];
    if words
        .iter()
        .any(|word| elsewhere.contains(word) || word.starts_with("--prefix=") || word.starts_with("--dir="))
    {
        return Inputs::default();
    }
    let own_environment = words.iter().any(|word| word.ends_with(".venv") || word.contains(".venv/"));
    let program = words.iter().find_map(|word| {
        let name = word.rsplit('/').next().unwrap_or(word);
        PROGRAMS.iter().find(|(program, _)| *program == name)
    });
    match program {
        Some((name, inputs)) if inputs.creates.is_empty() && (own_environment || matches!(*name, "uv" | "pdm")) => Inputs {
            watch: inputs.watch,
            creates: &[".venv"],
        },
        Some((_, inputs)) => *inputs,
        None => Inputs::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Inputs {
        inputs(&Command::Shell(text.to_owned()))
    }

    #[test]
    fn knows_package_managers() {
        assert_eq!(of("npm install").watch, ["package.json", "package-lock.json"]);
        assert_eq!(of("npm install").creates, ["node_modules"]);
        assert_eq!(of("CI=1 pnpm install --frozen-lockfile").watch[1], "pnpm-lock.yaml");
        assert_eq!(of("uv sync").creates, [".venv"]);
        assert_eq!(
            of("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt").creates,
            [".venv"]
        );
        assert_eq!(of("pip install -r requirements.txt").creates, [""; 0]);
        assert_eq!(of("cd web && npm install"), Inputs::default());
        assert_eq!(of("make setup"), Inputs::default());
        let argv = Command::Argv(vec!["/usr/bin/npm".to_owned(), "ci".to_owned()]);
        assert_eq!(inputs(&argv).creates, ["node_modules"]);
    }
}
