//! What is written, and in which order, on tables that remember it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use super::*;
use crate::{snapshot::Endpoint as ClusterEndpoint, testing};
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
};

/// The tables; each write checks that no service points at an endpoint that is not there.
#[derive(Default)]
struct Fake {
    services: RefCell<HashMap<(String, u16), Service>>,
    endpoints: RefCell<HashMap<(u32, u32), Endpoint>>,
    writes: Cell<usize>,
    /// Which write fails.
    fails_at: Cell<Option<usize>>,
}

impl Fake {
    fn written(&self) -> Result<(), DatapathError> {
        if self.fails_at.get() == Some(self.writes.replace(self.writes.get() + 1)) {
            let source = aya::maps::MapError::OutOfBounds { index: 0, max_entries: 0 };
            return Err(DatapathError::Map { map: "SERVICES", source });
        }
        Ok(())
    }

    fn assert_whole(&self) {
        for service in self.services.borrow().values() {
            for index in 0..service.endpoints {
                assert!(self.endpoints.borrow().contains_key(&(service.id, index)), "{service:?}");
            }
        }
    }

    /// Where an address leads: its lane and endpoints.
    fn led(&self) -> HashMap<(String, u16), (u32, Vec<String>)> {
        let endpoint = |id: u32, index: u32| {
            let endpoint = self.endpoints.borrow()[&(id, index)];
            format!("{:?}:{}", endpoint.addr, endpoint.port)
        };
        let services = self.services.borrow();
        let led = services.iter().map(|(at, service)| {
            let endpoints = (0..service.endpoints).map(|index| endpoint(service.id, index)).collect();
            (at.clone(), (service.lane, endpoints))
        });
        led.collect()
    }
}

fn at(key: &ServiceKey) -> (String, u16) {
    (format!("{:?}", key.addr), key.port)
}

impl ServiceTables for Fake {
    fn set_endpoint(&self, key: &EndpointKey, endpoint: &Endpoint) -> Result<(), DatapathError> {
        self.written()?;
        self.endpoints.borrow_mut().insert((key.service, key.index), *endpoint);
        Ok(())
    }

    fn set_service(&self, key: &ServiceKey, service: &Service) -> Result<(), DatapathError> {
        self.written()?;
        self.services.borrow_mut().insert(at(key), *service);
        self.assert_whole();
        Ok(())
    }

    fn remove_service(&self, key: &ServiceKey) -> Result<(), DatapathError> {
        self.written()?;
        self.services.borrow_mut().remove(&at(key));
        Ok(())
    }

    fn remove_endpoint(&self, key: &EndpointKey) -> Result<(), DatapathError> {
        self.written()?;
        self.endpoints.borrow_mut().remove(&(key.service, key.index));
        self.assert_whole();
        Ok(())
    }
}

fn cluster(name: &str, lane: Lane, frontends: &[&str], endpoints: &[&str]) -> Arc<Cluster> {
    let endpoints: Vec<_> = endpoints.iter().map(|addr| addr.parse().unwrap()).collect();
    let frontends = frontends.iter().map(|addr| addr.parse().unwrap()).collect();
    Arc::new(Cluster { name: name.into(), lane, frontends, ..testing::cluster_of(&endpoints) })
}

fn snapshot(clusters: &[Arc<Cluster>]) -> Snapshot {
    let frontends = |c: &Arc<Cluster>| c.frontends.iter().map(|f| (*f, Arc::clone(c))).collect::<Vec<_>>();
    Snapshot {
        clusters: clusters.to_vec().into(),
        by_frontend: clusters.iter().flat_map(frontends).collect(),
        ..Snapshot::default()
    }
}

fn apply(written: &mut Written, snapshot: &Snapshot, tables: &Fake) -> Result<(), DatapathError> {
    written.write(written.plan(snapshot), tables)
}

#[test]
fn a_frontend_leads_to_the_usable_endpoints_of_its_family_and_scope() {
    let mut web = (*cluster(
        "web",
        Lane::Steer,
        &["10.96.0.10:8080", "[fd00::10]:8080"],
        &["10.244.1.11:8080", "10.244.1.12:8080", "10.244.1.13:8080", "[fd00::11]:8080"],
    ))
    .clone();
    web.external = vec!["192.0.2.1:30001".parse().unwrap()];
    web.traffic.internal_local = true;
    web.endpoints[0].ready = false;
    web.endpoints[1].local = true;
    web.endpoints[3].local = true;
    let web = Arc::new(web);
    let mut snapshot = snapshot(&[Arc::clone(&web)]);
    snapshot.by_frontend.insert(web.external[0], web);
    let (mut written, tables) = (Written::default(), Fake::default());
    apply(&mut written, &snapshot, &tables).unwrap();
    let count = |addr: &str| {
        let service = tables.services.borrow()[&at(&service_key(addr.parse().unwrap()))];
        (service.lane, service.endpoints)
    };
    assert_eq!(count("10.96.0.10:8080"), (LANE_STEER, 1), "the one on this node");
    assert_eq!(count("[fd00::10]:8080"), (LANE_STEER, 1));
    assert_eq!(count("192.0.2.1:30001"), (LANE_STEER, 2), "from here an external address is short for it");
    assert_eq!((written.services, written.endpoints), (3, 4));
}

