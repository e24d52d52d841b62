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
        let alive: std::collections::HashSet<&str> = snapshot.clusters.unsorted().map(|c| &*c.name).collect();
        self.ids.retain(|(name, _), _| alive.contains(&**name));
        for (frontend, cluster) in snapshot.by_frontend.iter() {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::snapshot::{AccelerationChoice, Endpoint as ClusterEndpoint, Protocol, Timeouts, Traffic};

    fn cluster(name: &str, lane: Lane, frontends: &[&str], endpoints: &[(&str, bool)]) -> Arc<Cluster> {
        let endpoint = |&(addr, ready): &(&str, bool)| ClusterEndpoint {
            addr: addr.parse().unwrap(),
            ready,
            serving: ready,
            terminating: false,
            workload: None,
            node: None,
            local: false,
            near: true,
            policy: None,
        };
        Arc::new(Cluster {
            name: name.into(),
            namespace: "default".into(),
            service: name.into(),
            port_name: None,
            port: 8080,
            node_port: None,
            lane,
            protocol: Protocol::Detect,
            frontends: frontends.iter().map(|addr| addr.parse().unwrap()).collect(),
            external: Vec::new(),
            traffic: Traffic::default(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            timeouts: Timeouts::default(),
            acceleration: AccelerationChoice::Default,
        })
    }

    fn snapshot(clusters: &[Arc<Cluster>]) -> Snapshot {
        let frontends =
            |c: &Arc<Cluster>| c.frontends.iter().map(|f| (*f, Arc::clone(c))).collect::<Vec<_>>();
        Snapshot {
            clusters: clusters.to_vec().into(),
            by_frontend: clusters.iter().flat_map(frontends).collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn only_ready_endpoints_of_the_frontends_family_are_compiled() {
        let web = cluster(
            "web",
            Lane::Steer,
            &["10.96.0.10:8080", "[fd00::10]:8080"],
            &[("10.244.1.11:8080", true), ("10.244.1.12:8080", false), ("[fd00::11]:8080", true)],
        );
        let tables = Compiler::default().compile(&snapshot(&[web]));
        assert_eq!(tables.services.len(), 2);
        for (key, service) in &tables.services {
            assert_eq!((service.lane, service.endpoints), (LANE_STEER, 1));
            let endpoint = tables.endpoints[&Key(EndpointKey { service: service.id, index: 0 })];
            let v4 = proxy_common::addr::unmapped(&key.0.addr).is_some();
            assert_eq!(proxy_common::addr::unmapped(&endpoint.addr).is_some(), v4);
        }
        assert_eq!(tables.endpoints.len(), 2);
    }

    #[test]
    fn every_service_finds_all_its_endpoints() {
        let clusters: Vec<_> = (1..20)
            .map(|n| {
                let addrs: Vec<String> = (0..n).map(|e| format!("10.1.{n}.{e}:80")).collect();
                let endpoints: Vec<_> = addrs.iter().map(|addr| (addr.as_str(), true)).collect();
                cluster(&format!("s{n}"), Lane::Pass, &[&format!("10.96.0.{n}:80")], &endpoints)
            })
            .collect();
        let tables = Compiler::default().compile(&snapshot(&clusters));
        for service in tables.services.values() {
            for index in 0..service.endpoints {
                assert!(tables.endpoints.contains_key(&Key(EndpointKey { service: service.id, index })));
            }
        }
    }

    #[test]
    fn an_unchanged_service_compiles_to_the_same_entries() {
        let (a, b) = (
            cluster("a", Lane::Pass, &["10.96.0.1:80"], &[("10.1.0.1:80", true)]),
            cluster("b", Lane::Pass, &["10.96.0.2:80"], &[("10.1.0.2:80", true)]),
        );
        let mut compiler = Compiler::default();
        let both = compiler.compile(&snapshot(&[a, Arc::clone(&b)]));
        let one = compiler.compile(&snapshot(&[b]));
        let services = changes(&both.services, &one.services);
        assert!(services.set.is_empty(), "{services:?}");
        assert_eq!(services.remove.len(), 1);
        assert_eq!(changes(&both.endpoints, &one.endpoints).remove.len(), 1);
    }

    #[test]
    fn an_endpoints_own_address_is_steered_without_a_choice() {
        let web = cluster("web", Lane::Steer, &[], &[("10.244.1.11:8080", true)]);
        let mut snapshot = snapshot(&[Arc::clone(&web)]);
        snapshot.by_endpoint.insert("10.244.1.11:8080".parse().unwrap(), web);
        let tables = Compiler::default().compile(&snapshot);
        assert_eq!(
            tables.services.values().collect::<Vec<_>>(),
            [&Service { lane: LANE_STEER, id: 0, endpoints: 0 }]
        );
    }
}
