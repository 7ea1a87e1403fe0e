//! Two sorted maps, read side by side: what both have meets, in one pass instead of a search for each.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Every key of either map, in order, with what each has under it.
pub(super) fn side_by_side<'a, K: Ord, A, B>(
    left: &'a BTreeMap<K, A>,
    right: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let a = if order.is_le() { left.next() } else { None };
        let b = if order.is_ge() { right.next() } else { None };
        let key = a.map(|(key, _)| key).or(b.map(|(key, _)| key))?;
        Some((key, a.map(|(_, value)| value), b.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_a_search_for_each_finds(
            left in proptest::collection::btree_map(0_u8..20, any::<u8>(), 0..20),
            right in proptest::collection::btree_map(0_u8..20, any::<u8>(), 0..20),
        ) {
            let found: Vec<_> = side_by_side(&left, &right).collect();
            let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
            let wanted: Vec<_> = keys.into_iter().map(|key| (key, left.get(key), right.get(key))).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
