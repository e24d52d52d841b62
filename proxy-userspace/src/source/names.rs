//! Names of which many objects have the same (nodes, labels, fields), each kept once for all of them.

use parking_lot::Mutex;
use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
};

/// How many are kept. Names come and go: beyond it those that are in use no more are forgotten with the
/// others, and whoever has one of the others has it to itself.
const MANY: usize = 32_768;

/// Those of this process: objects of several readings share them.
static NAMES: LazyLock<Mutex<HashSet<Arc<str>>>> = LazyLock::new(Mutex::default);

/// The one copy of a name.
pub(crate) fn shared(name: &str) -> Arc<str> {
    let mut names = NAMES.lock();
    if let Some(known) = names.get(name) {
        return Arc::clone(known);
    }
    if names.len() >= MANY {
        names.retain(|one| Arc::strong_count(one) > 1);
    }
    if names.len() >= MANY {
        names.clear();
    }
    let name: Arc<str> = name.into();
    names.insert(Arc::clone(&name));
    name
}

/// Labels, by key; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LabelSet(Arc<[(Arc<str>, Arc<str>)]>);

impl LabelSet {
    /// A label's value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| &**value)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.0.iter()
    }
}

/// Of several values of one key the last one counts, as in a map.
impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for LabelSet {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let shared = |(key, value): (K, V)| (shared(key.as_ref()), shared(value.as_ref()));
        let all: std::collections::BTreeMap<_, _> = labels.into_iter().map(shared).collect();
        Self(all.into_iter().collect())
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> From<[(K, V); N]> for LabelSet {
    fn from(labels: [(K, V); N]) -> Self {
        labels.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        assert!(Arc::ptr_eq(&shared("node-of-this-test"), &shared("node-of-this-test")));
    }

    #[test]
    fn labels_are_a_map_whatever_their_order() {
        let labels = LabelSet::from([("b", "1"), ("a", "2"), ("b", "3")]);
        assert_eq!((labels.get("a"), labels.get("b"), labels.get("c")), (Some("2"), Some("3"), None));
        assert_eq!(labels, LabelSet::from([("a", "2"), ("b", "3")]));
    }
}
