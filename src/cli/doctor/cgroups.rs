//! The cgroups: which rung of the ladder there is, and which limits of the configuration have no effect because of it.

use super::{Finding, Patient};
use crate::host::{CgroupRung, look_at_cgroups};

pub(super) fn findings(patient: &Patient) -> Vec<Finding> {
    let rung = patient.status.as_ref().map_or_else(look_at_cgroups, |status| CgroupRung {
        groups: status.capabilities.cgroup2,
        controllers: status.capabilities.cgroup_controllers.clone(),
        reason: status.capabilities.cgroup_reason.clone(),
    });
    let mut findings = vec![Finding::ok("cgroups", describe(&rung))];
    for unit in patient.config.iter().flat_map(|config| &config.units) {
        let missing = rung.missing(&unit.limits).into_iter();
        findings.extend(missing.map(|message| Finding::warn(format!("unit {}", unit.name), message)));
    }
    findings
}

/// The rung in words.
fn describe(rung: &CgroupRung) -> String {
    let reason = rung.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    match (rung.groups, rung.controllers.is_empty()) {
        (false, _) => format!("none: the processes of a unit are found by session, descent and mark{reason}"),
        (true, true) => format!("one for each unit, without limits{reason}"),
        (true, false) => format!("one for each unit, with limits by {}{reason}", rung.controllers.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rung_is_told() {
        let rung = |groups, controllers: &[&str], reason: Option<&str>| CgroupRung {
            groups,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            reason: reason.map(str::to_owned),
        };
        assert_eq!(
            describe(&rung(false, &[], Some("not mounted"))),
            "none: the processes of a unit are found by session, descent and mark (not mounted)"
        );
        assert_eq!(describe(&rung(true, &[], None)), "one for each unit, without limits");
        assert_eq!(
            describe(&rung(true, &["cpu", "pids"], None)),
            "one for each unit, with limits by cpu, pids"
        );
    }
}
