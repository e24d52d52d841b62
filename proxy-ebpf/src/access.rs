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
        generated::{
            bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_prandom_u32, bpf_loop,
        },
    },
    maps::lpm_trie::Key,
};
use core::ffi::c_void;
use proxy_common::{
    abi::{EndpointKey, Service, Settings, counter},
    access::{
        ADDR_BITS, ALLOW, ALLOW_HTTP, Connection, Decision, Denied, PORT_AT, PORT_BITS, Peer, Subject,
        VerdictKey,
    },
    addr::AddrWords,
};

/// Endpoints of a Service that are looked at.
const MAX_ENDPOINTS: u32 = 256;

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

/// A Service's endpoint that they may connect to, the first that is found from a place of chance on.
#[derive(Clone, Copy)]
pub enum Found {
    /// The n-th.
    At(u32),
    /// They may connect to none.
    None(Denied),
    /// There are more than are looked at, or none.
    Unknown,
}

/// What a look at endpoints is about, and what it found: the loop's, on the stack of who looks.
struct Look {
    settings: &'static Settings,
    from: &'static Subject,
    service: u32,
    endpoints: u32,
    first: u32,
    by_request: u32,
    protocol: u32,
    /// 0: nothing yet; [`ALLOW`], [`ALLOW_HTTP`].
    found: u32,
    at: u32,
    denied: u32,
}

/// Looks for an endpoint. `by_request`: one will do whose requests the agent decides about.
#[inline(always)]
pub fn find(
    settings: &'static Settings,
    who: Who,
    service: &Service,
    by_request: bool,
    protocol: u8,
) -> Found {
    if service.endpoints == 0 {
        return Found::Unknown;
    }
    // SAFETY: no arguments.
    let first = unsafe { bpf_get_prandom_u32() } % service.endpoints;
    let from = match who {
        Who::Unknown if settings.fail_closed != 0 => return Found::None(Denied::Unknown),
        Who::Anybody | Who::Unknown => return Found::At(first),
        Who::Known(from) => from,
    };
    let mut look = Look {
        settings,
        from,
        service: service.id,
        endpoints: service.endpoints,
        first,
        by_request: u32::from(by_request),
        protocol: u32::from(protocol),
        found: 0,
        at: 0,
        denied: Denied::Unknown as u32,
    };
    let (times, body) = (service.endpoints.min(MAX_ENDPOINTS), look_at as *mut c_void);
    // SAFETY: the body has the signature that the helper asks for, and the context outlives the call.
    unsafe { bpf_loop(times, body, (&raw mut look).cast(), 0) };
    match look.found {
        ALLOW | ALLOW_HTTP => Found::At(look.at),
        _ if service.endpoints > MAX_ENDPOINTS => Found::Unknown,
        _ if look.denied == Denied::Egress as u32 => Found::None(Denied::Egress),
        _ if look.denied == Denied::Ingress as u32 => Found::None(Denied::Ingress),
        _ => Found::None(Denied::Unknown),
    }
}

/// Looks at one endpoint; 1 ends the loop.
extern "C" fn look_at(step: u32, look: *mut Look) -> i64 {
    // SAFETY: the loop hands on what it was given.
    let look = unsafe { &mut *look };
    let index = look.first.wrapping_add(step) % look.endpoints;
    // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
    let Some(endpoint) = (unsafe { ENDPOINTS.get(EndpointKey { service: look.service, index }) }) else {
        return 0;
    };
    let who = Who::Known(look.from);
    match decide(look.settings, who, &endpoint.addr, endpoint.port, look.protocol as u8) {
        Decision::Allow => look.found = ALLOW,
        Decision::AllowHttp if look.by_request != 0 => look.found = ALLOW_HTTP,
        Decision::AllowHttp => return 0,
        Decision::Deny(denied) => {
            look.denied = denied as u32;
            return 0;
        }
    }
    look.at = index;
    1
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
