//! cgroup/connect4,6: where a connect goes. cgroup/getpeername4,6: what the application sees
//! afterwards. cgroup/sock_release: when it is forgotten.
//!
//! Fails open: what is not in the service table, or cannot be decided, connects as if Weir were not
//! there; a full table follows `Settings::fail_closed`.

use crate::{
    access::{self, Who},
    affinity::endpoint,
    ctx,
    maps::{ORIG_DST, SERVICES, UPSTREAMS, WORKLOADS, count, settings},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_NOEXIST, bpf_sock_addr},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_ns,
            bpf_set_retval,
        },
    },
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use proxy_common::{
    abi::{
        Endpoint, ID_ENDPOINT, LANE_PASS, LANE_STEER, OrigDst, Service, ServiceKey, Settings, Workload,
        counter,
    },
    access::{Decision, Denied},
    addr::{AddrWords, unmapped},
};

const ECONNREFUSED: i32 = 111;
/// IP protocol number of TCP.
const TCP: u8 = ctx::TCP as u8;

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

/// The way of a connect: what is asked for, by whom, whether it may be, and how it gets there.
#[inline(always)]
fn decide(ctx: *mut bpf_sock_addr, addr: AddrWords, port: u16, family: u32) -> Verdict {
    if ctx::protocol(ctx) != ctx::TCP {
        return Verdict::Unchanged;
    }
    // SAFETY: the helper takes the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    let key = ServiceKey { addr, port, protocol: ctx::TCP as u16 };
    let Some(settings) = settings() else { return Verdict::Unchanged };
    // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
    let service = unsafe { SERVICES.get(key) };
    if service.is_none() && settings.access == 0 {
        return direct(cookie);
    }
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
            lane: service.map_or(LANE_STEER, |service| service.lane) as u16,
            family,
            pad: 0,
        }
    };
    let attempt = Attempt { settings, who: access::who(settings), cookie, asked: &asked };
    match service {
        Some(service) if service.id != ID_ENDPOINT => attempt.to_service(service),
        Some(_) => attempt.to_address(true),
        None => attempt.to_address(false),
    }
}

/// A connect that goes where the application wants. A socket may be connected anew elsewhere (AF_UNSPEC
/// first): no stale record.
#[inline(always)]
fn direct(cookie: u64) -> Verdict {
    let _ = ORIG_DST.remove(cookie);
    Verdict::Unchanged
}

/// A connect, and what is known of it.
struct Attempt<'a> {
    settings: &'a Settings,
    who: Who,
    cookie: u64,
    asked: &'a OrigDst,
}

impl Attempt<'_> {
    /// To a Service: through the agent, or to an endpoint.
    #[inline(always)]
    fn to_service(&self, service: &Service) -> Verdict {
        if service.lane == LANE_STEER
            && let Some(listener) = self.listener()
        {
            return match access::decide_any(self.settings, self.who, service, TCP) {
                Decision::Deny(denied) => self.refuse(denied, &self.asked.addr, self.asked.port),
                _ => self.steer(Some(service), listener),
            };
        }
        let Some(endpoint) = endpoint(service, self.asked) else {
            if service.lane == LANE_PASS {
                count(counter::NO_ENDPOINT, 1);
                return Verdict::Refuse;
            }
            // A steered Service while the agent leaves.
            return direct(self.cookie);
        };
        match access::decide(self.settings, self.who, &endpoint.addr, endpoint.port, TCP) {
            Decision::Allow => self.balance(endpoint),
            Decision::AllowHttp => self.by_request(endpoint),
            Decision::Deny(denied) => self.refuse(denied, &endpoint.addr, endpoint.port),
        }
    }

    /// To an address that is no Service's; `steered` ones are endpoints with an HTTP port.
    #[inline(always)]
    fn to_address(&self, steered: bool) -> Verdict {
        let decision = access::decide(self.settings, self.who, &self.asked.addr, self.asked.port, TCP);
        match (decision, self.listener()) {
            (Decision::Deny(denied), _) => self.refuse(denied, &self.asked.addr, self.asked.port),
            (Decision::AllowHttp, Some(listener)) => self.steer(None, listener),
            (Decision::Allow, Some(listener)) if steered => self.steer(None, listener),
            (Decision::AllowHttp, None) if self.settings.fail_closed != 0 => {
                self.refuse(Denied::Unknown, &self.asked.addr, self.asked.port)
            }
            _ => direct(self.cookie),
        }
    }

    /// Requests to this endpoint are to be decided about, and its Service is not steered: to the agent as if
    /// the endpoint had been asked for, which is what a choice made here means.
    #[inline(always)]
    fn by_request(&self, endpoint: &Endpoint) -> Verdict {
        match self.listener() {
            Some(listener) => {
                let asked = OrigDst {
                    addr: endpoint.addr,
                    port: endpoint.port,
                    lane: LANE_STEER as u16,
                    ..*self.asked
                };
                Attempt { asked: &asked, ..*self }.steer(None, listener)
            }
            None if self.settings.fail_closed != 0 => {
                self.refuse(Denied::Unknown, &endpoint.addr, endpoint.port)
            }
            None => self.balance(endpoint),
        }
    }

    #[inline(always)]
    fn refuse(&self, denied: Denied, addr: &AddrWords, port: u16) -> Verdict {
        access::refused(denied, addr, port, TCP);
        Verdict::Refuse
    }

    /// The agent's listener of the destination's family, while it takes new connections.
    #[inline(always)]
    fn listener(&self) -> Option<AddrWords> {
        if self.settings.steering == 0 {
            return None;
        }
        let v4 = unmapped(&self.asked.addr).is_some();
        let listener = if v4 { self.settings.listener4 } else { self.settings.listener6 };
        (listener != [0; 4]).then_some(listener)
    }

    #[inline(always)]
    fn steer(&self, service: Option<&Service>, listener: AddrWords) -> Verdict {
        let Self { settings, cookie, asked, .. } = self;
        if ORIG_DST.insert(cookie, *asked, 0).is_ok() {
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
        let Some(endpoint) = service.and_then(|service| endpoint(service, asked)) else {
            return Verdict::Unchanged;
        };
        // Some endpoint is open to this client, not necessarily this one.
        match access::decide(settings, self.who, &endpoint.addr, endpoint.port, TCP) {
            Decision::Deny(denied) => self.refuse(denied, &endpoint.addr, endpoint.port),
            _ => Verdict::Rewrite(endpoint.addr, endpoint.port),
        }
    }

    /// Socket load balancing: the connect goes straight to a ready endpoint.
    #[inline(always)]
    fn balance(&self, endpoint: &Endpoint) -> Verdict {
        count(counter::BALANCED, 1);
        let asked = OrigDst { lane: LANE_PASS as u16, ..*self.asked };
        // Full: only getpeername is worse for it.
        let _ = ORIG_DST.insert(self.cookie, asked, 0);
        Verdict::Rewrite(endpoint.addr, endpoint.port)
    }
}
