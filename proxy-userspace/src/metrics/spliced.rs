//! Requests that the kernel half carried: it counts them by the numbers of series that are given out
//! here; what is new is added to the same families as relayed requests whenever somebody looks.

use super::{
    SERIES_LIMIT,
    capped::OTHER,
    request::{RequestLabels, Requests},
};
use crate::status::KernelView;
use parking_lot::Mutex;
use proxy_common::tally::{Tally, TallyKey};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How old a reading may be: a storm of scrapes reads the table ten times a second.
const FRESH: Duration = Duration::from_millis(100);
/// How long a series stays that no connection counts for: far longer than the kernel half can still be
/// at an exchange of one that is gone.
const REST: Duration = Duration::from_secs(60);

/// What requests of a connection count for; connections hold it while their pair does.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Series {
    /// What the kernel half calls it.
    pub(crate) id: u32,
    /// `namespace/service:port`.
    pub(crate) route: Arc<str>,
    /// `namespace/pod`, or `unknown`.
    pub(crate) source: Arc<str>,
    /// Likewise.
    pub(crate) destination: Arc<str>,
}

type Names = [Arc<str>; 3];

#[derive(Debug)]
struct Entry {
    series: Arc<Series>,
    /// Since when nobody was seen to hold it.
    unheld: Option<Instant>,
}

/// The series that have a number. Numbers are not used again.
#[derive(Debug)]
struct Registry {
    by_names: HashMap<Names, u32>,
    by_id: HashMap<u32, Entry>,
    last: u32,
    /// Number 0: where there is no room for another.
    other: Arc<Series>,
}

impl Registry {
    fn find_or_create(&mut self, names: Names) -> Arc<Series> {
        if let Some(entry) = self.by_names.get(&names).and_then(|id| self.by_id.get_mut(id)) {
            entry.unheld = None;
            return Arc::clone(&entry.series);
        }
        let Some(id) = self.last.checked_add(1).filter(|_| self.by_id.len() < SERIES_LIMIT) else {
            return Arc::clone(&self.other);
        };
        self.last = id;
        let [route, source, destination] = names.clone();
        let series = Arc::new(Series { id, route, source, destination });
        self.by_names.insert(names, id);
        self.by_id.insert(id, Entry { series: Arc::clone(&series), unheld: None });
        series
    }

    /// Takes out the series that nobody holds since [`REST`].
    fn retire(&mut self, now: Instant) {
        let Self { by_names, by_id, .. } = self;
        by_id.retain(|_, Entry { series, unheld }| {
            if Arc::strong_count(series) > 1 {
                *unheld = None;
                return true;
            }
            let stays = now.saturating_duration_since(*unheld.get_or_insert(now)) < REST;
            if !stays {
                by_names.remove(&[&series.route, &series.source, &series.destination].map(Arc::clone));
            }
            stays
        });
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spliced {
    registry: Mutex<Registry>,
    counted: Mutex<Counted>,
}

/// What has been added to the families, and when that was done last.
#[derive(Debug, Default)]
struct Counted {
    tallies: HashMap<TallyKey, Tally>,
    when: Option<Instant>,
}

impl Spliced {
    pub(super) fn new() -> Self {
        let other: Arc<str> = OTHER.into();
        let [route, source, destination] = [&other, &other, &other].map(Arc::clone);
        let other = Arc::new(Series { id: 0, route, source, destination });
        let registry = Registry { by_names: HashMap::new(), by_id: HashMap::new(), last: 0, other };
        Self { registry: Mutex::new(registry), counted: Mutex::default() }
    }

    /// The series of these names.
    pub(super) fn series(&self, names: Names) -> Arc<Series> {
        self.registry.lock().find_or_create(names)
    }

    /// The series of this number; where it has retired, the one of what found no room.
    pub(super) fn series_of(&self, id: u32) -> Arc<Series> {
        let registry = self.registry.lock();
        let found = registry.by_id.get(&id).map_or(&registry.other, |entry| &entry.series);
        Arc::clone(found)
    }

    /// Adds to `requests` what the kernel half has counted since the last call.
    pub(super) fn collect(&self, view: &dyn KernelView, requests: &Requests, now: Instant) {
        let mut counted = self.counted.lock();
        if counted.when.is_some_and(|when| now.saturating_duration_since(when) < FRESH) {
            return;
        }
        counted.when = Some(now);
        let Ok(tallies) = view.tallies().inspect_err(warn) else { return };
        for (key, tally) in tallies {
            let before = counted.tallies.insert(key, tally).unwrap_or_default();
            let new = tally.since(&before);
            if new.exchange.iter().any(|count| *count > 0) {
                requests.add(&RequestLabels::of_spliced(&key, &self.series_of(key.series)), &new);
            }
        }
        let mut registry = self.registry.lock();
        registry.retire(now);
        counted.tallies.retain(|key, _| {
            let stays = key.series == 0 || registry.by_id.contains_key(&key.series);
            stays || view.forget_tally(key).inspect_err(warn).is_err()
        });
    }
}

fn warn(error: &anyhow::Error) {
    tracing::warn!(error = format!("{error:#}"), "the kernel half's counts");
}

#[cfg(test)]
mod tests;
