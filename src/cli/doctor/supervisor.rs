//! The supervisor: whether one runs, of which version, and how its units are.

use super::{Finding, Patient};
use crate::control::StatusDocument;
use crate::control::client::ClientError;
use crate::control::document::UnitState;

pub(super) fn runs(asked: &Result<StatusDocument, ClientError>) -> Finding {
    let about = "supervisor";
    match asked {
        Ok(status) if status.version != env!("CARGO_PKG_VERSION") => {
            let said = format!(
                "pid {} runs {}, and this is {}",
                status.pid,
                status.version,
                env!("CARGO_PKG_VERSION")
            );
            Finding::warn(about, said).hint("`sandkeep upgrade` executes this one in its place")
        }
        Ok(status) => Finding::ok(about, format!("pid {}, {}", status.pid, status.status.as_str())),
        Err(ClientError::NoSupervisor { .. }) => Finding::ok(about, "none runs"),
        Err(error) => Finding::fail(about, error.to_string()),
    }
}

pub(super) fn findings(patient: &Patient) -> Vec<Finding> {
    let Some(status) = &patient.status else {
        return vec![rights(None)];
    };
    let mut findings = vec![rights(Some(status))];
    for unit in &status.units {
        let reason = unit.reason.as_deref().unwrap_or("no reason is known");
        let about = format!("unit {}", unit.name);
        let why = format!("`sandkeep why {}`", unit.name);
        match unit.state {
            UnitState::Failed if unit.required => findings.push(Finding::fail(about, format!("failed: {reason}")).hint(why)),
            UnitState::Failed => findings.push(Finding::warn(about, format!("failed: {reason}")).hint(why)),
            _ if unit.restarts > 3 => {
                findings.push(Finding::warn(about, format!("was started again {} times", unit.restarts)).hint(why));
            }
            UnitState::Inactive
            | UnitState::Activating
            | UnitState::Active
            | UnitState::Reloading
            | UnitState::Deactivating
            | UnitState::Skipped => {}
        }
    }
    let sync = &status.sync;
    if sync.is_degraded() {
        let lag = crate::cli::out::span(std::time::Duration::from_millis(sync.oldest_unsynced_ms));
        let said = format!(
            "{}, {} changes are not in the store, the oldest since {lag}",
            sync.state, sync.pending
        );
        findings.push(Finding::fail("sync", said).hint("`sandkeep why sync`"));
    }
    if let Some(reason) = &status.preview.reason {
        findings.push(Finding::warn("preview", reason.clone()));
    }
    findings
}

/// What the supervisor may, or would if it ran.
fn rights(status: Option<&StatusDocument>) -> Finding {
    let about = "capabilities";
    let root = status.map_or_else(|| nix::unistd::geteuid().is_root(), |status| status.capabilities.root);
    let words = status.map_or_else(Vec::new, |status| {
        let can = &status.capabilities;
        let all = [(can.pid1, "PID 1"), (can.subreaper, "subreaper"), (can.cgroup2, "cgroup v2")];
        all.into_iter().filter(|(has, _)| *has).map(|(_, word)| word).collect()
    });
    let user = if root { "root" } else { "an ordinary user" };
    let said = [vec![user], words].concat().join(", ");
    if status.is_some_and(|status| !status.capabilities.subreaper) {
        return Finding::warn(about, said)
            .hint("orphans of units cannot be adopted here: what a unit leaves behind is searched for by other means");
    }
    Finding::ok(about, said)
}
