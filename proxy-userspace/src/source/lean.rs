//! The kinds of which there are tens of thousands, as they are kept: what somebody reads of them, and no
//! more. As the API's own types an endpoint takes half a kilobyte, and a pod three.

use super::{
    Object, Sourced,
    names::{LabelSet, shared},
};
use k8s_openapi::{
    Resource,
    api::{core::v1, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{net::IpAddr, sync::Arc};

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, PartialEq, Debug)]
pub struct EndpointSlice {
    /// `metadata.creationTimestamp`
    pub created: Option<Time>,
    /// The Service that it belongs to, in its own namespace.
    pub service: Option<Arc<str>>,
    /// `IPv4`, `IPv6` or `FQDN`, or something else.
    pub address_type: Arc<str>,
    /// Its ports, which each endpoint has.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints.
    pub endpoints: Box<[Endpoint]>,
}

/// A port of a slice.
#[derive(Clone, PartialEq, Debug)]
pub struct SlicePort {
    /// Equals the Service port's name; empty for none.
    pub name: Arc<str>,
    /// Its number, as it is written.
    pub number: Option<i32>,
    /// Its protocol; none means TCP.
    pub protocol: Option<Arc<str>>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub addresses: Addresses,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// `namespace/name` of the pod behind it.
    pub workload: Option<Arc<str>>,
    /// `hints.forZones`
    pub zones: Box<[Arc<str>]>,
    /// Its conditions.
    pub ready: Option<bool>,
    /// See above.
    pub serving: Option<bool>,
    /// See above.
    pub terminating: Option<bool>,
}

/// An endpoint's addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Addresses {
    /// One, as nearly all have.
    One(IpAddr),
    /// None, several, or what is none.
    Other(Box<[Box<str>]>),
}

impl Addresses {
    /// Those that are addresses.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let (one, texts) = match self {
            Self::One(ip) => (Some(*ip), &[][..]),
            Self::Other(texts) => (None, &**texts),
        };
        one.into_iter().chain(texts.iter().filter_map(|text| text.parse().ok()))
    }
}

/// A Pod.
#[derive(Clone, PartialEq, Debug)]
pub struct Pod {
    /// `metadata.creationTimestamp`
    pub created: Option<Time>,
    /// `metadata.uid`
    pub uid: Option<Arc<str>>,
    /// Its labels.
    pub labels: LabelSet,
    /// `spec.serviceAccountName`
    pub service_account: Option<Arc<str>>,
    /// `spec.nodeName`
    pub node: Option<Arc<str>>,
    /// `status.podIPs` and `status.podIP`, each once.
    pub addresses: Box<[Address]>,
    /// The same of its node: `status.hostIPs` and `status.hostIP`.
    pub host_addresses: Box<[Address]>,
    /// Ports that have names, of containers that run as long as the pod does.
    pub ports: Box<[ContainerPort]>,
    /// `spec.hostNetwork`
    pub on_host: bool,
    /// It is being deleted.
    pub leaving: bool,
    /// Its processes are gone, and its address may be somebody else's.
    pub ended: bool,
}

/// What is written where an address belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// An address.
    Ip(IpAddr),
    /// Something else.
    Other(Box<str>),
}

/// A container's port that has a name.
#[derive(Clone, PartialEq, Debug)]
pub struct ContainerPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its number, as it is written.
    pub number: i32,
    /// Its protocol; none means TCP.
    pub protocol: Option<Arc<str>>,
}

impl Object for EndpointSlice {
    const KIND_NAME: &'static str = <discovery::EndpointSlice as Resource>::KIND;

    fn created(&self) -> Option<&Time> {
        self.created.as_ref()
    }
}

impl Object for Pod {
    const KIND_NAME: &'static str = <v1::Pod as Resource>::KIND;

    fn created(&self) -> Option<&Time> {
        self.created.as_ref()
    }
}

/// Of a slice, what is read of it, and the lines that findings point at.
pub(super) fn slice(mut source: Sourced<discovery::EndpointSlice>) -> Sourced<EndpointSlice> {
    source.lines.fields.retain(|(key, _)| &**key == "addressType");
    source.lines.fields.shrink_to_fit();
    let namespace = source.namespace.clone();
    source.map(|slice| EndpointSlice {
        created: slice.metadata.creation_timestamp,
        service: slice
            .metadata
            .labels
            .and_then(|mut labels| labels.remove(SERVICE_NAME))
            .filter(|name| !name.is_empty())
            .map(Arc::from),
        address_type: shared(&slice.address_type),
        ports: slice.ports.into_iter().flatten().map(slice_port).collect(),
        endpoints: slice.endpoints.into_iter().map(|one| endpoint(one, &namespace)).collect(),
    })
}

fn slice_port(port: discovery::EndpointPort) -> SlicePort {
    SlicePort {
        name: shared(port.name.as_deref().unwrap_or_default()),
        number: port.port,
        protocol: port.protocol.as_deref().map(shared),
    }
}

