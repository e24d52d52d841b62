//! A [`Snapshot`] as kernel tables: what a change of one changes of the other, in an order that never
//! leaves a service pointing at an endpoint that is not there.
//!
//! The work is that of what differs between two snapshots; see `Sharded::differences`.

use super::{DatapathError, tables::Tables};
use crate::{
    route::table::Site,
    sharded::Sharded,
    snapshot::{Cluster, Family, Lane, Scope, Snapshot},
};
use proxy_common::{
    abi::{Endpoint, EndpointKey, ID_ENDPOINT, ID_GATEWAY, LANE_PASS, LANE_STEER, Service, ServiceKey},
    addr::words_of,
};
use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// IP protocol number of TCP.
const TCP: u16 = 6;

/// The two service tables, as they are written.
pub(super) trait ServiceTables {
    fn set_endpoint(&self, key: &EndpointKey, endpoint: &Endpoint) -> Result<(), DatapathError>;
    fn set_service(&self, key: &ServiceKey, service: &Service) -> Result<(), DatapathError>;
    fn remove_service(&self, key: &ServiceKey) -> Result<(), DatapathError>;
    fn remove_endpoint(&self, key: &EndpointKey) -> Result<(), DatapathError>;
}

impl ServiceTables for Tables {
    fn set_endpoint(&self, key: &EndpointKey, endpoint: &Endpoint) -> Result<(), DatapathError> {
        self.endpoints.insert(key, endpoint)
    }

    fn set_service(&self, key: &ServiceKey, service: &Service) -> Result<(), DatapathError> {
        self.services.insert(key, service)
    }

    fn remove_service(&self, key: &ServiceKey) -> Result<(), DatapathError> {
        self.services.remove(key).map(|_| ())
    }

    fn remove_endpoint(&self, key: &EndpointKey) -> Result<(), DatapathError> {
        self.endpoints.remove(key).map(|_| ())
    }
}

/// Clusters by address.
type Clusters = Sharded<SocketAddr, Arc<Cluster>>;
/// Where requests are routed one by one.
type Gateways = Arc<HashMap<SocketAddr, Arc<Site>>>;

/// The endpoints that some addresses of a cluster lead to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
struct GroupKey {
    cluster: Arc<str>,
    family: Family,
    scope: Scope,
}

/// A group in the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Group {
    id: u32,
    endpoints: Vec<SocketAddr>,
}

/// What the tables hold.
#[derive(Debug, Default)]
pub(super) struct Written {
    groups: HashMap<GroupKey, Group>,
    last_id: u32,
    by_frontend: Sharded<SocketAddr, Arc<Cluster>>,
    by_endpoint: Sharded<SocketAddr, Arc<Cluster>>,
    by_gateway: Gateways,
    services: usize,
    endpoints: usize,
    /// What a change that failed half-way may have written, to be looked at with the next one.
    doubtful: (Vec<SocketAddr>, Vec<(GroupKey, EndpointKey)>),
}

/// What turns the tables into those of another snapshot.
#[derive(Debug)]
pub(super) struct Plan {
    set_endpoints: Vec<(GroupKey, EndpointKey, Endpoint)>,
    set_services: Vec<(SocketAddr, Service)>,
    remove_services: Vec<SocketAddr>,
    remove_endpoints: Vec<(GroupKey, EndpointKey)>,
    /// `None` for a group that is no more.
    groups: Vec<(GroupKey, Option<Group>)>,
    last_id: u32,
    by_frontend: Sharded<SocketAddr, Arc<Cluster>>,
    by_endpoint: Sharded<SocketAddr, Arc<Cluster>>,
    by_gateway: Gateways,
    /// Service addresses then.
    pub(super) services: usize,
    /// Endpoints of services then.
    pub(super) endpoints: usize,
}

