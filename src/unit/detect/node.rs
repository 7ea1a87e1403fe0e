//! Projects with a `package.json`.

use super::{Detected, first, port_in, text};
use serde_json::Value;
use std::path::Path;

/// What serves a project.
struct Framework {
    name: &'static str,
    /// The dependency that tells it.
    dependency: &'static str,
    /// The program that a script runs.
    program: &'static str,
    /// The port it takes when nothing is said.
    port: u16,
    /// The flags that make it listen where others reach it, on that port and no other.
    flags: &'static [Flag],
}

/// A flag and what it is recognised by when a script has it already.
#[derive(Clone, Copy)]
enum Flag {
    /// Its name and value.
    Host(&'static str),
    /// Its name; the value is the port.
    Port(&'static str),
    /// As it is.
    Plain(&'static str),
}

const VITE: &[Flag] = &[Flag::Host("--host"), Flag::Port("--port"), Flag::Plain("--strictPort")];
const HOST_AND_PORT: &[Flag] = &[Flag::Host("--host"), Flag::Port("--port")];

const fn framework(name: &'static str, dependency: &'static str, program: &'static str, port: u16, flags: &'static [Flag]) -> Framework {
    Framework {
        name,
        dependency,
        program,
        port,
        flags,
    }
}

/// The more particular first: nearly all of them use Vite.
const FRAMEWORKS: [Framework; 13] = [
    framework("Next.js", "next", "next", 3000, &[Flag::Host("-H"), Flag::Port("-p")]),
    framework("Nuxt", "nuxt", "nuxt", 3000, HOST_AND_PORT),
    framework("Astro", "astro", "astro", 4321, HOST_AND_PORT),
    framework("SvelteKit", "@sveltejs/kit", "vite", 5173, VITE),
    framework("Remix", "@remix-run/dev", "remix", 5173, VITE),
    framework("React Router", "@react-router/dev", "react-router", 5173, VITE),
    framework("SolidStart", "@solidjs/start", "vinxi", 3000, HOST_AND_PORT),
    framework("Angular", "@angular/cli", "ng", 4200, HOST_AND_PORT),
    framework("Gatsby", "gatsby", "gatsby", 8000, &[Flag::Host("-H"), Flag::Port("-p")]),
    framework("Create React App", "react-scripts", "react-scripts", 3000, &[]),
    framework("Vue CLI", "@vue/cli-service", "vue-cli-service", 8080, HOST_AND_PORT),
    framework("Vite", "vite", "vite", 5173, VITE),
    framework("Parcel", "parcel", "parcel", 1234, &[Flag::Port("--port")]),
];

/// A package manager.
#[derive(Clone, Copy)]
struct Manager {
    name: &'static str,
    locks: &'static [&'static str],
    /// Before a script's name.
    run: &'static str,
    /// Between a script's name and the flags that are for what it runs.
    separator: &'static str,
}

const MANAGERS: [Manager; 4] = [
    Manager {
        name: "bun",
        locks: &["bun.lock", "bun.lockb"],
        run: "bun run",
        separator: " ",
    },
    Manager {
        name: "pnpm",
        locks: &["pnpm-lock.yaml"],
        run: "pnpm run",
        separator: " ",
    },
    Manager {
        name: "yarn",
        locks: &["yarn.lock"],
        run: "yarn run",
        separator: " ",
    },
    NPM,
];

const NPM: Manager = Manager {
    name: "npm",
    locks: &["package-lock.json", "npm-shrinkwrap.json"],
    run: "npm run",
    separator: " -- ",
};

pub(super) fn detect(directory: &Path, port: Option<u16>) -> Option<Detected> {
    let manifest: Value = serde_json::from_str(&text(directory, "package.json")?).ok()?;
    let mut detected = Detected::default();
    let (manager, because) = manager(directory, &manifest);
    detected.found_install(format!("{} install", manager.name), because);
    let framework = FRAMEWORKS.iter().find(|framework| depends_on(&manifest, framework.dependency));
    let script = ["dev", "start", "serve"]
        .into_iter()
        .find_map(|name| Some((name, manifest["scripts"][name].as_str()?)));
    match (script, framework) {
        (Some((name, line)), Some(framework)) => scripted(&mut detected, directory, manager, name, line, framework, port),
        (Some((name, line)), None) => plain_script(&mut detected, directory, manager, &manifest, name, line),
        (None, _) => entry(&mut detected, directory, &manifest),
    }
    Some(detected)
}

fn depends_on(manifest: &Value, name: &str) -> bool {
    ["dependencies", "devDependencies"]
        .iter()
        .any(|kind| manifest[kind].get(name).is_some())
}

fn manager(directory: &Path, manifest: &Value) -> (Manager, String) {
    let wanted = manifest["packageManager"].as_str().unwrap_or_default();
    let name = wanted.split('@').next().unwrap_or_default();
    if let Some(manager) = MANAGERS.into_iter().find(|manager| manager.name == name) {
        return (manager, format!("package.json: packageManager is {wanted}"));
    }
    let locked = MANAGERS
        .into_iter()
        .find_map(|manager| Some((manager, first(directory, manager.locks)?)));
    match locked {
        Some((manager, lock)) => (manager, lock.to_owned()),
        None => (NPM, "package.json, and no lock file".to_owned()),
    }
}

/// A script of a known framework: made reachable on one port where the script is nothing but the framework's program.
fn scripted(
    detected: &mut Detected,
    directory: &Path,
    manager: Manager,
    name: &str,
    line: &str,
    framework: &Framework,
    wanted: Option<u16>,
) {
    let command = format!("{} {name}", manager.run);
    let seen = format!("package.json: script {name}, {}", framework.name);
    let in_script = port_in(line, r"(?:--port[ =]|-p[ =]?|\bPORT=)(\d{1,5})\b");
    let configured = in_script.or_else(|| port_in_config(directory, framework));
    let port = wanted.or(configured).unwrap_or(framework.port);
    let simple = runs_only(line, framework.program);
    let flags = if simple {
        missing_flags(framework, line, port, wanted.is_some() && wanted != in_script)
    } else {
        Vec::new()
    };
    if flags.is_empty() {
        detected.found_dev(command, seen);
    } else {
        detected.found_dev(
            format!("{command}{}{}", manager.separator, flags.join(" ")),
            format!("{seen}, made reachable"),
        );
    }
    let because = match (in_script, configured) {
        (Some(_), _) => format!("package.json: script {name}"),
        (None, Some(_)) => format!("the configuration of {}", framework.name),
        (None, None) => format!("the default of {}", framework.name),
    };
    detected.found_port(port, because);
}

/// Whether flags put after the script reach this program and no other.
fn runs_only(line: &str, program: &str) -> bool {
    let compound = line.contains(['&', '|', ';', '<', '>', '(', '"', '\'', '`', '$']);
    let mut words = line
        .split_whitespace()
        .skip_while(|word| word.contains('=') || matches!(*word, "cross-env" | "npx"));
    !compound && words.next() == Some(program)
}

fn missing_flags(framework: &Framework, line: &str, port: u16, override_port: bool) -> Vec<String> {
    let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || c == '=').collect();
    let has = |names: &[&str]| names.iter().any(|name| words.contains(name));
    let mut flags = Vec::new();
    for flag in framework.flags {
        match flag {
            Flag::Host(_) if has(&["--host", "--hostname", "-H"]) => {}
            Flag::Host(name) => flags.push(format!("{name} 0.0.0.0")),
            Flag::Port(_) if has(&["--port", "-p"]) && !override_port => {}
            Flag::Port(name) => flags.push(format!("{name} {port}")),
            Flag::Plain(name) if has(&[name]) => {}
            Flag::Plain(name) => flags.push((*name).to_owned()),
        }
    }
    flags
}

fn port_in_config(directory: &Path, framework: &Framework) -> Option<u16> {
    let stem = match framework.program {
        "next" | "ng" | "gatsby" | "react-scripts" | "parcel" => return None,
        "astro" => "astro.config",
        "nuxt" => "nuxt.config",
        "vue-cli-service" => "vue.config",
        _ => "vite.config",
    };
    let names: Vec<String> = ["ts", "js", "mts", "mjs", "cts", "cjs"]
        .iter()
        .map(|end| format!("{stem}.{end}"))
        .collect();
    let found = names.iter().find_map(|name| text(directory, name))?;
    port_in(&found, r"(?:server|devServer)\s*:\s*\{[^}]*?\bport\s*:\s*(\d{1,5})\b")
}

/// A script of something unknown: run as it is; the port is what it or the entry file names.
fn plain_script(detected: &mut Detected, directory: &Path, manager: Manager, manifest: &Value, name: &str, line: &str) {
    detected.found_dev(format!("{} {name}", manager.run), format!("package.json: script {name}"));
    let in_line = port_in(line, r"(?:--port[ =]|-p[ =]?|\bPORT=)(\d{1,5})\b").map(|port| (port, format!("package.json: script {name}")));
    let file = line
        .split_whitespace()
        .find(|word| is_source(word))
        .map(str::to_owned)
        .or_else(|| entry_file(directory, manifest));
    let in_file = || {
        let file = file.as_deref()?;
        Some((listened_port(&text(directory, file)?)?, file.to_owned()))
    };
    if let Some((port, because)) = in_line.or_else(in_file) {
        detected.found_port(port, because);
    }
}

fn is_source(word: &str) -> bool {
    [".js", ".mjs", ".cjs", ".ts", ".mts"].iter().any(|end| word.ends_with(end)) && !word.starts_with('/') && !word.contains("..")
}

fn listened_port(source: &str) -> Option<u16> {
    let expressions = [
        r"\.listen\(\s*(\d{2,5})\b",
        r"\bPORT\s*(?:\|\||\?\?)\s*['\x22]?(\d{2,5})\b",
        r"\b[pP]ort\s*[:=]\s*(\d{2,5})\b",
    ];
    expressions.iter().find_map(|expression| port_in(source, expression))
}

fn entry_file(directory: &Path, manifest: &Value) -> Option<String> {
    let main = manifest["main"]
        .as_str()
        .filter(|main| is_source(main) && directory.join(main).is_file());
    let usual = [
        "server.js",
        "server.mjs",
        "index.js",
        "index.mjs",
        "app.js",
        "src/index.js",
        "src/server.js",
    ];
    main.or_else(|| first(directory, &usual)).map(str::to_owned)
}

/// No script: the entry file by itself.
fn entry(detected: &mut Detected, directory: &Path, manifest: &Value) {
    let Some(file) = entry_file(directory, manifest) else { return };
    detected.found_dev(format!("node {file}"), file.clone());
    if let Some(port) = text(directory, &file).and_then(|source| listened_port(&source)) {
        detected.found_port(port, file);
    }
}
