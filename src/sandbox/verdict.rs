//! What a status document means to who waits for a project: still on its way, there, or never.
#![deny(clippy::disallowed_methods, clippy::disallowed_types, clippy::wildcard_enum_match_arm)]

use super::fault::{Code, Fault};
use crate::control::document::{Status, StatusDocument, UnitState, UnitStatus};
use crate::ordered::IntoMap;
use std::collections::BTreeMap;

/// A dev command that ended so often without getting ready does not get there by another try.
const ENOUGH_ENDS: u64 = 3;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The project is installed.
    Installed,
    /// Every required unit is ready.
    Ready,
}

/// What comes of the wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Wait,
    /// What was waited for is there.
    There,
    /// It will not come.
    Never(Failed),
}

/// Why it will not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The unit whose last lines tell more.
    pub unit: Option<String>,
    /// In short.
    pub fault: Fault,
}

/// How often each unit had been started again when the wait began.
pub type Restarts = BTreeMap<String, u64>;

/// The restarts of a document.
pub fn restarts(document: &StatusDocument) -> Restarts {
    document.units.iter().map(|unit| (unit.name.clone(), unit.restarts)).into_map()
}

/// Judges a document.
pub fn judge(document: &StatusDocument, until: Until, before: &Restarts) -> Verdict {
    if let Some(failed) = document.units.iter().find_map(|unit| given_up(unit, document, before)) {
        return Verdict::Never(failed);
    }
    if document.status == Status::Stopping {
        return Verdict::Never(Failed {
            unit: None,
            fault: Fault::new(Code::NotReady, "the supervisor is being stopped").hint("run `sandkeep sandbox start` again when it is down"),
        });
    }
    let there = match until {
        Until::Ready => document.ready,
        Until::Installed => document
            .units
            .iter()
            .filter(|unit| matches!(unit.name.as_str(), "restore" | "install"))
            .all(|unit| unit.ready || unit.state == UnitState::Skipped || !unit.required),
    };
    if there { Verdict::There } else { Verdict::Wait }
}

/// Judges a document when there is no more time.
pub fn late(document: &StatusDocument, until: Until, waited: &str) -> Failed {
    let unready = |unit: &&UnitStatus| unit.required && !unit.ready && unit.state != UnitState::Skipped;
    let wanted = |unit: &&UnitStatus| until == Until::Ready || matches!(unit.name.as_str(), "restore" | "install");
    let Some(unit) = document.units.iter().filter(unready).find(wanted) else {
        return Failed {
            unit: None,
            fault: Fault::new(Code::NotReady, format!("the sandbox is not ready after {waited}")),
        };
    };
    let name = &unit.name;
    let fault = match name.as_str() {
        "dev" if unit.restarts > 0 && unit.sub_state == "auto-restart" => dev_exited(unit),
        "dev" => port_never_opened(document, waited),
        "install" => Fault::new(Code::InstallFailed, format!("the install command has not ended after {waited}"))
            .hint("give it more time with `--wait`"),
        _ => Fault::new(
            Code::NotReady,
            format!("unit `{name}` is not ready after {waited}{}", because(unit)),
        ),
    };
    Failed {
        unit: Some(name.clone()),
        fault,
    }
}

/// A required unit that will not get ready any more.
fn given_up(unit: &UnitStatus, document: &StatusDocument, before: &Restarts) -> Option<Failed> {
    if !unit.required || unit.ready {
        return None;
    }
    let started_again = unit.restarts.saturating_sub(before.get(&unit.name).copied().unwrap_or(0));
    let timed_out = unit.last_exit.as_ref().is_some_and(|exit| exit.reason == "timeout");
    let failed = unit.state == UnitState::Failed && !unit.reason.as_deref().unwrap_or_default().contains("dependency");
    let fault = match unit.name.as_str() {
        "install" if failed => Fault::new(Code::InstallFailed, format!("the install command failed{}", because(unit)))
            .hint("its output is above; `--install` gives another command"),
        "dev" if timed_out && (failed || started_again > 0) => port_never_opened(document, "its start timeout"),
        "dev" if failed || started_again >= ENOUGH_ENDS => dev_exited(unit),
        _ if failed => Fault::new(Code::NotReady, format!("unit `{}` failed{}", unit.name, because(unit))),
        _ => return None,
    };
    Some(Failed {
        unit: Some(unit.name.clone()),
        fault,
    })
}

fn because(unit: &UnitStatus) -> String {
    let exit = unit.last_exit.as_ref().and_then(|exit| match (exit.code, exit.signal) {
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, Some(signal)) => Some(format!("signal {signal}")),
        (None, None) => None,
    });
    let why = exit.or_else(|| unit.reason.clone());
    why.map_or_else(String::new, |why| format!(": {why}"))
}

fn dev_exited(unit: &UnitStatus) -> Fault {
    Fault::new(Code::DevExited, format!("the dev command ends instead of serving{}", because(unit)))
        .hint("its output is above; `--dev` gives another command")
}

