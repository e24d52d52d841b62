//! `sessionAffinity: ClientIP`: which endpoint a client had last.
//!
//! A client that is new, or was silent for too long, gets the endpoint that its address ranks first: every
//! agent ranks alike, also after a restart, and where an endpoint goes only its own clients move.

use crate::snapshot::Endpoint;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

const SHARDS: usize = 16;
/// Clients of a shard. Full: those that were silent for too long are forgotten, then all of the shard,
/// and clients keep their endpoints by rank alone.
const MAX_CLIENTS: usize = 8192;

/// A client of a cluster.
type Key = (Arc<str>, IpAddr);

/// The endpoints of all clients.
#[derive(Default, Debug)]
pub(crate) struct Affinity {
    shards: [Mutex<HashMap<Key, Kept>>; SHARDS],
    hashing: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    endpoint: SocketAddr,
    last: Instant,
    timeout: Duration,
}

impl Kept {
    fn is_current(&self, now: Instant) -> bool {
        now.duration_since(self.last) < self.timeout
    }
}

impl Affinity {
    /// The client's endpoint, which is its own from now on.
    pub(crate) fn pick<'a>(
        &self,
        (cluster, client): (&Arc<str>, IpAddr),
        timeout: Duration,
        usable: impl Iterator<Item = &'a Endpoint> + Clone,
    ) -> Option<&'a Endpoint> {
        let now = Instant::now();
        let key = (Arc::clone(cluster), client.to_canonical());
        let shard = usize::try_from(self.hashing.hash_one(&key) % SHARDS as u64).unwrap_or_default();
        let mut clients = self.shards.get(shard)?.lock();
        let kept = clients.get(&key).filter(|kept| kept.is_current(now)).map(|kept| kept.endpoint);
        let found = kept.and_then(|addr| usable.clone().find(|one| one.addr == addr));
        let endpoint = found.or_else(|| usable.max_by_key(|one| (rank(key.1, one.addr), one.addr)))?;
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&key) {
            clients.retain(|_, kept| kept.is_current(now));
            if clients.len() >= MAX_CLIENTS {
                clients.clear();
            }
        }
        clients.insert(key, Kept { endpoint: endpoint.addr, last: now, timeout });
        Some(endpoint)
    }
}

/// The same on every node, in every run.
fn rank(client: IpAddr, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (client, endpoint).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::testing::endpoint;
    use std::collections::HashSet;

    const HOUR: Duration = Duration::from_secs(3600);

    fn endpoints(count: u8) -> Vec<Endpoint> {
        (1..=count).map(|last| endpoint(SocketAddr::from(([10, 1, 0, last], 80)))).collect()
    }

    fn picks(affinity: &Affinity, client: u8, timeout: Duration, among: &[Endpoint]) -> SocketAddr {
        let client = IpAddr::from([10, 244, 0, client]);
        affinity.pick((&"default/web:80".into(), client), timeout, among.iter()).unwrap().addr
    }

    #[test]
    fn a_client_keeps_its_endpoint_while_others_come_and_clients_spread() {
        let (affinity, few, many) = (Affinity::default(), endpoints(4), endpoints(20));
        let first: Vec<_> = (0..100).map(|client| picks(&affinity, client, HOUR, &few)).collect();
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 4);
        let second: Vec<_> = (0..100).map(|client| picks(&affinity, client, HOUR, &many)).collect();
        assert_eq!(first, second);
    }

    #[test]
    fn a_client_that_was_silent_for_too_long_is_a_new_one() {
        let (affinity, few, many) = (Affinity::default(), endpoints(2), endpoints(50));
        let moved = (0..50).filter(|client| {
            let first = picks(&affinity, *client, Duration::ZERO, &few);
            first != picks(&affinity, *client, Duration::ZERO, &many)
        });
        assert!(moved.count() > 40);
    }

    #[test]
    fn where_an_endpoint_goes_its_clients_alone_move_and_a_new_agent_ranks_alike() {
        let (all, affinity) = (endpoints(5), Affinity::default());
        let gone = all[0].addr;
        for client in 0..100 {
            let before = picks(&affinity, client, HOUR, &all);
            let after = picks(&affinity, client, HOUR, &all[1..]);
            assert!(after == before || before == gone);
            assert_eq!(picks(&Affinity::default(), client, HOUR, &all), before);
        }
    }

    #[test]
    fn the_table_does_not_grow_without_end() {
        let (affinity, one) = (Affinity::default(), endpoints(1));
        for client in 0..u32::try_from(2 * SHARDS * MAX_CLIENTS).unwrap() {
            let client = IpAddr::from(client.to_be_bytes());
            affinity.pick((&"default/web:80".into(), client), HOUR, one.iter()).unwrap();
        }
        assert!(affinity.shards.iter().all(|shard| shard.lock().len() <= MAX_CLIENTS));
    }
}
