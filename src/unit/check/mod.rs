//! From what is written to what is meant: `File` becomes `Config`, and whatever cannot be meant is noted.
//!
//! After this nothing checks again.

mod names;
mod probe;
mod store;
mod unit;

use super::config::{Agent, Config, Sync};
use super::faults::{At, Faults, Span};
use super::file::{File, verb_fault};
use super::graph;
use super::load::Flags;
use super::spec::{Main, Name, Unit, Worker};
use super::spelling;
use super::values::Text;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a check needs beside the file.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The directory that relative paths are relative to, absolute.
    pub(super) base: &'a Path,
    pub(super) flags: &'a Flags,
    pub(super) environment: &'a BTreeMap<String, String>,
    /// Whether the file itself has a `[sync]`.
    pub(super) sync_written: bool,
}

/// Checks everything; the result is to be used only when no error was noted. The hash and the file's name are the caller's.
pub(super) fn check(file: &File, around: &Surroundings<'_>, faults: &mut Faults<'_>) -> Config {
    let root = root(file, around, faults);
    let secret_names = secret_names(file);
    let units = units(file, &root, &secret_names, faults);
    let mut config = Config {
        root,
        secret_names,
        ..Config::without_hash(units)
    };
    fill_identity(&mut config, file, faults);
    fill_doors(&mut config, file, faults);
    fill_limits(&mut config, file);
    config.allow = allow(file, &config.units, faults);
    config.agent = agent(file);
    config.sync = sync(file, faults);
    config.sync.store = store::resolve(file, &config, around, faults);
    config.sync.hold |= around.flags.skip_restore;
    skip_workers(&mut config, around.flags);
    config
}

/// A text with its place; empty when it is not given.
fn text<const SECRETS: bool>(at: Option<&At<Text<SECRETS>>>) -> (&str, Span) {
    at.map_or(("", None), |at| (at.value.as_str().trim(), at.span.clone()))
}

fn root(file: &File, around: &Surroundings<'_>, faults: &mut Faults<'_>) -> PathBuf {
    let (written, span) = text(file.project.as_ref().and_then(|at| at.value.root.as_ref()));
    let root = match &around.flags.root {
        Some(flag) => std::path::absolute(flag).unwrap_or_else(|_| flag.clone()),
        None => around.base.join(written),
    };
    match root.canonicalize() {
        Ok(found) if found.is_dir() => found,
        Ok(found) => {
            faults.error(
                &span,
                "project.root",
                format!("the project's root `{}` is not a directory", found.display()),
                None,
            );
            found
        }
        Err(error) => {
            let plain: PathBuf = root.components().collect();
            faults.warning(
                &span,
                "project.root",
                format!("the project's root `{}` cannot be used: {error}", plain.display()),
                None,
            );
            plain
        }
    }
}

fn secret_names(file: &File) -> Vec<String> {
    let names = file.secrets.as_ref().and_then(|at| at.value.names.as_ref());
    names
        .map(|at| at.value.iter().map(|name| name.value.as_str().to_owned()).collect())
        .unwrap_or_default()
}

fn fill_identity(config: &mut Config, file: &File, faults: &mut Faults<'_>) {
    if let Some(project) = &file.project {
        let (id, span) = text(project.value.id.as_ref());
        if let Some(why) = id_fault(id) {
            let hint = "it becomes a directory in the store: letters, digits, `_`, `.`, `-`, `:`, `@`, `+`, `=`, at most 128".to_owned();
            faults.error(&span, "project.id", format!("`{id}` cannot be a project id: {why}"), Some(hint));
        }
        id.clone_into(&mut config.project_id);
        config.port = project.value.port.as_ref().map(|at| at.value.to());
    }
    if let Some(sandbox) = &file.sandbox {
        text(sandbox.value.id.as_ref()).0.clone_into(&mut config.sandbox_id);
        let (expires_at, span) = text(sandbox.value.expires_at.as_ref());
        config.expires_at = instant(expires_at);
        if config.expires_at.is_none() && !expires_at.is_empty() {
            let hint = "write it as `2026-01-31T12:00:00Z`, or as seconds since the epoch".to_owned();
            faults.error(&span, "sandbox.expires_at", format!("`{expires_at}` is not a time"), Some(hint));
        }
    }
}

