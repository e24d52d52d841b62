//! Rules of the builder, each on a few lines of YAML.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod change;
mod endpoints;
mod hostile;
mod order;
mod policy;
mod routes;
mod schema;
mod traffic;

use super::*;
use crate::{
    config::{Cli, Command},
    source::{Objects, finding::Finding, objects},
};
use clap::Parser;

/// A Service in namespace `default`; `spec` and `ports` are flow YAML without braces.
fn service(name: &str, spec: &str, ports: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec:\n  {{selector: {{app: x}}, {spec}, ports: [{ports}]}}\n"
    )
}

/// A slice of IPv4 endpoints.
fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    slice_of("IPv4", name, service, ports, endpoints)
}

fn slice_of(family: &str, name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: {family}\nports: [{ports}]\nendpoints: [{endpoints}]\n"
    )
}

fn options() -> BuildOptions {
    BuildOptions { http_ports: [8080].into(), ..Default::default() }
}

/// The snapshot, and its findings as `severity text`.
fn built(text: &str) -> (Snapshot, Vec<String>) {
    built_with(text, &options())
}

fn built_with(text: &str, options: &BuildOptions) -> (Snapshot, Vec<String>) {
    let (snapshot, findings) = build(&objects(text), options, 7);
    (snapshot, findings.iter().map(|finding| format!("{} {}", finding.severity, finding.text)).collect())
}

fn only_finding(text: &str, contains: &str) -> Snapshot {
    let (snapshot, findings) = built(text);
    assert!(findings.len() == 1 && findings[0].contains(contains), "{contains}: {findings:?}");
    snapshot
}

fn has_finding(text: &str, contains: &str) -> Snapshot {
    let (snapshot, findings) = built(text);
    assert!(findings.iter().any(|finding| finding.contains(contains)), "{contains}: {findings:?}");
    snapshot
}

fn addrs(addrs: &[&str]) -> Vec<SocketAddr> {
    addrs.iter().map(|addr| addr.parse().unwrap()).collect()
}

fn endpoints(cluster: &Cluster) -> Vec<String> {
    cluster.endpoints.iter().map(|endpoint| endpoint.addr.to_string()).collect()
}

const HTTP: &str = "{port: 8080}";
const ONE: &str = "{addresses: [10.244.1.11]}";

/// `hello` on 10.96.0.10:8080 with one endpoint.
fn hello() -> String {
    service("hello", "clusterIP: 10.96.0.10", HTTP) + &slice("hello-1", "hello", HTTP, ONE)
}

#[test]
fn default_timeouts_are_those_of_the_flags() {
    let Command::Run(config) = Cli::parse_from(["weir", "run", "--config", "/x"]).command else { panic!() };
    assert_eq!(Timeouts::from(config.timeouts), Timeouts::default());
}

#[test]
fn a_mapped_address_is_ipv4() {
    assert_eq!(Family::of("::ffff:10.0.0.1".parse().unwrap()), Family::V4);
    assert_eq!(Family::of("fd00::1".parse().unwrap()), Family::V6);
}

#[test]
fn a_service_port_becomes_a_cluster_reached_by_its_cluster_ip() {
    let (snapshot, findings) = built(&hello());
    assert!(findings.is_empty(), "{findings:?}");
    let cluster = &snapshot.by_frontend[&addrs(&["10.96.0.10:8080"])[0]];
    assert_eq!(&*cluster.name, "default/hello:8080");
    assert_eq!((cluster.lane, cluster.protocol), (Lane::Steer, Protocol::Detect));
    assert_eq!(endpoints(cluster), ["10.244.1.11:8080"]);
    assert_eq!(snapshot.generation, 7);
    assert_eq!((snapshot.clusters.len(), snapshot.by_frontend.len()), (1, 1));
}

