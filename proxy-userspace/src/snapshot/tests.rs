//! Rules of the builder, each on a few lines of YAML.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use super::*;
use crate::{
    config::{Cli, Command},
    source::{Objects, finding::Finding, objects},
};
use clap::Parser;
use proptest::prelude::*;
use std::sync::LazyLock;

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
fn slices_give_the_target_port_by_the_service_ports_name() {
    let text = service(
        "hello",
        "clusterIP: 10.96.0.10",
        "{name: a, port: 8080, targetPort: http}, {name: b, port: 81, targetPort: 9000}",
    ) + &slice("hello-1", "hello", "{name: b, port: 9000}, {name: a, port: 8888}", ONE);
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(endpoints(&snapshot.clusters[0]), ["10.244.1.11:8888"]);
    assert_eq!(endpoints(&snapshot.clusters[1]), ["10.244.1.11:9000"]);
    assert_eq!(snapshot.clusters[0].port_name.as_deref(), Some("a"));
}

#[test]
fn an_unnamed_port_equals_an_empty_name() {
    let text = service("hello", "clusterIP: 10.96.0.10", HTTP)
        + &slice("hello-1", "hello", "{name: \"\", port: 8080}", ONE);
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(endpoints(&snapshot.clusters[0]), ["10.244.1.11:8080"]);
}

#[test]
fn slices_of_another_namespace_do_not_count() {
    let text = hello().replace("{name: hello-1, labels", "{name: hello-1, namespace: other, labels");
    let snapshot = has_finding(&text, "warning has no EndpointSlice");
    assert!(snapshot.clusters[0].endpoints.is_empty());
    has_finding(&text, "warning belongs to Service other/\"hello\", which does not exist");
}

#[test]
fn app_protocol_and_http_ports_choose_lane_and_protocol() {
    use {Lane::*, Protocol::*};
    let cases = [
        ("http", 9090, Steer, Detect),
        ("HTTP", 9090, Steer, Detect),
        ("kubernetes.io/ws", 9090, Steer, Detect),
        ("ws", 8080, Steer, Detect),
        ("https", 8080, Steer, Opaque),
        ("kubernetes.io/h2c", 8080, Steer, Opaque),
        ("grpc", 8080, Steer, Opaque),
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
        "info type ExternalName is not served",
    );
    assert!(snapshot.clusters.is_empty());
}

#[test]
fn dual_stack_answers_each_family_with_its_own_endpoints() {
    let text = service("s", "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, \"fd00:96::1\"]", HTTP)
        + &slice("s-4", "s", HTTP, ONE)
        + &slice_of("IPv6", "s-6", "s", HTTP, "{addresses: [\"fd00:244::11\"]}");
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    let cluster = &snapshot.clusters[0];
    assert_eq!(cluster.frontends, addrs(&["10.96.0.1:8080", "[fd00:96::1]:8080"]));
    let ready = |family| cluster.ready_endpoints(family).map(|e| e.addr).collect::<Vec<_>>();
    assert_eq!(ready(Family::V4), addrs(&["10.244.1.11:8080"]));
    assert_eq!(ready(Family::V6), addrs(&["[fd00:244::11]:8080"]));
}

#[test]
fn a_family_without_endpoints_is_a_warning() {
    let text = hello().replace("clusterIP: 10.96.0.10", "clusterIPs: [10.96.0.10, \"fd00:96::1\"]");
    only_finding(&text, "warning port 8080: no ready IPv6 endpoint");
}

#[test]
fn absent_conditions_mean_ready_serving_and_not_terminating() {
    let text = service("s", "clusterIP: 10.96.0.1", HTTP)
        + &slice(
            "s-1",
            "s",
            HTTP,
            "{addresses: [10.244.1.1]}, {addresses: [10.244.1.2], conditions: {ready: false}}, \
             {addresses: [10.244.1.3], conditions: {ready: false, serving: true, terminating: true}}",
        );
    let (snapshot, _) = built(&text);
    let states: Vec<_> =
        snapshot.clusters[0].endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
    assert_eq!(states, [(true, true, false), (false, false, false), (false, true, true)]);
    assert_eq!(snapshot.clusters[0].usable_endpoints(Family::V4).count(), 1);
}

