//! Who is ordered after whom, by number: names are looked up once, when the units change.

use super::node::Node;
use crate::ordered::IntoMap;
use crate::unit::Name;
use std::collections::BTreeMap;

/// A unit's place in the table.
pub(super) type Id = usize;

/// The edges of the table; the units come in start order.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    pub(super) ids: BTreeMap<Name, Id>,
    edges: Vec<Edges>,
}

/// The edges of one unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Edges {
    pub(super) requires: Vec<Id>,
    pub(super) binds_to: Vec<Id>,
    pub(super) wants: Vec<Id>,
    /// `wants` and `after`: ordered, but not required.
    pub(super) after: Vec<Id>,
    /// Those that are ordered after it, whatever the kind.
    pub(super) followers: Vec<Id>,
    /// Those that stop when it is stopped: they require it, are bound to it or part of it.
    pub(super) dependents: Vec<Id>,
    /// Those that restart when it is restarted for a changed config or content: bound to it or part of it.
    pub(super) parts: Vec<Id>,
}

impl Graph {
    pub(super) fn new(nodes: &[Node]) -> Self {
        let ids = nodes.iter().enumerate().map(|(id, node)| (node.spec.name.clone(), id)).into_map();
        let mut edges: Vec<Edges> = vec![Edges::default(); nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            let find = |names: &[Name]| -> Vec<Id> { names.iter().filter_map(|name| ids.get(name).copied()).collect() };
            let spec = &node.spec;
            let (requires, binds_to, wants) = (find(&spec.requires), find(&spec.binds_to), find(&spec.wants));
            let after = [wants.clone(), find(&spec.after)].concat();
            let parts = find(&spec.part_of);
            for &to in requires.iter().chain(&binds_to).chain(&after) {
                add(&mut edges[to].followers, id);
            }
            for &to in requires.iter().chain(&binds_to).chain(&parts) {
                add(&mut edges[to].dependents, id);
            }
            for &to in binds_to.iter().chain(&parts) {
                add(&mut edges[to].parts, id);
            }
            let own = &mut edges[id];
            (own.requires, own.binds_to, own.wants, own.after) = (requires, binds_to, wants, after);
        }
        Self { ids, edges }
    }

    pub(super) fn of(&self, id: Id) -> &Edges {
        &self.edges[id]
    }

    /// These and all that is reached from them, each once, in the order of the table.
    pub(super) fn closure(&self, from: &[Id], next: impl Fn(&Edges) -> Vec<Id>) -> Vec<Id> {
        let mut seen = vec![false; self.edges.len()];
        let mut stack = from.to_vec();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut seen[id], true) {
                stack.extend(next(&self.edges[id]));
            }
        }
        (0..seen.len()).filter(|&id| seen[id]).collect()
    }
}

/// Followers come in order of their number, so that a repeated one is the last.
fn add(list: &mut Vec<Id>, id: Id) {
    if list.last() != Some(&id) {
        list.push(id);
    }
}
