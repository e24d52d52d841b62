//! One EndpointSlice, checked.

use super::{BuildOptions, Endpoint};
use crate::source::{
    Sourced,
    finding::{Finding, Severity, quoted},
    lean::{self, Addresses, EndpointSlice},
    store::Key,
};
use std::net::{IpAddr, SocketAddr};

/// The label that ties a slice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The useful part of one slice.
pub(super) struct Slice<'a> {
    pub(super) source: &'a Sourced<EndpointSlice>,
    /// The Service it belongs to, in its own namespace.
    pub(super) service: &'a str,
    pub(super) ports: Vec<SlicePort<'a>>,
    /// With port 0: the slice's ports apply to each.
    pub(super) endpoints: Vec<Endpoint>,
    /// What each endpoint is meant for.
    pub(super) hints: Vec<Hint>,
}

impl Slice<'_> {
    /// The Service it belongs to.
    pub(super) fn service_key(&self) -> Key {
        Key::new(&self.source.namespace, self.service)
    }
}

/// `hints.forZones` of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Hint {
    /// It is meant for this node's zone.
    Here,
    /// It is meant for other zones.
    Elsewhere,
    /// It says nothing.
    Nothing,
}

impl Hint {
    fn of(endpoint: &lean::Endpoint, zone: Option<&str>) -> Self {
        let zones = &endpoint.zones;
        match zone {
            _ if zones.is_empty() => Self::Nothing,
            Some(zone) if zones.iter().any(|one| **one == *zone) => Self::Here,
            _ => Self::Elsewhere,
        }
    }
}

/// The Service that a slice belongs to, whatever else is wrong with it.
pub(super) fn service_of(source: &Sourced<EndpointSlice>) -> Option<Key> {
    Some(Key::new(&source.namespace, source.object.service.as_deref()?))
}

/// One TCP port of a slice.
pub(super) struct SlicePort<'a> {
    /// Equals the Service port's name; empty for none.
    pub(super) name: &'a str,
    pub(super) number: u16,
    pub(super) line: u32,
}

/// `None` when the slice serves nobody; says why.
pub(super) fn read<'a>(
    source: &'a Sourced<EndpointSlice>,
    options: &BuildOptions,
    findings: &mut Vec<Finding>,
) -> Option<Slice<'a>> {
    let line = source.lines.field("addressType");
    let ipv4 = match &*source.object.address_type {
        "IPv4" => true,
        "IPv6" => false,
        "FQDN" => {
            findings.push(source.finding(Severity::Info, line, "addressType FQDN is not served", ""));
            return None;
        }
        other => {
            let text = format!("addressType {} is unknown", quoted(other));
            findings.push(source.finding(Severity::Error, line, text, "one of IPv4, IPv6, FQDN"));
            return None;
        }
    };
    let Some(service) = source.object.service.as_deref() else {
        let text = format!("label {SERVICE_NAME} is missing: no Service uses it");
        let fix = format!("set metadata.labels.{SERVICE_NAME} to the Service's name");
        findings.push(source.finding(Severity::Warning, source.lines.object, text, fix));
        return None;
    };
    let ports = ports(source, findings);
    let mut endpoints = Vec::with_capacity(source.object.endpoints.len());
    let mut hints = Vec::with_capacity(source.object.endpoints.len());
    for (index, endpoint) in source.object.endpoints.iter().enumerate() {
        if let Some(read) = read_endpoint(source, index, endpoint, ipv4, options, findings) {
            endpoints.push(read);
            hints.push(Hint::of(endpoint, options.zone.as_deref()));
        }
    }
    Some(Slice { source, service, ports, endpoints, hints })
}

fn ports<'a>(source: &'a Sourced<EndpointSlice>, findings: &mut Vec<Finding>) -> Vec<SlicePort<'a>> {
    let mut ports: Vec<SlicePort<'a>> = Vec::new();
    for (index, port) in source.object.ports.iter().enumerate() {
        let line = source.lines.port(index);
        let name = &*port.name;
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let Some(number) =
            port.number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
        else {
            let text = match port.number {
                Some(number) => format!("port {number} is not a port number"),
                None => "a port without a number is not served".to_owned(),
            };
            findings.push(source.finding(Severity::Error, line, text, "1 to 65535"));
            continue;
        };
        if ports.iter().any(|other| other.name == name) {
            let text = format!("two ports are named {}", quoted(name));
            findings.push(source.finding(Severity::Error, line, text, "the second is left out"));
            continue;
        }
        ports.push(SlicePort { name, number, line });
    }
    ports
}

fn read_endpoint(
    source: &Sourced<EndpointSlice>,
    index: usize,
    endpoint: &lean::Endpoint,
    ipv4: bool,
    options: &BuildOptions,
    findings: &mut Vec<Finding>,
) -> Option<Endpoint> {
    let line = source.lines.endpoint(index);
    let ready = endpoint.ready.unwrap_or(true);
    // Kubernetes: all addresses of an endpoint are the same endpoint, consumers take the first.
    let (first, text) = match &endpoint.addresses {
        Addresses::One(ip) => (Some(*ip), ip.to_string()),
        Addresses::Other(texts) => {
            let Some(text) = texts.first() else {
                let text = format!("endpoints[{index}] has no address");
                findings.push(source.finding(Severity::Error, line, text, "the endpoint is left out"));
                return None;
            };
            (text.parse().ok(), String::from(&**text))
        }
    };
    match address(first, ipv4) {
        Ok(ip) => Some(Endpoint {
            addr: SocketAddr::new(ip, 0),
            ready,
            serving: endpoint.serving.unwrap_or(ready),
            terminating: endpoint.terminating.unwrap_or(false),
            workload: endpoint.workload.clone(),
            local: options.node_name.is_some() && endpoint.node.as_deref() == options.node_name.as_deref(),
            near: true,
            node: endpoint.node.clone(),
            policy: None,
        }),
        Err(why) => {
            let text = format!("endpoints[{index}]: {} {why}", quoted(&text));
            findings.push(source.finding(Severity::Error, line, text, "the endpoint is left out"));
            None
        }
    }
}

fn address(ip: Option<IpAddr>, ipv4: bool) -> Result<IpAddr, &'static str> {
    let ip = ip.ok_or("is not an IP address")?;
    match (ip, ipv4) {
        (IpAddr::V4(_), false) => return Err("is IPv4 in a slice of IPv6 addresses"),
        (IpAddr::V6(_), true) => return Err("is IPv6 in a slice of IPv4 addresses"),
        _ => {}
    }
    forbidden(ip).map_or(Ok(ip), Err)
}

/// Why Kubernetes allows an address neither for an endpoint nor for a Service, if it does not.
pub(super) fn forbidden(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => return Some("is IPv4-mapped: write it as IPv4"),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_unspecified() {
        Some("is the unspecified address")
    } else if ip.is_loopback() {
        Some("is a loopback address")
    } else if link_local {
        Some("is a link-local address")
    } else if ip.is_multicast() {
        Some("is a multicast address")
    } else if ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        Some("is the broadcast address")
    } else {
        None
    }
}
