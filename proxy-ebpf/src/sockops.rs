//! sock_ops: the life of a steered or upstream flow. Publishes what a client asked for before the
//! agent's accept can return, puts both ends into the socket map, reports how the flow ended.
//!
//! Fails open: a socket that cannot join the map stays plain.

use crate::{
    atomic, ctx, events,
    maps::{ADMITTED, FLOWS, ORIG_DST, SOCKETS, STATES, UPSTREAMS, WORKLOADS, count, settings},
};
use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
        BPF_TCP_CLOSE_WAIT, BPF_TCP_ESTABLISHED, BPF_TCP_FIN_WAIT1, BPF_TCP_SYN_SENT, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_map_delete_elem},
    macros::sock_ops,
    programs::SockOpsContext,
};
use proxy_common::{
    abi::{
        ACCELERATION_AUTO, ACCELERATION_OFF, CLOSE_FIN, CLOSE_RESET, CLOSE_TIMEOUT, CLOSE_UNCONNECTED,
        CLOSED_BY_ACCEPTOR, CLOSED_BY_OPENER, END_ACCEPTED, END_ACCEPTOR_GONE, END_OPENER_GONE, Flow,
        HOP_DOWNSTREAM, HOP_UPSTREAM, LANE_STEER, ROLE_AGENT, ROLE_APPLICATION, Settings, SocketState,
        WORKLOAD_ADMITTED, WORKLOAD_REFUSED, Workload, counter,
    },
    flow::FlowKey,
};

const ETIMEDOUT: u32 = 110;

#[sock_ops]
fn weir_sockops(ctx: SockOpsContext) -> u32 {
    if let Some(settings) = settings() {
        match ctx.op() {
            BPF_SOCK_OPS_TCP_CONNECT_CB => open(&ctx),
            BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => opener_established(&ctx, settings),
            BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => acceptor_established(&ctx, settings),
            BPF_SOCK_OPS_STATE_CB => state_changed(&ctx, settings),
            _ => {}
        }
    }
    1
}

/// Before the SYN leaves: a socket with a recorded destination, or one of the agent's.
#[inline(always)]
fn open(ctx: &SockOpsContext) {
    // SAFETY: the helper takes the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.ops.cast()) };
    // SAFETY: the entry goes away only with this socket.
    if let Some(asked) = unsafe { ORIG_DST.get(cookie) } {
        if u32::from(asked.lane) == LANE_STEER {
            let flow = Flow {
                addr: asked.addr,
                cookie,
                cgroup_id: asked.cgroup_id,
                netns_cookie: asked.netns_cookie,
                connect_ns: asked.connect_ns,
                pid: asked.pid,
                port: asked.port,
                hop: HOP_DOWNSTREAM,
                ..Flow::default()
            };
            record(ctx, &flow);
        }
        return;
    }
    // SAFETY: only tested for presence.
    if unsafe { UPSTREAMS.get(cookie) }.is_some() {
        let key = ctx::flow_of_ops(ctx.ops);
        // SAFETY: no arguments.
        let connect_ns = unsafe { bpf_ktime_get_ns() };
        let flow = Flow {
            addr: key.remote,
            cookie,
            connect_ns,
            port: key.remote_port,
            hop: HOP_UPSTREAM,
            ..Flow::default()
        };
        record(ctx, &flow);
    }
}

#[inline(always)]
fn record(ctx: &SockOpsContext, flow: &Flow) {
    if FLOWS.insert(ctx::flow_of_ops(ctx.ops), flow, 0).is_err() {
        count(counter::FLOW_TABLE_FULL, 1);
        return;
    }
    watch_state(ctx);
}

#[inline(always)]
fn watch_state(ctx: &SockOpsContext) {
    // Refused only for request sockets, which never get here.
    let _ = ctx.set_cb_flags(ctx.cb_flags() as i32 | BPF_SOCK_OPS_STATE_CB_FLAG as i32);
}

