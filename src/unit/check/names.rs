//! Units by name: what each says of others.

use super::super::faults::{At, Faults};
use super::super::file::{UnitFile, Units};
use super::super::graph::Edge;
use super::super::spec::{Name, Unit};
use super::super::spelling;
use super::super::values::UnitName;

/// What one unit can say of another.
struct Relation {
    key: &'static str,
    /// Between two names, in a sentence.
    verb: &'static str,
    direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// This one waits for the other.
    Waits,
    /// The other waits for this one.
    Awaited,
    /// Neither.
    None,
}

type Names<'a> = &'a Option<At<Vec<At<UnitName>>>>;

fn relations(unit: &UnitFile) -> [(Relation, Names<'_>); 6] {
    let relation = |key, verb, direction| Relation { key, verb, direction };
    [
        (relation("requires", "requires", Direction::Waits), &unit.requires),
        (relation("wants", "wants", Direction::Waits), &unit.wants),
        (relation("binds_to", "binds to", Direction::Waits), &unit.binds_to),
        (relation("after", "after", Direction::Waits), &unit.after),
        (relation("before", "before", Direction::Awaited), &unit.before),
        (relation("part_of", "is part of", Direction::None), &unit.part_of),
    ]
}

fn index(units: &Units, name: &Name) -> Option<usize> {
    units.0.iter().position(|(known, _)| known.value == *name)
}

/// The supervisor's own log has this name.
const OURS: &str = "sandkeep";

/// Names that a unit cannot have.
pub(super) fn reserved(units: &Units, faults: &mut Faults<'_>) {
    for (name, _) in units.0.iter().filter(|(name, _)| name.value.as_str() == OURS) {
        let message = format!("`{OURS}` cannot be a unit's name: the supervisor's own log has it");
        faults.error(
            &name.span,
            &format!("unit.{OURS}"),
            message,
            Some("give the unit another name".to_owned()),
        );
    }
}

/// Who waits for whom and why. Names of no unit are noted.
pub(super) fn edges(units: &Units, faults: &mut Faults<'_>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (at, (name, unit)) in units.0.iter().enumerate() {
        for (relation, names) in relations(&unit.value) {
            for other in names.iter().flat_map(|names| &names.value) {
                let Some(found) = index(units, &other.value.0) else {
                    unknown(&name.value, &relation, other, units, faults);
                    continue;
                };
                if relation.direction == Direction::None && found == at {
                    let key = format!("unit.{}.{}", name.value, relation.key);
                    faults.error(&other.span, &key, format!("`{}` cannot be part of itself", name.value), None);
                }
                edges.extend(edge(at, found, &relation, &name.value, other, faults));
            }
        }
    }
    edges
}

fn edge(at: usize, other: usize, relation: &Relation, name: &Name, named: &At<UnitName>, faults: &Faults<'_>) -> Option<Edge> {
    let (waiter, awaited) = match relation.direction {
        Direction::Waits => (at, other),
        Direction::Awaited => (other, at),
        Direction::None => return None,
    };
    let line = faults.line(&named.span).unwrap_or_else(|| "from `[project]`".to_owned());
    Some(Edge {
        waiter,
        awaited,
        because: format!("{name} {} {} ({line})", relation.verb, named.value.0),
    })
}

fn unknown(name: &Name, relation: &Relation, other: &At<UnitName>, units: &Units, faults: &mut Faults<'_>) {
    // A section whose own header is at fault is not missing.
    if faults.about(&format!("unit.{}", other.value.0)) {
        return;
    }
    let verb = match relation.key {
        "after" => "is to start after",
        "before" => "is to start before",
        _ => relation.verb,
    };
    let key = format!("unit.{name}.{}", relation.key);
    let message = format!("`{name}` {verb} `{}`, but no unit has that name", other.value.0);
    let others = units
        .0
        .iter()
        .map(|(known, _)| known.value.as_str())
        .filter(|known| *known != name.as_str());
    let near = spelling::nearest(other.value.0.as_str(), others);
    faults.error(&other.span, &key, message, near.map(|near| format!("did you mean `{near}`?")));
}

/// `web before db` is `db after web`: only `after` is left.
pub(super) fn fold_before(units: &Units, checked: &mut [Unit]) {
    for (name, unit) in &units.0 {
        for other in unit.value.before.iter().flat_map(|names| &names.value) {
            let Some(found) = index(units, &other.value.0) else { continue };
            let after = &mut checked[found].after;
            if !after.contains(&name.value) {
                after.push(name.value.clone());
            }
        }
    }
}
