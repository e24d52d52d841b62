//! Addresses of a Service that are not the cluster's own.

use super::add_address;
use crate::source::{
    Sourced,
    finding::{Finding, Severity, quoted},
};
use k8s_openapi::api::core::v1::{self, ServiceSpec};
use std::net::IpAddr;

/// `externalIPs`, and what the load balancer has or, until it says so, is asked for.
pub(super) fn addresses(
    source: &Sourced<v1::Service>,
    spec: &ServiceSpec,
    cluster_ips: &[IpAddr],
    findings: &mut Vec<Finding>,
) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    let line = source.lines.field("externalIPs");
    for text in spec.external_ips.iter().flatten() {
        add_address(source, "externalIPs", line, text, &mut ips, findings);
    }
    if spec.type_.as_deref() == Some("LoadBalancer") {
        balancer(source, spec, &mut ips, findings);
    }
    ips.retain(|ip| !cluster_ips.contains(ip));
    ips
}

fn balancer(
    source: &Sourced<v1::Service>,
    spec: &ServiceSpec,
    ips: &mut Vec<IpAddr>,
    findings: &mut Vec<Finding>,
) {
    let status = source.object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let given = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    for ingress in given {
        // A proxy wants to see the traffic itself; connections to it leave the cluster.
        let proxied = match ingress.ip_mode.as_deref() {
            None | Some("VIP") => false,
            Some("Proxy") => true,
            Some(other) => {
                let text = format!("ipMode {} is unknown: the address is not served", quoted(other));
                findings.push(source.finding(Severity::Warning, source.lines.object, text, "VIP or Proxy"));
                true
            }
        };
        if let Some(ip) = ingress.ip.as_deref().filter(|ip| !ip.is_empty() && !proxied) {
            add_address(source, "status.loadBalancer", source.lines.object, ip, ips, findings);
        }
    }
    if let Some(wanted) = spec.load_balancer_ip.as_deref().filter(|ip| given.is_empty() && !ip.is_empty()) {
        add_address(source, "loadBalancerIP", source.lines.field("loadBalancerIP"), wanted, ips, findings);
    }
    if spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()) {
        let text = "loadBalancerSourceRanges are not enforced by Weir: whoever reaches this node's address \
                    may connect";
        let line = source.lines.field("loadBalancerSourceRanges");
        let fix = "use a NetworkPolicy with ipBlock, or the load balancer's own filter";
        findings.push(source.finding(Severity::Warning, line, text, fix));
    }
}
