//! tc on the node's uplinks: what comes from other nodes and from outside. Flows to pods of this node that
//! their policies deny end here, whatever the sender's node has let pass; connections to an address that is
//! steered (a node port, an external address), and those whose requests are to be decided about, come to the
//! agent's listener.
//!
//! The destination is replaced by the listener's before the stack, and so the cluster's own proxy, sees
//! the packet, and put back in the answers on their way out. The agent finds what was asked for in
//! [`INBOUND`]. Fails open: what is not steered goes on untouched, to whoever else serves it.

use crate::{
    access, datagram, events, listener,
    maps::{INBOUND, SERVICES, count, settings},
    packet::{self, End, Packet, Parsed, TCP},
};
use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_ktime_get_ns, bpf_redirect},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{
    abi::{ID_ENDPOINT, Inbound, LANE_STEER, ServiceKey, Settings, counter},
    access::{Connection, Decision, Denied, IS_LOCAL_POD, Peer, Subject},
    addr::AddrWords,
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
    /// It goes no further. TCP is told so.
    Refuse,
}

#[classifier]
fn weir_ingress(ctx: TcContext) -> i32 {
    match packet::parse(&ctx) {
        Parsed::Packet(packet) => apply(&ctx, &packet, arriving(&packet)),
        Parsed::Other => TC_ACT_UNSPEC,
        // What cannot be read cannot be allowed. Nobody sends such packets in earnest.
        Parsed::Unreadable if settings().is_some_and(|settings| settings.access != 0) => TC_ACT_SHOT,
        Parsed::Unreadable => TC_ACT_UNSPEC,
    }
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
        Verdict::Refuse if packet.protocol == TCP => return reset(ctx, packet),
        Verdict::Refuse => Err(-1),
        Verdict::To(addr, port) => packet::rewrite(ctx, packet, End::Destination, (&addr, port)),
        Verdict::From(addr, port) => packet::rewrite(ctx, packet, End::Source, (&addr, port)),
    };
    // Half rewritten it is of no use to anybody: TCP sends it again.
    if rewritten.is_ok() { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

/// Sends the answer to a refused SYN back the way that it came.
#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet) -> i32 {
    if packet::make_reset(ctx, packet).is_err() {
        return TC_ACT_SHOT;
    }
    // SAFETY: a field of the hook's own context; the helper takes numbers only.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
}

#[inline(always)]
fn arriving(packet: &Packet) -> Verdict {
    let Some(settings) = settings() else { return Verdict::Unchanged };
    let listener = listener::address(settings, &packet.flow.remote);
    let by_request = match decide(settings, packet) {
        Decision::Allow => false,
        Decision::AllowHttp if listener::accepts(settings, &packet.flow.remote) => true,
        Decision::AllowHttp if settings.fail_closed == 0 => false,
        Decision::AllowHttp => return refuse(packet, Denied::Unknown),
        Decision::Deny(denied) => return refuse(packet, denied),
    };
    if packet.protocol != TCP || listener == [0; 4] {
        return Verdict::Unchanged;
    }
    bring_in(settings, packet, listener, by_request)
}

/// What the policies of the pod that a new flow is for say. Whoever is on another node is known by the
/// address.
#[inline(always)]
fn decide(settings: &Settings, packet: &Packet) -> Decision {
    if settings.access == 0 || !packet.opens() {
        return Decision::Allow;
    }
    let to = access::peer(&packet.flow.remote).filter(|to| to.ingress != 0 && to.flags & IS_LOCAL_POD != 0);
    let Some(to) = to else { return Decision::Allow };
    let from = access::peer(&packet.flow.local).map_or_else(Subject::default, Subject::elsewhere);
    let FlowKey { remote: addr, remote_port: port, .. } = &packet.flow;
    let connection = Connection { from: &from, addr, to: Some(to), protocol: packet.protocol, port: *port };
    let decision = connection.decide(settings.fail_closed != 0, access::verdict);
    if packet.protocol != TCP && decision != Decision::Allow && datagram::is_answer(&packet.flow) {
        return Decision::Allow;
    }
    decision
}

#[inline(always)]
fn refuse(packet: &Packet, denied: Denied) -> Verdict {
    access::count_refusal(denied);
    let FlowKey { local, remote, remote_port, .. } = &packet.flow;
    events::refused(denied, remote, local, (0, 0), (*remote_port, packet.protocol));
    Verdict::Refuse
}

/// To the listener, if it is a connection that was brought there, or a new one that is to be.
#[inline(always)]
fn bring_in(settings: &Settings, packet: &Packet, listener: AddrWords, by_request: bool) -> Verdict {
    let to = Verdict::To(listener, settings.listener_port);
    let key = FlowKey { remote: listener, remote_port: settings.listener_port, ..packet.flow };
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let wanted = packet.is_syn() && (by_request || is_steered(settings, packet));
    if let Some(known) = INBOUND.get_ptr_mut(key) {
        // SAFETY: an entry is overwritten as a whole, and only by the same connection's packets.
        let known = unsafe { &mut *known };
        if known.addr == packet.flow.remote && known.port == packet.flow.remote_port {
            if now.wrapping_sub(known.seen_ns) > NOTE_NS {
                known.seen_ns = now;
            }
            return to;
        }
        if wanted && now.wrapping_sub(known.seen_ns) < SILENT_NS {
            count(counter::INBOUND_CLASH, 1);
            return Verdict::Unchanged;
        }
    }
    if !wanted {
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
    if packet.protocol != TCP {
        return sent(settings, packet);
    }
    let from_listener = packet.flow.local_port == settings.listener_port
        && packet.flow.local == listener::address(settings, &packet.flow.local);
    if !from_listener {
        return Verdict::Unchanged;
    }
    // SAFETY: an entry is overwritten as a whole, and only by the same connection's packets.
    match unsafe { INBOUND.get(packet.flow.reversed()) } {
        Some(inbound) => Verdict::From(inbound.addr, inbound.port),
        None => Verdict::Unchanged,
    }
}

/// A datagram leaves the node. To its Service's address the pod might send it; here it has an endpoint's, and
/// its sender's policies are asked. Answers to it will be known, where they would not be allowed anyway.
#[inline(always)]
fn sent(settings: &Settings, packet: &Packet) -> Verdict {
    let FlowKey { local, remote: addr, remote_port: port, .. } = &packet.flow;
    let own = if settings.access == 0 { None } else { access::peer(local) };
    let Some(own) = own.filter(|own| own.egress != 0 || own.ingress != 0) else { return Verdict::Unchanged };
    if own.egress != 0 {
        // Policies of who gets it are for its own node.
        let to = access::peer(addr).map(|to| Peer { ingress: 0, ..*to });
        let from = Subject::at_address(own);
        let connection =
            Connection { from: &from, addr, to: to.as_ref(), protocol: packet.protocol, port: *port };
        if let Decision::Deny(denied) = connection.decide(settings.fail_closed != 0, access::verdict)
            && !datagram::is_answer(&packet.flow)
        {
            return refuse(packet, denied);
        }
    }
    if own.ingress != 0 {
        datagram::note(&packet.flow);
    }
    Verdict::Unchanged
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
    service.is_some_and(|service| service.lane == LANE_STEER && service.id != ID_ENDPOINT)
        && listener::accepts(settings, &packet.flow.remote)
}
