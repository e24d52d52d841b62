//! The endpoint of a connect in the pass lane: any, or, where the Service has affinity, the one that the
//! client had last.

use crate::maps::{AFFINITY, ENDPOINTS};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use proxy_common::abi::{AffinityKey, Endpoint, EndpointKey, Kept, OrigDst, Service};

/// Endpoints among which one is looked for that is not where it was; beyond them the client gets a new one.
const LOOKED_AT: u32 = 64;

/// `None` where there is no endpoint.
#[inline(always)]
pub fn endpoint(service: &Service, asked: &OrigDst) -> Option<&'static Endpoint> {
    if service.endpoints == 0 {
        return None;
    }
    if service.affinity_s == 0 {
        return at(service, any(service));
    }
    let key = AffinityKey { netns_cookie: asked.netns_cookie, service: service.id, pad: 0 };
    let index = kept(service, &key, asked.connect_ns).unwrap_or_else(|| any(service));
    let endpoint = at(service, index)?;
    let kept = Kept { addr: endpoint.addr, last_ns: asked.connect_ns, index, port: endpoint.port, pad: 0 };
    // Least recently used entries make room: only memory can be short, and then the next connect is a new one.
    let _ = AFFINITY.insert(key, kept, 0);
    Some(endpoint)
}

/// Where the client's endpoint is, if it had one not long ago and that is still there.
#[inline(always)]
fn kept(service: &Service, key: &AffinityKey, now_ns: u64) -> Option<u32> {
    // SAFETY: copied at once; an entry that changes meanwhile is another connect's of this client, and what
    // it says is compared with the endpoint.
    let kept = unsafe { AFFINITY.get(key) }.copied()?;
    let silent_ns = now_ns.saturating_sub(kept.last_ns);
    if silent_ns >= u64::from(service.affinity_s) * 1_000_000_000 {
        return None;
    }
    if is_at(service, kept.index, &kept) {
        return Some(kept.index);
    }
    for index in 0..LOOKED_AT {
        if index >= service.endpoints {
            return None;
        }
        if is_at(service, index, &kept) {
            return Some(index);
        }
    }
    None
}

#[inline(always)]
fn is_at(service: &Service, index: u32, kept: &Kept) -> bool {
    index < service.endpoints
        && at(service, index).is_some_and(|endpoint| endpoint.addr == kept.addr && endpoint.port == kept.port)
}

#[inline(always)]
fn any(service: &Service) -> u32 {
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    random % service.endpoints
}

/// The endpoint at an index.
#[inline(always)]
pub fn at(service: &Service, index: u32) -> Option<&'static Endpoint> {
    // SAFETY: the table is not preallocated, so an entry stays whole while we read it.
    unsafe { ENDPOINTS.get(EndpointKey { service: service.id, index }) }
}