#[inline(always)]
fn opener_established(ctx: &SockOpsContext, settings: &Settings) {
    let key = ctx::flow_of_ops(ctx.ops);
    let Some(flow) = FLOWS.get_ptr_mut(key) else { return };
    // SAFETY: the entry belongs to this socket, whose lock the kernel holds.
    let flow = unsafe { &mut *flow };
    // SAFETY: no arguments.
    flow.established_ns = unsafe { bpf_ktime_get_ns() };
    if settings.acceleration == ACCELERATION_OFF {
        return;
    }
    if flow.hop == HOP_DOWNSTREAM {
        if admitted(flow.cgroup_id, settings) {
            let joined = join(ctx, &key, ROLE_APPLICATION, 1, settings.request_cap);
            flow.mapped = u32::from(joined);
        }
    // SAFETY: read under the socket's lock; the agent removes the entry, never rewrites it.
    } else if unsafe { UPSTREAMS.get(flow.cookie) }.is_some_and(|upstream| upstream.mappable != 0) {
        // The agent sends only whole requests under the cap here; twice the cap leaves room for heads.
        join(ctx, &key, ROLE_AGENT, 1, settings.request_cap.saturating_mul(2));
    }
}

#[inline(always)]
fn acceptor_established(ctx: &SockOpsContext, settings: &Settings) {
    let key = ctx::flow_of_ops(ctx.ops);
    let opener = key.reversed();
    let Some(flow) = FLOWS.get_ptr_mut(opener) else { return };
    // SAFETY: the opener is past its own handshake; the fields written here are the acceptor's.
    let flow = unsafe { &mut *flow };
    if flow.hop == HOP_DOWNSTREAM {
        note_end(flow, END_ACCEPTED);
        watch_state(ctx);
        if flow.mapped != 0 {
            join(ctx, &key, ROLE_AGENT, 0, settings.answer_cap.saturating_mul(2));
        }
        return;
    }
    let cgroup_id = ctx::cgroup_of_ops(ctx.ops, settings);
    flow.cgroup_id = cgroup_id;
    let _ = WORKLOADS.insert(cgroup_id, Workload::default(), u64::from(BPF_NOEXIST));
    // SAFETY: only read; whoever removes the entry has decided.
    let wanted = unsafe { UPSTREAMS.get(flow.cookie) }.is_some_and(|upstream| upstream.mappable != 0);
    if !wanted || !admitted(cgroup_id, settings) {
        return;
    }
    if join(ctx, &key, ROLE_APPLICATION, 0, settings.answer_cap) {
        flow.mapped = 1;
        // First in the map, then the claim: the agent that finds the entry gone may send at once.
        if UPSTREAMS.remove(flow.cookie).is_err() {
            flow.mapped = 0;
            leave(&key);
        }
    }
}

/// Whether sockets of this workload may enter the socket map.
#[inline(always)]
fn admitted(cgroup_id: u64, settings: &Settings) -> bool {
    if settings.acceleration == ACCELERATION_OFF {
        return false;
    }
    // SAFETY: not preallocated, so an entry stays whole while we read it.
    let seen = unsafe { WORKLOADS.get(cgroup_id) };
    if seen.is_none_or(|workload| workload.barred != 0) {
        return false;
    }
    // SAFETY: as above.
    match unsafe { ADMITTED.get(cgroup_id) }.copied() {
        Some(WORKLOAD_REFUSED) => false,
        Some(WORKLOAD_ADMITTED) => true,
        _ => settings.acceleration != ACCELERATION_AUTO,
    }
}

#[inline(always)]
fn join(ctx: &SockOpsContext, key: &FlowKey, role: u32, opener: u32, turn_cap: u32) -> bool {
    let state = SocketState { turn_cap, role, opener, ..SocketState::default() };
    if STATES.insert(key, state, 0).is_err() {
        count(counter::MAP_FAILED, 1);
        return false;
    }
    let mut key = *key;
    // SAFETY: the kernel's own context, valid for the call.
    let ops = unsafe { &mut *ctx.ops };
    if SOCKETS.update(&mut key, ops, 0).is_err() {
        let _ = STATES.remove(key);
        count(counter::MAP_FAILED, 1);
        return false;
    }
    watch_state(ctx);
    count(counter::MAPPED, 1);
    true
}

#[inline(always)]
fn leave(key: &FlowKey) {
    let map = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: a map and a key of its type; sock_ops programs may remove from a socket map.
    unsafe { bpf_map_delete_elem(map, (&raw const *key).cast()) };
    let _ = STATES.remove(key);
}

