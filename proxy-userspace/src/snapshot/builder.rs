//! Objects to a [`Snapshot`]: a pure function, whatever the objects' order.

use super::{
    BuildOptions, Cluster, Endpoint, Lane, Snapshot, lint, pods,
    policies::Policies,
    service::{self, Service, ServicePort},
    slice::{self, Slice},
};
use crate::{
    sharded::Sharded,
    source::{
        Objects, Sourced,
        finding::{Finding, Severity},
        store::Store,
    },
};
use k8s_openapi::{Metadata, Resource, api::core::v1, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Slices of each Service, by namespace and name.
type SlicesByService<'a> = HashMap<(&'a str, &'a str), Vec<Slice<'a>>>;

/// Turns objects into a snapshot. A faulty object, or the faulty part of one, is left out and
/// named in the findings, which come sorted. Where two objects claim the same, the older one wins
/// (creationTimestamp, then namespace and name).
#[must_use]
pub fn build(objects: &Objects, options: &BuildOptions, generation: u64) -> (Snapshot, Vec<Finding>) {
    options.policies.sweep();
    let mut findings = Vec::new();
    let slices = slices_by_service(objects, &mut findings);
    let mut policies = Policies::read(objects, &options.policies, &mut findings);
    let mut claims = Claims::default();
    let mut clusters = Vec::new();
    for source in distinct(&objects.services, &mut findings) {
        let Some(service) = service::read(source, options, &mut findings) else { continue };
        let slices =
            slices.get(&(source.namespace.as_str(), source.name.as_str())).map_or(&[][..], Vec::as_slice);
        let first = clusters.len();
        for port in &service.ports {
            let mut cluster = cluster(&service, port, slices, &mut claims, &mut findings);
            restrict(&mut cluster, &mut policies);
            clusters.push(cluster);
        }
        lint::service(&service, slices, clusters.get(first..).unwrap_or_default(), &mut findings);
    }
    policies.lint(&mut findings);
    lint::orphans(&slices, &objects.services, &mut findings);
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let mut snapshot = index(clusters.into_iter().map(Arc::new).collect(), options);
    snapshot.generation = generation;
    snapshot.rule_names = policies.rule_names();
    snapshot.pods = pods::index(&distinct(&objects.pods, &mut Vec::new()));
    snapshot.workload_by_ip = workloads(slices.values().flatten());
    findings.sort();
    (snapshot, findings)
}

/// Gives endpoints their policies. Where one has any, only the agent may make connections.
fn restrict(cluster: &mut Cluster, policies: &mut Policies<'_>) {
    for endpoint in &mut cluster.endpoints {
        endpoint.policy = policies.of(endpoint);
        if endpoint.policy.as_ref().is_some_and(|policy| policy.opens_port().is_none()) {
            cluster.lane = Lane::Steer;
        }
    }
}

/// Oldest first. Younger ones of the same namespace and name are errors.
pub(super) fn distinct<'a, T>(objects: &'a Store<T>, findings: &mut Vec<Finding>) -> Vec<&'a Sourced<T>>
where
    T: Resource + Metadata<Ty = ObjectMeta>,
{
    let mut sorted: Vec<_> = objects.iter().collect();
    sorted.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    findings.extend(objects.all_others().map(|object| twice(objects, object)));
    sorted
}

/// That an object of this name is there already.
fn twice<T: Resource + Metadata<Ty = ObjectMeta>>(objects: &Store<T>, object: &Sourced<T>) -> Finding {
    let place = objects.get(&object.key()).map(|used| format!("{}:{}", used.file, used.lines.object));
    let text = format!("is there twice; the one at {} is used", place.unwrap_or_default());
    object.finding(Severity::Error, object.lines.object, text, "remove one")
}

fn slices_by_service<'a>(objects: &'a Objects, findings: &mut Vec<Finding>) -> SlicesByService<'a> {
    let mut by_service = SlicesByService::new();
    for source in distinct(&objects.slices, findings) {
        if let Some(slice) = slice::read(source, findings) {
            by_service.entry((&source.namespace, slice.service)).or_default().push(slice);
        }
    }
    by_service
}

/// Who has which address; the first claim holds.
#[derive(Default)]
struct Claims {
    frontends: HashMap<SocketAddr, Arc<str>>,
    node_ports: HashMap<u16, Arc<str>>,
}

