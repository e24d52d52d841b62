//! One Service, checked.

mod external;
mod traffic;

use super::{
    AccelerationChoice, BuildOptions, Lane, Protocol, Timeouts, Traffic, annotations, slice::forbidden,
};
use crate::{
    route::choices::Choices,
    source::{
        Sourced,
        finding::{Finding, Severity, quoted},
    },
};
use k8s_openapi::{
    api::core::v1::{self, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::{collections::BTreeSet, net::IpAddr};

/// The useful part of one Service.
pub(super) struct Service<'a> {
    pub(super) source: &'a Sourced<v1::Service>,
    /// Empty for a headless Service.
    pub(super) cluster_ips: Vec<IpAddr>,
    /// `externalIPs`, and those of its load balancer.
    pub(super) external_ips: Vec<IpAddr>,
    /// How its endpoints are chosen.
    pub(super) traffic: Traffic,
    pub(super) ports: Vec<ServicePort<'a>>,
    pub(super) publish_not_ready: bool,
    pub(super) has_selector: bool,
    pub(super) timeouts: Timeouts,
    pub(super) acceleration: AccelerationChoice,
    pub(super) choices: Choices,
}

/// One TCP port of a Service.
pub(super) struct ServicePort<'a> {
    /// Empty for none.
    pub(super) name: &'a str,
    pub(super) number: u16,
    pub(super) target: Target<'a>,
    pub(super) node_port: Option<u16>,
    pub(super) app_protocol: Option<&'a str>,
    pub(super) lane: Lane,
    pub(super) protocol: Protocol,
    pub(super) line: u32,
}

/// `targetPort`.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Number(u16),
    Name(&'a str),
}

/// Reads a Service; `None` when nothing of it is served.
pub(super) fn read<'a>(
    source: &'a Sourced<v1::Service>,
    options: &BuildOptions,
    findings: &mut Vec<Finding>,
) -> Option<Service<'a>> {
    let Some(spec) = source.object.spec.as_ref() else {
        findings.push(source.finding(Severity::Error, source.lines.object, "spec is missing", ""));
        return None;
    };
    match spec.type_.as_deref().unwrap_or("ClusterIP") {
        "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        "ExternalName" => {
            let text = "type ExternalName has no address to serve: its clients connect to what DNS says";
            findings.push(source.finding(Severity::Info, source.lines.field("type"), text, ""));
            return None;
        }
        other => {
            let text = format!("type {} is unknown", quoted(other));
            let fix = "one of ClusterIP, NodePort, LoadBalancer, ExternalName";
            findings.push(source.finding(Severity::Error, source.lines.field("type"), text, fix));
            return None;
        }
    }
    let wishes = annotations::read(source.object.metadata.annotations.as_ref(), options.timeouts);
    for mistake in wishes.mistakes {
        let line = source.lines.field(&mistake.key);
        findings.push(source.finding(Severity::Error, line, mistake.text, mistake.fix));
    }
    let cluster_ips = cluster_ips(source, spec, findings);
    let external_ips = external::addresses(source, spec, &cluster_ips, findings);
    let ports = ports(source, spec, options, findings);
    Some(Service {
        source,
        cluster_ips,
        external_ips,
        traffic: traffic::read(source, spec, options, findings),
        ports,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        has_selector: spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()),
        timeouts: wishes.timeouts,
        acceleration: wishes.acceleration,
        choices: wishes.choices,
    })
}

fn cluster_ips(
    source: &Sourced<v1::Service>,
    spec: &ServiceSpec,
    findings: &mut Vec<Finding>,
) -> Vec<IpAddr> {
    let first = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let all = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
    let line = source.lines.field(if all.is_some() { "clusterIPs" } else { "clusterIP" });
    if let (Some(first), Some([head, ..])) = (first, all)
        && head != first
    {
        let text = format!("clusterIP {} is not the first of clusterIPs", quoted(first));
        findings.push(source.finding(Severity::Error, line, text, "both are left out"));
        return Vec::new();
    }
    let texts: Vec<&str> = match (all, first) {
        (Some(all), _) => all.iter().map(String::as_str).collect(),
        (None, Some(first)) => vec![first],
        (None, None) => {
            let text = "no clusterIP: only its endpoints' own addresses are known";
            let fix = "set spec.clusterIP, or None for a headless Service";
            findings.push(source.finding(Severity::Warning, line, text, fix));
            return Vec::new();
        }
    };
    if texts == ["None"] {
        return Vec::new();
    }
    let mut ips = Vec::new();
    texts.iter().for_each(|text| add_address(source, "clusterIP", line, text, &mut ips, findings));
    ips
}

/// Adds an address to others once; says why where it cannot be a Service's.
pub(super) fn add_address(
    source: &Sourced<v1::Service>,
    field: &str,
    line: u32,
    text: &str,
    ips: &mut Vec<IpAddr>,
    findings: &mut Vec<Finding>,
) {
    let outcome = text.parse().map_err(|_| "is not an IP address");
    match outcome.and_then(|ip| forbidden(ip).map_or(Ok(ip), Err)) {
        Ok(ip) if ips.contains(&ip) => {}
        Ok(ip) => ips.push(ip),
        Err(why) => {
            let text = format!("{field} {} {why}", quoted(text));
            findings.push(source.finding(Severity::Error, line, text, "the address is left out"));
        }
    }
}

