//! cgroup_skb on the pods' cgroup: datagrams (UDP, SCTP) of pods, both ways. A connect tells nothing of them:
//! each names where it goes.
//!
//! Who sends is asked first, and gets an error at once: by the policies of both ends, where the packet has the
//! address of who gets it. To the address of a Service it goes on, and the cluster's own proxy chooses an
//! endpoint: then who gets it decides, by the same policies, as it does about what comes without having been
//! seen here (a frame made by hand); where that is on another node, [`crate::ingress`] asks those of the sender.
//! Answers pass: [`DATAGRAMS`] knows what they answer.

use crate::{
    access::{self, Who},
    ctx, events,
    maps::{DATAGRAMS, SERVICES, settings},
    packet::{self, Packet, Parsed, TCP},
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_ktime_get_ns, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use proxy_common::{
    abi::{ServiceKey, Settings},
    access::{Connection, Decision, Denied, Peer, Subject},
    addr::unmapped,
    flow::FlowKey,
};

/// How long a datagram may be answered; conntrack's time for streams of them.
const ANSWERED_NS: u64 = 180_000_000_000;
/// How often one of a flow is noted.
const NOTE_NS: u64 = 1_000_000_000;

/// What becomes of a packet.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    Drop,
}

#[cgroup_skb(egress)]
fn weir_sent(ctx: SkBuffContext) -> i32 {
    apply(&ctx, sent)
}

#[cgroup_skb(ingress)]
fn weir_received(ctx: SkBuffContext) -> i32 {
    apply(&ctx, received)
}

#[inline(always)]
fn apply(ctx: &SkBuffContext, decide: impl Fn(*mut __sk_buff, &Settings, &Packet) -> Verdict) -> i32 {
    let skb = ctx.skb.skb;
    if ctx::is_tcp(skb) {
        return 1;
    }
    let Some(settings) = settings().filter(|settings| settings.access != 0) else { return 1 };
    let verdict = match packet::parse_ip(&ctx.skb) {
        Parsed::Packet(packet) if packet.protocol != TCP => decide(skb, settings, &packet),
        Parsed::Packet(_) | Parsed::Other => Verdict::Pass,
        // What cannot be read cannot be allowed.
        Parsed::Unreadable => Verdict::Drop,
    };
    i32::from(verdict == Verdict::Pass)
}

/// By a socket of a pod, whatever its packet says.
#[inline(always)]
fn sent(skb: *mut __sk_buff, settings: &Settings, packet: &Packet) -> Verdict {
    let from = match who(skb, settings) {
        Who::Anybody => return Verdict::Pass,
        Who::Unknown if settings.fail_closed == 0 => return Verdict::Pass,
        Who::Unknown => return refuse(skb, packet, Denied::Unknown),
        Who::Known(from) => from,
    };
    let to = access::peer(&packet.flow.remote);
    let to_service = is_service(packet);
    let decision = if to_service { Decision::Allow } else { decide(settings, from, to, packet) };
    if let Decision::Deny(denied) = decision {
        return answer_or(skb, packet, denied);
    }
    // Who need not ask gets answers anyway.
    if from.ingress != 0 || to.is_some_and(|to| to.egress != 0) {
        note(&packet.flow);
    }
    Verdict::Pass
}

/// To a socket of a pod, whatever address it was sent to.
#[inline(always)]
fn received(skb: *mut __sk_buff, settings: &Settings, packet: &Packet) -> Verdict {
    let to = match who(skb, settings) {
        Who::Anybody => return Verdict::Pass,
        Who::Unknown if settings.fail_closed == 0 => return Verdict::Pass,
        Who::Unknown => return refuse(skb, packet, Denied::Unknown),
        Who::Known(to) => to.reached(unmapped(&packet.flow.local).is_some()),
    };
    let from = access::peer(&packet.flow.local).map_or_else(Subject::default, Subject::at_address);
    if let Decision::Deny(denied) = decide(settings, &from, Some(&to), packet) {
        return answer_or(skb, packet, denied);
    }
    if to.egress != 0 {
        note(&packet.flow);
    }
    Verdict::Pass
}

#[inline(always)]
fn decide(settings: &Settings, from: &Subject, to: Option<&Peer>, packet: &Packet) -> Decision {
    let FlowKey { remote: addr, remote_port: port, .. } = &packet.flow;
    let connection = Connection { from, addr, to, protocol: packet.protocol, port: *port };
    connection.decide(settings.fail_closed != 0, access::verdict)
}

/// The pod whose socket it is.
#[inline(always)]
fn who(skb: *mut __sk_buff, settings: &Settings) -> Who {
    // SAFETY: the hook's own context; 0 where the tree is not so deep.
    access::who_by(settings, |level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) })
}

/// The address is a Service's, for the cluster's own proxy to replace.
#[inline(always)]
fn is_service(packet: &Packet) -> bool {
    let key = ServiceKey {
        addr: packet.flow.remote,
        port: packet.flow.remote_port,
        protocol: u16::from(packet.protocol),
    };
    // SAFETY: only tested for presence.
    unsafe { SERVICES.get(key) }.is_some()
}

#[inline(always)]
fn answer_or(skb: *mut __sk_buff, packet: &Packet, denied: Denied) -> Verdict {
    if is_answer(&packet.flow) { Verdict::Pass } else { refuse(skb, packet, denied) }
}

#[inline(always)]
fn refuse(skb: *mut __sk_buff, packet: &Packet, denied: Denied) -> Verdict {
    access::count_refusal(denied);
    let FlowKey { local, remote, remote_port, .. } = &packet.flow;
    // SAFETY: the hook's own context.
    let cgroup_id = unsafe { bpf_skb_cgroup_id(skb) };
    // Who runs now may be anybody.
    events::refused(denied, remote, local, (cgroup_id, 0), (*remote_port, packet.protocol));
    Verdict::Drop
}

/// A flow the other way round was allowed, and is not over yet.
#[inline(always)]
pub fn is_answer(flow: &FlowKey) -> bool {
    // SAFETY: no arguments; one word, read once.
    let (now, sent) = unsafe { (bpf_ktime_get_ns(), DATAGRAMS.get(flow.reversed())) };
    sent.is_some_and(|sent| now.wrapping_sub(*sent) < ANSWERED_NS)
}

/// A datagram was allowed: answers to it will be known.
#[inline(always)]
pub fn note(flow: &FlowKey) {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: one word, read once.
    let fresh = unsafe { DATAGRAMS.get(flow) }.is_some_and(|sent| now.wrapping_sub(*sent) < NOTE_NS);
    if !fresh {
        // Never full: the oldest goes.
        let _ = DATAGRAMS.insert(flow, now, 0);
    }
}
