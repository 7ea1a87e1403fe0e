//! Ordered maps out of iterators, and ordered slices, without a copy of std's sort for each.
//!
//! `collect` sorts before it builds a `BTreeMap`, with a comparison whose type names the iterator: each kind of iterator brings a copy of
//! std's whole stable sort into the binary, some 4.5 KB. Putting in one entry after the other is shared by all maps of the same types.
//!
//! The price: entries that come in order leave the map's nodes half full, where `collect` fills them. It counts for a big map that
//! lives long.
//!
//! In the same way `sort` is made anew for every type and every comparison. [`Order`] sorts the places instead, of which there is one kind.
//! It takes somewhat longer: where bytes pass by, std's is the right one.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What an iterator of entries is asked for instead of `collect::<BTreeMap<_, _>>()`.
pub trait IntoMap<K: Ord, V>: Iterator<Item = (K, V)> + Sized {
    /// The map of these entries. Of several values for the same key the last one stays.
    fn into_map(self) -> BTreeMap<K, V> {
        let mut map = BTreeMap::new();
        for (key, value) in self {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord, V, I: Iterator<Item = (K, V)>> IntoMap<K, V> for I {}

/// What an iterator of entries that may fail is asked for instead of `collect::<Result<BTreeMap<_, _>, _>>()`.
pub trait TryIntoMap<K: Ord, V, E>: Iterator<Item = Result<(K, V), E>> + Sized {
    /// The map of these entries. Of several values for the same key the last one stays.
    ///
    /// # Errors
    ///
    /// The first one that the iterator gives; what comes after it is not asked for.
    fn try_into_map(self) -> Result<BTreeMap<K, V>, E> {
        let mut map = BTreeMap::new();
        for entry in self {
            let (key, value) = entry?;
            map.insert(key, value);
        }
        Ok(map)
    }
}

impl<K: Ord, V, E, I: Iterator<Item = Result<(K, V), E>>> TryIntoMap<K, V, E> for I {}

/// What a slice is asked for instead of `sort`, `sort_by` and `sort_by_key`. What is equal stays as it was, one before the other.
pub trait Order<T> {
    /// As `sort_by`.
    fn order_by(&mut self, compare: impl FnMut(&T, &T) -> Ordering);

    /// As `sort_by_key`.
    fn order_by_key<K: Ord>(&mut self, mut key: impl FnMut(&T) -> K) {
        self.order_by(|a, b| key(a).cmp(&key(b)));
    }

    /// As `sort`.
    fn order(&mut self)
    where
        T: Ord,
    {
        self.order_by(Ord::cmp);
    }
}

impl<T> Order<T> for [T] {
    fn order_by(&mut self, mut compare: impl FnMut(&T, &T) -> Ordering) {
        let places = places(self.len(), &mut |a, b| compare(&self[a], &self[b]));
        arrange(places, &mut |a, b| self.swap(a, b));
    }
}

/// For each place the one whose value belongs there.
fn places(count: usize, compare: &mut dyn FnMut(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

/// Brings the values there, going round each ring of places that wait for one another.
fn arrange(mut places: Vec<usize>, swap: &mut dyn FnMut(usize, usize)) {
    for start in 0..places.len() {
        let mut at = start;
        while places[at] != start {
            let next = places[at];
            swap(at, next);
            places[at] = at;
            at = next;
        }
        places[at] = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_order_and_the_last_of_a_key_stays() {
        let map = [("b", 1), ("c", 2), ("a", 3), ("b", 4)].into_iter().into_map();
        assert_eq!(map.into_iter().collect::<Vec<_>>(), [("a", 3), ("b", 4), ("c", 2)]);
    }

    proptest::proptest! {
        #[test]
        fn slices_are_ordered_as_std_orders_them(values: Vec<(u8, u16)>) {
            let (mut mine, mut std) = (values.clone(), values);
            mine.order_by_key(|value| value.0);
            std.sort_by_key(|value| value.0);
            assert_eq!(mine, std);
            mine.order();
            std.sort();
            assert_eq!(mine, std);
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let good: Result<_, &str> = [Ok(("b", 1)), Ok(("a", 2)), Ok(("b", 3))].into_iter().try_into_map();
        assert_eq!(good, Ok(BTreeMap::from([("a", 2), ("b", 3)])));

        let mut entries = [Ok(("a", 1)), Err("first"), Err("second"), Ok(("b", 2))].into_iter();
        assert_eq!(entries.by_ref().try_into_map(), Err("first"));
        assert_eq!(entries.next(), Some(Err("second")));
    }
}
