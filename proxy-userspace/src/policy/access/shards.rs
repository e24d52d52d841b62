//! A map that is cheap to copy and to change: what a change touches is copied, the rest is shared with
//! the snapshots before it.

use std::{
    borrow::Borrow,
    collections::{HashMap, hash_map::DefaultHasher},
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
    sync::Arc,
};

/// Parts of a map: a change copies one of them.
const SHARDS: u64 = 256;

type Shard<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// See the module.
#[derive(Clone)]
pub(super) struct Shards<K, V> {
    shards: Vec<Arc<Shard<K, V>>>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Arc::default()).collect() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    pub(super) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards.get(place(key))?.get(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if let Some(shard) = self.shards.get_mut(place(&key)) {
            Arc::make_mut(shard).insert(key, value);
        }
    }

    pub(super) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Some(shard) = self.shards.get_mut(place(key)).filter(|shard| shard.contains_key(key)) {
            Arc::make_mut(shard).remove(key);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }
}

fn place<Q: Hash + ?Sized>(key: &Q) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // The map below takes the upper bits.
    usize::try_from(hasher.finish() % SHARDS).unwrap_or_default()
}

impl<K, V> fmt::Debug for Shards<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_it_had_and_shares_what_did_not_change() {
        let mut map = Shards::default();
        (0..1000).for_each(|n| map.insert(n, n));
        let before = map.clone();
        map.insert(7, 70);
        map.remove(&8);
        map.remove(&5000);
        assert_eq!((before.get(&7), before.get(&8), before.len()), (Some(&7), Some(&8), 1000));
        assert_eq!((map.get(&7), map.get(&8), map.len()), (Some(&70), None, 999));
        let shared = map.shards.iter().zip(&before.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert!(shared >= 254, "{shared}");
    }
}
