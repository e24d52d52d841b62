//! A Service's ports, with the endpoints of its slices, as clusters.

use super::{
    Cluster, Endpoint, Family,
    claims::Claimed,
    service::{Service, ServicePort},
    slice::{Hint, Slice},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// `namespace/service:port`.
pub(super) fn name(service: &Service<'_>, port: &ServicePort<'_>) -> Arc<str> {
    format!("{}/{}:{}", service.source.namespace, service.source.name, port.number).into()
}

/// What a port wants of the cluster's own addresses.
pub(super) fn own_addresses(service: &Service<'_>, port: &ServicePort<'_>) -> Vec<SocketAddr> {
    service.cluster_ips.iter().map(|ip| SocketAddr::new(*ip, port.number)).collect()
}

/// What it wants of others.
pub(super) fn external_addresses(service: &Service<'_>, port: &ServicePort<'_>) -> Vec<SocketAddr> {
    service.external_ips.iter().map(|ip| SocketAddr::new(*ip, port.number)).collect()
}

/// One port. `has` says whether it may have what it wants.
pub(super) fn make(
    service: &Service<'_>,
    port: &ServicePort<'_>,
    slices: &[Slice<'_>],
    node_addresses: &[IpAddr],
    mut has: impl FnMut(Claimed) -> bool,
) -> Cluster {
    let source = service.source;
    let mut owned = |addrs: Vec<SocketAddr>| -> Vec<SocketAddr> {
        addrs.into_iter().filter(|addr| has(Claimed::Address(*addr))).collect()
    };
    let frontends = owned(own_addresses(service, port));
    let mut external = owned(external_addresses(service, port));
    let node_port = port.node_port.filter(|port| has(Claimed::NodePort(*port)));
    let on_nodes = node_port
        .into_iter()
        .flat_map(|port| node_addresses.iter().map(move |ip| SocketAddr::new(*ip, port)));
    external.extend(on_nodes.filter(|addr| has(Claimed::Address(*addr))));
    Cluster {
        name: name(service, port),
        namespace: source.namespace.clone(),
        service: source.name.clone(),
        port_name: (!port.name.is_empty()).then(|| port.name.to_owned()),
        port: port.number,
        node_port,
        lane: port.lane,
        protocol: port.protocol,
        frontends,
        external,
        traffic: service.traffic,
        endpoints: endpoints(service, port, slices),
        timeouts: service.timeouts,
        acceleration: service.acceleration,
        choices: service.choices,
    }
}

/// The endpoints that a Service port has in its slices, by address; an address that several
/// slices hold takes its best state.
fn endpoints(service: &Service<'_>, port: &ServicePort<'_>, slices: &[Slice<'_>]) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for slice in slices {
        for slice_port in slice.ports.iter().filter(|slice_port| slice_port.name == port.name) {
            endpoints.extend(slice.endpoints.iter().zip(&slice.hints).map(|(endpoint, hint)| {
                let mut endpoint = endpoint.clone();
                endpoint.addr.set_port(slice_port.number);
                endpoint.ready |= service.publish_not_ready;
                (endpoint, *hint)
            }));
        }
    }
    endpoints.sort_by(|a, b| preference(a).cmp(&preference(b)));
    endpoints.dedup_by_key(|(endpoint, _)| endpoint.addr);
    for family in [Family::V4, Family::V6] {
        keep_near(&mut endpoints, family);
    }
    endpoints.into_iter().map(|(endpoint, _)| endpoint).collect()
}

/// What [`preference`] orders by.
type Preference<'a> = (SocketAddr, [bool; 3], Option<&'a str>, Option<&'a str>, Hint);

/// Orders by address and, of one address, the best state first.
fn preference((endpoint, hint): &(Endpoint, Hint)) -> Preference<'_> {
    let state = [!endpoint.ready, !endpoint.serving, endpoint.terminating];
    (endpoint.addr, state, endpoint.workload.as_deref(), endpoint.node.as_deref(), *hint)
}

/// Marks those that are meant for other zones, where every ready one is meant for some, and one for
/// ours: as kube-proxy does, so that a zone without endpoints is not without service.
fn keep_near(endpoints: &mut [(Endpoint, Hint)], family: Family) {
    let of_family = |endpoint: &Endpoint| Family::of(endpoint.addr.ip()) == family;
    let ready = || endpoints.iter().filter(|(endpoint, _)| endpoint.ready && of_family(endpoint));
    let aware =
        ready().all(|(_, hint)| *hint != Hint::Nothing) && ready().any(|(_, hint)| *hint == Hint::Here);
    if aware {
        for (endpoint, hint) in endpoints.iter_mut().filter(|(endpoint, _)| of_family(endpoint)) {
            endpoint.near = *hint != Hint::Elsewhere;
        }
    }
}
