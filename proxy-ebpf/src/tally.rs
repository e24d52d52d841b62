//! Counts the exchanges that the kernel half carried, for the metrics, and hands them over for the access
//! log.
//!
//! The values are per processor, but a program may be preempted by another task that runs the same one:
//! every addition is atomic, on a line of the processor's own cache.

use crate::{
    atomic,
    maps::{self, CARRIED, SPLICED},
};
use aya_ebpf::bindings::BPF_NOEXIST;
use core::{mem::offset_of, ptr::read_volatile, slice};
use proxy_common::{
    abi::counter,
    pair::{HEAD_MAX, Pair},
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

/// Counts, and hands over, an exchange whose answer is complete now. Before the pair is idle: what is counted for is the
/// pair's.
#[inline(always)]
pub fn count(pair: &Pair, now: u64) {
    if maps::settings().is_some_and(|settings| settings.access_log != 0) {
        log(pair);
    }
    maps::count(counter::REDIRECTED_BYTES, u64::from(pair.request_bytes) + u64::from(pair.answer_bytes));
    let key = TallyKey { series: pair.series, method: pair.method, status: pair.status };
    let Some(tally) = of(&key) else { return };
    let first_byte = pair.answered_ns.saturating_sub(pair.started_ns);
    let body = now.saturating_sub(pair.answered_ns);
    let waited = bucket(first_byte);
    // Most answers are one message: then there is nothing to search for, nor to add.
    let (whole, flowed) = if body == 0 { (waited, 0) } else { (bucket(first_byte + body), bucket(body)) };
    observe(&mut tally.exchange, whole);
    observe(&mut tally.first_byte, waited);
    observe(&mut tally.body, flowed);
    atomic::add(&mut tally.first_byte_ns, first_byte);
    if body != 0 {
        atomic::add(&mut tally.body_ns, body);
    }
}

/// Hands the exchange over for the access log.
#[inline(always)]
fn log(pair: &Pair) {
    // SAFETY: a field of a live entry; read once, so that what is compared is what is used.
    let head = unsafe { read_volatile(&raw const pair.request_head) } as usize;
    if head > HEAD_MAX {
        return;
    }
    let bytes = (&raw const *pair).cast::<u8>();
    // SAFETY: the head is the last field and has room for `HEAD_MAX` bytes.
    let record = unsafe { slice::from_raw_parts(bytes, offset_of!(Pair, head) + head) };
    if CARRIED.output::<[u8]>(record, 0).is_err() {
        maps::count(counter::ACCESS_LOG_LOST, 1);
    }
}

#[inline(always)]
fn observe(counts: &mut [u64; BUCKETS], bucket: usize) {
    if let Some(count) = counts.get_mut(bucket) {
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