#[test]
fn a_terminating_endpoint_is_written_only_where_none_is_ready() {
    let mut web = (*cluster("web", Lane::Pass, &["10.96.0.1:80"], &["10.1.0.1:80", "10.1.0.2:80"])).clone();
    web.endpoints[0] = ClusterEndpoint { ready: false, terminating: true, ..web.endpoints[0].clone() };
    let (mut written, tables) = (Written::default(), Fake::default());
    let endpoints = |written: &mut Written, web: &Cluster| {
        apply(written, &snapshot(&[Arc::new(web.clone())]), &tables).unwrap();
        tables.led().into_values().next().unwrap().1
    };
    assert!(endpoints(&mut written, &web)[0].ends_with(":80"));
    assert_eq!(written.groups.values().next().unwrap().endpoints, [web.endpoints[1].addr]);
    web.endpoints[1].ready = false;
    web.endpoints[1].serving = false;
    endpoints(&mut written, &web);
    assert_eq!(written.groups.values().next().unwrap().endpoints, [web.endpoints[0].addr]);
}

#[test]
fn a_change_of_one_endpoint_is_a_few_writes_however_many_services_there_are() {
    let clusters = |last: u8| -> Vec<_> {
        (0..200_u8)
            .map(|n| {
                let more = if n == 7 { last } else { 1 };
                let endpoints = [format!("10.1.{n}.0:80"), format!("10.1.{n}.{more}:80")];
                let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
                cluster(&format!("s{n}"), Lane::Pass, &[&format!("10.96.0.{n}:80")], &endpoints)
            })
            .collect()
    };
    let (mut written, tables) = (Written::default(), Fake::default());
    apply(&mut written, &snapshot(&clusters(1)), &tables).unwrap();
    let before = tables.writes.get();
    apply(&mut written, &snapshot(&clusters(2)), &tables).unwrap();
    assert_eq!(tables.writes.get() - before, 1);
}

#[test]
fn an_endpoints_own_address_is_steered_without_a_choice() {
    let web = cluster("web", Lane::Steer, &[], &["10.244.1.11:8080"]);
    let mut snapshot = snapshot(&[Arc::clone(&web)]);
    snapshot.by_endpoint.insert("10.244.1.11:8080".parse().unwrap(), web);
    let (mut written, tables) = (Written::default(), Fake::default());
    apply(&mut written, &snapshot, &tables).unwrap();
    let services: Vec<_> = tables.services.borrow().values().copied().collect();
    assert_eq!(services, [Service { lane: LANE_STEER, id: 0, endpoints: 0, affinity_s: 0 }]);
}

/// Some clusters of a small world: which frontends lead to which, with how many endpoints.
fn world() -> impl Strategy<Value = Vec<(u8, u8, u8, bool)>> {
    proptest::collection::vec((0..6_u8, 0..8_u8, 0..6_u8, any::<bool>()), 0..6)
}

fn snapshot_of_world(world: &[(u8, u8, u8, bool)]) -> Snapshot {
    let mut seen = HashSet::new();
    let clusters: Vec<_> = world
        .iter()
        .filter(|(name, frontend, ..)| seen.insert(format!("s{name}")) && seen.insert(format!("f{frontend}")))
        .map(|(name, frontend, endpoints, steered)| {
            let endpoints: Vec<_> = (0..*endpoints).map(|n| format!("10.1.{}.{n}:80", name / 2)).collect();
            let endpoints: Vec<_> = endpoints.iter().map(String::as_str).collect();
            let lane = if *steered { Lane::Steer } else { Lane::Pass };
            cluster(&format!("s{name}"), lane, &[&format!("10.96.0.{frontend}:80")], &endpoints)
        })
        .collect();
    let mut snapshot = snapshot(&clusters);
    for cluster in clusters.iter().filter(|cluster| cluster.lane == Lane::Steer) {
        snapshot.by_endpoint.extend(cluster.endpoints.iter().map(|one| (one.addr, Arc::clone(cluster))));
    }
    snapshot
}

proptest! {
    #[test]
    fn whatever_came_before_and_failed_the_tables_become_those_of_the_snapshot(
        worlds in proptest::collection::vec((world(), proptest::option::of(0..12_usize)), 1..8)
    ) {
        let (mut written, tables) = (Written::default(), Fake::default());
        for (world, fails_after) in worlds {
            let snapshot = snapshot_of_world(&world);
            tables.fails_at.set(fails_after.map(|after| tables.writes.get() + after));
            let failed = apply(&mut written, &snapshot, &tables).is_err();
            tables.fails_at.set(None);
            if failed {
                continue;
            }
            let (mut anew, expected) = (Written::default(), Fake::default());
            apply(&mut anew, &snapshot, &expected).unwrap();
            prop_assert_eq!(tables.led(), expected.led());
            prop_assert_eq!(tables.endpoints.borrow().len(), expected.endpoints.borrow().len());
            prop_assert_eq!(written.services, tables.services.borrow().len());
            prop_assert_eq!(written.endpoints, tables.endpoints.borrow().len());
        }
    }
}
