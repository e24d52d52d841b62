//! Counts the exchanges that the kernel half carried, for the metrics.
//!
//! The values are per processor, but a program may be preempted by another task that runs the same one:
//! every addition is atomic, on a line of the processor's own cache.

use crate::{
    atomic,
    maps::{self, SPLICED},
};
use aya_ebpf::bindings::BPF_NOEXIST;
use proxy_common::{
    abi::counter,
    pair::Pair,
    tally::{BUCKETS, OVERFLOW, Tally, TallyKey, bucket},
};

/// What a new entry begins with: too large for the stack.
static NOTHING: Tally = Tally {
    exchange: [0; BUCKETS],
    first_byte: [0; BUCKETS],
    body: [0; BUCKETS],
    first_byte_ns: 0,
    body_ns: 0,
};

/// Counts an exchange whose answer is complete now. Before the pair is idle: what is counted for is the
/// pair's.
#[inline(always)]
pub fn count(pair: &Pair, now: u64) {
    maps::count(counter::REDIRECTED_BYTES, u64::from(pair.request_bytes) + u64::from(pair.answer_bytes));
    let key = TallyKey { series: pair.series, method: pair.method, status: pair.status };
    let Some(tally) = of(&key) else { return };
    let first_byte = pair.answered_ns.saturating_sub(pair.started_ns);
    let body = now.saturating_sub(pair.answered_ns);
    observe(&mut tally.exchange, first_byte.saturating_add(body));
    observe(&mut tally.first_byte, first_byte);
    observe(&mut tally.body, body);
    atomic::add(&mut tally.first_byte_ns, first_byte);
    atomic::add(&mut tally.body_ns, body);
}

#[inline(always)]
fn observe(counts: &mut [u64; BUCKETS], ns: u64) {
    if let Some(count) = counts.get_mut(bucket(ns)) {
        atomic::add(count, 1);
    }
}

/// The entry of a key, or where its exchanges are counted when there is no room for one.
#[inline(always)]
fn of(key: &TallyKey) -> Option<&'static mut Tally> {
    let found = SPLICED.get_ptr_mut(key).or_else(|| {
        // Another processor may have been first: then this fails, and the entry is there.
        let nothing: &Tally = &NOTHING;
        let _ = SPLICED.insert(key, nothing, u64::from(BPF_NOEXIST));
        SPLICED.get_ptr_mut(key)
    });
    let found = found.or_else(|| {
        maps::count(counter::SERIES_FULL, 1);
        SPLICED.get_ptr_mut(OVERFLOW)
    })?;
    // SAFETY: an entry of this processor's; it is removed long after the last pair that counts for it.
    Some(unsafe { &mut *found })
}
