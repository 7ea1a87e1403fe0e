//! Units and configurations to try things with.
#![allow(dead_code, reason = "a kit, not every piece of which is in use")]

use sandkeep::unit::{Command, Config, Main, Name, Probe, ProbeCheck, ProbeKind, Service, Unit};
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) fn name(name: &str) -> Name {
    Name::new(name).expect("a valid name")
}

pub(crate) fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|n| name(n)).collect()
}

/// A simple unit with the defaults of the config, but no start timeout.
pub(crate) fn unit(called: &str) -> Unit {
    Unit {
        start_timeout: None,
        ..Unit::new(name(called), Main::Exec(Command::Shell(called.into())))
    }
}

pub(crate) fn oneshot(called: &str) -> Unit {
    Unit {
        service: Service::Oneshot { remain_after_exit: true },
        ..unit(called)
    }
}

pub(crate) fn notify(called: &str) -> Unit {
    Unit {
        service: Service::Notify,
        ..unit(called)
    }
}

pub(crate) fn probe(kind: ProbeKind) -> (ProbeKind, Probe) {
    (kind, Probe::new(ProbeCheck::Listen(Some(3000))))
}

pub(crate) fn shell(command: &str) -> Command {
    Command::Shell(command.into())
}

pub(crate) fn config(units: Vec<Unit>) -> Arc<Config> {
    Arc::new(Config {
        root: "/project".into(),
        ..Config::of_units(units)
    })
}

/// No actions at all, to compare with.
pub(crate) fn nothing() -> Vec<String> {
    vec![]
}
