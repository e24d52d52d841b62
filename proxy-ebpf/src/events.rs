//! Records for the user half. A full ring loses the record and counts it; nothing waits.

use crate::maps::{EVENTS, count};
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, bpf_sock_ops},
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_query},
};
use core::ptr::read_volatile;
use proxy_common::{
    abi::{
        CLOSE_FIN, EVENT_FLOW_CLOSED, EVENT_REFUSED, EVENT_WORKLOAD_BARRED, Flow, FlowClosed, Refused,
        WorkloadBarred, counter,
    },
    access::Denied,
    addr::AddrWords,
    flow::FlowKey,
};

/// `srtt_us` is kept times eight (`struct tcp_sock`).
const SRTT_SHIFT: u32 = 3;

/// Reports a flow's end, from its opener.
#[inline(always)]
pub fn flow_closed(ops: *mut bpf_sock_ops, key: &FlowKey, flow: &Flow) {
    let Some(mut slot) = EVENTS.reserve::<FlowClosed>(0) else {
        count(counter::EVENTS_LOST, 1);
        return;
    };
    // SAFETY: words of the context that the kernel handed to the program; the clock takes nothing.
    let record = unsafe {
        FlowClosed {
            kind: EVENT_FLOW_CLOSED,
            srtt_us: read_volatile(&raw const (*ops).srtt_us) >> SRTT_SHIFT,
            local: key.local,
            remote: key.remote,
            local_port: key.local_port,
            remote_port: key.remote_port,
            retransmits: read_volatile(&raw const (*ops).total_retrans),
            bytes_sent: read_volatile(&raw const (*ops).bytes_acked)
                .saturating_sub(acknowledged_controls(flow))
                .wrapping_add(flow.redirected_tx),
            bytes_received: read_volatile(&raw const (*ops).bytes_received)
                .saturating_sub(received_fin(flow))
                .wrapping_add(flow.redirected_rx)
                .wrapping_add(flow.carried),
            duration_ns: bpf_ktime_get_ns().wrapping_sub(flow.connect_ns),
            flow: *flow,
        }
    };
    slot.write(record);
    slot.submit(0);
}

/// SYN and FIN take a sequence number each (RFC 9293 section 3.4), so `bytes_acked` counts them.
#[inline(always)]
fn acknowledged_controls(flow: &Flow) -> u64 {
    if flow.close_kind == CLOSE_FIN { 2 } else { 1 }
}

/// The peer's FIN, likewise. A socket that nobody holds any more may end before it comes: then this is
/// one byte short.
#[inline(always)]
fn received_fin(flow: &Flow) -> u64 {
    u64::from(flow.close_kind == CLOSE_FIN)
}

/// Reports a workload that tripped the wire.
#[inline(always)]
pub fn workload_barred(by: u32, cgroup_id: u64, pid: u32, admitted: bool) {
    let Some(mut slot) = EVENTS.reserve::<WorkloadBarred>(0) else {
        count(counter::EVENTS_LOST, 1);
        return;
    };
    slot.write(WorkloadBarred {
        kind: EVENT_WORKLOAD_BARRED,
        by,
        cgroup_id,
        pid,
        admitted: u32::from(admitted),
    });
    slot.submit(0);
}

/// Refusals leave this much of the ring to flows, so that a client that never tires loses them none.
const REFUSALS_UP_TO: u64 = 1 << 19;

/// Reports a refused connection or datagram of a cgroup and process of this node, 0 where it is not known.
/// Where the ring is half full it is counted only.
#[inline(always)]
pub fn refused(
    denied: Denied,
    addr: &AddrWords,
    client: &AddrWords,
    (cgroup_id, pid): (u64, u32),
    (port, protocol): (u16, u8),
) {
    let ring = (&raw const EVENTS).cast_mut().cast();
    // SAFETY: a ring buffer of this program.
    if unsafe { bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA)) } > REFUSALS_UP_TO {
        return;
    }
    let Some(mut slot) = EVENTS.reserve::<Refused>(0) else {
        count(counter::EVENTS_LOST, 1);
        return;
    };
    slot.write(Refused {
        kind: EVENT_REFUSED,
        denied: denied as u32,
        addr: *addr,
        client: *client,
        cgroup_id,
        pid,
        port,
        protocol: u16::from(protocol),
    });
    slot.submit(0);
}
