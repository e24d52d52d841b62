//! Does the splice lane pay? The same wait, from a client's request to the first byte of its answer, is
//! measured for what the kernel half carries and for a control group that stays in relay.

use crate::maps::{PAIRS, WAITS};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use proxy_common::{
    abi::SocketState,
    pair::{GROUP_CONTROL, Pair},
};

/// A client of the control group speaks.
#[inline(always)]
pub fn asked(pair: &mut Pair) {
    if pair.started_ns == 0 {
        // SAFETY: no arguments.
        pair.started_ns = unsafe { bpf_ktime_get_ns() };
    }
}

/// The agent answers a client, which may be of the control group.
#[inline(always)]
pub fn answers(client: &SocketState) {
    let Some(pair) = PAIRS.get_ptr_mut(client.pair.wrapping_sub(1)) else { return };
    // SAFETY: an array's entry lives as long as the map; only control pairs are changed here.
    let pair = unsafe { &mut *pair };
    if pair.control == 0 || pair.started_ns == 0 {
        return;
    }
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    waited(GROUP_CONTROL, now.wrapping_sub(pair.started_ns));
    pair.started_ns = 0;
}

/// Counts one wait.
#[inline(always)]
pub fn waited(group: u32, ns: u64) {
    let Some(waits) = WAITS.get_ptr_mut(group) else { return };
    // SAFETY: a per-CPU slot, and programs do not migrate while they run.
    let waits = unsafe { &mut *waits };
    let us = ns / 1000;
    waits.count = waits.count.wrapping_add(1);
    waits.sum_ns = waits.sum_ns.wrapping_add(ns);
    waits.squares_us = waits.squares_us.wrapping_add(us.wrapping_mul(us));
}