#[test]
fn app_protocol_and_http_ports_choose_lane_and_protocol() {
    use {Lane::*, Protocol::*};
    let cases = [
        ("http", 9090, Steer, Http1),
        ("HTTP", 9090, Steer, Http1),
        ("kubernetes.io/ws", 9090, Steer, Http1),
        ("ws", 8080, Steer, Http1),
        ("https", 8080, Steer, Opaque),
        ("kubernetes.io/h2c", 8080, Steer, Http2),
        ("grpc", 9090, Steer, Http2),
        ("tcp", 8080, Steer, Opaque),
        ("redis", 6379, Pass, Opaque),
        ("mysql", 9090, Pass, Opaque),
        ("\"\"", 8080, Steer, Detect),
        ("\"\"", 9090, Pass, Detect),
    ];
    for (app_protocol, port, lane, protocol) in cases {
        let ports = format!("{{port: {port}, appProtocol: {app_protocol}}}");
        let text = service("s", "clusterIP: 10.96.0.1", &ports)
            + &slice("s-1", "s", &format!("{{port: {port}}}"), ONE);
        let (snapshot, findings) = built(&text);
        let cluster = &snapshot.clusters[0];
        assert_eq!((cluster.lane, cluster.protocol), (lane, protocol), "{app_protocol} on {port}");
        assert!(findings.is_empty(), "{findings:?}");
    }
}

#[test]
fn an_unknown_app_protocol_counts_as_none() {
    let text = hello().replace("[{port: 8080}]}", "[{port: 8080, appProtocol: example.com/x}]}");
    let snapshot = only_finding(&text, "info appProtocol \"example.com/x\" is unknown");
    assert_eq!((snapshot.clusters[0].lane, snapshot.clusters[0].protocol), (Lane::Steer, Protocol::Detect));
}

#[test]
fn udp_and_sctp_are_left_to_the_clusters_own_proxy() {
    for protocol in ["UDP", "SCTP"] {
        let ports = format!("{{name: d, port: 53, protocol: {protocol}}}, {{name: h, port: 8080}}");
        let text = service("s", "clusterIP: 10.96.0.1", &ports)
            + &slice(
                "s-1",
                "s",
                &format!("{{name: d, port: 53, protocol: {protocol}}}, {{name: h, port: 8080}}"),
                ONE,
            );
        let snapshot = only_finding(&text, "53 is left to the cluster's own proxy");
        assert_eq!(snapshot.clusters.len(), 1);
    }
    has_finding(&service("s", "clusterIP: 10.96.0.1", "{port: 1, protocol: XTP}"), "error protocol \"XTP\"");
}

#[test]
fn a_headless_service_has_no_frontend_but_known_endpoints() {
    let (snapshot, findings) = built(&hello().replace("10.96.0.10", "None"));
    assert!(findings.is_empty(), "{findings:?}");
    assert!(snapshot.by_frontend.is_empty());
    assert!(snapshot.by_endpoint.contains_key(&addrs(&["10.244.1.11:8080"])[0]));
}

#[test]
fn an_external_name_is_not_served() {
    let snapshot = only_finding(
        &service("s", "type: ExternalName, externalName: example.com", HTTP),
        "info type ExternalName has no address to serve",
    );
    assert!(snapshot.clusters.is_empty());
}

#[test]
fn a_family_without_endpoints_is_a_warning() {
    let text = hello().replace("clusterIP: 10.96.0.10", "clusterIPs: [10.96.0.10, \"fd00:96::1\"]");
    only_finding(&text, "warning port 8080: no ready IPv6 endpoint");
}

#[test]
fn a_node_port_is_a_frontend_on_the_nodes_addresses() {
    let text = hello()
        .replace("[{port: 8080}]}", "[{port: 8080, nodePort: 30080}]}")
        .replace("clusterIP:", "type: NodePort, clusterIP:");
    let options = BuildOptions {
        node_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        ..options()
    };
    let (snapshot, findings) = built_with(&text, &options);
    assert!(findings.is_empty(), "{findings:?}");
    let cluster = &snapshot.clusters[0];
    assert_eq!(cluster.node_port, Some(30080));
    assert_eq!(cluster.frontends, addrs(&["10.96.0.10:8080"]));
    for frontend in addrs(&["192.0.2.1:30080", "[2001:db8::1]:30080", "10.96.0.10:8080"]) {
        assert_eq!(snapshot.by_frontend[&frontend].name, cluster.name);
    }
}

