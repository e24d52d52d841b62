//! sk_msg: carries a message from one socket of a steered hop straight into the other's ingress
//! queue. The rule is `proxy_common::redirect::decide`.
//!
//! Fails open: whatever cannot be redirected goes by TCP, and so does the rest of its direction.

use crate::{
    control, ctx,
    maps::{SOCKETS, STATES, count, settings},
    splice, watch,
};
use aya_ebpf::{
    bindings::{BPF_F_INGRESS, sk_action::SK_PASS},
    macros::sk_msg,
    programs::SkMsgContext,
};
use proxy_common::{
    abi::{ROLE_AGENT, ROLE_APPLICATION, Settings, SocketState, counter},
    flow::FlowKey,
    redirect::{Carry, decide},
};

#[sk_msg]
fn weir_msg(ctx: SkMsgContext) -> u32 {
    if let Some(settings) = settings() {
        // A redirect is recorded in the message; the verdict is SK_PASS either way.
        carry(&ctx, settings);
    }
    SK_PASS
}

#[inline(always)]
fn carry(ctx: &SkMsgContext, settings: &Settings) {
    let key = ctx::flow_of_msg(ctx.msg);
    let peer_key = key.reversed();
    let (Some(me), peer) = (STATES.get_ptr_mut(key), STATES.get_ptr_mut(peer_key)) else { return };
    // SAFETY: each field has one writer at a time but for `turn_bytes` and `unread`, where a lost
    // update moves a cap by one message.
    let me = unsafe { &mut *me };
    if settings.agent_only != 0 && me.role == ROLE_AGENT {
        return;
    }
    // SAFETY: as above.
    let Some(peer) = peer.map(|peer| unsafe { &mut *peer }) else {
        // The peer has not joined yet: what it gets first by TCP it must get by TCP throughout.
        go_plain(me);
        return;
    };
    if me.opener != 0 && me.role == ROLE_APPLICATION && me.redirected == 0 {
        watch::client_speaks(ctx.msg, settings);
    }
    if settings.splice != 0 {
        if me.role == ROLE_APPLICATION && splice::carry(ctx, &key, me, peer, settings) {
            return;
        }
        if me.role == ROLE_AGENT && me.opener == 0 && peer.pair != 0 {
            control::answers(peer);
        }
    }
    let size = ctx.size();
    me.to_peer = me.to_peer.wrapping_add(size);
    let drained = speaks_drained(ctx, me, settings);
    if !drained {
        peer.plain = 1;
    }
    match decide(me, size, drained) {
        Carry::Redirect if redirect(ctx, &peer_key) => {
            me.turn_bytes = me.turn_bytes.saturating_add(size);
            me.redirected = me.redirected.wrapping_add(u64::from(size));
            peer.turn_bytes = 0;
            peer.unread = peer.unread.saturating_add(size);
            count(counter::REDIRECTED, 1);
            count(counter::REDIRECTED_BYTES, u64::from(size));
        }
        _ => go_plain(me),
    }
}

/// Whether the sender has read all that was redirected to it. The agent reads as it pleases: only
/// applications can be un-mapped or pipeline.
#[inline(always)]
fn speaks_drained(ctx: &SkMsgContext, me: &mut SocketState, settings: &Settings) -> bool {
    if me.role != ROLE_APPLICATION || me.unread == 0 {
        return true;
    }
    let drained = ctx::drained(ctx.msg, settings);
    if drained {
        me.unread = 0;
    }
    drained
}

#[inline(always)]
fn go_plain(me: &mut SocketState) {
    if me.plain == 0 {
        me.plain = 1;
        count(counter::WENT_PLAIN, 1);
    }
}

#[inline(always)]
fn redirect(ctx: &SkMsgContext, peer: &FlowKey) -> bool {
    let mut key = *peer;
    // SK_DROP here means "not in the map": the caller falls back to TCP.
    SOCKETS.redirect_msg(ctx, &mut key, u64::from(BPF_F_INGRESS)) == i64::from(SK_PASS)
}