#[inline(always)]
fn state_changed(ctx: &SockOpsContext, settings: &Settings) {
    let (old, new) = (ctx.arg(0), ctx.arg(1));
    let key = ctx::flow_of_ops(ctx.ops);
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        // SAFETY: the entry belongs to this socket, whose lock the kernel holds.
        let flow = unsafe { &mut *flow };
        note_close(ctx.ops, flow, old, new, settings);
        if new == BPF_TCP_FIN_WAIT1 {
            finished_sending(ctx, &key, flow, settings);
        }
        if new == BPF_TCP_CLOSE {
            take_redirected(&key, flow);
            events::flow_closed(ctx.ops, &key, flow);
            let ends = note_end(flow, END_OPENER_GONE);
            // The agent has not asked yet: a client that closes at once was a client all the same.
            if ends & (END_ACCEPTED | END_ACCEPTOR_GONE) != END_ACCEPTED {
                let _ = FLOWS.remove(key);
            }
        }
    } else if new == BPF_TCP_CLOSE {
        acceptor_closed(&key);
    }
    if new == BPF_TCP_CLOSE {
        // Absent where the socket never joined.
        let _ = STATES.remove(key);
    }
}

/// Adds an `END_*` bit; the bits before.
#[inline(always)]
fn note_end(flow: &mut Flow, end: u32) -> u32 {
    atomic::or(&mut flow.ends, end)
}

/// A client that blocks and half-closes leaves the map. The acknowledgement of its FIN wakes whoever
/// blocks in recv(2), and on a mapped socket that recv fails with EAGAIN instead of blocking on (seen on
/// 6.18). Others stay: an answer whose redirect has just been decided would be lost with the map's entry.
#[inline(always)]
fn finished_sending(ctx: &SockOpsContext, key: &FlowKey, flow: &mut Flow, settings: &Settings) {
    // SAFETY: not preallocated, so an entry stays whole while we read it.
    let Some(state) = (unsafe { STATES.get(key) }) else { return };
    // With redirected data unread it must stay: leaving would drop them.
    let fit = state.role == ROLE_APPLICATION && ctx::blocks_ops(ctx.ops, settings);
    if fit && ctx::drained_ops(ctx.ops, settings) {
        take_redirected(key, flow);
        leave(key);
    }
}

/// Who began to close, and how it ended: seen from the opener's state changes.
#[inline(always)]
fn note_close(ops: *mut bpf_sock_ops, flow: &mut Flow, old: u32, new: u32, settings: &Settings) {
    match (old, new) {
        (BPF_TCP_ESTABLISHED, BPF_TCP_FIN_WAIT1) => flow.closed_by = CLOSED_BY_OPENER,
        (BPF_TCP_ESTABLISHED, BPF_TCP_CLOSE_WAIT) => flow.closed_by = CLOSED_BY_ACCEPTOR,
        (_, BPF_TCP_CLOSE) => {
            let error = ctx::error_of_ops(ops, settings);
            flow.close_kind = match (old, error) {
                (_, ETIMEDOUT) => CLOSE_TIMEOUT,
                (BPF_TCP_SYN_SENT, _) => CLOSE_UNCONNECTED,
                (BPF_TCP_ESTABLISHED, _) => CLOSE_RESET,
                (_, 0) => CLOSE_FIN,
                _ => CLOSE_RESET,
            };
            if flow.closed_by == 0 {
                flow.closed_by = if error == 0 { CLOSED_BY_OPENER } else { CLOSED_BY_ACCEPTOR };
            }
        }
        _ => {}
    }
}

/// Bytes that TCP did not count because they were redirected.
#[inline(always)]
fn take_redirected(key: &FlowKey, flow: &mut Flow) {
    // SAFETY: read once; the peer may still count, at worst a message late.
    unsafe {
        if let Some(own) = STATES.get(key) {
            flow.redirected_tx = own.redirected;
            flow.carried = own.carried;
        }
        if let Some(peer) = STATES.get(key.reversed()) {
            flow.redirected_rx = peer.redirected;
        }
    }
}

/// The acceptor ended: before the opener, its count would be lost with its state; after it, nobody
/// needs the record any more.
#[inline(always)]
fn acceptor_closed(key: &FlowKey) {
    let opener = key.reversed();
    let Some(flow) = FLOWS.get_ptr_mut(opener) else { return };
    // SAFETY: the fields written here are the acceptor's.
    let flow = unsafe { &mut *flow };
    // SAFETY: as in `take_redirected`.
    if let Some(own) = unsafe { STATES.get(key) } {
        flow.redirected_rx = own.redirected;
    }
    if note_end(flow, END_ACCEPTOR_GONE) & END_OPENER_GONE != 0 {
        let _ = FLOWS.remove(opener);
    }
}