fn id_fault(id: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':' | '@' | '+' | '=');
    if id.len() > 128 {
        Some("it is too long")
    } else if id.starts_with('.') {
        Some("it begins with a dot")
    } else if !id.chars().all(allowed) {
        Some("it holds a character that is not taken")
    } else {
        None
    }
}

/// Seconds since the epoch. What is too large for seconds of this age is milliseconds.
fn instant(text: &str) -> Option<i64> {
    const MILLISECONDS_FROM: i64 = 100_000_000_000;
    if let Ok(number) = text.parse::<i64>() {
        return (number >= 0).then_some(if number >= MILLISECONDS_FROM { number / 1000 } else { number });
    }
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

fn fill_doors(config: &mut Config, file: &File, faults: &mut Faults<'_>) {
    if let Some(health) = &file.health {
        let token = health.value.token.as_ref();
        config.token = token.map(|at| at.value.as_str().to_owned()).filter(|token| !token.is_empty());
        if let Some(bad) = token.filter(|at| !at.value.as_str().chars().all(|c| c.is_ascii_graphic())) {
            let message = "the token holds a character that a header cannot carry";
            faults.error(
                &bad.span,
                "health.token",
                message,
                Some("take printable ASCII without spaces".to_owned()),
            );
        }
        let (listen, span) = text(health.value.listen.as_ref());
        config.listen = match address(listen) {
            Ok(address) => address,
            Err(why) => {
                let hint = "write `address:port` such as `127.0.0.1:7878`, or `off`".to_owned();
                faults.error(
                    &span,
                    "health.listen",
                    format!("`{listen}` is not an address to listen on: {why}"),
                    Some(hint),
                );
                None
            }
        };
        let open = config.listen.filter(|address| !address.ip().is_loopback());
        if let Some(address) = open.filter(|_| config.token.is_none() && !faults.about("health.token")) {
            let message = format!("`{address}` can be reached by others, but there is no token of your own");
            faults.error(
                &span,
                "health.listen",
                message,
                Some("set `[health] token` or SANDKEEP_TOKEN".to_owned()),
            );
        }
    }
    let written = file.report.as_ref().and_then(|at| at.value.url.as_ref());
    let (url, span) = text(written);
    config.report_url = (!url.is_empty()).then(|| url.to_owned());
    if let Some(why) = url_fault(url).filter(|_| !url.is_empty()) {
        faults.error(
            &span,
            "report.url",
            format!(
                "`{}` is not a URL to report to: {why}",
                written.map_or(url, |at| at.value.as_shown())
            ),
            Some("write `https://host/path`".to_owned()),
        );
    }
}

fn address(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    if text == "off" {
        return Ok(None);
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        let port = port.parse().map_err(|_| "the port is not a number from 0 to 65535")?;
        return Ok(Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
    }
    match text.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) if !text.contains(':') => Err("it has no port"),
        Err(_) => Err("it is not an IP address and a port"),
    }
}

/// What is wrong with an http or https URL.
fn url_fault(url: &str) -> Option<&'static str> {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return Some("it begins with neither `http://` nor `https://`");
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        Some("it names no host")
    } else if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("it holds a space")
    } else {
        None
    }
}

fn fill_limits(config: &mut Config, file: &File) {
    if let Some(journal) = &file.journal {
        let max_size = journal.value.max_size.as_ref();
        config.journal_max_size = max_size.map_or(config.journal_max_size, |at| at.value.0.unwrap_or(u64::MAX));
        config.journal_keep = journal.value.keep.as_ref().map_or(config.journal_keep, |at| at.value.to());
    }
    config.shutdown_budget = file.shutdown.as_ref().and_then(|at| at.value.budget.as_ref()).map(|at| at.value.0);
}

