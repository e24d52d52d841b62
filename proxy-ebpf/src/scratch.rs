//! Room beside the stack: one value a processor, claimed for as long as it is used.
//!
//! Programs stay on their processor but may be preempted, in process context, by another task that runs
//! the same program. Whoever finds the room taken gives its message to the agent.

use crate::{atomic, maps::SCRATCH};
use core::ptr::write_volatile;
use proxy_common::{
    head::{Cells, DIGITS_MAX},
    policy::{HOST_MAX, HostKey, TargetKey},
};

/// See the module.
#[repr(C)]
pub struct Scratch {
    /// 1 while a program uses the rest.
    taken: u32,
    /// Bytes that a scan has behind it.
    pub scanned: u32,
    /// What a scan notes.
    pub cells: Cells,
    /// Digits of a number.
    pub digits: [u8; DIGITS_MAX as usize],
    /// An LPM key.
    pub target_bits: u32,
    /// Its data.
    pub target: TargetKey,
    /// A host as it was sent.
    pub host: [u8; HOST_MAX],
    /// An LPM key.
    pub host_bits: u32,
    /// Its data.
    pub host_key: HostKey,
}

const _: () = assert!(size_of::<Cells>().is_multiple_of(size_of::<u32>()) && align_of::<Cells>() == 4);

impl Scratch {
    /// Makes the cells ready for a scan.
    #[inline(always)]
    pub fn clear_cells(&mut self) {
        let words = (&raw mut self.cells).cast::<u32>();
        let mut at = 0;
        while at < size_of::<Cells>() / size_of::<u32>() {
            // SAFETY: within the cells, which are words. Volatile, because LLVM would make it a call of a
            // `memset` that goes byte by byte.
            unsafe { write_volatile(words.add(at), 0) };
            at += 1;
        }
    }

    /// Runs `work` with this processor's room; `None` where it is taken.
    #[inline(always)]
    pub fn with<T>(work: impl FnOnce(&mut Self) -> T) -> Option<T> {
        let scratch = SCRATCH.get_ptr_mut(0)?;
        // SAFETY: a live slot of this processor's; `taken` keeps other tasks on it out of the rest.
        let scratch = unsafe { &mut *scratch };
        if atomic::swap(&mut scratch.taken, 1) != 0 {
            return None;
        }
        let outcome = work(scratch);
        // SAFETY: a live, aligned word; only this processor looks at it.
        unsafe { write_volatile(&raw mut scratch.taken, 0) };
        Some(outcome)
    }
}