#[test]
fn a_faulty_port_is_left_out_alone() {
    let cases = [
        ("{name: a, port: 0}", "error port 0 is not a port number"),
        ("{name: a, port: 70000}", "error port 70000"),
        ("{name: a, port: 80, targetPort: -1}", "error targetPort -1"),
        ("{name: a, port: 80, nodePort: 99999}", "error nodePort 99999"),
        ("{port: 81}", "error port 81 has no name"),
        ("{name: h, port: 81}", "error two ports are named \"h\""),
        ("{name: b, port: 8080}", "error port 8080 is there twice"),
    ];
    for (bad, finding) in cases {
        let text = service("s", "clusterIP: 10.96.0.1", &format!("{{name: h, port: 8080}}, {bad}"))
            + &slice("s-1", "s", "{name: h, port: 8080}", ONE);
        let snapshot = only_finding(&text, finding);
        assert_eq!(snapshot.clusters.len(), 1, "{bad}");
    }
}

#[test]
fn annotations_set_timeouts_and_acceleration_of_their_service_alone() {
    let text = hello().replace(
        "{name: hello}",
        "{name: hello, annotations: {weir.dev/timeouts: batch, weir.dev/acceleration: off}}",
    ) + &service("other", "clusterIP: 10.96.0.11", HTTP)
        + &slice("other-1", "other", HTTP, ONE);
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    let (hello, other) = (&snapshot.clusters[0], &snapshot.clusters[1]);
    assert_eq!(hello.timeouts.request, Some(Duration::from_secs(60)));
    assert_eq!(hello.acceleration, AccelerationChoice::Off);
    assert_eq!((other.timeouts, other.acceleration), (Timeouts::default(), AccelerationChoice::Default));
}

#[test]
fn a_faulty_annotation_names_its_line_and_leaves_the_defaults() {
    let text = hello().replace(
        "metadata: {name: hello}\n",
        "metadata:\n  name: hello\n  annotations:\n    weir.dev/timeouts: fast\n    weir.dev/timeout: batch\n",
    );
    let (snapshot, findings) = build(&objects(&text), &options(), 1);
    let lines: Vec<_> = findings.iter().map(|finding| (finding.severity, finding.line)).collect();
    assert_eq!(
        lines,
        [(crate::source::finding::Severity::Error, 7), (crate::source::finding::Severity::Error, 8)]
    );
    assert_eq!(findings[0].object, "Service default/hello");
    assert_eq!(snapshot.clusters[0].timeouts, Timeouts::default());
}

#[test]
fn the_boring_ways_to_fail_are_found() {
    let slice_of = |ports: &str, endpoints: &str| slice("s-1", "s", ports, endpoints);
    let service = |ports: &str| service("s", "clusterIP: 10.96.0.1", ports);
    let cases = [
        (service(HTTP), "warning has no EndpointSlice"),
        (service(HTTP) + &slice_of(HTTP, ""), "warning port 8080 has no endpoints"),
        (
            service("{name: web, port: 8080, targetPort: http}") + &slice_of(HTTP, ONE),
            "warning no EndpointSlice has a port named \"web\": targetPort \"http\" leads nowhere",
        ),
        (
            service("{port: 8080, targetPort: 9090}") + &slice_of(HTTP, ONE),
            "warning port 8080 differs from targetPort 9090 of Service s",
        ),
        (
            service(HTTP) + &slice_of(HTTP, "{addresses: [10.1.1.1], conditions: {ready: false}}"),
            "warning port 8080: none of 1 endpoints is ready",
        ),
        (service(HTTP).replace("selector: {app: x}, ", "") + &slice_of(HTTP, ONE), "info no selector"),
        (
            service("{port: 80}") + &slice_of("{port: 80}", ONE),
            "info port 80 looks like HTTP but is passed through unseen",
        ),
        (slice_of(HTTP, ONE), "warning belongs to Service default/\"s\", which does not exist"),
        (
            slice_of(HTTP, ONE).replace("kubernetes.io/service-name", "app"),
            "warning label kubernetes.io/service-name is missing",
        ),
        (service(HTTP).replace("clusterIP: 10.96.0.1, ", "") + &slice_of(HTTP, ONE), "warning no clusterIP"),
    ];
    for (text, finding) in cases {
        has_finding(&text, finding);
    }
}
