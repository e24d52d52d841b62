//! Every Service port, by name.

use super::Cluster;
use crate::sharded::Sharded;
use std::sync::Arc;

/// See the module. Clones share what neither has changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Clusters(Sharded<Arc<str>, Arc<Cluster>>);

impl Clusters {
    /// The cluster of this name, `namespace/service:port`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.0.get(name)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them by name: sorts, so it is for people and not for every change.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let mut all: Vec<_> = self.0.values().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.into_iter()
    }

    /// All of them, in no order.
    pub fn unsorted(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.0.values()
    }

    /// What the two have differently: what `old` has under a name, and what `self` has.
    pub fn changes<'a>(
        &'a self,
        old: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Arc<Cluster>>, Option<&'a Arc<Cluster>>)> {
        let names = self.0.differences(&old.0).into_iter();
        names.map(|name| (old.get(name), self.get(name)))
    }

    pub(crate) fn insert(&mut self, cluster: Arc<Cluster>) {
        self.0.insert(Arc::clone(&cluster.name), cluster);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl FromIterator<Arc<Cluster>> for Clusters {
    fn from_iter<I: IntoIterator<Item = Arc<Cluster>>>(clusters: I) -> Self {
        let mut all = Self::default();
        clusters.into_iter().for_each(|cluster| all.insert(cluster));
        all
    }
}

impl From<Vec<Arc<Cluster>>> for Clusters {
    fn from(clusters: Vec<Arc<Cluster>>) -> Self {
        clusters.into_iter().collect()
    }
}

/// By place among the names.
#[cfg(test)]
impl std::ops::Index<usize> for Clusters {
    type Output = Arc<Cluster>;

    #[expect(clippy::unwrap_used, reason = "tests")]
    fn index(&self, index: usize) -> &Arc<Cluster> {
        self.iter().nth(index).unwrap()
    }
}
