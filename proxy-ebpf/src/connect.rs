//! cgroup/connect4,6: where a connect goes. cgroup/getpeername4,6: what the application sees
//! afterwards. cgroup/sock_release: when it is forgotten.
//!
//! Fails open: what is not in the service table, or cannot be decided, connects as if Weir were not
//! there; a full table follows `Settings::fail_closed`.

use crate::{
    access::{self, Found, Who},
    affinity::{at, endpoint},
    ctx, listener,
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
    addr::AddrWords,
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
    settings: &'static Settings,
    who: Who,
    cookie: u64,
    asked: &'a OrigDst,
}

impl Attempt<'_> {
    /// To a Service: through the agent, or to an endpoint.
    #[inline(always)]
    fn to_service(&self, service: &Service) -> Verdict {
        let accepts = self.agent_accepts();
        if service.lane != LANE_STEER {
            return self.to_endpoint(service, accepts);
        }
        if !accepts {
            return self.without_agent(service);
        }
        // The agent decides about each endpoint; only where it has no choice left, it is refused here.
        match access::find(self.settings, self.who, service, true, TCP) {
            Found::None(denied) => self.refuse(denied, &self.asked.addr, self.asked.port),
            Found::At(_) | Found::Unknown => self.steer(Some(service)),
        }
    }

    /// To an endpoint of a Service that is not steered.
    #[inline(always)]
    fn to_endpoint(&self, service: &Service, accepts: bool) -> Verdict {
        let Some(endpoint) = endpoint(service, self.asked) else {
            count(counter::NO_ENDPOINT, 1);
            return Verdict::Refuse;
        };
        match access::decide(self.settings, self.who, &endpoint.addr, endpoint.port, TCP) {
            Decision::Allow => self.balance(endpoint),
            Decision::AllowHttp => self.by_request(endpoint, accepts),
            Decision::Deny(denied) => self.refuse(denied, &endpoint.addr, endpoint.port),
        }
    }

    /// To a steered Service, while nobody accepts or it cannot be recorded: to an endpoint that the client may
    /// connect to. Where the agent would decide about requests, that is not for sure.
    #[inline(always)]
    fn without_agent(&self, service: &Service) -> Verdict {
        let open = self.settings.fail_closed == 0;
        if let Some(endpoint) = endpoint(service, self.asked) {
            match access::decide(self.settings, self.who, &endpoint.addr, endpoint.port, TCP) {
                Decision::Allow => return self.balance(endpoint),
                Decision::AllowHttp if open => return self.balance(endpoint),
                _ => {}
            }
        }
        let index = match access::find(self.settings, self.who, service, open, TCP) {
            Found::At(index) => index,
            Found::None(denied) => return self.refuse(denied, &self.asked.addr, self.asked.port),
            Found::Unknown if service.endpoints == 0 => return direct(self.cookie),
            Found::Unknown => return self.refuse(Denied::Unknown, &self.asked.addr, self.asked.port),
        };
        match at(service, index) {
            Some(endpoint) => self.balance(endpoint),
            None => direct(self.cookie),
        }
    }

    /// To an address that is no Service's; `steered` ones are endpoints with an HTTP port.
    #[inline(always)]
    fn to_address(&self, steered: bool) -> Verdict {
        let by_request = match access::decide(self.settings, self.who, &self.asked.addr, self.asked.port, TCP)
        {
            Decision::Deny(denied) => return self.refuse(denied, &self.asked.addr, self.asked.port),
            Decision::Allow => false,
            Decision::AllowHttp => true,
        };
        if !by_request && !steered {
            return direct(self.cookie);
        }
        if self.agent_accepts() {
            return self.steer(None);
        }
        if by_request && self.settings.fail_closed != 0 {
            return self.refuse(Denied::Unknown, &self.asked.addr, self.asked.port);
        }
        direct(self.cookie)
    }

    /// Requests to this endpoint are to be decided about, and its Service is not steered: to the agent as if
    /// the endpoint had been asked for, which is what a choice made here means.
    #[inline(always)]
    fn by_request(&self, endpoint: &Endpoint, accepts: bool) -> Verdict {
        if accepts {
            let asked =
                OrigDst { addr: endpoint.addr, port: endpoint.port, lane: LANE_STEER as u16, ..*self.asked };
            return Attempt { asked: &asked, ..*self }.steer(None);
        }
        if self.settings.fail_closed != 0 {
            return self.refuse(Denied::Unknown, &endpoint.addr, endpoint.port);
        }
        self.balance(endpoint)
    }

    #[inline(always)]
    fn refuse(&self, denied: Denied, addr: &AddrWords, port: u16) -> Verdict {
        access::refused(denied, addr, port, TCP);
        Verdict::Refuse
    }

    /// Whether the agent takes new connections of the destination's family.
    #[inline(always)]
    fn agent_accepts(&self) -> bool {
        listener::accepts(self.settings, &self.asked.addr)
    }

    #[inline(always)]
    fn steer(&self, service: Option<&Service>) -> Verdict {
        let Self { settings, cookie, asked, .. } = self;
        if ORIG_DST.insert(cookie, *asked, 0).is_ok() {
            // Exists already for all but the workload's first connect.
            let _ = WORKLOADS.insert(asked.cgroup_id, Workload::default(), u64::from(BPF_NOEXIST));
            count(counter::STEERED, 1);
            return Verdict::Rewrite(listener::address(settings, &asked.addr), settings.listener_port);
        }
        if settings.fail_closed != 0 {
            count(counter::TABLE_FULL_CLOSED, 1);
            return Verdict::Refuse;
        }
        count(counter::TABLE_FULL_OPEN, 1);
        match service {
            Some(service) => self.without_agent(service),
            None => Verdict::Unchanged,
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
