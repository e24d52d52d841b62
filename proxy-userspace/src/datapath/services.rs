//! A [`Snapshot`] as kernel tables, and the steps from one to the next in an order that never leaves
//! a service pointing at an endpoint that is not there.

use crate::snapshot::{Cluster, Lane, Snapshot};
use proxy_common::{
    abi::{Endpoint, EndpointKey, LANE_PASS, LANE_STEER, Service, ServiceKey},
    addr::words_of,
};
use std::{collections::HashMap, net::SocketAddr, sync::Arc};

/// IP protocol number of TCP.
const TCP: u16 = 6;

/// What the two service tables hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) services: HashMap<Key<ServiceKey>, Service>,
    pub(super) endpoints: HashMap<Key<EndpointKey>, Endpoint>,
}

/// ABI keys hash by their fields; the ABI structs themselves stay plain data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key<T>(pub(super) T);

impl std::hash::Hash for Key<ServiceKey> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.0.addr, self.0.port, self.0.protocol).hash(state);
    }
}

impl std::hash::Hash for Key<EndpointKey> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.0.service, self.0.index).hash(state);
    }
}

/// Compiles snapshots; remembers ids, so that an unchanged service compiles to the same entries.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    ids: HashMap<(Arc<str>, bool), u32>,
    last_id: u32,
}

impl Compiler {
    /// The tables of a snapshot.
    pub(super) fn compile(&mut self, snapshot: &Snapshot) -> Tables {
        let mut tables = Tables::default();
        let alive: std::collections::HashSet<&str> = snapshot.clusters.iter().map(|c| &*c.name).collect();
        self.ids.retain(|(name, _), _| alive.contains(&**name));
        for (frontend, cluster) in &snapshot.by_frontend {
            self.add_frontend(&mut tables, *frontend, cluster);
        }
        for endpoint in snapshot.by_endpoint.keys() {
            // Steered by its own address; nothing to choose from.
            let service = Service { lane: LANE_STEER, id: 0, endpoints: 0 };
            tables.services.entry(Key(service_key(*endpoint))).or_insert(service);
        }
        tables
    }

    fn add_frontend(&mut self, tables: &mut Tables, frontend: SocketAddr, cluster: &Cluster) {
        let v6 = frontend.is_ipv6();
        let id = *self.ids.entry((cluster.name.clone(), v6)).or_insert_with(|| {
            self.last_id = self.last_id.wrapping_add(1).max(1);
            self.last_id
        });
        let mut count = 0;
        for endpoint in cluster.endpoints.iter().filter(|e| e.ready && e.addr.is_ipv6() == v6) {
            let value = Endpoint { addr: words_of(endpoint.addr.ip()), port: endpoint.addr.port(), pad: 0 };
            tables.endpoints.insert(Key(EndpointKey { service: id, index: count }), value);
            count += 1;
        }
        let lane = match cluster.lane {
            Lane::Steer => LANE_STEER,
            Lane::Pass => LANE_PASS,
        };
        tables.services.insert(Key(service_key(frontend)), Service { lane, id, endpoints: count });
    }
}

fn service_key(addr: SocketAddr) -> ServiceKey {
    ServiceKey { addr: words_of(addr.ip()), port: addr.port(), protocol: TCP }
}

/// One table's changes.
#[derive(Debug)]
pub(super) struct Changes<'a, K, V> {
    /// New or different entries.
    pub(super) set: Vec<(&'a K, &'a V)>,
    /// Entries that are no more.
    pub(super) remove: Vec<&'a K>,
}

/// What turns `old` into `new`.
pub(super) fn changes<'a, K: Eq + std::hash::Hash, V: PartialEq>(
    old: &'a HashMap<K, V>,
    new: &'a HashMap<K, V>,
) -> Changes<'a, K, V> {
    Changes {
        set: new.iter().filter(|(key, value)| old.get(key) != Some(value)).collect(),
        remove: old.keys().filter(|key| !new.contains_key(key)).collect(),
    }
}
