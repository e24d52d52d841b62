//! A hash map whose clones share what neither has changed: cloning takes one reference, a change
//! copies the one shard that it falls into, and two clones are compared where they differ alone.
//! A small map is one shard: there are many of those, and shards take room.
//! Reading is one lookup in an ordinary hash table, for it is on the way of every request.

use hashbrown::HashTable;
use std::{
    borrow::Borrow,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    ops::Index,
    sync::{Arc, LazyLock},
};

/// A change copies one reference a shard, and the entries of one: about as many at 100 000 entries.
const SHARDS: usize = 512;
/// Entries from which on a map has more shards than one.
const SMALL: usize = 128;

/// One for all maps: a key is in the same shard of each.
static HASHING: LazyLock<RandomState> = LazyLock::new(RandomState::new);

type Shard<K, V> = Arc<HashTable<(K, V)>>;

/// See the module. Unordered, as a `HashMap` is.
pub struct Sharded<K, V> {
    /// None until the first entry comes, then one, then [`SHARDS`], and never fewer again.
    shards: Arc<Vec<Shard<K, V>>>,
    len: usize,
}

impl<K, V> Clone for Sharded<K, V> {
    fn clone(&self) -> Self {
        Self { shards: Arc::clone(&self.shards), len: self.len }
    }
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        Self { shards: Arc::default(), len: 0 }
    }
}

impl<K, V> Sharded<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    /// Every key, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

fn hash<Q: Hash + ?Sized>(key: &Q) -> u64 {
    HASHING.hash_one(key)
}

/// Of so many shards the one that a hash falls into.
fn shard_of(hash: u64, shards: usize) -> usize {
    // The tables use the lowest bits and the highest.
    ((hash >> 24) % shards.max(1) as u64) as usize
}

impl<K: Hash + Eq, V> Sharded<K, V> {
    /// The value under a key.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = hash(key);
        let shard = self.shards.get(shard_of(hash, self.shards.len()))?;
        shard.find(hash, |(own, _)| own.borrow() == key).map(|(_, value)| value)
    }

    /// Whether the key is there.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(key).is_some()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    fn shard_mut(&mut self, hash: u64) -> Option<&mut HashTable<(K, V)>> {
        if self.shards.is_empty() {
            self.shards = Arc::new(vec![Arc::default()]);
        }
        let index = shard_of(hash, self.shards.len());
        Arc::make_mut(&mut self.shards).get_mut(index).map(Arc::make_mut)
    }

    /// Deals the entries of the one shard out to many.
    fn spread(&mut self) {
        let mut shards: Vec<HashTable<(K, V)>> = (0..SHARDS).map(|_| HashTable::new()).collect();
        for (key, value) in self.iter() {
            let hash = hash(key);
            if let Some(shard) = shards.get_mut(shard_of(hash, SHARDS)) {
                let entry = (key.clone(), value.clone());
                shard.insert_unique(hash, entry, |(key, _)| HASHING.hash_one(key));
            }
        }
        self.shards = Arc::new(shards.into_iter().map(Arc::new).collect());
    }

    /// Puts a value under a key; the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.len == SMALL && self.shards.len() == 1 {
            self.spread();
        }
        let hash = hash(&key);
        let shard = self.shard_mut(hash)?;
        if let Some((_, old)) = shard.find_mut(hash, |(own, _)| *own == key) {
            return Some(std::mem::replace(old, value));
        }
        shard.insert_unique(hash, (key, value), |(key, _)| HASHING.hash_one(key));
        self.len += 1;
        None
    }

    /// Takes a key's value away. Without one nothing is copied.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(key)?;
        let hash = hash(key);
        let entry = self.shard_mut(hash)?.find_entry(hash, |(own, _)| own.borrow() == key).ok()?;
        let ((_, value), _) = entry.remove();
        self.len -= 1;
        Some(value)
    }

    /// The value under a key, to be changed; a default one where there is none.
    pub fn entry_or_default(&mut self, key: K) -> Option<&mut V>
    where
        V: Default,
    {
        if !self.contains_key(&key) {
            self.insert(key.clone(), V::default());
        }
        let hash = hash(&key);
        self.shard_mut(hash)?.find_mut(hash, |(own, _)| *own == key).map(|(_, value)| value)
    }
}

