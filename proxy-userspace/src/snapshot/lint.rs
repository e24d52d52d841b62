//! What Kubernetes accepts and yet will not work: the boring ways to fail.

use super::{
    Cluster, Family, Lane,
    service::{Service, ServicePort, Target},
    slice::Slice,
};
use crate::source::finding::{Finding, Severity, quoted};

/// Ports that people use for HTTP.
const HTTP_LOOKING: [u16; 9] = [80, 3000, 5000, 8000, 8008, 8081, 8088, 8888, 9000];

/// Looks at one Service with its slices and its clusters, which are in the order of its ports.
pub(super) fn service(
    service: &Service<'_>,
    slices: &[Slice<'_>],
    clusters: &[Cluster],
    findings: &mut Vec<Finding>,
) {
    let source = service.source;
    let line = source.lines.object;
    if service.ports.is_empty() {
        return;
    }
    if !service.has_selector {
        let text = "no selector: nobody but you keeps its EndpointSlices";
        findings.push(source.finding(Severity::Info, line, text, ""));
    }
    if slices.is_empty() {
        let text = "has no EndpointSlice: every connection will fail";
        let fix = format!(
            "add one in namespace {} with label kubernetes.io/service-name: {}",
            source.namespace, source.name
        );
        findings.push(source.finding(Severity::Warning, line, text, fix));
        return;
    }
    for (port, cluster) in service.ports.iter().zip(clusters) {
        if resolves(service, port, slices, findings) {
            readiness(service, port, cluster, findings);
        }
        looks_like_http(service, port, cluster.lane, findings);
    }
}

/// Do the port's name and target agree with the slices? False if no slice has the port.
fn resolves(
    service: &Service<'_>,
    port: &ServicePort<'_>,
    slices: &[Slice<'_>],
    findings: &mut Vec<Finding>,
) -> bool {
    let source = service.source;
    let matching = || slices.iter().flat_map(|slice| &slice.ports).filter(|other| other.name == port.name);
    if matching().next().is_none() {
        let target = match port.target {
            Target::Number(number) => number.to_string(),
            Target::Name(name) => quoted(name),
        };
        let text = format!(
            "no EndpointSlice has a port named {}: targetPort {target} leads nowhere",
            quoted(port.name)
        );
        let fix = "name the slice's port as the Service's port";
        findings.push(source.finding(Severity::Warning, port.line, text, fix));
        return false;
    }
    let Target::Number(target) = port.target else { return true };
    for slice in slices {
        for other in slice.ports.iter().filter(|other| other.name == port.name && other.number != target) {
            let text = format!(
                "port {} differs from targetPort {target} of Service {}: {} is used",
                other.number, source.name, other.number
            );
            findings.push(slice.source.finding(Severity::Warning, other.line, text, "make them agree"));
        }
    }
    true
}

/// Is there somebody to answer, in each family that the Service has addresses of?
fn readiness(service: &Service<'_>, port: &ServicePort<'_>, cluster: &Cluster, findings: &mut Vec<Finding>) {
    let mut families: Vec<Family> = cluster.frontends.iter().map(|addr| Family::of(addr.ip())).collect();
    families.sort();
    families.dedup();
    let mut warn = |text: String, fix: &str| {
        findings.push(service.source.finding(Severity::Warning, port.line, text, fix));
    };
    if cluster.endpoints.is_empty() {
        return warn(format!("port {} has no endpoints", port.number), "are its pods running?");
    }
    if !cluster.endpoints.iter().any(|endpoint| endpoint.ready) {
        let text = format!("port {}: none of {} endpoints is ready", port.number, cluster.endpoints.len());
        return warn(text, "see the pods' readiness probes");
    }
    for family in families {
        if cluster.usable_endpoints(family).next().is_none() {
            let text = format!("port {}: no ready {family} endpoint for its {family} address", port.number);
            warn(text, "add a slice of that addressType");
        }
    }
}

fn looks_like_http(service: &Service<'_>, port: &ServicePort<'_>, lane: Lane, findings: &mut Vec<Finding>) {
    let named = port.name == "http" || port.name.starts_with("http-") || port.name == "web";
    if lane == Lane::Pass && port.app_protocol.is_none() && (named || HTTP_LOOKING.contains(&port.number)) {
        let text = format!("port {} looks like HTTP but is passed through unseen", port.number);
        let fix = format!("set appProtocol: http, or add {} to --http-ports", port.number);
        findings.push(service.source.finding(Severity::Info, port.line, text, fix));
    }
}

/// A slice of a Service that does not exist.
pub(super) fn orphan(slice: &Slice<'_>) -> Finding {
    let Slice { source, service, .. } = slice;
    let text = format!("belongs to Service {}/{}, which does not exist", source.namespace, quoted(service));
    let fix = "add the Service, or correct label kubernetes.io/service-name";
    source.finding(Severity::Warning, source.lines.object, text, fix)
}
