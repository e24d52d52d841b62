//! When the next request may begin, and from when its latency counts.

use std::time::{Duration, Instant};

/// The arrival process.
#[derive(Debug)]
pub(super) enum Pace {
    /// Closed loop: a connection asks again as soon as it was answered.
    Closed,
    /// Open loop: requests are due at fixed times whether or not the answers come. One that finds no
    /// idle connection waits, and its latency counts from when it was due: no omission is coordinated.
    Open {
        /// When the next request is due.
        due: Instant,
        /// Between two requests.
        interval: Duration,
    },
}

impl Pace {
    /// `rate` requests a second from `begin` on; without a rate a closed loop.
    pub(super) fn new(rate: Option<f64>, begin: Instant) -> Self {
        rate.map_or(Self::Closed, |rate| Self::Open {
            due: begin,
            interval: Duration::from_secs_f64(1.0 / rate),
        })
    }

    /// Takes the next request if it is due: the time from which its latency counts.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Self::Closed => Some(now),
            Self::Open { due, interval } => {
                let at = *due;
                (at <= now).then(|| {
                    *due += *interval;
                    at
                })
            }
        }
    }

    /// When the next request is due; `None` in a closed loop.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Closed => None,
            Self::Open { due, .. } => Some(*due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_counts_latency_from_when_a_request_was_due() {
        let begin = Instant::now();
        let mut pace = Pace::new(Some(1000.0), begin);
        let late = begin + Duration::from_micros(2500);
        let taken: Vec<_> = std::iter::from_fn(|| pace.take(late)).collect();
        assert_eq!(taken, [0, 1, 2].map(|ms| begin + Duration::from_millis(ms)));
        assert_eq!(pace.due(), Some(begin + Duration::from_millis(3)));
    }

    #[test]
    fn a_closed_loop_is_always_due() {
        let now = Instant::now();
        assert_eq!(Pace::new(None, now).take(now), Some(now));
    }
}
