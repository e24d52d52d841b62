//! A family of series with a hard limit (invariants I9 and I11). Readers take no lock.

use arc_swap::ArcSwap;
use hashbrown::{Equivalent, HashMap};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use std::{fmt::Debug, hash::Hash, sync::Arc};

/// The value of a label whose own value found no room.
pub(crate) const OTHER: &str = "_other";

/// A set of label values.
pub(crate) trait Labels: Clone + Eq + Hash + Debug + EncodeLabelSet {
    /// The same with fewer distinctions. Applied twice it must give one and the same set for all.
    #[must_use]
    fn coarser(&self) -> Self;
}

/// Series by their labels. When nine tenths of the limit are used, new label sets are counted
/// under coarser ones; when all but one is used, under a single series.
#[derive(Debug)]
pub(crate) struct Capped<L, M> {
    series: ArcSwap<HashMap<L, Arc<M>>>,
    growing: Mutex<()>,
    limit: usize,
    create: fn() -> M,
}

impl<L: Labels, M> Capped<L, M> {
    /// An empty family of at most `limit` series.
    pub(crate) fn new(limit: usize, create: fn() -> M) -> Self {
        Self { series: ArcSwap::from_pointee(HashMap::new()), growing: Mutex::new(()), limit, create }
    }

    /// Calls `observe` with the series of `labels`, creating it if there is room.
    pub(crate) fn with<Q, R>(&self, labels: &Q, observe: impl FnOnce(&M) -> R) -> R
    where
        Q: Hash + Equivalent<L>,
        for<'a> L: From<&'a Q>,
    {
        if let Some(series) = self.series.load().get(labels) {
            return observe(series);
        }
        observe(&self.find_or_create(L::from(labels)))
    }

    fn find_or_create(&self, labels: L) -> Arc<M> {
        if let Ok(series) = self.find(&self.series.load(), labels.clone()) {
            return series;
        }
        let _one_writer = self.growing.lock();
        let series = self.series.load();
        self.find(&series, labels).unwrap_or_else(|labels| {
            let new = Arc::new((self.create)());
            let mut grown = HashMap::clone(&series);
            grown.insert(labels, Arc::clone(&new));
            self.series.store(Arc::new(grown));
            new
        })
    }

    /// The series that counts for `labels`, or the labels of the series to create.
    fn find(&self, series: &HashMap<L, Arc<M>>, mut labels: L) -> Result<Arc<M>, L> {
        for room in [self.limit - self.limit / 10, self.limit - 1] {
            if let Some(found) = series.get(&labels) {
                return Ok(Arc::clone(found));
            }
            if series.len() < room {
                return Err(labels);
            }
            labels = labels.coarser();
        }
        series.get(&labels).map(Arc::clone).ok_or(labels)
    }

    /// Drops the series that `keep` refuses, once half of the limit is used; until then their last
    /// values stay readable.
    pub(crate) fn prune(&self, keep: impl Fn(&L) -> bool) {
        let _one_writer = self.growing.lock();
        let series = self.series.load();
        if series.len() > self.limit / 2 {
            let kept = series.iter().filter(|(labels, _)| keep(labels));
            self.series
                .store(Arc::new(kept.map(|(labels, one)| (labels.clone(), Arc::clone(one))).collect()));
        }
    }

    /// The series of this moment.
    pub(crate) fn snapshot(&self) -> Arc<HashMap<L, Arc<M>>> {
        self.series.load_full()
    }
}
