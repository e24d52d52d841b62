//! Compiled policies in the kernel half's tables. An id's nodes are written once, before anybody is
//! armed under it, and never changed; a policy that changes has another id.
//!
//! A node allows what shorter patterns do, and more: a policy of which only some nodes are there allows
//! less, never more, than the whole.

use super::DatapathError;
use crate::{
    policy::{Compiled, host_table},
    snapshot::Snapshot,
};
use proxy_common::policy::{HostKey, PathNode, TargetKey};
use std::{collections::HashMap, sync::Arc};

/// A longest-prefix table; `bits` of a key count.
pub(super) trait Trie<K, V> {
    fn insert(&self, bits: u32, key: &K, value: &V) -> Result<(), DatapathError>;
    /// What is not there is removed.
    fn remove(&self, bits: u32, key: &K) -> Result<(), DatapathError>;
}

/// What the tables hold.
#[derive(Debug, Default)]
pub(super) struct Policies {
    published: HashMap<u32, Arc<Compiled>>,
    hosts: HashMap<(u32, HostKey), u64>,
}

impl Policies {
    /// Writes the policies of a snapshot that are not there yet. Call before its generation is in force.
    /// One that does not fit is left out, and its requests to the agent; the first error is returned
    /// when the others are written.
    pub(super) fn publish(
        &mut self,
        snapshot: &Snapshot,
        paths: &impl Trie<TargetKey, PathNode>,
        hosts: &impl Trie<HostKey, u64>,
    ) -> Result<(), DatapathError> {
        let mut new = in_force(snapshot);
        new.retain(|id, _| !self.published.contains_key(id));
        self.write_hosts(new.values(), hosts)?;
        let mut outcome = Ok(());
        for policy in new.into_values() {
            match write(&policy, paths) {
                Ok(()) => {
                    self.published.insert(policy.id, policy);
                }
                Err(error) => {
                    outcome = outcome.and(erase(&policy, paths)).and(Err(error));
                }
            }
        }
        outcome
    }

    /// Removes the policies that a snapshot does not have. Call when its generation is in force.
    pub(super) fn retire(
        &mut self,
        snapshot: &Snapshot,
        paths: &impl Trie<TargetKey, PathNode>,
        hosts: &impl Trie<HostKey, u64>,
    ) -> Result<(), DatapathError> {
        let used = in_force(snapshot);
        let unused: Vec<_> =
            self.published.values().filter(|one| !used.contains_key(&one.id)).cloned().collect();
        for policy in unused {
            erase(&policy, paths)?;
            // Only now may its host patterns' bits mean something else.
            self.published.remove(&policy.id);
        }
        self.write_hosts(std::iter::empty(), hosts)
    }

    /// Nodes in the table.
    pub(super) fn nodes(&self) -> usize {
        self.published.values().map(|one| one.entries().len()).sum()
    }

    /// Makes the host table that of the published policies and these.
    fn write_hosts<'a>(
        &mut self,
        new: impl Iterator<Item = &'a Arc<Compiled>>,
        table: &impl Trie<HostKey, u64>,
    ) -> Result<(), DatapathError> {
        let held = self.published.values().flat_map(|one| one.hosts());
        let mut hosts: Vec<_> = held.chain(new.flat_map(|one| one.hosts())).cloned().collect();
        hosts.sort_by_key(|host| host.index);
        hosts.dedup();
        let wanted: HashMap<_, _> =
            host_table(&hosts).into_iter().map(|(bits, key, value)| ((bits, key), value)).collect();
        for (at, value) in &wanted {
            if self.hosts.get(at) != Some(value) {
                table.insert(at.0, &at.1, value)?;
                self.hosts.insert(*at, *value);
            }
        }
        let gone: Vec<_> = self.hosts.keys().filter(|at| !wanted.contains_key(at)).copied().collect();
        for at in gone {
            table.remove(at.0, &at.1)?;
            self.hosts.remove(&at);
        }
        Ok(())
    }
}

/// By id.
fn in_force(snapshot: &Snapshot) -> HashMap<u32, Arc<Compiled>> {
    let compiled = snapshot.access.http_policies().map(|policy| Arc::clone(&policy.compiled));
    compiled.map(|one| (one.id, one)).collect()
}

fn write(policy: &Compiled, paths: &impl Trie<TargetKey, PathNode>) -> Result<(), DatapathError> {
    policy.entries().iter().try_for_each(|entry| {
        let (bits, key) = entry.key(policy.id);
        paths.insert(bits, &key, &entry.node())
    })
}