impl Written {
    /// What is to be written for a snapshot.
    pub(super) fn plan(&self, snapshot: &Snapshot) -> Plan {
        let mut plan = Plan {
            set_endpoints: Vec::new(),
            set_services: Vec::new(),
            remove_services: Vec::new(),
            remove_endpoints: Vec::new(),
            groups: Vec::new(),
            last_id: self.last_id,
            by_frontend: snapshot.by_frontend.clone(),
            by_endpoint: snapshot.by_endpoint.clone(),
            by_gateway: Arc::clone(&snapshot.by_gateway),
            services: self.services,
            endpoints: self.endpoints,
        };
        let frontends = snapshot.by_frontend.differences(&self.by_frontend);
        let mut groups = BTreeSet::new();
        for frontend in &frontends {
            groups.extend(self.by_frontend.get(*frontend).map(|cluster| group_of(frontend, cluster)));
            groups.extend(snapshot.by_frontend.get(*frontend).map(|cluster| group_of(frontend, cluster)));
        }
        let mut renewed = HashMap::new();
        for key in groups {
            self.plan_group(key, snapshot, &mut renewed, &mut plan);
        }
        let endpoints = snapshot.by_endpoint.differences(&self.by_endpoint);
        let (new, old) = (&snapshot.by_gateway, &self.by_gateway);
        let gateways = new.keys().filter(|addr| !old.contains_key(addr));
        let gateways = gateways.chain(old.keys().filter(|addr| !new.contains_key(addr)));
        let changed: BTreeSet<_> = frontends.into_iter().chain(endpoints).chain(gateways).copied().collect();
        for addr in changed {
            self.plan_service(addr, snapshot, &renewed, &mut plan);
        }
        self.plan_doubtful(snapshot, &renewed, &mut plan);
        plan.groups.extend(renewed);
        plan
    }

    fn plan_group(
        &self,
        key: GroupKey,
        snapshot: &Snapshot,
        renewed: &mut HashMap<GroupKey, Option<Group>>,
        plan: &mut Plan,
    ) {
        let old = self.groups.get(&key);
        let cluster = snapshot.clusters.get(&key.cluster).filter(|cluster| {
            let frontends = cluster.frontends.iter().chain(&cluster.external);
            frontends.into_iter().any(|frontend| group_of(frontend, cluster) == key)
        });
        let new = cluster.map(|cluster| Group {
            id: old.map_or_else(
                || {
                    plan.last_id = plan.last_id.wrapping_add(1).max(1);
                    plan.last_id
                },
                |old| old.id,
            ),
            endpoints: cluster.usable_within(key.family, key.scope).map(|one| one.addr).collect(),
        });
        let (before, after) =
            (old.map_or(&[][..], |old| &old.endpoints), new.as_ref().map_or(&[][..], |new| &new.endpoints));
        if let Some(id) = new.as_ref().or(old).map(|group| group.id) {
            for (index, addr) in (0..).zip(after) {
                if before.get(to_usize(index)) != Some(addr) {
                    plan.set_endpoints.push((
                        key.clone(),
                        EndpointKey { service: id, index },
                        endpoint(*addr),
                    ));
                }
            }
            let gone = (0..).zip(before).skip(after.len());
            plan.remove_endpoints
                .extend(gone.map(|(index, _)| (key.clone(), EndpointKey { service: id, index })));
        }
        plan.endpoints = plan.endpoints + after.len() - before.len();
        renewed.insert(key, new);
    }

    fn plan_service(
        &self,
        addr: SocketAddr,
        snapshot: &Snapshot,
        renewed: &HashMap<GroupKey, Option<Group>>,
        plan: &mut Plan,
    ) {
        let old = service_at(addr, (&self.by_frontend, &self.by_endpoint, &self.by_gateway), |key| {
            self.groups.get(key)
        });
        let new =
            service_at(addr, (&snapshot.by_frontend, &snapshot.by_endpoint, &snapshot.by_gateway), |key| {
                renewed.get(key).map_or_else(|| self.groups.get(key), Option::as_ref)
            });
        match (old, new) {
            (old, Some(new)) if old != Some(new) => {
                plan.services += usize::from(old.is_none());
                plan.set_services.push((addr, new));
            }
            (Some(_), None) => {
                plan.services -= 1;
                plan.remove_services.push(addr);
            }
            _ => {}
        }
    }

