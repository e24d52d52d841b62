//! Which endpoint a request goes to.

use crate::{
    route::Route,
    snapshot::{Endpoint, Family},
};
use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
};

/// Random picks before the ready ones are counted.
const LUCKY_DRAWS: u32 = 4;

/// Picks an endpoint of the route's family at random: a ready one, or, where there is none, one that
/// still serves while it terminates (as kube-proxy does). `avoid` has just failed.
pub(crate) fn pick(route: &Route, avoid: Option<SocketAddr>) -> Option<&Endpoint> {
    let endpoints = &route.cluster.endpoints;
    if let Some(pinned) = route.pinned {
        return endpoints.iter().find(|one| one.addr == pinned && avoid != Some(pinned));
    }
    let fit = |one: &Endpoint| Family::of(one.addr.ip()) == route.family && Some(one.addr) != avoid;
    let ready = |one: &&Endpoint| one.ready && fit(one);
    let last_resort = |one: &&Endpoint| one.serving && one.terminating && fit(one);
    draw(endpoints, ready).or_else(|| draw(endpoints, last_resort))
}

/// One of those that are `fit`, each as likely as the other.
fn draw(endpoints: &[Endpoint], fit: impl Fn(&&Endpoint) -> bool) -> Option<&Endpoint> {
    for _ in 0..LUCKY_DRAWS {
        if let Some(one) = endpoints.get(below(endpoints.len())).filter(&fit) {
            return Some(one);
        }
    }
    let count = endpoints.iter().filter(&fit).count();
    endpoints.iter().filter(&fit).nth(below(count))
}

/// A random number below `bound` (0 if that is 0).
fn below(bound: usize) -> usize {
    // Multiply-shift: no division, and a bias far below one in 2^32.
    let scaled = (u128::from(random()) * (bound as u128)) >> 64;
    usize::try_from(scaled).unwrap_or_default()
}

/// xorshift64*: not for secrets.
pub(crate) fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish() | 1);
    }
    STATE.with(|state| {
        let mut next = state.get();
        next ^= next >> 12;
        next ^= next << 25;
        next ^= next >> 27;
        state.set(next);
        next.wrapping_mul(0x2545_f491_4f6c_dd1d)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::testing::{cluster_of, endpoint};
    use std::sync::Arc;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, last], 80))
    }

    fn to(cluster: crate::snapshot::Cluster, pinned: Option<SocketAddr>) -> Route {
        Route { cluster: Arc::new(cluster), pinned, family: Family::V4 }
    }

    #[test]
    fn every_ready_endpoint_and_no_other_is_picked() {
        let mut cluster = cluster_of(&[addr(1), addr(2), addr(3), addr(4), "[fd00::1]:80".parse().unwrap()]);
        cluster.endpoints[1].ready = false;
        let route = to(cluster, None);
        let mut seen = [0_u32; 5];
        for _ in 0..3000 {
            let SocketAddr::V4(v4) = pick(&route, None).unwrap().addr else { panic!("wrong family") };
            seen[usize::from(v4.ip().octets()[3])] += 1;
        }
        assert_eq!(seen[2], 0);
        assert!([1, 3, 4].iter().all(|one| seen[*one] > 800), "{seen:?}");
    }

    #[test]
    fn a_terminating_endpoint_serves_only_where_none_is_ready() {
        let mut cluster = cluster_of(&[addr(1), addr(2)]);
        cluster.endpoints[0] = Endpoint { ready: false, terminating: true, ..endpoint(addr(1)) };
        assert_eq!(pick(&to(cluster.clone(), None), None).unwrap().addr, addr(2));
        cluster.endpoints[1].ready = false;
        cluster.endpoints[1].serving = false;
        assert_eq!(pick(&to(cluster.clone(), None), None).unwrap().addr, addr(1));
        cluster.endpoints[0].serving = false;
        assert!(pick(&to(cluster, None), None).is_none());
    }

    #[test]
    fn an_endpoint_that_has_just_failed_is_avoided() {
        let route = to(cluster_of(&[addr(1), addr(2)]), None);
        assert!((0..100).all(|_| pick(&route, Some(addr(1))).unwrap().addr == addr(2)));
        assert!(pick(&to(cluster_of(&[addr(1)]), None), Some(addr(1))).is_none());
    }

    #[test]
    fn a_pinned_endpoint_is_the_only_choice() {
        let pinned_to = |last| to(cluster_of(&[addr(1), addr(2)]), Some(addr(last)));
        assert!((0..100).all(|_| pick(&pinned_to(2), None).unwrap().addr == addr(2)));
        assert!(pick(&pinned_to(2), Some(addr(2))).is_none());
        assert!(pick(&pinned_to(9), None).is_none());
    }
}
