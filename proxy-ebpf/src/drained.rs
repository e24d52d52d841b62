//! A classifier that is attached nowhere: the agent runs it (`BPF_PROG_TEST_RUN`) to ask whether a client has
//! read all that was redirected to it. A FIN right behind a redirected answer costs a client that has
//! half-closed that answer now and then (seen on 6.18: 65 of 635 000 runs of the corpus on a busy machine; by
//! TCP none).
//!
//! Fails open: what cannot be asked is taken as read.

use crate::{
    ctx,
    maps::{SOCKETS, settings},
};
use aya_ebpf::{
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_release},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::flow::FlowKey;

#[classifier]
fn weir_drained(ctx: TcContext) -> i32 {
    i32::from(is_drained(&ctx))
}

/// The client's key stands where a packet would.
#[inline(always)]
fn is_drained(ctx: &TcContext) -> bool {
    let (Ok(key), Some(settings)) = (ctx.load::<FlowKey>(0), settings()) else { return true };
    let map = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: a map and a key of its type.
    let sock = unsafe { bpf_map_lookup_elem(map, (&raw const key).cast()) };
    if sock.is_null() {
        return true;
    }
    let drained = ctx::drained_sock(sock, settings);
    // SAFETY: the reference that the look-up took.
    unsafe { bpf_sk_release(sock) };
    drained
}
