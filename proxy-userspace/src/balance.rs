//! Which endpoint a request goes to.

mod affinity;

pub(crate) use affinity::Affinity;

use crate::{
    downstream::Downstream,
    route::Route,
    snapshot::{Endpoint, Family, Scope},
};
use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher, RandomState},
    net::{IpAddr, SocketAddr},
};

/// Random picks before the ready ones are counted.
const LUCKY_DRAWS: u32 = 4;

/// For whom an endpoint is picked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    /// Its address.
    pub(crate) ip: IpAddr,
    /// Where its endpoint may be.
    pub(crate) scope: Scope,
    /// What clients had before.
    pub(crate) affinity: &'a Affinity,
}

impl<'a> Client<'a> {
    pub(crate) fn of(downstream: &'a Downstream, route: &Route) -> Self {
        let ip = downstream.client.0.ip();
        Self { ip, scope: scope(downstream, route), affinity: &downstream.relay.affinity }
    }
}

/// Where the endpoints of a connection may be. One that the kernel half did not steer at its connect came
/// from outside.
pub(crate) fn scope(downstream: &Downstream, route: &Route) -> Scope {
    let asked = &downstream.orig_dst.0;
    let outside = downstream.identity.is_none() && downstream.relay.orig_dst.is_kernel();
    if outside { route.cluster.scope_from_outside(asked) } else { route.cluster.scope_within(asked) }
}

/// Picks an endpoint of the route's family: a ready one of the client's scope, or, where there is none,
/// one that still serves while it terminates (as kube-proxy does). `avoid` has just failed: rather than
/// that, one that is meant for another zone. At random, unless the Service has an affinity.
pub(crate) fn pick<'a>(
    route: &'a Route,
    client: &Client<'_>,
    avoid: Option<SocketAddr>,
) -> Option<&'a Endpoint> {
    let cluster = &route.cluster;
    let endpoints = &cluster.endpoints;
    if let Some(pinned) = route.pinned {
        return endpoints.iter().find(|one| one.addr == pinned && avoid != Some(pinned));
    }
    let fit = |one: &Endpoint| Family::of(one.addr.ip()) == route.family && Some(one.addr) != avoid;
    let ready = |one: &&Endpoint| one.ready && fit(one) && client.scope.holds(one);
    let elsewhere = |one: &&Endpoint| client.scope == Scope::Cluster && one.ready && fit(one);
    let last_resort = |one: &&Endpoint| one.serving && one.terminating && fit(one) && client.scope.holds(one);
    if let Some(timeout) = cluster.traffic.affinity {
        let kept = |fit: &dyn Fn(&&Endpoint) -> bool| {
            let usable = endpoints.iter().filter(|one| fit(one));
            client.affinity.pick((&cluster.name, client.ip), timeout, usable)
        };
        return kept(&ready).or_else(|| kept(&elsewhere)).or_else(|| kept(&last_resort));
    }
    draw(endpoints, ready).or_else(|| draw(endpoints, elsewhere)).or_else(|| draw(endpoints, last_resort))
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

    fn picked(route: &Route, avoid: Option<SocketAddr>) -> Option<&Endpoint> {
        picked_for(route, Scope::Cluster, avoid)
    }

    fn picked_for(route: &Route, scope: Scope, avoid: Option<SocketAddr>) -> Option<&Endpoint> {
        let affinity = Affinity::default();
        pick(route, &Client { ip: IpAddr::from([10, 244, 0, 1]), scope, affinity: &affinity }, avoid)
    }

    fn to(cluster: crate::snapshot::Cluster, pinned: Option<SocketAddr>) -> Route {
        Route::to(&Arc::new(cluster), pinned, Family::V4)
    }

    #[test]
    fn every_ready_endpoint_and_no_other_is_picked() {
        let mut cluster = cluster_of(&[addr(1), addr(2), addr(3), addr(4), "[fd00::1]:80".parse().unwrap()]);
        cluster.endpoints[1].ready = false;
        let route = to(cluster, None);
        let mut seen = [0_u32; 5];
        for _ in 0..3000 {
            let SocketAddr::V4(v4) = picked(&route, None).unwrap().addr else { panic!("wrong family") };
            seen[usize::from(v4.ip().octets()[3])] += 1;
        }
        assert_eq!(seen[2], 0);
        assert!([1, 3, 4].iter().all(|one| seen[*one] > 800), "{seen:?}");
    }

    #[test]
    fn a_terminating_endpoint_serves_only_where_none_is_ready() {
        let mut cluster = cluster_of(&[addr(1), addr(2)]);
        cluster.endpoints[0] = Endpoint { ready: false, terminating: true, ..endpoint(addr(1)) };
        assert_eq!(picked(&to(cluster.clone(), None), None).unwrap().addr, addr(2));
        cluster.endpoints[1].ready = false;
        cluster.endpoints[1].serving = false;
        assert_eq!(picked(&to(cluster.clone(), None), None).unwrap().addr, addr(1));
        cluster.endpoints[0].serving = false;
        assert!(picked(&to(cluster, None), None).is_none());
    }

    #[test]
    fn an_endpoint_that_has_just_failed_is_avoided() {
        let route = to(cluster_of(&[addr(1), addr(2)]), None);
        assert!((0..100).all(|_| picked(&route, Some(addr(1))).unwrap().addr == addr(2)));
        assert!(picked(&to(cluster_of(&[addr(1)]), None), Some(addr(1))).is_none());
    }

    #[test]
    fn a_pinned_endpoint_is_the_only_choice() {
        let pinned_to = |last| to(cluster_of(&[addr(1), addr(2)]), Some(addr(last)));
        assert!((0..100).all(|_| picked(&pinned_to(2), None).unwrap().addr == addr(2)));
        assert!(picked(&pinned_to(2), Some(addr(2))).is_none());
        assert!(picked(&pinned_to(9), None).is_none());
    }

    #[test]
    fn a_local_policy_keeps_to_this_node_and_says_so_where_nobody_is() {
        let mut cluster = cluster_of(&[addr(1), addr(2)]);
        cluster.endpoints[1].local = true;
        let local = |route: &Route| picked_for(route, Scope::Node, None).map(|one| one.addr);
        assert!((0..100).all(|_| local(&to(cluster.clone(), None)) == Some(addr(2))));
        cluster.endpoints[1].ready = false;
        assert_eq!(local(&to(cluster, None)), None);
    }

    #[test]
    fn an_endpoint_of_another_zone_is_picked_only_where_ours_has_just_failed() {
        let mut cluster = cluster_of(&[addr(1), addr(2)]);
        cluster.endpoints[0].near = false;
        let route = to(cluster, None);
        assert!((0..100).all(|_| picked(&route, None).unwrap().addr == addr(2)));
        assert_eq!(picked(&route, Some(addr(2))).unwrap().addr, addr(1));
    }

    #[test]
    fn a_client_with_affinity_gets_one_endpoint_and_another_only_when_that_fails() {
        let mut cluster = cluster_of(&[addr(1), addr(2), addr(3), addr(4)]);
        cluster.traffic.affinity = Some(std::time::Duration::from_secs(60));
        let (route, affinity) = (to(cluster, None), Affinity::default());
        let client = Client { ip: IpAddr::from([10, 244, 0, 9]), scope: Scope::Cluster, affinity: &affinity };
        let first = pick(&route, &client, None).unwrap().addr;
        assert!((0..100).all(|_| pick(&route, &client, None).unwrap().addr == first));
        let second = pick(&route, &client, Some(first)).unwrap().addr;
        assert_ne!(first, second);
        assert_eq!(pick(&route, &client, None).unwrap().addr, second, "it moved");
    }
}
