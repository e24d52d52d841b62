//! cgroup/connect4,6: where a connect goes. cgroup/getpeername4,6: what the application sees
//! afterwards. cgroup/sock_release: when it is forgotten.
//!
//! Fails open: what is not in the service table, or cannot be decided, connects as if Weir were not
//! there; a full table follows `Settings::fail_closed`.

use crate::{
    ctx,
    maps::{ENDPOINTS, ORIG_DST, SERVICES, UPSTREAMS, WORKLOADS, count, settings},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_NOEXIST, bpf_sock_addr},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie,
            bpf_ktime_get_ns, bpf_set_retval,
        },
    },
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use proxy_common::{
    abi::{
        Endpoint, EndpointKey, LANE_PASS, LANE_STEER, OrigDst, Service, ServiceKey, Settings, Workload,
        counter,
    },
    addr::{AddrWords, unmapped},
};

const ECONNREFUSED: i32 = 111;

/// What a connect gets.
#[must_use]
enum Verdict {
    /// As the application asked.
    Unchanged,
    /// To this address instead.
    Rewrite(AddrWords, u16),
    /// `ECONNREFUSED` at once.
    Refuse,
}

#[cgroup_sock_addr(connect4)]
fn weir_connect4(ctx: SockAddrContext) -> i32 {
    let (addr, port) = ctx::destination4(ctx.sock_addr);
    match decide(ctx.sock_addr, addr, port, 4) {
        Verdict::Unchanged => 1,
        Verdict::Rewrite(addr, port) => {
            ctx::rewrite4(ctx.sock_addr, &addr, port);
            1
        }
        Verdict::Refuse => refuse(),
    }
}

#[cgroup_sock_addr(connect6)]
fn weir_connect6(ctx: SockAddrContext) -> i32 {
    let (addr, port) = ctx::destination6(ctx.sock_addr);
    match decide(ctx.sock_addr, addr, port, 6) {
        Verdict::Unchanged => 1,
        Verdict::Rewrite(addr, port) => {
            ctx::rewrite6(ctx.sock_addr, &addr, port);
            1
        }
        Verdict::Refuse => refuse(),
    }
}

#[cgroup_sock_addr(getpeername4)]
fn weir_peer4(ctx: SockAddrContext) -> i32 {
    if let Some(asked) = asked_for(ctx.sock_addr) {
        ctx::rewrite4(ctx.sock_addr, &asked.addr, asked.port);
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
fn weir_peer6(ctx: SockAddrContext) -> i32 {
    if let Some(asked) = asked_for(ctx.sock_addr) {
        ctx::rewrite6(ctx.sock_addr, &asked.addr, asked.port);
    }
    1
}

#[cgroup_sock(sock_release)]
fn weir_release(ctx: SockContext) -> i32 {
    // SAFETY: the helper takes the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Most sockets were never steered: absence is the usual outcome.
    let _ = ORIG_DST.remove(cookie);
    1
}

#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: allowed in cgroup hooks; without it the application would see EPERM.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    0
}

#[inline(always)]
fn asked_for(ctx: *mut bpf_sock_addr) -> Option<&'static OrigDst> {
    // SAFETY: the helper takes the hook's own context; entries go away only with their socket.
    unsafe { ORIG_DST.get(bpf_get_socket_cookie(ctx.cast())) }
}

#[inline(always)]
fn decide(ctx: *mut bpf_sock_addr, addr: AddrWords, port: u16, family: u32) -> Verdict {
    if ctx::protocol(ctx) != ctx::TCP {
        return Verdict::Unchanged;
    }
    // SAFETY: the helper takes the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    let key = ServiceKey { addr, port, protocol: ctx::TCP as u16 };
    // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
    let (Some(settings), Some(service)) = (settings(), unsafe { SERVICES.get(key) }) else {
        // A socket may be connected anew elsewhere (AF_UNSPEC first): no stale record.
        let _ = ORIG_DST.remove(cookie);
        return Verdict::Unchanged;
    };
    // SAFETY: only tested for presence.
    if unsafe { UPSTREAMS.get(cookie) }.is_some() {
        return Verdict::Unchanged;
    }
    // SAFETY: the helpers take the hook's own context, or nothing.
    let asked = unsafe {
        OrigDst {
            addr,
            cgroup_id: bpf_get_current_cgroup_id(),
            netns_cookie: bpf_get_netns_cookie(ctx.cast()),
            connect_ns: bpf_ktime_get_ns(),
            pid: (bpf_get_current_pid_tgid() >> 32) as u32,
            port,
            lane: service.lane as u16,
            family,
            pad: 0,
        }
    };
    match listener(settings, service, &addr) {
        Some(listener) => steer(settings, service, cookie, &asked, listener),
        None => balance(service, cookie, &asked),
    }
}

/// The agent's listener of the destination's family, if this service is steered now.
#[inline(always)]
fn listener(settings: &Settings, service: &Service, addr: &AddrWords) -> Option<AddrWords> {
    if service.lane != LANE_STEER || settings.steering == 0 {
        return None;
    }
    let listener = if unmapped(addr).is_some() { settings.listener4 } else { settings.listener6 };
    (listener != [0; 4]).then_some(listener)
}

#[inline(always)]
fn steer(
    settings: &Settings,
    service: &Service,
    cookie: u64,
    asked: &OrigDst,
    listener: AddrWords,
) -> Verdict {
    if ORIG_DST.insert(cookie, asked, 0).is_ok() {
        // Exists already for all but the workload's first connect.
        let _ = WORKLOADS.insert(asked.cgroup_id, Workload::default(), u64::from(BPF_NOEXIST));
        count(counter::STEERED, 1);
        return Verdict::Rewrite(listener, settings.listener_port);
    }
    if settings.fail_closed != 0 {
        count(counter::TABLE_FULL_CLOSED, 1);
        return Verdict::Refuse;
    }
    count(counter::TABLE_FULL_OPEN, 1);
    match endpoint(service) {
        Some(endpoint) => Verdict::Rewrite(endpoint.addr, endpoint.port),
        None => Verdict::Unchanged,
    }
}

/// Socket load balancing: the connect goes straight to a random ready endpoint.
#[inline(always)]
fn balance(service: &Service, cookie: u64, asked: &OrigDst) -> Verdict {
    let Some(endpoint) = endpoint(service) else {
        if service.lane == LANE_PASS {
            count(counter::NO_ENDPOINT, 1);
            return Verdict::Refuse;
        }
        // An endpoint's own address, or a steered Service while the agent leaves.
        let _ = ORIG_DST.remove(cookie);
        return Verdict::Unchanged;
    };
    count(counter::BALANCED, 1);
    let asked = OrigDst { lane: LANE_PASS as u16, ..*asked };
    // Full: only getpeername is worse for it.
    let _ = ORIG_DST.insert(cookie, asked, 0);
    Verdict::Rewrite(endpoint.addr, endpoint.port)
}

#[inline(always)]
fn endpoint(service: &Service) -> Option<&'static Endpoint> {
    if service.endpoints == 0 {
        return None;
    }
    // SAFETY: no arguments.
    let index = unsafe { bpf_get_prandom_u32() } % service.endpoints;
    // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
    unsafe { ENDPOINTS.get(EndpointKey { service: service.id, index }) }
}