impl<K: Hash + Eq, V: PartialEq> Sharded<K, V> {
    /// Keys that only one of the two has, or whose values differ; each once. Shards that both
    /// share are not looked at.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<&'a K> {
        let mut keys = Vec::new();
        for index in 0..self.shards.len().max(other.shards.len()) {
            let (own, others) = (self.shards.get(index), other.shards.get(index));
            if let (Some(own), Some(others)) = (own, others)
                && Arc::ptr_eq(own, others)
            {
                continue;
            }
            let entries = |shard: Option<&'a Shard<K, V>>| shard.into_iter().flat_map(|shard| shard.iter());
            keys.extend(
                entries(own).filter(|(key, value)| other.get(key) != Some(value)).map(|(key, _)| key),
            );
            keys.extend(entries(others).filter(|(key, _)| !self.contains_key(key)).map(|(key, _)| key));
        }
        keys
    }
}

impl<K: Hash + Eq, V: PartialEq> PartialEq for Sharded<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let holds = |(key, value): &(K, V)| other.get(key) == Some(value);
        let same = |(index, own): (usize, &Shard<K, V>)| {
            other.shards.get(index).is_some_and(|others| Arc::ptr_eq(own, others)) || own.iter().all(holds)
        };
        // As many entries, and each of ours: then there are no others.
        self.len == other.len
            && (self.len == 0
                || Arc::ptr_eq(&self.shards, &other.shards)
                || self.shards.iter().enumerate().all(same))
    }
}

impl<K: Hash + Eq, V: Eq> Eq for Sharded<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Sharded<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Extend<(K, V)> for Sharded<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> FromIterator<(K, V)> for Sharded<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Hash + Eq + Clone, V: Clone, const N: usize> From<[(K, V); N]> for Sharded<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

/// For tests, as `HashMap` has it: a key that is not there panics.
impl<K: Hash + Eq + Borrow<Q>, V, Q: Hash + Eq + ?Sized> Index<&Q> for Sharded<K, V> {
    type Output = V;

    #[expect(clippy::expect_used, reason = "documented; the lint on indexing keeps it out of the agent")]
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no such key")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn numbers(count: u32) -> Sharded<u32, u32> {
        (0..count).map(|n| (n, n)).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_hash_map_and_its_clones_do_not_change_with_it(
            first in 0..150_u8,
            before in proptest::collection::vec((any::<bool>(), any::<u8>(), any::<u8>()), 0..100),
            after in proptest::collection::vec((any::<bool>(), any::<u8>(), any::<u8>()), 0..100),
        ) {
            let (mut map, mut model) = (Sharded::default(), HashMap::new());
            let apply = |steps: Vec<(bool, u8, u8)>, map: &mut Sharded<u8, u8>, model: &mut HashMap<u8, u8>| {
                for (insert, key, value) in steps {
                    if insert {
                        assert_eq!(map.insert(key, value), model.insert(key, value));
                    } else {
                        assert_eq!(map.remove(&key), model.remove(&key));
                    }
                }
            };
            // On both sides of where one shard becomes many.
            apply((0..first).map(|key| (true, key, key)).collect(), &mut map, &mut model);
            apply(before, &mut map, &mut model);
            let (old, old_model) = (map.clone(), model.clone());
            apply(after, &mut map, &mut model);
            for (map, model) in [(&map, &model), (&old, &old_model)] {
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map, &model.iter().map(|(key, value)| (*key, *value)).collect::<Sharded<_, _>>());
            }
            let mut differing: Vec<_> = map.differences(&old).into_iter().copied().collect();
            differing.sort_unstable();
            let expected: Vec<_> = (0..=u8::MAX).filter(|key| model.get(key) != old_model.get(key)).collect();
            prop_assert_eq!(differing, expected);
        }
    }

    #[test]
    fn a_change_of_a_clone_copies_one_shard() {
        let old = numbers(10_000);
        let mut new = old.clone();
        assert!(Arc::ptr_eq(&old.shards, &new.shards));
        new.insert(77, 78);
        let copied = old.shards.iter().zip(new.shards.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b));
        assert_eq!(copied.count(), 1);
        assert_eq!((old[&77], new[&77]), (77, 78));
        assert_eq!(new.differences(&old), [&77]);
        let mut same = old.clone();
        assert_eq!(same.remove(&10_001), None);
        assert!(Arc::ptr_eq(&old.shards, &same.shards), "nothing changed");
    }

    #[test]
    fn the_shards_are_about_as_large() {
        let map = numbers(100_000);
        let largest = map.shards.iter().map(|shard| shard.len()).max().unwrap();
        assert!(largest < 2 * 100_000 / SHARDS, "{largest}");
    }
}