#[test]
fn without_a_ready_endpoint_those_that_serve_while_terminating_are_usable() {
    let text = service("s", "clusterIP: 10.96.0.1", HTTP)
        + &slice(
            "s-1",
            "s",
            HTTP,
            "{addresses: [10.244.1.2], conditions: {ready: false}}, \
             {addresses: [10.244.1.3], conditions: {ready: false, serving: true, terminating: true}}",
        );
    let snapshot = only_finding(&text, "warning port 8080: none of 2 endpoints is ready");
    let usable: Vec<_> = snapshot.clusters[0].usable_endpoints(Family::V4).map(|e| e.addr).collect();
    assert_eq!(usable, addrs(&["10.244.1.3:8080"]));
    assert_eq!(snapshot.clusters[0].ready_endpoints(Family::V4).count(), 0);
}

#[test]
fn publish_not_ready_addresses_makes_all_ready() {
    let text = service("s", "clusterIP: 10.96.0.1, publishNotReadyAddresses: true", HTTP)
        + &slice("s-1", "s", HTTP, "{addresses: [10.244.1.2], conditions: {ready: false}}");
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    assert!(snapshot.clusters[0].endpoints[0].ready);
}

#[test]
fn an_address_in_several_slices_is_one_endpoint_in_its_best_state() {
    let text = hello()
        + &slice("hello-0", "hello", HTTP, "{addresses: [10.244.1.11], conditions: {ready: false}}")
        + &slice("hello-2", "hello", HTTP, "{addresses: [10.244.1.12]}");
    let (snapshot, _) = built(&text);
    assert_eq!(endpoints(&snapshot.clusters[0]), ["10.244.1.11:8080", "10.244.1.12:8080"]);
    assert!(snapshot.clusters[0].endpoints[0].ready);
}

#[test]
fn target_ref_and_node_name_are_kept() {
    let text = service("s", "clusterIP: 10.96.0.1", HTTP)
        + &slice(
            "s-1",
            "s",
            HTTP,
            "{addresses: [10.244.1.2], nodeName: n1, targetRef: {kind: Pod, name: p}}, \
             {addresses: [10.244.1.3], targetRef: {kind: VirtualMachine, name: v}}",
        );
    let (snapshot, _) = built(&text);
    let [pod, vm] = &snapshot.clusters[0].endpoints[..] else { panic!() };
    assert_eq!((pod.workload.as_deref(), pod.node.as_deref()), (Some("default/p"), Some("n1")));
    assert_eq!(vm.workload, None);
    assert_eq!(&*snapshot.workload_by_ip[&pod.addr.ip()], "default/p");
    assert_eq!(snapshot.workload_by_ip.len(), 1);
}

#[test]
fn an_address_that_pods_share_names_the_living_one_or_nobody() {
    let endpoint = |ip: &str, pod: &str, terminating: bool| {
        format!(
            "{{addresses: [{ip}], conditions: {{terminating: {terminating}}}, targetRef: {{kind: Pod, name: {pod}}}}}"
        )
    };
    let all = [
        endpoint("10.0.0.1", "a", true),
        endpoint("10.0.0.1", "b", false),
        endpoint("10.0.0.2", "a", false),
        endpoint("10.0.0.2", "b", false),
    ];
    let text = service("s", "clusterIP: 10.96.0.1", HTTP) + &slice("s-1", "s", HTTP, &all.join(", "));
    let (snapshot, _) = built(&text);
    let names: Vec<_> = snapshot.workload_by_ip.values().map(|name| &**name).collect();
    assert_eq!(names, ["default/b"]);
}

