//! Whether a unit is to be started at all: its conditions, and whether its products are there already.

use super::environment::Environment;
use super::hashes;
use crate::unit::Unit;
use std::path::Path;

/// What looking at a unit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is to be started.
    Go,
    /// This condition is not met.
    Skip(String),
    /// It has been done: what it creates is there, and what it watches is as it was.
    Satisfied,
}

/// Looks at the conditions, in the order they are written, then at the products.
pub(super) fn look(unit: &Unit, environment: &Environment, root: &Path, state: &Path) -> Verdict {
    let unmet = unit
        .condition_environment
        .iter()
        .find_map(|condition| environment_unmet(condition, environment));
    let unmet = unmet.or_else(|| {
        unit.condition_path_exists
            .iter()
            .find_map(|(wanted, path)| path_unmet(*wanted, path))
    });
    if let Some(reason) = unmet {
        return Verdict::Skip(reason);
    }
    let created = !unit.creates.is_empty() && unit.creates.iter().all(|path| path.exists());
    if created && hashes::changed(unit, root, state).is_none() {
        Verdict::Satisfied
    } else {
        Verdict::Go
    }
}

fn environment_unmet(condition: &str, environment: &Environment) -> Option<String> {
    let (wanted, condition) = condition.strip_prefix('!').map_or((true, condition), |rest| (false, rest));
    let (met, what) = match condition.split_once('=') {
        Some((name, value)) => (
            environment.value(name).is_some_and(|seen| seen == value),
            if wanted { "has another value" } else { "has this value" },
        ),
        None => (
            environment.value(condition).is_some_and(|value| !value.is_empty()),
            if wanted { "is not set" } else { "is set" },
        ),
    };
    let name = condition.split('=').next().unwrap_or(condition);
    (met != wanted).then(|| format!("condition_environment: `{name}` {what}"))
}

fn path_unmet(wanted: bool, path: &Path) -> Option<String> {
    let what = if wanted { "does not exist" } else { "exists" };
    (path.exists() != wanted).then(|| format!("condition_path_exists: `{}` {what}", path.display()))
}