fn erase(policy: &Compiled, paths: &impl Trie<TargetKey, PathNode>) -> Result<(), DatapathError> {
    // Backwards: the root goes last, so that what is left denies what it cannot allow.
    policy.entries().iter().rev().try_for_each(|entry| {
        let (bits, key) = entry.key(policy.id);
        paths.remove(bits, &key)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::{
        policy::{Allows, EndpointPolicy, Register, Rule},
        testing::{access_of, endpoint, snapshot_of},
    };
    use std::cell::RefCell;

    /// A table with room for so many entries; counts its changes.
    struct Fake<K, V> {
        entries: RefCell<HashMap<(u32, K), V>>,
        changes: RefCell<usize>,
        room: usize,
    }

    impl<K, V> Fake<K, V> {
        fn new(room: usize) -> Self {
            Self { entries: RefCell::default(), changes: RefCell::default(), room }
        }

        fn len(&self) -> usize {
            self.entries.borrow().len()
        }
    }

    impl<K: Copy + Eq + std::hash::Hash, V: Copy> Trie<K, V> for Fake<K, V> {
        fn insert(&self, bits: u32, key: &K, value: &V) -> Result<(), DatapathError> {
            if self.len() == self.room {
                let source = aya::maps::MapError::OutOfBounds { index: 0, max_entries: 0 };
                return Err(DatapathError::Map { map: "PATHS", source });
            }
            *self.changes.borrow_mut() += 1;
            self.entries.borrow_mut().insert((bits, *key), *value);
            Ok(())
        }

        fn remove(&self, bits: u32, key: &K) -> Result<(), DatapathError> {
            *self.changes.borrow_mut() += 1;
            self.entries.borrow_mut().remove(&(bits, *key));
            Ok(())
        }
    }

    /// Endpoints with one rule each: of a path and a host.
    fn snapshot(register: &Arc<Register>, rules: &[(&str, &str)]) -> Snapshot {
        let addr = "10.1.0.1:80".parse().unwrap();
        let mut snapshot = snapshot_of("10.96.0.1:80".parse().unwrap(), &[]);
        let mut cluster = (*snapshot.clusters[0]).clone();
        for (path, host) in rules {
            let pattern = |text: &str| register.pattern(text).unwrap();
            let allows = Allows::Http {
                method: None,
                path: Some(pattern(path)),
                host: Some(pattern(host)),
                fields: Vec::new(),
            };
            let rule = Arc::new(Rule::new(format!("demo/p{path}").into(), allows, register));
            let policy = Some(Arc::new(EndpointPolicy::new("demo/p".into(), vec![rule], register)));
            cluster.endpoints.push(crate::snapshot::Endpoint { policy, ..endpoint(addr) });
        }
        snapshot.access = access_of(&mut cluster, register);
        snapshot.clusters = vec![Arc::new(cluster)].into();
        snapshot
    }

    #[test]
    fn a_changed_policy_changes_only_its_own_entries() {
        let (register, paths, hosts) = (Arc::<Register>::default(), Fake::new(100), Fake::new(100));
        let mut policies = Policies::default();
        let old = snapshot(&register, &[("/a", r"a\.b"), ("/b", r".*\.b")]);
        policies.publish(&old, &paths, &hosts).unwrap();
        assert_eq!((paths.len(), hosts.len(), policies.nodes()), (4, 2, 4));
        // `a.b` matches both patterns.
        let mut masks: Vec<_> = hosts.entries.borrow().values().copied().map(u64::count_ones).collect();
        masks.sort_unstable();
        assert_eq!(masks, [1, 2]);
        let before = *paths.changes.borrow();
        let new = snapshot(&register, &[("/a", r"a\.b"), ("/c", "c")]);
        policies.publish(&new, &paths, &hosts).unwrap();
        assert_eq!((paths.len(), hosts.len()), (6, 3), "the old one is still there");
        policies.retire(&new, &paths, &hosts).unwrap();
        assert_eq!((paths.len(), hosts.len()), (4, 2));
        assert_eq!(*paths.changes.borrow() - before, 4, "two nodes came, two went");
        let before = *paths.changes.borrow() + *hosts.changes.borrow();
        policies.publish(&new, &paths, &hosts).unwrap();
        policies.retire(&new, &paths, &hosts).unwrap();
        assert_eq!(*paths.changes.borrow() + *hosts.changes.borrow(), before, "nothing to do");
        policies.retire(&Snapshot::default(), &paths, &hosts).unwrap();
        assert_eq!((paths.len(), hosts.len()), (0, 0));
    }

    #[test]
    fn a_policy_that_does_not_fit_is_left_out_whole() {
        let (register, paths, hosts) = (Arc::<Register>::default(), Fake::new(3), Fake::new(100));
        let mut policies = Policies::default();
        let both = snapshot(&register, &[("/a", "a"), ("/b", "b")]);
        policies.publish(&both, &paths, &hosts).unwrap_err();
        assert_eq!((paths.len(), policies.nodes()), (2, 2));
    }

    #[test]
    fn a_host_patterns_bit_is_nobody_elses_until_its_policy_has_retired() {
        let (register, paths, hosts) = (Arc::<Register>::default(), Fake::new(100), Fake::new(100));
        let mut policies = Policies::default();
        let bits = |hosts: &Fake<HostKey, u64>| hosts.entries.borrow().values().fold(0, |all, bit| all | bit);
        policies.publish(&snapshot(&register, &[("/a", "a")]), &paths, &hosts).unwrap();
        register.sweep();
        let next = snapshot(&register, &[("/b", "b")]);
        policies.publish(&next, &paths, &hosts).unwrap();
        assert_eq!(bits(&hosts), 0b11);
        policies.retire(&next, &paths, &hosts).unwrap();
        assert_eq!(bits(&hosts), 0b10);
    }
}
