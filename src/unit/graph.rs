//! The order in which units start, and the cycles that allow none.

/// `waiter` starts after `awaited`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) waiter: usize,
    pub(super) awaited: usize,
    /// What makes it so, for people: `web requires api (sandkeep.toml:4)`.
    pub(super) because: String,
}

/// Units in start order, by index: each after all that it waits for, else as given.
///
/// # Errors
/// Cycles, each as the reasons of its edges in the order in which they wait; no two share a unit.
pub(super) fn order(count: usize, edges: &[Edge]) -> Result<Vec<usize>, Vec<Vec<String>>> {
    let mut order = Vec::with_capacity(count);
    let mut done = vec![false; count];
    let mut cycles = Vec::new();
    while order.len() < count {
        let next = (0..count).find(|unit| !done[*unit] && blocking(*unit, edges, &done).is_none());
        let settled = match next {
            Some(unit) => vec![unit],
            None => {
                let cycle = cycle(edges, &done);
                cycles.push(cycle.iter().map(|edge| edge.because.clone()).collect());
                cycle.iter().map(|edge| edge.waiter).collect()
            }
        };
        for unit in settled {
            done[unit] = true;
            order.push(unit);
        }
    }
    if cycles.is_empty() { Ok(order) } else { Err(cycles) }
}

fn blocking<'e>(unit: usize, edges: &'e [Edge], done: &[bool]) -> Option<&'e Edge> {
    edges.iter().find(|edge| edge.waiter == unit && !done[edge.awaited])
}

/// Called when every unit that is not done waits for another such: following them must come round.
fn cycle<'e>(edges: &'e [Edge], done: &[bool]) -> Vec<&'e Edge> {
    let mut path: Vec<&Edge> = Vec::new();
    let mut unit = done.iter().position(|done| !done).expect("a unit is left");
    loop {
        if let Some(start) = path.iter().position(|edge| edge.waiter == unit) {
            let mut cycle = path.split_off(start);
            let first = (0..cycle.len()).min_by_key(|at| cycle[*at].waiter).unwrap_or(0);
            cycle.rotate_left(first);
            return cycle;
        }
        let edge = blocking(unit, edges, done).expect("every unit that is left waits for another");
        path.push(edge);
        unit = edge.awaited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edges(pairs: &[(usize, usize)]) -> Vec<Edge> {
        let edge = |&(waiter, awaited): &(usize, usize)| Edge {
            waiter,
            awaited,
            because: format!("{waiter}→{awaited}"),
        };
        pairs.iter().map(edge).collect()
    }

    #[test]
    fn keeps_the_order_given_where_it_may() {
        assert_eq!(order(4, &edges(&[(1, 3)])), Ok(vec![0, 2, 3, 1]));
        assert_eq!(order(0, &[]), Ok(Vec::new()));
    }

    #[test]
    fn finds_each_cycle() {
        let found = order(6, &edges(&[(0, 1), (1, 2), (2, 1), (3, 3), (5, 4)]));
        assert_eq!(found, Err(vec![vec!["1→2".to_owned(), "2→1".to_owned()], vec!["3→3".to_owned()]]));
    }

    proptest! {
        #[test]
        fn orders_or_shows_a_cycle(pairs in proptest::collection::vec((0_usize..8, 0_usize..8), 0..20)) {
            let edges = edges(&pairs);
            match order(8, &edges) {
                Ok(order) => {
                    let place = |unit: usize| order.iter().position(|other| *other == unit);
                    for edge in &edges {
                        prop_assert!(place(edge.awaited) < place(edge.waiter));
                    }
                }
                Err(cycles) => {
                    for cycle in cycles {
                        let ends: Vec<(&str, &str)> = cycle.iter().filter_map(|text| text.split_once('→')).collect();
                        for (at, (_, to)) in ends.iter().enumerate() {
                            prop_assert_eq!(*to, ends[(at + 1) % ends.len()].0);
                        }
                    }
                }
            }
        }
    }
}