fn endpoint(endpoint: discovery::Endpoint, namespace: &str) -> Endpoint {
    let conditions = endpoint.conditions.unwrap_or_default();
    let target = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
    let workload = target.and_then(|target| {
        let name = target.name?;
        Some(format!("{}/{name}", target.namespace.as_deref().unwrap_or(namespace)).into())
    });
    let zones = endpoint.hints.into_iter().flat_map(|hints| hints.for_zones).flatten();
    let addresses = match endpoint.addresses.as_slice() {
        [one] => one.parse().ok().map(Addresses::One),
        _ => None,
    };
    Endpoint {
        addresses: addresses.unwrap_or_else(|| {
            Addresses::Other(endpoint.addresses.iter().map(|text| text.as_str().into()).collect())
        }),
        node: endpoint.node_name.as_deref().map(shared),
        workload,
        zones: zones.map(|zone| shared(&zone.name)).collect(),
        ready: conditions.ready,
        serving: conditions.serving,
        terminating: conditions.terminating,
    }
}

/// Of a pod, what is read of it; findings point at the whole of it.
pub(super) fn pod(mut source: Sourced<v1::Pod>) -> Sourced<Pod> {
    source.lines.fields = Vec::new();
    source.map(|pod| {
        let (metadata, spec) = (pod.metadata, pod.spec.unwrap_or_default());
        let status = pod.status.unwrap_or_default();
        let ips = status.pod_ips.into_iter().flatten().map(|one| one.ip).chain(status.pod_ip);
        let host_ips = status.host_ips.into_iter().flatten().map(|one| one.ip).chain(status.host_ip);
        let ports = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(is_sidecar));
        Pod {
            created: metadata.creation_timestamp,
            uid: metadata.uid.filter(|uid| !uid.is_empty()).map(Arc::from),
            labels: metadata.labels.into_iter().flatten().collect(),
            service_account: spec.service_account_name.as_deref().filter(|name| !name.is_empty()).map(shared),
            node: spec.node_name.as_deref().map(shared),
            addresses: addresses(ips),
            host_addresses: addresses(host_ips),
            ports: ports.flat_map(|one| one.ports.iter().flatten()).filter_map(container_port).collect(),
            on_host: spec.host_network.unwrap_or(false),
            leaving: metadata.deletion_timestamp.is_some(),
            ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        }
    })
}

/// Starts before the others, and stays.
fn is_sidecar(container: &&v1::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn container_port(port: &v1::ContainerPort) -> Option<ContainerPort> {
    Some(ContainerPort {
        name: shared(port.name.as_deref()?),
        number: port.container_port,
        protocol: port.protocol.as_deref().map(shared),
    })
}

/// Each once; empty ones are none.
fn addresses(texts: impl Iterator<Item = String>) -> Box<[Address]> {
    let mut all: Vec<Address> = Vec::new();
    for text in texts.filter(|text| !text.is_empty()) {
        let one = text.parse().map_or_else(|_| Address::Other(text.into()), Address::Ip);
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_looked_at_stays() {
        let objects = crate::source::objects(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, uid: u, labels: {b: x, a: y}}\n\
             spec:\n  nodeName: n\n  serviceAccountName: robot\n  containers:\n  \
             - {name: c, image: i, env: [{name: A, value: b}], ports: [{name: web, containerPort: 80}]}\n  \
             initContainers:\n  - {name: s, restartPolicy: Always, ports: [{name: x, containerPort: 81}]}\n  \
             - {name: t, ports: [{name: y, containerPort: 82}]}\n\
             status: {phase: Failed, podIP: 10.0.0.9, podIPs: [{ip: 10.0.0.9}, {ip: x}], hostIP: 10.1.0.1}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {name: s, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
             endpoints:\n- {addresses: [10.0.0.1], nodeName: n, zone: z, hints: {forZones: [{name: z}]}, \
             targetRef: {kind: Pod, name: p}}\n- {addresses: [10.0.0.2, x]}\n",
        );
        let pod = &objects.pods[0].object;
        assert_eq!((pod.node.as_deref(), pod.service_account.as_deref()), (Some("n"), Some("robot")));
        assert_eq!((pod.labels.get("a"), pod.uid.as_deref(), pod.ended), (Some("y"), Some("u"), true));
        let ports: Vec<_> = pod.ports.iter().map(|port| (&*port.name, port.number)).collect();
        assert_eq!(ports, [("web", 80), ("x", 81)], "what ends has no ports");
        let ip = |text: &str| Address::Ip(text.parse().unwrap());
        assert_eq!(*pod.addresses, [ip("10.0.0.9"), Address::Other("x".into())]);
        assert_eq!(*pod.host_addresses, [ip("10.1.0.1")]);
        let slice = &objects.slices[0].object;
        assert_eq!((slice.service.as_deref(), &*slice.address_type), (Some("web"), "IPv4"));
        let [one, two] = &*slice.endpoints else { unreachable!() };
        assert_eq!(one.addresses, Addresses::One("10.0.0.1".parse().unwrap()));
        assert_eq!((one.node.as_deref(), one.workload.as_deref()), (Some("n"), Some("default/p")));
        assert_eq!((&*one.zones[0], one.ready), ("z", None));
        assert_eq!(two.addresses.iter().count(), 1, "the other one is none");
    }
}
