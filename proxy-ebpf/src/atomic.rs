//! Atomic changes of map values. The BPF target has the instructions (cpu v3) but not
//! `core::sync::atomic`'s methods, so these are the compiler's intrinsics.

use core::intrinsics::{AtomicOrdering::SeqCst, atomic_or, atomic_xchg};

/// Adds bits; the value before.
#[inline(always)]
pub fn or(word: &mut u32, bits: u32) -> u32 {
    // SAFETY: a live, aligned word; every concurrent access to it is atomic.
    unsafe { atomic_or::<u32, u32, { SeqCst }>(word, bits) }
}

#[allow(dead_code, reason = "called by the splice program, which comes next")]
/// Replaces a word; the value before.
#[inline(always)]
pub fn swap(word: &mut u32, value: u32) -> u32 {
    // SAFETY: as above.
    unsafe { atomic_xchg::<u32, { SeqCst }>(word, value) }
}
