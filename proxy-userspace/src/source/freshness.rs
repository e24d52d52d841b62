//! How old the state is that the configuration was made from.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

/// What is known of each part of the source: a resource of the API, or the directory.
#[derive(Debug, Default)]
pub struct Freshness {
    parts: Mutex<BTreeMap<&'static str, Part>>,
}

/// One part, when it was looked at.
#[derive(Clone, Debug)]
pub struct Part {
    /// When the source last said something about it.
    pub last_sync: SystemTime,
    /// Why what it says now is not known, and since when.
    pub stale: Option<Stale>,
}

/// Since when a part is not known as it is.
#[derive(Clone, Debug)]
pub struct Stale {
    /// Why.
    pub why: String,
    noted: Instant,
    /// How long it had been so then.
    before: Duration,
}

impl Stale {
    /// For how long.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.noted.elapsed() + self.before
    }
}

impl Freshness {
    /// The source has just said something about a part: it is as known.
    pub(crate) fn current(&self, part: &'static str) {
        self.parts.lock().insert(part, Part { last_sync: SystemTime::now(), stale: None });
    }

    /// The source says nothing about a part any more.
    pub(crate) fn stale(&self, part: &'static str, why: &str) {
        let mut parts = self.parts.lock();
        let Some(known) = parts.get_mut(part) else { return };
        match &mut known.stale {
            Some(stale) => why.clone_into(&mut stale.why),
            none => {
                *none = Some(Stale { why: why.to_owned(), noted: Instant::now(), before: Duration::ZERO });
            }
        }
    }

    /// What is known of a part was kept from some time ago. Durations count by the monotonic clock from
    /// here on; what the wall clock does later changes nothing.
    pub(crate) fn kept(&self, part: &'static str, from: SystemTime, why: &str) {
        let before = SystemTime::now().duration_since(from).unwrap_or_default();
        let stale = Stale { why: why.to_owned(), noted: Instant::now(), before };
        self.parts.lock().insert(part, Part { last_sync: from, stale: Some(stale) });
    }

    /// For how long the stalest part has not been known as it is; zero where all are.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        let parts = self.parts.lock();
        parts.values().filter_map(|part| part.stale.as_ref()).map(Stale::age).max().unwrap_or_default()
    }

    /// Every part, by name.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, Part)> {
        self.parts.lock().iter().map(|(name, part)| (*name, part.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn the_state_is_as_stale_as_its_stalest_part() {
        let freshness = Freshness::default();
        assert_eq!(freshness.staleness(), Duration::ZERO);
        freshness.current("pods");
        freshness.current("services");
        assert_eq!(freshness.staleness(), Duration::ZERO);
        let hour = Duration::from_secs(3600);
        freshness.kept("services", SystemTime::now() - hour, "kept");
        freshness.stale("pods", "reset");
        assert!(freshness.staleness() >= hour && freshness.staleness() < 2 * hour);
        freshness.stale("services", "refused");
        assert!(freshness.staleness() >= hour, "another reason makes it no younger");
        assert_eq!(freshness.parts()[1].1.stale.as_ref().map(|stale| stale.why.as_str()), Some("refused"));
        freshness.current("services");
        freshness.current("pods");
        assert_eq!(freshness.staleness(), Duration::ZERO);
    }

    #[test]
    fn f12_a_time_in_the_future_is_no_age() {
        let freshness = Freshness::default();
        freshness.kept("pods", SystemTime::now() + Duration::from_secs(3600), "kept");
        assert!(freshness.staleness() < Duration::from_secs(60));
    }

    #[test]
    fn what_was_never_known_is_not_stale() {
        let freshness = Freshness::default();
        freshness.stale("pods", "refused");
        assert!(freshness.parts().is_empty());
    }
}
