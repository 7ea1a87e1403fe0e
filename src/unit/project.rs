//! The `[project]` form: what it stands for, with the flags over it and `[unit.NAME]` beside it.

use super::expand::Variables;
use super::faults::{At, Faults};
use super::file::{File, UnitFile, Units};
use super::load::Flags;
use super::packages;
use super::reader::{Reader, Value};
use super::spec::{Command, Name};
use super::values::{Confidential, Exec, Glob, Listen, Plain, Port, UnitName};
use toml::de::DeTable;

const DEFAULTS: &str = include_str!("defaults.toml");
const STANDARD: &str = include_str!("standard.toml");

/// Reads a text of ours. What is wrong with it (a variable that the user made a secret) is noted without a place.
fn read_ours(text: &str, faults: &mut Faults<'_>, variables: Variables<'_>) -> File {
    let document = DeTable::parse(text).expect("our own text is TOML");
    Reader::new(faults, variables, false).section(document.get_ref())
}

/// The defaults with the file over them.
pub(super) fn over_defaults(file: File, faults: &mut Faults<'_>, variables: Variables<'_>) -> File {
    let mut all = read_ours(DEFAULTS, faults, variables);
    all.overlay(file);
    all
}

/// Puts the flags over the file.
pub(super) fn apply_flags(file: &mut File, flags: &Flags) {
    let project = &mut file
        .project
        .get_or_insert_with(|| At::nowhere(super::file::Project::default()))
        .value;
    if let Some(install) = &flags.install {
        project.install = command(install);
    }
    if let Some(dev) = &flags.dev {
        project.dev = command(dev);
    }
    if let Some(port) = flags.port {
        project.port = Some(At::nowhere(super::values::Whole(i64::from(port))));
    }
    if let Some(id) = &flags.project_id {
        project.id = Some(At::nowhere(Plain::literal(id)));
    }
    if let Some(listen) = &flags.listen {
        let health = file.health.get_or_insert_with(|| At::nowhere(super::file::Health::default()));
        health.value.listen = Some(At::nowhere(Plain::literal(listen)));
    }
    if let Some(store) = &flags.store {
        let off = if store.is_empty() { "off" } else { store };
        let sync = file.sync.get_or_insert_with(|| At::nowhere(super::keys::SyncTable::default()));
        sync.value.set("store", off);
    }
}

/// A shell command; none when it is empty.
pub(super) fn command(text: &str) -> Option<At<Exec>> {
    let text = text.trim();
    (!text.is_empty()).then(|| At::nowhere(Exec(Command::Shell(text.to_owned()))))
}

/// Replaces `install` and `dev` of `[project]` by the standard units, the file's own over them. Without either it changes nothing.
pub(super) fn expand(file: &mut File, faults: &mut Faults<'_>, variables: Variables<'_>) {
    let Some(project) = &mut file.project else { return };
    let (install, dev) = (project.value.install.take(), project.value.dev.take());
    if install.is_none() && dev.is_none() {
        return;
    }
    let port = project.value.port.as_ref().map(|at| at.value);
    let own = file.unit.take().map(|at| at.value).unwrap_or_default();
    let standard = read_ours(STANDARD, faults, variables).unit.map(|at| at.value).unwrap_or_default();
    let with_install = install.is_some() && enabled(&own, "install");
    let mut units = Units::default();
    for (name, mut unit) in standard.0 {
        match name.value.as_str() {
            "install" => match &install {
                Some(command) => fill_install(&mut unit.value, command),
                None => continue,
            },
            "dev" => match &dev {
                Some(command) => fill_dev(&mut unit.value, command, port, with_install),
                None => continue,
            },
            _ => {}
        }
        if let Some(over) = own.find(name.value.as_str()) {
            make_room(&mut unit.value, &over.value);
        }
        units.0.push((name, unit));
    }
    units.overlay(own);
    file.unit = Some(At::nowhere(units));
}

