//! Who may connect to whom: the tables' side of `proxy_common::access`.
//!
//! What a connection may do is decided when it is opened, and a refusal is told at once. A cgroup that is
//! not known (a pod that has just started) follows `Settings::fail_closed`.

use crate::{
    events,
    maps::{ENDPOINTS, PEERS, SUBJECTS, VERDICTS, count},
};
use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id},
    },
    maps::lpm_trie::Key,
};
use proxy_common::{
    abi::{EndpointKey, Service, Settings, counter},
    access::{ADDR_BITS, Connection, Decision, Denied, PORT_AT, PORT_BITS, Peer, Subject, VerdictKey},
    addr::AddrWords,
};

/// Endpoints of a Service that are looked at.
const MAX_ENDPOINTS: u32 = 16;

/// Who connects.
#[derive(Clone, Copy)]
pub enum Who {
    /// No policy is in force, or it is a process of the node, which is never denied.
    Anybody,
    /// This pod.
    Known(&'static Subject),
    /// A cgroup below the pods' parent that is not known.
    Unknown,
}

/// The pod that the current process is part of: kubelet puts a pod's cgroup one or two levels below the
/// parent of all, and containers' below it.
#[inline(always)]
pub fn who(settings: &Settings) -> Who {
    if settings.access == 0 {
        return Who::Anybody;
    }
    // SAFETY: takes a number only; 0 where the tree is not so deep.
    who_by(settings, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) })
}

/// The pod of a cgroup, by its ancestors: `ancestor` tells the id of the one at a level of the tree.
#[inline(always)]
pub fn who_by(settings: &Settings, ancestor: impl Fn(u32) -> u64) -> Who {
    for below in 1..=2 {
        let cgroup = ancestor(settings.pods_level + below);
        // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
        if let Some(subject) = unsafe { SUBJECTS.get(cgroup) } {
            return Who::Known(subject);
        }
    }
    if ancestor(settings.pods_level) == settings.pods_cgroup { Who::Unknown } else { Who::Anybody }
}

/// Who has an address.
#[inline(always)]
pub fn peer(addr: &AddrWords) -> Option<&'static Peer> {
    PEERS.get(Key::new(ADDR_BITS, *addr))
}

/// May they connect to a pod's port?
#[inline(always)]
pub fn decide(settings: &Settings, who: Who, addr: &AddrWords, port: u16, protocol: u8) -> Decision {
    match who {
        Who::Anybody => Decision::Allow,
        Who::Unknown if settings.fail_closed != 0 => Decision::Deny(Denied::Unknown),
        Who::Unknown => Decision::Allow,
        Who::Known(from) => Connection { from, addr, to: peer(addr), protocol, port }
            .decide(settings.fail_closed != 0, verdict),
    }
}

/// May they connect to any of a Service's endpoints? The agent decides about each; only where it has no
/// choice left, it is refused here.
#[inline(always)]
pub fn decide_any(settings: &Settings, who: Who, service: &Service, protocol: u8) -> Decision {
    let mut last = Decision::Allow;
    for index in 0..MAX_ENDPOINTS {
        // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
        let Some(endpoint) = (unsafe { ENDPOINTS.get(EndpointKey { service: service.id, index }) }) else {
            break;
        };
        last = decide(settings, who, &endpoint.addr, endpoint.port, protocol);
        if !matches!(last, Decision::Deny(_)) {
            return last;
        }
    }
    if service.endpoints > MAX_ENDPOINTS { Decision::Allow } else { last }
}

/// What the tables say about a set, a class, a protocol and a port.
#[inline(always)]
pub fn verdict(key: &VerdictKey) -> Option<u32> {
    VERDICTS.get(Key::new(PORT_AT + PORT_BITS, *key)).copied()
}

/// Counts a refusal of the current process, and reports it.
#[inline(always)]
pub fn refused(denied: Denied, addr: &AddrWords, port: u16, protocol: u8) {
    count_refusal(denied);
    // SAFETY: takes nothing.
    let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    events::refused(denied, addr, &[0; 4], (cgroup_id, pid), (port, protocol));
}

/// Counts a refusal.
#[inline(always)]
pub fn count_refusal(denied: Denied) {
    let reason = match denied {
        Denied::Egress => counter::REFUSED_EGRESS,
        Denied::Ingress => counter::REFUSED_INGRESS,
        Denied::Unknown => counter::REFUSED_UNKNOWN,
    };
    count(reason, 1);
}
