//! Python projects.

use super::{Detected, first, port_in, text};
use std::path::Path;

/// What installs a Python project.
struct Manager {
    /// The file that tells it.
    file: &'static str,
    install: &'static str,
    /// Before what is to run in its environment.
    run: &'static str,
}

const MANAGERS: [Manager; 7] = [
    Manager {
        file: "uv.lock",
        install: "uv sync",
        run: "uv run ",
    },
    Manager {
        file: "poetry.lock",
        install: "poetry install",
        run: "poetry run ",
    },
    Manager {
        file: "pdm.lock",
        install: "pdm install",
        run: "pdm run ",
    },
    Manager {
        file: "Pipfile",
        install: "pipenv install --dev",
        run: "pipenv run ",
    },
    PIP,
    Manager {
        file: "pyproject.toml",
        install: "uv sync",
        run: "uv run ",
    },
    Manager {
        file: "manage.py",
        install: "",
        run: "",
    },
];

const PIP: Manager = Manager {
    file: "requirements.txt",
    install: "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
    run: ".venv/bin/",
};

pub(super) fn detect(directory: &Path, port: Option<u16>) -> Option<Detected> {
    let manager = MANAGERS.iter().find(|manager| directory.join(manager.file).is_file())?;
    let pyproject = text(directory, "pyproject.toml").unwrap_or_default();
    let poetry = manager.file == "pyproject.toml" && pyproject.contains("[tool.poetry]");
    let (install, run) = if poetry {
        ("poetry install", "poetry run ")
    } else {
        (manager.install, manager.run)
    };
    let mut detected = Detected::default();
    if !install.is_empty() {
        detected.found_install(install.to_owned(), manager.file.to_owned());
    }
    let named = ["requirements.txt", "Pipfile"].iter().filter_map(|name| text(directory, name));
    let dependencies = named.fold(pyproject, |all, one| all + "\n" + &one).to_lowercase();
    serve(&mut detected, directory, &dependencies, run, port);
    Some(detected)
}

fn serve(detected: &mut Detected, directory: &Path, dependencies: &str, run: &str, wanted: Option<u16>) {
    if directory.join("manage.py").is_file() {
        let port = wanted.unwrap_or(8000);
        let python = if run.is_empty() { "python3" } else { "python" };
        detected.found_dev(
            format!("{run}{python} manage.py runserver 0.0.0.0:{port}"),
            "manage.py, Django".to_owned(),
        );
        return detected.found_port(port, "the default of Django".to_owned());
    }
    if has(dependencies, "fastapi") || has(dependencies, "starlette") {
        let Some((module, variable, file)) = application(directory, r"(?m)^(\w+)\s*(?::\s*\w+\s*)?=\s*(?:FastAPI|Starlette)\(") else {
            return;
        };
        let port = wanted.unwrap_or(8000);
        let command = format!("{run}uvicorn {module}:{variable} --host 0.0.0.0 --port {port} --reload");
        detected.found_dev(command, format!("{file}, FastAPI"));
        return detected.found_port(port, "the default of uvicorn".to_owned());
    }
    if has(dependencies, "flask") {
        let Some((module, variable, file)) = application(directory, r"(?m)^(\w+)\s*(?::\s*\w+\s*)?=\s*Flask\(") else {
            return;
        };
        let port = wanted.unwrap_or(5000);
        let command = format!("{run}flask --app {module}:{variable} run --host 0.0.0.0 --port {port} --debug");
        detected.found_dev(command, format!("{file}, Flask"));
        return detected.found_port(port, "the default of Flask".to_owned());
    }
    if let Some(file) = first(directory, &["main.py", "app.py", "server.py"]) {
        let python = if run.is_empty() { "python3" } else { "python" };
        detected.found_dev(format!("{run}{python} {file}"), file.to_owned());
        if let Some(port) = text(directory, file).and_then(|source| port_in(&source, r"\bport\s*=\s*(\d{2,5})\b")) {
            detected.found_port(port, file.to_owned());
        }
    }
}

/// Whether the name stands there as a whole word.
fn has(dependencies: &str, name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    dependencies.match_indices(name).any(|(at, _)| {
        let before = dependencies[..at].chars().next_back();
        let after = dependencies[at + name.len()..].chars().next();
        !before.is_some_and(word) && !after.is_some_and(word)
    })
}

/// The module, the variable and the file in which the application is made.
fn application(directory: &Path, expression: &str) -> Option<(String, String, &'static str)> {
    let regex = regex::Regex::new(expression).expect("our own expression is one");
    let files = [
        "main.py",
        "app.py",
        "api.py",
        "server.py",
        "wsgi.py",
        "asgi.py",
        "app/main.py",
        "src/main.py",
        "app/__init__.py",
        "src/app.py",
        "api/main.py",
    ];
    files.into_iter().find_map(|file| {
        let source = text(directory, file)?;
        let variable = regex.captures(&source)?.get(1)?.as_str().to_owned();
        let module = file.trim_end_matches(".py").trim_end_matches("/__init__").replace('/', ".");
        Some((module, variable, file))
    })
}
