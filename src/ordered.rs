//! Ordered maps out of iterators, without a sort.
//!
//! `collect` sorts before it builds a `BTreeMap`, with a comparison whose type names the iterator: each kind of iterator brings a copy of
//! std's whole stable sort into the binary, some 4.5 KB. Putting in one entry after the other is shared by all maps of the same types.
//!
//! The price: entries that come in order leave the map's nodes half full, where `collect` fills them. It counts for a big map that
//! lives long.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_order_and_the_last_of_a_key_stays() {
        let map = [("b", 1), ("c", 2), ("a", 3), ("b", 4)].into_iter().into_map();
        assert_eq!(map.into_iter().collect::<Vec<_>>(), [("a", 3), ("b", 4), ("c", 2)]);
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