fn allow(file: &File, units: &[Arc<Unit>], faults: &mut Faults<'_>) -> BTreeMap<Name, Vec<String>> {
    let mut checked = BTreeMap::new();
    let written = file.control.as_ref().and_then(|at| at.value.allow.as_ref());
    for (unit, verbs) in written.iter().flat_map(|at| &at.value.0) {
        let key = format!("control.allow.{unit}");
        let Some(name) = Name::new(unit) else {
            faults.error(&verbs.span, &key, format!("`{unit}` cannot be the name of a unit"), None);
            continue;
        };
        if verbs.span.is_some() && !units.iter().any(|known| known.name == name) {
            let near = spelling::nearest(unit, units.iter().map(|known| known.name.as_str()));
            let hint = near.map(|near| format!("did you mean `{near}`?"));
            faults.warning(&verbs.span, &key, format!("`{unit}` may ask, but no unit has that name"), hint);
        }
        for verb in &verbs.value {
            if let Some((message, hint)) = verb_fault(verb.value.as_str()) {
                faults.error(&verb.span, &key, message, hint);
            }
        }
        checked.insert(name, verbs.value.iter().map(|verb| verb.value.as_str().to_owned()).collect());
    }
    checked
}

fn agent(file: &File) -> Agent {
    let table = file.agent.as_ref().map(|at| at.value.values()).unwrap_or_default();
    Agent::try_from(table).unwrap_or_default()
}

fn sync(file: &File, faults: &mut Faults<'_>) -> Sync {
    let table = file.sync.as_ref().map(|at| at.value.values()).unwrap_or_default();
    Sync::try_from(table).unwrap_or_else(|why| {
        faults.error(&None, "sync", format!("`[sync]`: {why}"), None);
        Sync::default()
    })
}

/// The units in start order; as written when there is none.
fn units(file: &File, root: &Path, secret_names: &[String], faults: &mut Faults<'_>) -> Vec<Unit> {
    let Some(written) = &file.unit else { return Vec::new() };
    let mut checked: Vec<Unit> = written
        .value
        .0
        .iter()
        .map(|(name, unit)| unit::check(name, unit, root, secret_names, faults))
        .collect();
    names::reserved(&written.value, faults);
    let edges = names::edges(&written.value, faults);
    names::fold_before(&written.value, &mut checked);
    match graph::order(checked.len(), &edges) {
        Ok(order) => {
            let mut checked: Vec<Option<Unit>> = checked.into_iter().map(Some).collect();
            order.into_iter().filter_map(|index| checked[index].take()).collect()
        }
        Err(cycles) => {
            for cycle in cycles {
                let message = match cycle.len() {
                    1 => "this unit waits for itself and cannot start:",
                    _ => "these units wait for each other and none can start:",
                };
                faults.error_with_notes(message, cycle);
            }
            checked
        }
    }
}

fn skip_workers(config: &mut Config, flags: &Flags) {
    let without_store = config.sync.store.is_none();
    for unit in config.units.iter_mut().map(Arc::make_mut) {
        unit.skip = match unit.main {
            Main::Worker(Worker::Restore) if flags.skip_restore => Some("--skip-restore was given".to_owned()),
            Main::Worker(Worker::Restore | Worker::Sync) if without_store => Some("no store is set".to_owned()),
            Main::Worker(_) | Main::Exec(_) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_instants() {
        assert_eq!(instant("1800000000"), Some(1_800_000_000));
        assert_eq!(instant("1800000000000"), Some(1_800_000_000));
        assert_eq!(instant("2027-01-15T08:00:00Z"), Some(1_800_000_000));
        assert_eq!(instant("2027-01-15T10:00:00+02:00"), Some(1_800_000_000));
        for text in ["", "soon", "-5", "2027-01-15"] {
            assert_eq!(instant(text), None, "{text}");
        }
    }

    #[test]
    fn takes_ids_that_are_one_directory() {
        for id in ["", "p_1", "k17abc.def", "a:b"] {
            assert_eq!(id_fault(id), None, "{id}");
        }
        for id in ["a/b", "..", ".sandkeep", "a b", "ä"] {
            assert!(id_fault(id).is_some(), "{id}");
        }
    }
}
