//! What policies look at in a pod.

use super::pods::has_ended;
use crate::{
    policy::access::{Labels, NamedPort, PodFacts, Transport},
    source::{
        Sourced,
        finding::{Finding, Severity, quoted},
    },
};
use k8s_openapi::api::core::v1::{Container, Pod};
use std::net::IpAddr;

/// `None` for a pod that has ended: its address may be somebody else's.
pub(super) fn facts(source: &Sourced<Pod>, findings: &mut Vec<Finding>) -> Option<PodFacts> {
    let pod = &source.object;
    if has_ended(pod) {
        return None;
    }
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty());
    let created = pod.metadata.creation_timestamp.as_ref();
    Some(PodFacts {
        name: format!("{}/{}", source.namespace, source.name).into(),
        uid: pod.metadata.uid.as_deref().filter(|uid| !uid.is_empty()).map(Into::into),
        labels: Labels {
            namespace: source.namespace.as_str().into(),
            own: pod.metadata.labels.clone().unwrap_or_default(),
            service_account: account.unwrap_or("default").into(),
        },
        addresses: addresses(source, findings),
        ports: spec.into_iter().flat_map(containers).flat_map(named_ports).collect(),
        node: spec.and_then(|spec| spec.node_name.as_deref()).map(Into::into),
        on_host: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        leaving: pod.metadata.deletion_timestamp.is_some(),
        created: created.map_or(0, |time| time.0.as_second()),
    })
}

/// Those that run as long as the pod does.
fn containers(spec: &k8s_openapi::api::core::v1::PodSpec) -> impl Iterator<Item = &Container> {
    let sidecar = |one: &&Container| one.restart_policy.as_deref() == Some("Always");
    spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar))
}

fn named_ports(container: &Container) -> impl Iterator<Item = NamedPort> {
    container.ports.iter().flatten().filter_map(|port| {
        let transport = match port.protocol.as_deref() {
            None | Some("" | "TCP") => Transport::Tcp,
            Some("UDP") => Transport::Udp,
            Some("SCTP") => Transport::Sctp,
            Some(_) => return None,
        };
        let number = u16::try_from(port.container_port).ok().filter(|number| *number > 0)?;
        Some(NamedPort { name: port.name.as_deref()?.into(), transport, number })
    })
}

/// `status.podIPs`, or `status.podIP`.
pub(super) fn addresses(source: &Sourced<Pod>, findings: &mut Vec<Finding>) -> Vec<IpAddr> {
    let Some(status) = &source.object.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses = Vec::new();
    for text in all.filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(ip) if addresses.contains(&ip) => {}
            Ok(ip) => addresses.push(ip),
            Err(_) => {
                let text = format!("{} is not an IP address", quoted(text));
                let fix = "the address is left out";
                findings.push(source.finding(Severity::Error, source.lines.object, text, fix));
            }
        }
    }
    addresses
}

/// Addresses of the pod's node.
pub(super) fn node_addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let own = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|_| on_host);
    let all = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.host_ip.as_deref());
    let mut addresses: Vec<_> =
        all.chain(own).filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