fn cluster(
    service: &Service<'_>,
    port: &ServicePort<'_>,
    slices: &[Slice<'_>],
    claims: &mut Claims,
    findings: &mut Vec<Finding>,
) -> Cluster {
    let source = service.source;
    let name: Arc<str> = format!("{}/{}:{}", source.namespace, source.name, port.number).into();
    let frontends = service.cluster_ips.iter().map(|ip| SocketAddr::new(*ip, port.number));
    let frontends = frontends
        .filter(|addr| claim(&mut claims.frontends, *addr, &name, source, port.line, findings))
        .collect();
    let node_port = port
        .node_port
        .filter(|node_port| claim(&mut claims.node_ports, *node_port, &name, source, port.line, findings));
    Cluster {
        namespace: source.namespace.clone(),
        service: source.name.clone(),
        port_name: (!port.name.is_empty()).then(|| port.name.to_owned()),
        port: port.number,
        node_port,
        lane: port.lane,
        protocol: port.protocol,
        frontends,
        endpoints: endpoints(service, port, slices),
        timeouts: service.timeouts,
        acceleration: service.acceleration,
        name,
    }
}

/// True for the first claim of an address; a later one is an error of `source`.
fn claim<K: std::hash::Hash + Eq + Copy + std::fmt::Display>(
    claims: &mut HashMap<K, Arc<str>>,
    key: K,
    cluster: &Arc<str>,
    source: &Sourced<v1::Service>,
    line: u32,
    findings: &mut Vec<Finding>,
) -> bool {
    match claims.entry(key) {
        Entry::Vacant(slot) => {
            slot.insert(Arc::clone(cluster));
            true
        }
        Entry::Occupied(holder) => {
            let text = format!("{key} belongs to the older Service {}", holder.get());
            findings.push(source.finding(
                Severity::Error,
                line,
                text,
                "give it another; this one is left out",
            ));
            false
        }
    }
}

/// The endpoints that a Service port has in its slices, by address; an address that several
/// slices hold takes its best state.
fn endpoints(service: &Service<'_>, port: &ServicePort<'_>, slices: &[Slice<'_>]) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for slice in slices {
        for slice_port in slice.ports.iter().filter(|slice_port| slice_port.name == port.name) {
            endpoints.extend(slice.endpoints.iter().map(|endpoint| {
                let mut endpoint = endpoint.clone();
                endpoint.addr.set_port(slice_port.number);
                endpoint.ready |= service.publish_not_ready;
                endpoint
            }));
        }
    }
    endpoints.sort_by(|a, b| preference(a).cmp(&preference(b)));
    endpoints.dedup_by_key(|endpoint| endpoint.addr);
    endpoints
}

/// Orders by address and, of one address, the best state first.
fn preference(endpoint: &Endpoint) -> (SocketAddr, [bool; 3], Option<&str>, Option<&str>) {
    let state = [!endpoint.ready, !endpoint.serving, endpoint.terminating];
    (endpoint.addr, state, endpoint.workload.as_deref(), endpoint.node.as_deref())
}

/// Clusters, by name, and who reaches them how.
fn index(clusters: Vec<Arc<Cluster>>, options: &BuildOptions) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for cluster in &clusters {
        let node_port = cluster.node_port.into_iter();
        let node_ports = node_port
            .flat_map(|port| options.node_addresses.iter().map(move |ip| SocketAddr::new(*ip, port)));
        for frontend in cluster.frontends.iter().copied().chain(node_ports) {
            snapshot.by_frontend.insert(frontend, Arc::clone(cluster));
        }
        for endpoint in &cluster.endpoints {
            let steered = cluster.lane == Lane::Steer || options.http_ports.contains(&endpoint.addr.port());
            if steered && !snapshot.by_endpoint.contains_key(&endpoint.addr) {
                snapshot.by_endpoint.insert(endpoint.addr, Arc::clone(cluster));
            }
        }
    }
    snapshot.clusters = clusters;
    snapshot
}

/// Pod addresses to pods. Of two pods that share an address (host network; an address used again)
/// the one that is not terminating has it; between two of those nobody does.
fn workloads<'a>(slices: impl Iterator<Item = &'a Slice<'a>>) -> Sharded<IpAddr, Arc<str>> {
    let mut holders: HashMap<IpAddr, (bool, Option<&Arc<str>>)> = HashMap::new();
    for endpoint in slices.flat_map(|slice| &slice.endpoints) {
        let Some(workload) = &endpoint.workload else { continue };
        let holder = holders.entry(endpoint.addr.ip()).or_insert((endpoint.terminating, Some(workload)));
        if holder.0 == endpoint.terminating {
            holder.1 = holder.1.filter(|other| *other == workload);
        } else if holder.0 {
            *holder = (false, Some(workload));
        }
    }
    holders.into_iter().filter_map(|(ip, (_, workload))| Some((ip, Arc::clone(workload?)))).collect()
}
