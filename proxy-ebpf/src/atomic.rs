//! Atomic changes of map values. The BPF target has the instructions (cpu v3) but not
//! `core::sync::atomic`'s methods, so these are the compiler's intrinsics.

use core::intrinsics::{AtomicOrdering::SeqCst, atomic_or};

/// Adds bits; the value before.
#[inline(always)]
pub fn or(word: &mut u32, bits: u32) -> u32 {
    // SAFETY: a live, aligned word; every concurrent access to it is atomic.
    unsafe { atomic_or::<u32, u32, { SeqCst }>(word, bits) }
}
