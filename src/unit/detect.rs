//! What kind of project a directory holds: what installs it, what serves it, on which port, and how that was seen.

mod node;
mod python;

use std::fmt;
use std::path::Path;

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detected {
    /// The command that installs.
    pub install: Option<String>,
    /// The command of the dev server.
    pub dev: Option<String>,
    /// The port that command listens on.
    pub port: Option<u16>,
    /// What was seen, in the order of what came of it.
    pub lines: Vec<Line>,
}

/// One thing that was found out, and because of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `install`, `dev` or `port`.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What was seen.
    pub because: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.key, self.value, self.because)
    }
}

impl Detected {
    fn found_install(&mut self, command: String, because: String) {
        self.lines.push(Line {
            key: "install",
            value: format!("`{command}`"),
            because,
        });
        self.install = Some(command);
    }

    fn found_dev(&mut self, command: String, because: String) {
        self.lines.push(Line {
            key: "dev",
            value: format!("`{command}`"),
            because,
        });
        self.dev = Some(command);
    }

    fn found_port(&mut self, port: u16, because: String) {
        self.lines.push(Line {
            key: "port",
            value: port.to_string(),
            because,
        });
        self.port = Some(port);
    }
}

/// Looks at the directory; `port` is the one the dev server is to listen on, where that is settled.
pub fn detect(directory: &Path, port: Option<u16>) -> Detected {
    let node = node::detect(directory, port);
    let python = python::detect(directory, port);
    // A Python project with a package.json for its style sheets is served by Python; one of both is served by what has a dev server.
    match (node, python) {
        (Some(node), Some(python)) if node.dev.is_none() && python.dev.is_some() => python,
        (Some(node), _) => node,
        (None, python) => python.unwrap_or_default(),
    }
}

/// The largest file that is looked into.
const LARGEST: u64 = 1 << 20;

/// The text of a file of that directory; `None` when there is none worth reading.
fn text(directory: &Path, name: &str) -> Option<String> {
    let path = directory.join(name);
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The first of these files that is there.
fn first<'n>(directory: &Path, names: &[&'n str]) -> Option<&'n str> {
    names.iter().copied().find(|name| directory.join(name).is_file())
}

/// The first number that this expression's first group finds and that is a port.
fn port_in(text: &str, expression: &str) -> Option<u16> {
    let regex = regex::Regex::new(expression).expect("our own expression is one");
    let found = regex.captures(text)?.get(1)?.as_str().parse().ok()?;
    (found != 0).then_some(found)
}
