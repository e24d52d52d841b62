//! Atomic changes of map values. The BPF target has the instructions (cpu v3) but not
//! `core::sync::atomic`'s methods, so these are the compiler's intrinsics.

use core::{
    intrinsics::{AtomicOrdering::SeqCst, atomic_and, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg},
    ptr::read_volatile,
};

/// Adds bits; the value before.
#[inline(always)]
pub fn or(word: &mut u32, bits: u32) -> u32 {
    // SAFETY: a live, aligned word; every concurrent access to it is atomic.
    unsafe { atomic_or::<u32, u32, { SeqCst }>(word, bits) }
}

/// Replaces a word; the value before.
#[inline(always)]
pub fn swap(word: &mut u32, value: u32) -> u32 {
    // SAFETY: as above.
    unsafe { atomic_xchg::<u32, { SeqCst }>(word, value) }
}

/// Adds to a word.
#[inline(always)]
pub fn add(word: &mut u64, by: u64) {
    // SAFETY: as above.
    unsafe { atomic_xadd::<u64, u64, { SeqCst }>(word, by) };
}

/// The word now.
#[inline(always)]
pub fn load(word: &u64) -> u64 {
    // SAFETY: a live, aligned word.
    unsafe { read_volatile(word) }
}

/// Keeps only these bits; the value before.
#[inline(always)]
pub fn keep(word: &mut u64, bits: u64) -> u64 {
    // SAFETY: as in `or`.
    unsafe { atomic_and::<u64, u64, { SeqCst }>(word, bits) }
}

/// Replaces `old` by `new`; false where the word is something else by now.
#[inline(always)]
pub fn swap_if(word: &mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as in `or`.
    unsafe { atomic_cxchg::<u64, { SeqCst }, { SeqCst }>(word, old, new) }.0 == old
}