fn enabled(units: &Units, name: &str) -> bool {
    let unit = units.find(name);
    unit.and_then(|unit| unit.value.enabled.as_ref()).is_none_or(|at| at.value)
}

fn fill_install(unit: &mut UnitFile, command: &At<Exec>) {
    let inputs = packages::inputs(&command.value.0);
    unit.exec = Some(command.clone());
    if !inputs.watch.is_empty() {
        let globs = inputs.watch.iter().map(|glob| At::nowhere(Glob(Plain::literal(glob))));
        unit.watch = Some(At::nowhere(globs.collect()));
        unit.creates = Some(At::nowhere(
            inputs.creates.iter().map(|path| At::nowhere(Plain::literal(path))).collect(),
        ));
    }
}

fn fill_dev(unit: &mut UnitFile, command: &At<Exec>, port: Option<Port>, with_install: bool) {
    unit.exec = Some(command.clone());
    let listen = || {
        let probe = super::file::ProbeFile {
            listen: Some(At::nowhere(Listen(port.map(Port::to)))),
            ..Default::default()
        };
        Some(At::nowhere(probe))
    };
    unit.readiness = listen();
    unit.liveness = listen();
    if let Some(port) = port {
        let mut environment = super::values::Environment::default();
        environment
            .0
            .insert("PORT".to_owned(), At::nowhere(Confidential::literal(&port.0.to_string())));
        unit.environment = Some(At::nowhere(environment));
    }
    if !with_install {
        let restore = Name::new("restore").map(|name| At::nowhere(UnitName(name)));
        unit.requires = Some(At::nowhere(restore.into_iter().collect()));
        unit.part_of = None;
    }
}

/// Takes out of a standard unit what cannot stand beside what the file says: a probe is replaced as a whole, and so is what is run.
fn make_room(unit: &mut UnitFile, over: &UnitFile) {
    if over.readiness.is_some() {
        unit.readiness = None;
    }
    if over.liveness.is_some() {
        unit.liveness = None;
    }
    if over.exec.is_some() {
        unit.worker = None;
    }
    if over.worker.is_some() {
        unit.exec = None;
    }
}

/// Removes units that are not enabled, and what refers to them. A requirement that the file itself states is an error.
pub(super) fn prune(file: &mut File, faults: &mut Faults<'_>) {
    let Some(units) = &mut file.unit else { return };
    let disabled: Vec<Name> = units
        .value
        .0
        .iter()
        .filter(|(name, _)| !enabled(&units.value, name.value.as_str()))
        .map(|(name, _)| name.value.clone())
        .collect();
    units.value.0.retain(|(name, _)| !disabled.contains(&name.value));
    for (name, unit) in &mut units.value.0 {
        let unit = &mut unit.value;
        unit.enabled = None;
        let strong = [("requires", &mut unit.requires), ("binds_to", &mut unit.binds_to)];
        for (key, list) in strong {
            forget(list, &disabled, |gone| {
                let dotted = format!("unit.{}.{key}", name.value);
                let message = format!(
                    "`{}` {} `{}`, which is not enabled",
                    name.value,
                    key.replace('_', " "),
                    gone.value.0
                );
                faults.error(
                    &gone.span,
                    &dotted,
                    message,
                    Some("use `wants` or `after` for what may be missing".to_owned()),
                );
            });
        }
        for list in [&mut unit.wants, &mut unit.after, &mut unit.before, &mut unit.part_of] {
            forget(list, &disabled, |_| ());
        }
    }
}

/// Removes the names from the list; `missed` hears of those that stand in the file.
fn forget(list: &mut Option<At<Vec<At<UnitName>>>>, names: &[Name], mut missed: impl FnMut(&At<UnitName>)) {
    let Some(list) = list else { return };
    list.value.retain(|at| {
        let gone = names.contains(&at.value.0);
        if gone && at.span.is_some() {
            missed(at);
        }
        !gone
    });
}
