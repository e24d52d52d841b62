//! The kernel half of Weir: one file per hook. Each hook is thin: read the context, ask a table or a
//! pure function of `proxy-common`, apply. The verdict becomes an integer on a hook's last line.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see atomic.rs")]

mod access;
mod affinity;
mod atomic;
mod connect;
mod control;
mod ctx;
mod datagram;
mod drained;
mod events;
mod ingress;
mod listener;
mod maps;
mod packet;
mod redirect;
mod scan;
mod scratch;
mod sockops;
mod splice;
mod tally;
mod verdict;
mod watch;

/// The licence that GPL-only helpers (`bpf_probe_read_kernel`) ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // SAFETY: no code path of this crate panics (checked arithmetic is off, nothing indexes), so the
    // verifier never sees this instruction as reachable.
    unsafe { core::hint::unreachable_unchecked() }
}