fn port_never_opened(document: &StatusDocument, waited: &str) -> Fault {
    let port = document.preview.port;
    let what = port.map_or_else(|| "its port".to_owned(), |port| format!("port {port}"));
    let fault = Fault::new(
        Code::PortNeverOpened,
        format!("the dev command runs, but {what} did not open within {waited}"),
    );
    let reason = document.preview.reason.clone().filter(|_| document.preview.state != "off");
    fault.hint(reason.unwrap_or_else(|| "`--port` says where it listens, `--wait` how long to wait".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::document::{AgentPart, BoxFacts, Capabilities, LastExit, Preview, SecretIsolation, SyncPart, Time};

    fn unit(name: &str, state: UnitState, ready: bool) -> UnitStatus {
        UnitStatus {
            name: name.to_owned(),
            state,
            ready,
            required: true,
            ..UnitStatus::default()
        }
    }

    fn exited(mut unit: UnitStatus, restarts: u64, reason: &str) -> UnitStatus {
        unit.restarts = restarts;
        unit.sub_state = "auto-restart".to_owned();
        unit.last_exit = Some(LastExit {
            code: Some(1),
            signal: None,
            reason: reason.to_owned(),
            at: Time(jiff::Timestamp::UNIX_EPOCH),
            message: None,
        });
        unit
    }

    fn document(units: Vec<UnitStatus>) -> StatusDocument {
        StatusDocument {
            project: String::new(),
            sandbox: String::new(),
            boot_id: String::new(),
            version: String::new(),
            config_hash: String::new(),
            pid: 1,
            started_at: Time(jiff::Timestamp::UNIX_EPOCH),
            upgrade: None,
            expires_at: None,
            status: Status::Starting,
            ready: units.iter().all(|unit| unit.ready || !unit.required),
            capabilities: Capabilities::default(),
            secret_isolation: SecretIsolation::None,
            secret_isolation_reason: String::new(),
            machine: BoxFacts::default(),
            units,
            preview: Preview {
                port: Some(3000),
                ..Preview::default()
            },
            sync: SyncPart::default(),
            agent: AgentPart::default(),
        }
    }

    fn code(verdict: Verdict) -> Option<Code> {
        match verdict {
            Verdict::Never(failed) => Some(failed.fault.code),
            Verdict::Wait | Verdict::There => None,
        }
    }

    #[test]
    fn installed_is_there_before_ready() {
        let mut skipped = unit("restore", UnitState::Skipped, false);
        skipped.required = false;
        let units = vec![
            skipped,
            unit("install", UnitState::Active, true),
            unit("dev", UnitState::Activating, false),
        ];
        let document = document(units);
        assert_eq!(judge(&document, Until::Installed, &Restarts::new()), Verdict::There);
        assert_eq!(judge(&document, Until::Ready, &Restarts::new()), Verdict::Wait);
    }

    #[test]
    fn what_will_never_be_is_said_at_once() {
        let none = Restarts::new();
        let failing = exited(unit("install", UnitState::Failed, false), 0, "exit-code");
        let mut waiting = unit("dev", UnitState::Failed, false);
        waiting.reason = Some("dependency install".to_owned());
        let broken = document(vec![failing, waiting]);
        assert_eq!(code(judge(&broken, Until::Installed, &none)), Some(Code::InstallFailed));

        let dev = |restarts, reason| document(vec![exited(unit("dev", UnitState::Activating, false), restarts, reason)]);
        assert_eq!(
            judge(&dev(2, "exit-code"), Until::Ready, &none),
            Verdict::Wait,
            "the agent may repair it"
        );
        assert_eq!(code(judge(&dev(3, "exit-code"), Until::Ready, &none)), Some(Code::DevExited));
        let earlier: Restarts = [("dev".to_owned(), 3)].into();
        assert_eq!(
            judge(&dev(4, "exit-code"), Until::Ready, &earlier),
            Verdict::Wait,
            "of this wait alone"
        );
        assert_eq!(code(judge(&dev(1, "timeout"), Until::Ready, &none)), Some(Code::PortNeverOpened));
    }

    #[test]
    fn late_is_told_by_what_is_missing() {
        let dev = document(vec![
            unit("install", UnitState::Active, true),
            unit("dev", UnitState::Activating, false),
        ]);
        let failed = late(&dev, Until::Ready, "20s");
        assert_eq!((failed.fault.code, failed.unit.as_deref()), (Code::PortNeverOpened, Some("dev")));
        assert!(failed.fault.message.contains("port 3000") && failed.fault.message.contains("20s"));
        let ends = document(vec![exited(unit("dev", UnitState::Activating, false), 2, "exit-code")]);
        assert_eq!(late(&ends, Until::Ready, "20s").fault.code, Code::DevExited);
        let install = document(vec![
            unit("install", UnitState::Activating, false),
            unit("dev", UnitState::Inactive, false),
        ]);
        assert_eq!(late(&install, Until::Ready, "20s").fault.code, Code::InstallFailed);
    }
}