#[test]
fn addresses_that_kubernetes_forbids_are_errors() {
    for bad in ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "no", "\"fd00::1\""] {
        let text = hello() + &slice("hello-2", "hello", HTTP, &format!("{{addresses: [{bad}]}}"));
        let snapshot = only_finding(&text, "error endpoints[0]: ");
        assert_eq!(endpoints(&snapshot.clusters[0]), ["10.244.1.11:8080"], "{bad}");
    }
    for bad in ["::1", "fe80::1", "ff02::1", "::", "::ffff:10.0.0.1", "10.0.0.1"] {
        let text =
            hello() + &slice_of("IPv6", "hello-2", "hello", HTTP, &format!("{{addresses: [\"{bad}\"]}}"));
        only_finding(&text, "error endpoints[0]: ");
    }
    for bad in ["127.0.0.1", "0.0.0.0", "x"] {
        let snapshot = only_finding(&hello().replace("10.96.0.10", bad), "error clusterIP");
        assert!(snapshot.by_frontend.is_empty());
    }
}

#[test]
fn a_slice_of_names_is_not_served_and_an_unknown_type_is_an_error() {
    has_finding(&hello().replace("IPv4", "FQDN"), "info addressType FQDN is not served");
    has_finding(&hello().replace("IPv4", "IPv5"), "error addressType \"IPv5\" is unknown");
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
fn by_endpoint_holds_http_ports_and_steered_clusters_alone() {
    let text = service("a", "clusterIP: 10.96.0.1", "{port: 6379, appProtocol: redis}")
        + &slice("a-1", "a", "{port: 6379}", "{addresses: [10.244.1.1]}")
        + &service("b", "clusterIP: 10.96.0.2", "{port: 82, targetPort: 8080}")
        + &slice("b-1", "b", HTTP, "{addresses: [10.244.1.2]}")
        + &service("c", "clusterIP: 10.96.0.3", "{port: 8080, targetPort: 3000}")
        + &slice("c-1", "c", "{port: 3000}", "{addresses: [10.244.1.3]}");
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    let mut known: Vec<_> = snapshot.by_endpoint.keys().copied().collect();
    known.sort();
    assert_eq!(known, addrs(&["10.244.1.2:8080", "10.244.1.3:3000"]));
}

#[test]
fn an_endpoint_of_several_services_belongs_to_the_first_by_name() {
    let text = service("b", "clusterIP: 10.96.0.2", HTTP)
        + &slice("b-1", "b", HTTP, ONE)
        + &service("a", "clusterIP: 10.96.0.1", HTTP)
        + &slice("a-1", "a", HTTP, ONE);
    let (snapshot, _) = built(&text);
    assert_eq!(&*snapshot.by_endpoint[&addrs(&["10.244.1.11:8080"])[0]].name, "default/a:8080");
}

#[test]
fn of_two_services_with_one_address_the_older_has_it() {
    let service = |name: &str, created: &str| {
        service(name, "clusterIP: 10.96.0.1", HTTP)
            .replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, creationTimestamp: {created}}}"))
            + &slice(&format!("{name}-1"), name, HTTP, ONE)
    };
    let frontend = addrs(&["10.96.0.1:8080"])[0];
    let cases = [
        (service("a", "2024-02-01T00:00:00Z") + &service("b", "2024-01-01T00:00:00Z"), "b"),
        (service("a", "2024-01-01T00:00:00Z") + &service("b", "2024-01-01T00:00:00Z"), "a"),
        (service("a", "null") + &service("b", "2024-01-01T00:00:00Z"), "b"),
    ];
    for (text, winner) in cases {
        let snapshot = only_finding(&text, "error 10.96.0.1:8080 belongs to the older Service");
        assert_eq!(&*snapshot.by_frontend[&frontend].service, winner);
        let with_frontend = snapshot.clusters.iter().filter(|cluster| !cluster.frontends.is_empty());
        assert_eq!(with_frontend.count(), 1);
    }
}