fn ports<'a>(
    source: &'a Sourced<v1::Service>,
    spec: &'a ServiceSpec,
    options: &BuildOptions,
    findings: &mut Vec<Finding>,
) -> Vec<ServicePort<'a>> {
    let all = spec.ports.as_deref().unwrap_or_default();
    let mut ports: Vec<ServicePort<'a>> = Vec::with_capacity(all.len());
    for (index, port) in all.iter().enumerate() {
        let line = source.lines.port(index);
        let mut report =
            |severity, text: String, fix: &str| findings.push(source.finding(severity, line, text, fix));
        match port.protocol.as_deref().unwrap_or("TCP") {
            "TCP" => {}
            other @ ("UDP" | "SCTP") => {
                let text = format!("{other} port {} is left to the cluster's own proxy", port.port);
                report(Severity::Info, text, "");
                continue;
            }
            other => {
                report(
                    Severity::Error,
                    format!("protocol {} is unknown", quoted(other)),
                    "one of TCP, UDP, SCTP",
                );
                continue;
            }
        }
        let name = port.name.as_deref().unwrap_or_default();
        let problem = if all.len() > 1 && name.is_empty() {
            Some(format!("port {} has no name, and is not the only one", port.port))
        } else if ports.iter().any(|other| other.name == name) {
            Some(format!("two ports are named {}", quoted(name)))
        } else if ports.iter().any(|other| i32::from(other.number) == port.port) {
            Some(format!("port {} is there twice", port.port))
        } else {
            None
        };
        if let Some(text) = problem {
            report(Severity::Error, text, "the port is left out");
            continue;
        }
        match read_port(port, name, line, &options.http_ports, &mut report) {
            Ok(port) => ports.push(port),
            Err(text) => report(Severity::Error, text, "1 to 65535; the port is left out"),
        }
    }
    ports
}

fn read_port<'a>(
    port: &'a v1::ServicePort,
    name: &'a str,
    line: u32,
    http_ports: &BTreeSet<u16>,
    report: &mut impl FnMut(Severity, String, &str),
) -> Result<ServicePort<'a>, String> {
    let number = port_number(port.port, "port")?;
    let target = match &port.target_port {
        None | Some(IntOrString::Int(0)) => Target::Number(number),
        Some(IntOrString::Int(target)) => Target::Number(port_number(*target, "targetPort")?),
        Some(IntOrString::String(target)) if target.is_empty() => Target::Number(number),
        Some(IntOrString::String(target)) => Target::Name(target),
    };
    let node_port = match port.node_port {
        None | Some(0) => None,
        Some(node_port) => Some(port_number(node_port, "nodePort")?),
    };
    let app_protocol = port.app_protocol.as_deref().filter(|protocol| !protocol.is_empty());
    let known = app_protocol.map(application);
    if let (Some(Application::Unknown), Some(text)) = (known, app_protocol) {
        report(Severity::Info, format!("appProtocol {} is unknown and ignored", quoted(text)), "");
    }
    let (lane, protocol) = lane(known, http_ports.contains(&number));
    Ok(ServicePort { name, number, target, node_port, app_protocol, lane, protocol, line })
}

fn port_number(number: i32, field: &str) -> Result<u16, String> {
    let number = u16::try_from(number).ok().filter(|valid| *valid > 0).ok_or(number);
    number.map_err(|number| format!("{field} {number} is not a port number"))
}

/// What an appProtocol means to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Application {
    Http1,
    Http2,
    NotHttp,
    Unknown,
}

/// Kubernetes' own values, IANA's service names and the ones that service meshes agree on.
fn application(app_protocol: &str) -> Application {
    match app_protocol.to_ascii_lowercase().as_str() {
        "http" | "kubernetes.io/ws" | "ws" | "grpc-web" => Application::Http1,
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => Application::Http2,
        "https" | "tls" | "tcp" | "grpcs" | "kubernetes.io/wss" | "wss" | "mongo" | "mongodb" | "redis"
        | "mysql" | "postgres" | "postgresql" | "amqp" | "amqps" | "kafka" | "mqtt" | "ldap" | "ldaps"
        | "smtp" | "ssh" | "dns" => Application::NotHttp,
        _ => Application::Unknown,
    }
}

fn lane(application: Option<Application>, http_port: bool) -> (Lane, Protocol) {
    match (application, http_port) {
        (Some(Application::Http1), _) => (Lane::Steer, Protocol::Http1),
        (Some(Application::Http2), _) => (Lane::Steer, Protocol::Http2),
        (Some(Application::NotHttp), true) => (Lane::Steer, Protocol::Opaque),
        (Some(Application::NotHttp), false) => (Lane::Pass, Protocol::Opaque),
        (None | Some(Application::Unknown), true) => (Lane::Steer, Protocol::Detect),
        (None | Some(Application::Unknown), false) => (Lane::Pass, Protocol::Detect),
    }
}
