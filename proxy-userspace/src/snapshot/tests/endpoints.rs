//! EndpointSlices to endpoints.

use super::*;

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