    /// Takes away what a change left that failed half-way, as far as it is not wanted now.
    fn plan_doubtful(
        &self,
        snapshot: &Snapshot,
        renewed: &HashMap<GroupKey, Option<Group>>,
        plan: &mut Plan,
    ) {
        let (services, endpoints) = &self.doubtful;
        let group = |key: &GroupKey| renewed.get(key).map_or_else(|| self.groups.get(key), Option::as_ref);
        for addr in services {
            match service_at(
                *addr,
                (&snapshot.by_frontend, &snapshot.by_endpoint, &snapshot.by_gateway),
                group,
            ) {
                Some(service) => plan.set_services.push((*addr, service)),
                None => plan.remove_services.push(*addr),
            }
        }
        for (key, at) in endpoints {
            let wanted = group(key).filter(|group| group.id == at.service);
            match wanted.and_then(|group| group.endpoints.get(to_usize(at.index))) {
                Some(addr) => plan.set_endpoints.push((key.clone(), *at, endpoint(*addr))),
                None => plan.remove_endpoints.push((key.clone(), *at)),
            }
        }
    }

    /// Writes a plan of this state. Where that fails, the tables are neither what they were nor what
    /// they should be; the next plan mends that.
    pub(super) fn write(&mut self, plan: Plan, tables: &impl ServiceTables) -> Result<(), DatapathError> {
        if let Err(error) = plan.write(tables) {
            // Ids are not used again: what was written under one may still be there.
            self.last_id = plan.last_id;
            self.doubtful.0.extend(plan.set_services.iter().map(|(addr, _)| *addr));
            self.doubtful.0.extend(plan.remove_services);
            self.doubtful.1.extend(plan.set_endpoints.into_iter().map(|(group, key, _)| (group, key)));
            self.doubtful.1.extend(plan.remove_endpoints);
            return Err(error);
        }
        for (key, group) in plan.groups {
            match group {
                Some(group) => self.groups.insert(key, group),
                None => self.groups.remove(&key),
            };
        }
        self.last_id = plan.last_id;
        (self.by_frontend, self.by_endpoint) = (plan.by_frontend, plan.by_endpoint);
        self.by_gateway = plan.by_gateway;
        (self.services, self.endpoints) = (plan.services, plan.endpoints);
        self.doubtful = Default::default();
        Ok(())
    }
}

impl Plan {
    fn write(&self, tables: &impl ServiceTables) -> Result<(), DatapathError> {
        // A service must never point at an endpoint that is not there.
        for (_, key, endpoint) in &self.set_endpoints {
            tables.set_endpoint(key, endpoint)?;
        }
        for (addr, service) in &self.set_services {
            tables.set_service(&service_key(*addr), service)?;
        }
        for addr in &self.remove_services {
            tables.remove_service(&service_key(*addr))?;
        }
        for (_, key) in &self.remove_endpoints {
            tables.remove_endpoint(key)?;
        }
        Ok(())
    }
}

fn group_of(frontend: &SocketAddr, cluster: &Cluster) -> GroupKey {
    GroupKey {
        cluster: Arc::clone(&cluster.name),
        family: Family::of(frontend.ip()),
        scope: cluster.scope_within(frontend),
    }
}

/// What the tables have at an address: a choice of endpoints, or that an endpoint's own address, or a
/// Gateway's, is steered.
fn service_at<'a>(
    addr: SocketAddr,
    (by_frontend, by_endpoint, by_gateway): (&Clusters, &Clusters, &Gateways),
    group: impl Fn(&GroupKey) -> Option<&'a Group>,
) -> Option<Service> {
    if let Some(cluster) = by_frontend.get(&addr) {
        let group = group(&group_of(&addr, cluster))?;
        let lane = match cluster.lane {
            Lane::Steer => LANE_STEER,
            Lane::Pass => LANE_PASS,
        };
        let endpoints = u32::try_from(group.endpoints.len()).unwrap_or(u32::MAX);
        let affinity_s = cluster.traffic.affinity.map_or(0, seconds);
        return Some(Service { lane, id: group.id, endpoints, affinity_s });
    }
    // Nothing to choose from.
    let id = match (by_gateway.contains_key(&addr), by_endpoint.contains_key(&addr)) {
        (true, _) => ID_GATEWAY,
        (false, true) => ID_ENDPOINT,
        (false, false) => return None,
    };
    Some(Service { lane: LANE_STEER, id, endpoints: 0, affinity_s: 0 })
}

fn seconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX)
}

fn service_key(addr: SocketAddr) -> ServiceKey {
    ServiceKey { addr: words_of(addr.ip()), port: addr.port(), protocol: TCP }
}

fn endpoint(addr: SocketAddr) -> Endpoint {
    Endpoint { addr: words_of(addr.ip()), port: addr.port(), pad: 0 }
}

fn to_usize(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
