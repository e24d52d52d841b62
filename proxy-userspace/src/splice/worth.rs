//! Does the splice lane pay on this node? A control group of fit connections stays in relay; the kernel half
//! measures the same wait for both. Where the lane turns out slower it is switched off, and tried again
//! later.

use crate::{
    metrics::Speedup,
    relay::Relay,
    status::{Board, Degraded},
};
use proxy_common::pair::Waits;
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

/// How often the waits are read.
const READ: Duration = Duration::from_secs(10);
/// Readings that a comparison looks back.
const WINDOW: usize = 30;
/// Requests of each group without which nothing is said.
const ENOUGH: f64 = 100.0;
/// Comparisons in a row that must find the lane slower.
const SLOWER: u32 = 3;
/// Readings until the lane is tried again.
const PAUSE: u32 = 60;
/// Standard normal quantile of a 95 % interval.
const Z: f64 = 1.96;

const WHAT: &str = "splice lane";

/// Whether the lane is in use, and what it is compared with.
#[derive(Default)]
pub(crate) struct Worth {
    off: AtomicBool,
}

impl Worth {
    /// The lane has turned out slower than relay.
    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Relaxed)
    }

    /// Reads, compares and decides, for ever.
    pub(crate) async fn judge(&self, relay: &Relay, board: &Board) {
        let mut ticks = tokio::time::interval(READ);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut readings, mut slower, mut paused) = (VecDeque::new(), 0, 0);
        loop {
            ticks.tick().await;
            if self.is_off() {
                paused += 1;
                if paused < PAUSE {
                    continue;
                }
                paused = 0;
                readings.clear();
                self.off.store(false, Relaxed);
                relay.datapath.supersede(&relay.snapshot.load());
                board.recovered(WHAT);
            }
            match relay.datapath.waits() {
                Ok(Some(reading)) => readings.push_back(reading),
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "the splice lane is not compared");
                    continue;
                }
            }
            if readings.len() > WINDOW {
                readings.pop_front();
            }
            let Some(speedup) = readings.front().zip(readings.back()).and_then(|(a, b)| compare(*a, *b))
            else {
                continue;
            };
            relay.observer.metrics.splice_speedup(speedup);
            slower = if speedup.upper < 1.0 { slower + 1 } else { 0 };
            if slower == SLOWER {
                slower = 0;
                self.switch_off(relay, board, speedup);
            }
        }
    }

    fn switch_off(&self, relay: &Relay, board: &Board, speedup: Speedup) {
        self.off.store(true, Relaxed);
        if let Err(error) = relay.datapath.disarm() {
            tracing::error!(%error, "armed pairs stay armed until their next turn");
        }
        let why = format!(
            "clients waited longer than in relay: {:.2} times as fast ({:.2} to {:.2})",
            speedup.ratio, speedup.lower, speedup.upper
        );
        tracing::warn!(why, "the splice lane is off for {:?}", READ * PAUSE);
        board.degraded(Degraded {
            what: WHAT.to_owned(),
            why,
            fix: "it is tried again by itself; --splice-pairs 0 turns it off for good".to_owned(),
        });
    }
}

/// Relay's mean wait over the lane's between two readings; `None` where there were too few requests.
fn compare(before: (Waits, Waits), after: (Waits, Waits)) -> Option<Speedup> {
    let lane = Mean::between(&before.0, &after.0)?;
    let relay = Mean::between(&before.1, &after.1)?;
    let ratio = relay.mean / lane.mean;
    // The delta method: relative variances of independent means add up in their ratio.
    let error = ratio * (relay.relative_variance() + lane.relative_variance()).sqrt();
    Some(Speedup { ratio, lower: ratio - Z * error, upper: ratio + Z * error })
}

struct Mean {
    count: f64,
    /// Microseconds.
    mean: f64,
    variance: f64,
}

impl Mean {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn between(before: &Waits, after: &Waits) -> Option<Self> {
        let count = after.count.wrapping_sub(before.count) as f64;
        let sum = after.sum_ns.wrapping_sub(before.sum_ns) as f64 / 1000.0;
        let squares = after.squares_us.wrapping_sub(before.squares_us) as f64;
        let mean = sum / count;
        let enough = count >= ENOUGH && mean > 0.0;
        enough.then(|| Self { count, mean, variance: (squares / count - mean * mean).max(0.0) })
    }

    fn relative_variance(&self) -> f64 {
        self.variance / (self.count * self.mean * self.mean)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Waits that are `us` long, give or take `us / 10`, in turn.
    fn waits(count: u64, us: u64) -> Waits {
        let (short, long) = (us - us / 10, us + us / 10);
        let half = count / 2;
        Waits { count, sum_ns: count * us * 1000, squares_us: half * short * short + half * long * long }
    }

    #[test]
    fn relay_that_waits_twice_as_long_is_a_speedup_of_two_within_a_narrow_interval() {
        let speedup =
            compare((waits(10, 30), waits(10, 70)), (waits(10_010, 30), waits(10_010, 60))).unwrap();
        assert!(speedup.lower < speedup.ratio && speedup.ratio < speedup.upper);
        assert!((1.9..2.1).contains(&speedup.ratio) && speedup.upper - speedup.lower < 0.1, "{speedup:?}");
    }

    #[test]
    fn few_requests_say_nothing() {
        let none = Waits::default();
        assert!(compare((none, none), (waits(10_000, 30), waits(99, 60))).is_none());
        assert!(compare((none, none), (none, none)).is_none());
    }

    #[test]
    fn fewer_requests_make_the_interval_wider() {
        let none = (Waits::default(), Waits::default());
        let width = |count| {
            let speedup = compare(none, (waits(count, 30), waits(count, 60))).unwrap();
            speedup.upper - speedup.lower
        };
        assert!(width(200) > 5.0 * width(20_000));
    }
}
