//! What policies look at in a pod.

use crate::{
    policy::access::{Labels, NamedPort, PodFacts, Transport},
    source::{
        Sourced,
        finding::{Finding, Severity, quoted},
        lean::{Address, ContainerPort, Pod},
        names::shared,
    },
};
use std::{net::IpAddr, sync::Arc};

/// `None` for a pod that has ended: its address may be somebody else's.
pub(super) fn facts(source: &Sourced<Pod>, findings: &mut Vec<Finding>) -> Option<PodFacts> {
    let pod = &source.object;
    if pod.ended {
        return None;
    }
    Some(PodFacts {
        name: format!("{}/{}", source.namespace, source.name).into(),
        uid: pod.uid.clone(),
        labels: Labels {
            namespace: shared(&source.namespace),
            own: pod.labels.clone(),
            service_account: pod.service_account.clone().unwrap_or_else(|| shared("default")),
        },
        addresses: addresses(source, findings),
        ports: pod.ports.iter().filter_map(named_port).collect(),
        node: pod.node.clone(),
        on_host: pod.on_host,
        leaving: pod.leaving,
        created: pod.created.as_ref().map_or(0, |time| time.0.as_second()),
    })
}

fn named_port(port: &ContainerPort) -> Option<NamedPort> {
    let transport = match port.protocol.as_deref() {
        None | Some("" | "TCP") => Transport::Tcp,
        Some("UDP") => Transport::Udp,
        Some("SCTP") => Transport::Sctp,
        Some(_) => return None,
    };
    let number = u16::try_from(port.number).ok().filter(|number| *number > 0)?;
    Some(NamedPort { name: Arc::clone(&port.name), transport, number })
}

/// A pod's own addresses.
pub(super) fn addresses(source: &Sourced<Pod>, findings: &mut Vec<Finding>) -> Vec<IpAddr> {
    let mut addresses = Vec::with_capacity(source.object.addresses.len());
    for address in &source.object.addresses {
        match address {
            Address::Ip(ip) if addresses.contains(&ip.to_canonical()) => {}
            Address::Ip(ip) => addresses.push(ip.to_canonical()),
            Address::Other(text) => {
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
    let own = pod.addresses.iter().filter(|_| pod.on_host);
    let mut addresses: Vec<_> = pod
        .host_addresses
        .iter()
        .chain(own)
        .filter_map(|one| if let Address::Ip(ip) = one { Some(ip.to_canonical()) } else { None })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
