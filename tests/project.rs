//! The `[project]` form, the flags, and what is found out about a directory.

use sandkeep::unit::{Config, Flags, Loaded, Main, Service, Source, Worker, load, load_text};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn config(text: &str) -> Config {
    flagged(text, &Flags::default())
}

fn flagged(text: &str, flags: &Flags) -> Config {
    match load_text(text, "sandkeep.toml", Path::new("/"), flags, &environment(&[("R2_X", "hush")])) {
        Ok(loaded) => loaded.config,
        Err(said) => panic!("{text}\n{said}"),
    }
}

fn names(config: &Config) -> Vec<&str> {
    config.units.iter().map(|unit| unit.name.as_str()).collect()
}

const SHORTEST: &str = "[project]\ninstall = \"npm install\"\ndev = \"npm run dev\"\nport = 3000\n";

/// The same units, written out by hand.
const BY_HAND: &str = r#"
[project]
port = 3000
[unit.restore]
description = "the project's files, back from the store"
worker = "restore"
secrets = ["R2_*", "AWS_*"]
start_timeout = "5min"
[unit.sync]
description = "the project's files, to the store"
worker = "sync"
secrets = ["R2_*", "AWS_*"]
requires = ["restore"]
restart = "always"
start_limit_burst = 0
stop_timeout = "15s"
drain_signal = "SIGUSR2"
[unit.install]
description = "what the project needs"
type = "oneshot"
exec = "npm install"
requires = ["restore"]
start_timeout = "15min"
watch = ["package.json", "package-lock.json"]
creates = ["node_modules"]
[unit.dev]
description = "the dev server"
exec = "npm run dev"
requires = ["install"]
part_of = ["install"]
after = ["sync"]
environment = { PORT = "3000" }
readiness = { listen = 3000 }
liveness = { listen = 3000 }
start_timeout = "3min"
restart = "always"
start_limit_burst = 0
restart_max_delay = "10s"
retry_on_change = ["**"]
[unit.agent]
description = "Claude Code, for prompts"
worker = "agent"
after = ["restore", "sync"]
kill_mode = "mixed"
restart = "always"
start_limit_burst = 0
optional = true
secrets = ["ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "SANDBOX_TOKEN"]
"#;

#[test]
fn the_short_form_stands_for_the_standard_units() {
    let short = config(SHORTEST);
    assert_eq!(short, config(BY_HAND));
    assert_eq!(names(&short), ["restore", "sync", "install", "dev", "agent"]);
    assert_eq!(short.hash, config(BY_HAND).hash);
    let flags = Flags {
        install: Some("npm install".to_owned()),
        dev: Some("npm run dev".to_owned()),
        port: Some(3000),
        ..Flags::default()
    };
    assert_eq!(flagged("", &flags), short, "flags alone say the same");
}

#[test]
fn workers_have_their_types() {
    let config = config(SHORTEST);
    let unit = |name: &str| config.unit(name).unwrap();
    assert_eq!(unit("restore").main, Main::Worker(Worker::Restore));
    assert_eq!(unit("restore").service, Service::Oneshot { remain_after_exit: true });
    assert_eq!(unit("sync").service, Service::Notify);
    assert_eq!(unit("agent").service, Service::Notify);
    assert_eq!(unit("sync").skip.as_deref(), Some("no store is set"));
    assert_eq!(unit("restore").skip.as_deref(), Some("no store is set"));
    assert_eq!(unit("agent").skip, None);
    assert_eq!(unit("sync").drain_signal, Some(12));
}

#[test]
fn units_beside_the_short_form_override_single_keys() {
    let text = format!(
        "{SHORTEST}[unit.dev]\nstart_timeout = \"9s\"\nenvironment = {{ A = \"1\" }}\nreadiness = {{ tcp = \"localhost:3000\" }}\n\
         [unit.agent]\nenabled = false\n[unit.extra]\nexec = \"x\"\nafter = [\"agent\", \"dev\"]\n"
    );
    let config = config(&text);
    assert_eq!(names(&config), ["restore", "sync", "install", "dev", "extra"]);
    let dev = config.unit("dev").unwrap();
    assert_eq!(dev.start_timeout, Some(std::time::Duration::from_secs(9)));
    assert_eq!(dev.environment, environment(&[("A", "1"), ("PORT", "3000")]));
    assert_eq!(dev.probes.len(), 2);
    assert_eq!(dev.restart_max_delay, std::time::Duration::from_secs(10));
    assert_eq!(
        config.unit("extra").unwrap().after.len(),
        1,
        "what is not enabled is not waited for"
    );
}

#[test]
fn dev_waits_for_restore_where_nothing_is_installed() {
    for text in [
        "[project]\ndev = \"x\"\n".to_owned(),
        format!("{SHORTEST}[unit.install]\nenabled = false\n"),
    ] {
        let config = config(&text);
        assert_eq!(names(&config), ["restore", "sync", "dev", "agent"]);
        let dev = config.unit("dev").unwrap();
        assert_eq!(dev.requires.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["restore"]);
        assert!(dev.part_of.is_empty());
    }
}

#[test]
fn flags_win_over_the_file() {
    let flags = Flags {
        install: Some(String::new()),
        dev: Some("npm start".to_owned()),
        port: Some(4000),
        project_id: Some("p_2".to_owned()),
        listen: Some("off".to_owned()),
        store: Some("file:///store".to_owned()),
        skip_restore: true,
        ..Flags::default()
    };
    let config = flagged(SHORTEST, &flags);
    assert_eq!(names(&config), ["restore", "sync", "dev", "agent"]);
    assert_eq!((config.port, config.listen, config.project_id.as_str()), (Some(4000), None, "p_2"));
    assert_eq!(config.sync.store.as_deref(), Some("file:///store"));
    assert!(config.sync.hold);
    assert_eq!(config.unit("restore").unwrap().skip.as_deref(), Some("--skip-restore was given"));
    assert_eq!(config.unit("sync").unwrap().skip, None);
    let dev = config.unit("dev").unwrap();
    assert_eq!(dev.main, Main::Exec(sandkeep::unit::Command::Shell("npm start".to_owned())));
    assert_eq!(dev.environment["PORT"], "4000");
}

#[test]
fn the_four_r2_variables_name_the_store() {
    let four = [
        ("R2_ENDPOINT", "https://account.r2.cloudflarestorage.com"),
        ("R2_ACCESS_KEY_ID", "the-id"),
        ("R2_SECRET_ACCESS_KEY", "the-secret"),
        ("R2_BUCKET_NAME", "bucket"),
        ("SANDBOX_ID", "sb_1"),
    ];
    let load = |environment: &BTreeMap<String, String>, text: &str| {
        load_text(text, "sandkeep.toml", Path::new("/"), &Flags::default(), environment)
    };
    let loaded = load(&environment(&four), SHORTEST).unwrap();
    let store = loaded.config.sync.store.clone().unwrap();
    assert_eq!(store, "s3://bucket?endpoint=https://account.r2.cloudflarestorage.com&region=auto");
    assert_eq!(loaded.config.project_id, "sb_1", "the box's id where there is no project's");
    let worker = sandkeep::unit::WorkerConfig::new(&loaded.config, Path::new("/state")).to_json();
    assert!(!worker.contains("the-id") && !worker.contains("the-secret") && !loaded.expanded.contains("the-secret"));

    let off = load(&environment(&four), &format!("{SHORTEST}[sync]\nstore = \"off\"\n")).unwrap();
    assert_eq!(off.config.sync.store, None);
    for missing in 0..4 {
        let mut three = environment(&four);
        three.remove(four[missing].0);
        let said = load(&three, SHORTEST).unwrap_err().to_string();
        assert!(said.contains(&format!("not {}", four[missing].0)), "{said}");
        load(&three, "[unit.web]\nexec = \"x\"\n").unwrap_or_else(|said| panic!("nothing here is kept: {said}"));
    }
}

#[test]
fn the_hash_follows_what_is_meant() {
    let first = config(SHORTEST);
    assert_eq!(first.hash.len(), 64);
    assert_eq!(first.hash, config(&format!("# a comment\n{SHORTEST}")).hash);
    assert_ne!(first.hash, config(&SHORTEST.replace("3000", "3001")).hash);
}

/// Files, what installs, what serves, on which port.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, Option<u16>);

/// A directory of these files, and what is found out about it.
fn found(files: &[(&str, &str)]) -> Loaded {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    let source = Source::in_directory(directory.path());
    load(&source, &Flags::default(), &BTreeMap::new()).unwrap_or_else(|said| panic!("{files:?}\n{said}"))
}

fn shell(config: &Config, unit: &str) -> String {
    match &config.unit(unit).unwrap_or_else(|| panic!("no {unit}")).main {
        Main::Exec(sandkeep::unit::Command::Shell(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn projects_are_known_by_their_files() {
    let vite = r#"{ "scripts": { "dev": "vite" }, "devDependencies": { "vite": "8" } }"#;
    let next = r#"{ "scripts": { "dev": "next dev --turbopack" }, "dependencies": { "next": "16" } }"#;
    let cases: [Case<'_>; 18] = [
        (
            &[("package.json", vite), ("package-lock.json", "{}")],
            "npm install",
            "npm run dev -- --host 0.0.0.0 --port 5173 --strictPort",
            Some(5173),
        ),
        (
            &[("package.json", vite), ("pnpm-lock.yaml", "")],
            "pnpm install",
            "pnpm run dev --host 0.0.0.0 --port 5173 --strictPort",
            Some(5173),
        ),
        (
            &[
                ("package.json", vite),
                ("yarn.lock", ""),
                ("vite.config.ts", "export default { server: { port: 4000 } }"),
            ],
            "yarn install",
            "yarn run dev --host 0.0.0.0 --port 4000 --strictPort",
            Some(4000),
        ),
        (
            &[
                (
                    "package.json",
                    r#"{ "scripts": { "dev": "vite --port 3000 --host" }, "devDependencies": { "vite": "8" } }"#,
                ),
                ("bun.lock", ""),
            ],
            "bun install",
            "bun run dev --strictPort",
            Some(3000),
        ),
        (
            &[(
                "package.json",
                r#"{ "scripts": { "dev": "concurrently 'vite' 'node api.js'" }, "devDependencies": { "vite": "8" } }"#,
            )],
            "npm install",
            "npm run dev",
            Some(5173),
        ),
        (
            &[("package.json", next)],
            "npm install",
            "npm run dev -- -H 0.0.0.0 -p 3000",
            Some(3000),
        ),
        (
            &[(
                "package.json",
                r#"{ "packageManager": "pnpm@10.1.0", "scripts": { "dev": "astro dev" }, "dependencies": { "astro": "5" } }"#,
            )],
            "pnpm install",
            "pnpm run dev --host 0.0.0.0 --port 4321",
            Some(4321),
        ),
        (
            &[(
                "package.json",
                r#"{ "scripts": { "dev": "vite dev" }, "devDependencies": { "@sveltejs/kit": "2", "vite": "8" } }"#,
            )],
            "npm install",
            "npm run dev -- --host 0.0.0.0 --port 5173 --strictPort",
            Some(5173),
        ),
        (
            &[(
                "package.json",
                r#"{ "scripts": { "dev": "remix vite:dev" }, "devDependencies": { "@remix-run/dev": "2", "vite": "5" } }"#,
            )],
            "npm install",
            "npm run dev -- --host 0.0.0.0 --port 5173 --strictPort",
            Some(5173),
        ),
        (
            &[
                ("package.json", r#"{ "scripts": { "start": "node server.js" } }"#),
                ("server.js", "app.listen(process.env.PORT || 8080)"),
            ],
            "npm install",
            "npm run start",
            Some(8080),
        ),
        (
            &[
                ("package.json", r#"{ "main": "worker.js" }"#),
                ("worker.js", "setInterval(() => {}, 1000)"),
            ],
            "npm install",
            "node worker.js",
            None,
        ),
        (
            &[
                ("uv.lock", ""),
                ("pyproject.toml", "dependencies = [\"fastapi[standard]>=0.1\"]"),
                ("main.py", "app = FastAPI()\n"),
            ],
            "uv sync",
            "uv run uvicorn main:app --host 0.0.0.0 --port 8000 --reload",
            Some(8000),
        ),
        (
            &[
                ("requirements.txt", "fastapi==1\nuvicorn\n"),
                ("app/main.py", "x = 1\napi: FastAPI = FastAPI(title='x')\n"),
            ],
            "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
            ".venv/bin/uvicorn app.main:api --host 0.0.0.0 --port 8000 --reload",
            Some(8000),
        ),
        (
            &[
                ("poetry.lock", ""),
                ("pyproject.toml", "[tool.poetry.dependencies]\ndjango = \"5\""),
                ("manage.py", ""),
            ],
            "poetry install",
            "poetry run python manage.py runserver 0.0.0.0:8000",
            Some(8000),
        ),
        (
            &[("requirements.txt", "Flask\n"), ("app.py", "server = Flask(__name__)\n")],
            "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
            ".venv/bin/flask --app app:server run --host 0.0.0.0 --port 5000 --debug",
            Some(5000),
        ),
        (
            &[("pyproject.toml", "[project]\nname = \"x\"\n"), ("main.py", "serve(port=9000)\n")],
            "uv sync",
            "uv run python main.py",
            Some(9000),
        ),
        (
            &[("Pipfile", "[packages]\nflask = \"*\"\n"), ("app.py", "app = Flask(__name__)\n")],
            "pipenv install --dev",
            "pipenv run flask --app app:app run --host 0.0.0.0 --port 5000 --debug",
            Some(5000),
        ),
        (
            // Python serves, npm only builds its style sheets.
            &[
                ("package.json", r#"{ "devDependencies": { "tailwindcss": "4" } }"#),
                ("requirements.txt", "django"),
                ("manage.py", ""),
            ],
            "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
            ".venv/bin/python manage.py runserver 0.0.0.0:8000",
            Some(8000),
        ),
    ];
    for (files, install, dev, port) in cases {
        let loaded = found(files);
        assert_eq!(shell(&loaded.config, "install"), install, "{files:?}");
        assert_eq!(shell(&loaded.config, "dev"), dev, "{files:?}");
        assert_eq!(loaded.config.port, port, "{files:?}");
        assert_eq!(loaded.detected.len(), 2 + usize::from(port.is_some()), "{:?}", loaded.detected);
    }
}

#[test]
fn what_is_found_out_is_said() {
    let manifest = r#"{ "scripts": { "dev": "vite" }, "devDependencies": { "vite": "8" } }"#;
    let loaded = found(&[("package.json", manifest), ("package-lock.json", "{}")]);
    assert_eq!(
        loaded.detected,
        [
            "install = `npm install` (package-lock.json)",
            "dev = `npm run dev -- --host 0.0.0.0 --port 5173 --strictPort` (package.json: script dev, Vite, made reachable)",
            "port = 5173 (the default of Vite)",
        ]
    );
    let beside = found(&[
        ("package.json", manifest),
        ("sandkeep.toml", "[project]\nport = 3000\n[journal]\nkeep = 2\n"),
    ]);
    assert_eq!(beside.config.port, Some(3000));
    assert_eq!(beside.config.journal_keep, 2);
    assert_eq!(
        shell(&beside.config, "dev"),
        "npm run dev -- --host 0.0.0.0 --port 3000 --strictPort"
    );
    let written = found(&[("package.json", manifest), ("sandkeep.toml", "[project]\ndev = \"make dev\"\n")]);
    assert_eq!(written.detected, [""; 0], "a file that says what runs is believed");
    assert!(written.config.unit("install").is_none());
}

#[test]
fn strange_manifests_are_no_trouble() {
    for manifest in [
        "",
        "[]",
        "{",
        "{\"scripts\": 3}",
        "{\"scripts\": {\"dev\": [1]}, \"packageManager\": 7}",
        "null",
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("package.json"), manifest).unwrap();
        let _ = load(&Source::in_directory(directory.path()), &Flags::default(), &BTreeMap::new());
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sandkeep.toml");
    let said = |file: &Path| {
        load(&Source::File(file.to_owned()), &Flags::default(), &BTreeMap::new())
            .unwrap_err()
            .to_string()
    };
    assert!(said(&file).starts_with(&format!("error: reading `{}`: no such file\nhint: ", file.display())));
    assert!(said(directory.path()).contains("it is not a file"));
    fs::write(&file, b"\xff\xfe").unwrap();
    assert!(said(&file).contains("it is not UTF-8"));
    fs::write(&file, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(said(&file).contains("larger than 1 MiB"));
    fs::write(&file, "\u{feff}[unit.a]\r\nexec = \"a\"\r\nfoo = 1\r\n").unwrap();
    assert!(said(&file).contains("sandkeep.toml:3:1: unknown key `foo`"), "{}", said(&file));
    fs::remove_file(&file).unwrap();
    let dangling = directory.path().join("sandkeep.toml");
    std::os::unix::fs::symlink("/nowhere/at/all", &dangling).unwrap();
    assert_eq!(
        Source::in_directory(directory.path()),
        Source::File(dangling),
        "a file that is meant to be there is not passed over"
    );
}

#[test]
fn a_worker_by_hand_needs_no_units() {
    let flags = Flags {
        without_units: true,
        ..Flags::default()
    };
    let config = flagged(
        "[project]\nid = \"p\"\n[sync]\nstore = \"file:///store\"\nbatch_files = 3\n",
        &flags,
    );
    assert_eq!((config.units.len(), config.sync.batch_files), (0, 3));
}