#[test]
fn an_object_that_is_there_twice_counts_once() {
    let twice = hello() + &service("hello", "clusterIP: 10.96.0.11", HTTP);
    let snapshot = only_finding(&twice, "error is there twice; the one at f.yaml:2 is used");
    assert!(snapshot.by_frontend.contains_key(&addrs(&["10.96.0.10:8080"])[0]));
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
    let [hello, other] = &snapshot.clusters[..] else { panic!() };
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

/// Services that quarrel about addresses, names and node ports, and slices that overlap.
fn quarrel() -> Objects {
    let mut text = String::new();
    for n in 0..6 {
        let ports =
            format!("{{name: h, port: 8080, nodePort: {}}}, {{name: r, port: {}}}", 30000 + n % 3, 80 + n);
        text += &service(&format!("s{n}"), &format!("type: NodePort, clusterIP: 10.96.0.{}", n % 2), &ports);
        text += &service("same", &format!("clusterIP: 10.96.1.{n}"), HTTP);
        for m in 0..2 {
            let endpoint = format!(
                "{{addresses: [10.244.1.{}], conditions: {{ready: {}, terminating: {}}}, \
                 targetRef: {{kind: Pod, name: p{n}}}}}",
                n % 3,
                m == 0,
                n == 2
            );
            text += &slice(&format!("s{n}-{m}"), &format!("s{n}"), "{name: h, port: 8080}", &endpoint);
        }
    }
    objects(&text.replace("10.96.0.0", "10.96.0.9").replace("10.244.1.0", "10.244.1.9"))
}

static QUARREL: LazyLock<Objects> = LazyLock::new(quarrel);

fn quarrel_options() -> BuildOptions {
    BuildOptions { node_addresses: vec!["192.0.2.1".parse().unwrap()], ..options() }
}

static SETTLED: LazyLock<(Snapshot, Vec<Finding>)> = LazyLock::new(|| build(&QUARREL, &quarrel_options(), 1));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn c4_the_order_of_objects_does_not_matter(
        services in Just(QUARREL.services.clone()).prop_shuffle(),
        slices in Just(QUARREL.slices.clone()).prop_shuffle(),
    ) {
        prop_assert_eq!(&build(&Objects { services, slices }, &quarrel_options(), 1), &*SETTLED);
    }
}

/// Prints what a large cluster costs: `cargo test --release -- --ignored --nocapture scale`.
#[test]
#[ignore = "a measurement"]
fn scale() {
    let mut objects = Objects::default();
    let one = crate::source::objects(
        &hello().replace("endpoints: [", &format!("endpoints: [{}", format!("{ONE}, ").repeat(9))),
    );
    for n in 0..10_000_u32 {
        let mut service = one.services[0].clone();
        service.name = format!("s{n}");
        let ip = std::net::Ipv4Addr::from(0x0a60_0000 + n);
        service.object.spec.as_mut().unwrap().cluster_ip = Some(ip.to_string());
        let mut slice = one.slices[0].clone();
        slice.name = format!("s{n}-1");
        *slice.object.metadata.labels.as_mut().unwrap().values_mut().next().unwrap() = format!("s{n}");
        for (m, endpoint) in (0..).zip(&mut slice.object.endpoints) {
            endpoint.addresses = vec![std::net::Ipv4Addr::from(0x0af4_0000 + n * 10 + m).to_string()];
            let target = endpoint.target_ref.get_or_insert_default();
            (target.kind, target.name) = (Some("Pod".into()), Some(format!("p{n}-{m}")));
        }
        objects.services.push(service);
        objects.slices.push(slice);
    }
    let begun = std::time::Instant::now();
    let (snapshot, findings) = build(&objects, &options(), 1);
    let took = begun.elapsed();
    assert!(findings.is_empty(), "{:?}", findings[0]);
    assert_eq!((snapshot.by_frontend.len(), snapshot.by_endpoint.len()), (10_000, 100_000));
    eprintln!("10 000 Services, 100 000 endpoints: {took:?}");
    let begun = std::time::Instant::now();
    assert_eq!(snapshot, build(&objects, &options(), 1).0);
    eprintln!("again, and compared: {:?}", begun.elapsed());
}
