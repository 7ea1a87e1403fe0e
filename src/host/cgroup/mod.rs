//! Cgroups, where version 2 of them is there and may be written: one for each unit.
//!
//! What a process cannot leave by forking, beginning a session or losing its parent: the kernel keeps it in its cgroup. So the end of a
//! unit is one write, and its memory, processes and CPU time can be limited and told.
//!
//! ```text
//! <the cgroup that we were started in>/
//!   sandkeep-<instance>-<hash of the runtime directory>/     the tree
//!     supervisor/                                            we, where we had to make room
//!     dev.unit/  sync.unit/  …                               a group for each unit
//! ```
//!
//! A cgroup that has processes may not give controllers to others below it ("no internal processes"; the machine's root alone may). So
//! before controllers are handed down we move into `supervisor`, where that is allowed. Controllers that are missing cost limits, not the
//! groups: what cannot be enforced is said by unit and key.
//!
//! Without any of it, [`super::set`] does with sessions, descent and marks alone.

mod find;
mod group;
mod stale;
mod tree;

pub use group::Usage;
pub(super) use stale::Stale;
pub(super) use tree::Tree;

/// What of cgroups there is, as status and `doctor` tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rung {
    /// Each unit has a cgroup of its own.
    pub groups: bool,
    /// The controllers that units' groups have: of `cpu`, `memory`, `pids`.
    pub controllers: Vec<String>,
    /// Why there are no groups, or not all controllers.
    pub reason: Option<String>,
}

impl Rung {
    /// Nothing, because of this.
    fn none(reason: String) -> Self {
        Self {
            groups: false,
            controllers: Vec::new(),
            reason: Some(reason),
        }
    }

    /// Those of a unit's limits that can be set here.
    fn within_reach(&self, limits: &crate::unit::Limits) -> crate::unit::Limits {
        let has = |name: &str| self.controllers.iter().any(|one| one == name);
        crate::unit::Limits {
            rlimits: std::collections::BTreeMap::new(),
            memory_max: limits.memory_max.filter(|_| has("memory")),
            tasks_max: limits.tasks_max.filter(|_| has("pids")),
            cpu_weight: limits.cpu_weight.filter(|_| has("cpu")),
        }
    }

    /// The keys of a unit that cannot be enforced here, each with the reason.
    pub fn missing(&self, limits: &crate::unit::Limits) -> Vec<String> {
        let wanted = [
            ("memory_max", limits.memory_max.is_some(), "memory"),
            ("tasks_max", limits.tasks_max.is_some(), "pids"),
            ("cpu_weight", limits.cpu_weight.is_some(), "cpu"),
        ];
        let missing = wanted
            .iter()
            .filter(|(_, wanted, controller)| *wanted && !self.controllers.iter().any(|one| one == controller));
        missing
            .map(|(key, _, controller)| {
                let reason = self.reason.as_deref().unwrap_or("the kernel does not offer it");
                format!("`{key}` has no effect: no cgroup v2 controller `{controller}` ({reason})")
            })
            .collect()
    }
}

/// Makes the tree of a supervisor's units, if they are wanted and can be had.
pub(super) fn open(runtime: &std::path::Path, wanted: bool) -> (Option<Tree>, Rung) {
    if wanted {
        Tree::open(runtime)
    } else {
        (None, Rung::none("turned off by SANDKEEP_CGROUPS=off".to_owned()))
    }
}

/// What could be had here, found without changing anything: what `check` and `doctor` say when no supervisor runs.
pub fn look() -> Rung {
    find::find_outside_of("").map_or_else(Rung::none, |place| place.prospect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_without_its_controller_is_named_with_the_reason() {
        let rung = Rung {
            groups: true,
            controllers: vec!["pids".to_owned()],
            reason: Some("cgroup v1 has the others".to_owned()),
        };
        let limits = crate::unit::Limits {
            memory_max: Some(1),
            tasks_max: Some(1),
            ..Default::default()
        };
        assert_eq!(
            rung.missing(&limits),
            ["`memory_max` has no effect: no cgroup v2 controller `memory` (cgroup v1 has the others)"]
        );
    }
}
