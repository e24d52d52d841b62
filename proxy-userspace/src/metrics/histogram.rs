//! A histogram of durations that many threads can write without a lock.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::{
    iter,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds in nanoseconds, ascending; the unbounded bucket is implied.
pub(crate) type Bounds = &'static [u64];

/// Durations of requests, in both halves.
pub(crate) const REQUEST_BOUNDS: Bounds = &proxy_common::tally::REQUEST_BOUNDS;

/// Round trips and handshakes: 10 us (two sockets of one node) to 5 s (retransmitted SYNs).
pub(crate) const TCP_BOUNDS: Bounds = &[
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
];

/// Counts per bucket and the sum, all atomic.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Bounds,
    counts: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// An empty one.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let counts = iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self { bounds, counts, sum_ns: AtomicU64::new(0) }
    }

    /// Counts one duration. Two uncontended atomic additions.
    pub(crate) fn observe(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get(self.bounds.partition_point(|bound| *bound < ns)) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Counts durations that the kernel half has sorted into buckets.
    pub(crate) fn add(&self, counts: &[u64], sum_ns: u64) {
        for (count, by) in self.counts.iter().zip(counts) {
            count.fetch_add(*by, Relaxed);
        }
        self.sum_ns.fetch_add(sum_ns, Relaxed);
    }

    /// How many were counted.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder) -> std::fmt::Result {
        let bounds = self.bounds.iter().map(|ns| *ns as f64 / 1e9).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(self.counts.iter().map(|count| count.load(Relaxed))).collect();
        // The count is taken from the same reading as the buckets, or they could contradict.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum_ns.load(Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }

    fn is_empty(&self) -> bool {
        self.count() == 0
    }
}
