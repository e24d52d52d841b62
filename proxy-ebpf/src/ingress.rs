//! tc on the node's uplinks: connections from outside to an address that is steered (a node port, an
//! external address) come to the agent's listener.
//!
//! The destination is replaced by the listener's before the stack, and so the cluster's own proxy, sees
//! the packet, and put back in the answers on their way out. The agent finds what was asked for in
//! [`INBOUND`]. Fails open: what is not steered goes on untouched, to whoever else serves it.

use crate::{
    maps::{INBOUND, SERVICES, count, settings},
    packet::{self, End, Packet, Parsed, TCP},
};
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::bpf_ktime_get_ns,
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{
    abi::{Inbound, LANE_STEER, ServiceKey, Settings, counter},
    addr::{AddrWords, unmapped},
    flow::FlowKey,
};

/// How long a connection may be silent before another of the same client may take its place.
const SILENT_NS: u64 = 60_000_000_000;
/// How often a connection's latest packet is noted.
const NOTE_NS: u64 = 1_000_000_000;

/// What becomes of a packet.
#[must_use]
enum Verdict {
    /// Others decide.
    Unchanged,
    /// Its destination is replaced.
    To(AddrWords, u16),
    /// Its source is replaced.
    From(AddrWords, u16),
}

#[classifier]
fn weir_ingress(ctx: TcContext) -> i32 {
    let Parsed::Packet(packet) = packet::parse(&ctx) else { return TC_ACT_UNSPEC };
    apply(&ctx, &packet, arriving(&packet))
}

#[classifier]
fn weir_egress(ctx: TcContext) -> i32 {
    let Parsed::Packet(packet) = packet::parse(&ctx) else { return TC_ACT_UNSPEC };
    apply(&ctx, &packet, leaving(&packet))
}

#[inline(always)]
fn apply(ctx: &TcContext, packet: &Packet, verdict: Verdict) -> i32 {
    let rewritten = match verdict {
        Verdict::Unchanged => Ok(()),
        Verdict::To(addr, port) => packet::rewrite(ctx, packet, End::Destination, (&addr, port)),
        Verdict::From(addr, port) => packet::rewrite(ctx, packet, End::Source, (&addr, port)),
    };
    // Half rewritten it is of no use to anybody: TCP sends it again.
    if rewritten.is_ok() { TC_ACT_UNSPEC } else { TC_ACT_SHOT as i32 }
}

#[inline(always)]
fn arriving(packet: &Packet) -> Verdict {
    let Some(settings) = settings() else { return Verdict::Unchanged };
    let listener = listener(settings, &packet.flow.remote);
    if packet.protocol != TCP || listener == [0; 4] {
        return Verdict::Unchanged;
    }
    let to = Verdict::To(listener, settings.listener_port);
    let key = FlowKey { remote: listener, remote_port: settings.listener_port, ..packet.flow };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let known = INBOUND.get_ptr_mut(key);
    if let Some(known) = known {
        // SAFETY: an entry is overwritten as a whole, and only by the same connection's packets.
        let known = unsafe { &mut *known };
        if known.addr == packet.flow.remote && known.port == packet.flow.remote_port {
            if now.wrapping_sub(known.seen_ns) > NOTE_NS {
                known.seen_ns = now;
            }
            return to;
        }
        if packet.is_syn() && is_steered(settings, packet) && now.wrapping_sub(known.seen_ns) < SILENT_NS {
            count(counter::INBOUND_CLASH, 1);
            return Verdict::Unchanged;
        }
    }
    if !packet.is_syn() || !is_steered(settings, packet) {
        return Verdict::Unchanged;
    }
    let inbound = Inbound {
        addr: packet.flow.remote,
        port: packet.flow.remote_port,
        seen_ns: now,
        ..Inbound::default()
    };
    if INBOUND.insert(key, inbound, 0).is_err() {
        return Verdict::Unchanged;
    }
    count(counter::INBOUND, 1);
    to
}

#[inline(always)]
fn leaving(packet: &Packet) -> Verdict {
    let Some(settings) = settings() else { return Verdict::Unchanged };
    let from_listener = packet.flow.local_port == settings.listener_port
        && packet.flow.local == listener(settings, &packet.flow.local);
    if packet.protocol != TCP || !from_listener {
        return Verdict::Unchanged;
    }
    // SAFETY: an entry is overwritten as a whole, and only by the same connection's packets.
    match unsafe { INBOUND.get(packet.flow.reversed()) } {
        Some(inbound) => Verdict::From(inbound.addr, inbound.port),
        None => Verdict::Unchanged,
    }
}

/// The listener of an address's family; zero where there is none.
#[inline(always)]
fn listener(settings: &Settings, addr: &AddrWords) -> AddrWords {
    if unmapped(addr).is_some() { settings.listener4 } else { settings.listener6 }
}

/// Whether new connections to a packet's destination are the agent's: a Service's address, not an
/// endpoint's own, which the client's node has seen to already.
#[inline(always)]
fn is_steered(settings: &Settings, packet: &Packet) -> bool {
    let key = ServiceKey {
        addr: packet.flow.remote,
        port: packet.flow.remote_port,
        protocol: u16::from(packet.protocol),
    };
    // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
    let service = unsafe { SERVICES.get(key) };
    settings.steering != 0 && service.is_some_and(|service| service.lane == LANE_STEER && service.id != 0)
}
