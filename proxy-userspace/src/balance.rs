//! Which endpoint a request goes to.

use crate::snapshot::{Cluster, Endpoint};
use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
};

/// Random picks before the ready ones are counted.
const LUCKY_DRAWS: u32 = 4;

/// Picks an endpoint at random: a ready one, or, where there is none, one that still serves while
/// it terminates (as kube-proxy does). `avoid` has just failed and is taken only if it is the
/// client's own choice.
pub(crate) fn pick(
    cluster: &Cluster,
    pinned: Option<SocketAddr>,
    avoid: Option<SocketAddr>,
) -> Option<&Endpoint> {
    if let Some(pinned) = pinned {
        return cluster.endpoints.iter().find(|one| one.addr == pinned && avoid != Some(pinned));
    }
    let ready = |one: &&Endpoint| one.ready && Some(one.addr) != avoid;
    let last_resort = |one: &&Endpoint| one.serving && one.terminating && Some(one.addr) != avoid;
    draw(&cluster.endpoints, ready).or_else(|| draw(&cluster.endpoints, last_resort))
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
    let scaled = u128::from(random()) * (bound as u128) >> 64;
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
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::testing::{cluster_of, endpoint};

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, last], 80))
    }

    #[test]
    fn every_ready_endpoint_and_no_other_is_picked() {
        let mut cluster = cluster_of(&[addr(1), addr(2), addr(3), addr(4)]);
        cluster.endpoints[1].ready = false;
        let mut seen = [0_u32; 5];
        for _ in 0..3000 {
            let SocketAddr::V4(v4) = pick(&cluster, None, None).unwrap().addr else { unreachable!() };
            seen[usize::from(v4.ip().octets()[3])] += 1;
        }
        assert_eq!(seen[2], 0);
        assert!([1, 3, 4].iter().all(|one| seen[*one] > 800), "{seen:?}");
    }

    #[test]
    fn a_terminating_endpoint_serves_only_where_none_is_ready() {
        let mut cluster = cluster_of(&[addr(1), addr(2)]);
        cluster.endpoints[0] = Endpoint { ready: false, terminating: true, ..endpoint(addr(1)) };
        assert_eq!(pick(&cluster, None, None).unwrap().addr, addr(2));
        cluster.endpoints[1].ready = false;
        cluster.endpoints[1].serving = false;
        assert_eq!(pick(&cluster, None, None).unwrap().addr, addr(1));
        cluster.endpoints[0].serving = false;
        assert!(pick(&cluster, None, None).is_none());
    }

    #[test]
    fn an_endpoint_that_has_just_failed_is_avoided() {
        let cluster = cluster_of(&[addr(1), addr(2)]);
        assert!((0..100).all(|_| pick(&cluster, None, Some(addr(1))).unwrap().addr == addr(2)));
        assert!(pick(&cluster_of(&[addr(1)]), None, Some(addr(1))).is_none());
    }

    #[test]
    fn a_pinned_endpoint_is_the_only_choice() {
        let cluster = cluster_of(&[addr(1), addr(2)]);
        assert!((0..100).all(|_| pick(&cluster, Some(addr(2)), None).unwrap().addr == addr(2)));
        assert!(pick(&cluster, Some(addr(2)), Some(addr(2))).is_none());
        assert!(pick(&cluster, Some(addr(9)), None).is_none());
    }
}
