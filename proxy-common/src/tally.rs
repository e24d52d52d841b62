//! Counts of what the kernel half carried: buckets and keys as both halves use them.

use crate::abi::abi;

/// Upper bounds of a request's durations in nanoseconds, ascending; the unbounded bucket is implied.
/// OpenTelemetry's bounds for HTTP durations, preceded by finer ones: a request inside a node takes
/// less than OpenTelemetry's first bucket.
pub static REQUEST_BOUNDS: [u64; 20] = [
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
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// Buckets of a histogram, the unbounded one included.
pub const BUCKETS: usize = 21;
const _: () = assert!(BUCKETS == REQUEST_BOUNDS.len() + 1);

abi! {
    /// What exchanges are told apart by.
    #[derive(Hash)]
    TallyKey [12] {
        /// `Pair::series`; 0: those that found no series, or no room in the table.
        series: u32,
        /// `Pair::method`.
        method: u32,
        /// `Pair::status`.
        status: u32,
    }

    /// Exchanges of one key, on one processor. The whole exchange's durations add up to
    /// `first_byte_ns` and `body_ns` together.
    Tally [520] {
        /// From the request's first byte to the answer's last, by [`bucket`].
        exchange: [u64; BUCKETS],
        /// From the request's first byte to the answer's first, likewise.
        first_byte: [u64; BUCKETS],
        /// From the answer's first byte to its last, likewise.
        body: [u64; BUCKETS],
        /// Nanoseconds until the first byte, in all.
        first_byte_ns: u64,
        /// Nanoseconds from the first byte on, in all.
        body_ns: u64,
    }
}

/// Where the kernel half counts what the table has no room for.
pub const OVERFLOW: TallyKey = TallyKey { series: 0, method: 0, status: 0 };

/// The bucket of a duration below 2^63 ns: how many bounds are below it. A difference's sign is counted,
/// not a comparison's outcome: branches would be paths for the verifier, 21 for each histogram times 21
/// for the next.
#[inline(always)]
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "at most 20")]
pub fn bucket(ns: u64) -> usize {
    let mut below = 0;
    for bound in REQUEST_BOUNDS {
        below += bound.wrapping_sub(ns) >> (u64::BITS - 1);
    }
    below as usize
}

impl Tally {
    /// What came since `before` was read.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut new = *self;
        let pairs = [
            (&mut new.exchange, &before.exchange),
            (&mut new.first_byte, &before.first_byte),
            (&mut new.body, &before.body),
        ];
        for (new, before) in pairs {
            for (new, before) in new.iter_mut().zip(before) {
                *new = new.saturating_sub(*before);
            }
        }
        new.first_byte_ns = self.first_byte_ns.saturating_sub(before.first_byte_ns);
        new.body_ns = self.body_ns.saturating_sub(before.body_ns);
        new
    }

    /// Adds what another processor counted.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.exchange, &other.exchange),
            (&mut self.first_byte, &other.first_byte),
            (&mut self.body, &other.body),
        ];
        for (sum, other) in pairs {
            for (sum, other) in sum.iter_mut().zip(other) {
                *sum = sum.saturating_add(*other);
            }
        }
        self.first_byte_ns = self.first_byte_ns.saturating_add(other.first_byte_ns);
        self.body_ns = self.body_ns.saturating_add(other.body_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_the_number_of_bounds_below() {
        let edges = REQUEST_BOUNDS.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
        for ns in edges.chain([0, u64::MAX >> 1]) {
            assert_eq!(bucket(ns), REQUEST_BOUNDS.partition_point(|bound| *bound < ns), "{ns}");
        }
    }

    #[test]
    fn what_processors_counted_adds_up_and_comes_apart_again() {
        let mut one = Tally { first_byte_ns: 5, ..Tally::default() };
        one.exchange[20] = 2;
        let mut two = Tally { body_ns: 7, ..Tally::default() };
        two.exchange[20] = 1;
        two.body[0] = 9;
        let mut sum = one;
        sum.add(&two);
        assert_eq!(sum.since(&one), two);
        assert_eq!((sum.exchange[20], sum.body[0], sum.first_byte_ns, sum.body_ns), (3, 9, 5, 7));
    }
}
