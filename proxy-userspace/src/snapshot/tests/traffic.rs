//! Where a Service is reached, and which of its endpoints are chosen.

use super::*;

/// `hello` with more in its spec.
fn hello_with(spec: &str) -> String {
    hello().replace("clusterIP:", &format!("{spec}, clusterIP:"))
}

fn here() -> BuildOptions {
    let node_addresses = vec!["192.0.2.1".parse().unwrap()];
    BuildOptions { node_name: Some("here".into()), zone: Some("a".into()), node_addresses, ..options() }
}

/// Endpoints .11, .12, ... with these fields each.
fn endpoints_with(fields: &[&str]) -> String {
    let endpoint = |(n, fields): (usize, &&str)| format!("{{addresses: [10.244.1.{}], {fields}}}", n + 11);
    fields.iter().enumerate().map(endpoint).collect::<Vec<_>>().join(", ")
}

fn usable(cluster: &Cluster, scope: Scope) -> Vec<u8> {
    let last = |endpoint: &Endpoint| match endpoint.addr.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(_) => panic!(),
    };
    cluster.usable_within(Family::V4, scope).map(last).collect()
}

#[test]
fn external_addresses_lead_to_the_service_port() {
    let status = "status: {loadBalancer: {ingress: [{ip: 203.0.113.7}, {ip: 203.0.113.8, ipMode: Proxy}, \
                  {hostname: lb.example.com}]}}\n";
    let wishes = "type: LoadBalancer, externalIPs: [192.0.2.9, \"2001:db8::9\"], loadBalancerIP: 203.0.113.1";
    let text = hello_with(wishes).replacen(
        "---\napiVersion: discovery",
        &format!("{status}---\napiVersion: discovery"),
        1,
    );
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    for there in ["192.0.2.9:8080", "[2001:db8::9]:8080", "203.0.113.7:8080", "10.96.0.10:8080"] {
        let cluster = snapshot.by_frontend.get(&addrs(&[there])[0]);
        assert_eq!(cluster.map(|cluster| &*cluster.name), Some("default/hello:8080"), "{there}");
    }
    assert_eq!(snapshot.by_frontend.len(), 4, "neither a proxy's address nor one that was only asked for");
}

#[test]
fn a_load_balancers_address_is_known_from_the_wish_until_the_status_says_it() {
    let (snapshot, findings) = built(&hello_with("type: LoadBalancer, loadBalancerIP: 203.0.113.1"));
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(snapshot.clusters[0].external, addrs(&["203.0.113.1:8080"]));
    has_finding(
        &hello_with("externalIPs: [127.0.0.1]"),
        "error externalIPs \"127.0.0.1\" is a loopback address",
    );
    let ranges = "type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8]";
    has_finding(&hello_with(ranges), "warning loadBalancerSourceRanges are not enforced");
}

#[test]
fn an_external_address_takes_no_other_services_cluster_ip_away() {
    let thief = service("a", "clusterIP: 10.96.0.9, externalIPs: [10.96.0.10]", HTTP)
        .replace("{name: a}", "{name: a, creationTimestamp: 2020-01-01T00:00:00Z}");
    let snapshot = has_finding(&(thief + &hello()), "error 10.96.0.10:8080 belongs to");
    assert_eq!(&*snapshot.by_frontend[&addrs(&["10.96.0.10:8080"])[0]].service, "hello");
}

#[test]
fn affinity_has_the_timeout_that_kubernetes_gives_it() {
    let affinity = |spec: &str| built(&hello_with(spec)).0.clusters[0].traffic.affinity;
    assert_eq!(affinity("sessionAffinity: None"), None);
    assert_eq!(affinity("sessionAffinity: ClientIP"), Some(Duration::from_secs(10_800)));
    let config = "sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}";
    assert_eq!(affinity(&format!("sessionAffinity: ClientIP, {config}")), Some(Duration::from_secs(60)));
    let zero = format!("sessionAffinity: ClientIP, {}", config.replace("60", "0"));
    has_finding(&hello_with(&zero), "error timeoutSeconds 0 is out of range");
    has_finding(&hello_with("sessionAffinity: Cookie"), "error sessionAffinity \"Cookie\" is unknown");
}

#[test]
fn local_policies_keep_to_the_endpoints_of_this_node() {
    let text = hello_with("type: NodePort, internalTrafficPolicy: Local, externalTrafficPolicy: Local")
        .replacen("{port: 8080}", "{port: 8080, nodePort: 30001}", 1)
        .replace(ONE, &endpoints_with(&["nodeName: here", "nodeName: there", "targetRef: null"]));
    let (snapshot, findings) = built_with(&text, &here());
    assert!(findings.is_empty(), "{findings:?}");
    let cluster = &snapshot.clusters[0];
    assert_eq!((usable(cluster, Scope::Node), usable(cluster, Scope::Cluster)), (vec![11], vec![11, 12, 13]));
    let [own, node] = addrs(&["10.96.0.10:8080", "192.0.2.1:30001"])[..] else { panic!() };
    assert_eq!((cluster.scope_within(&own), cluster.scope_from_outside(&own)), (Scope::Node, Scope::Node));
    assert_eq!(
        (cluster.scope_within(&node), cluster.scope_from_outside(&node)),
        (Scope::Cluster, Scope::Node)
    );
}

#[test]
fn without_this_nodes_name_a_local_policy_is_not_kept_and_said_so() {
    let snapshot = only_finding(
        &hello_with("internalTrafficPolicy: Local"),
        "warning internalTrafficPolicy Local is not kept without this node's name",
    );
    assert_eq!(snapshot.clusters[0].scope_within(&addrs(&["10.96.0.10:8080"])[0]), Scope::Cluster);
    has_finding(
        &hello_with("internalTrafficPolicy: Near"),
        "error internalTrafficPolicy \"Near\" is unknown",
    );
}

#[test]
fn zone_hints_count_where_every_ready_endpoint_has_one_and_one_is_ours() {
    let hint = |zone: &str| format!("hints: {{forZones: [{{name: {zone}}}]}}");
    let (a, b) = (hint("a"), hint("b"));
    let gone = "conditions: {ready: false}";
    let cases: [(&[&str], &[u8]); 4] = [
        (&[&a, &b, gone], &[11]),
        (&[&a, &b, ""], &[11, 12, 13]),
        (&[&b, &b], &[11, 12]),
        (&["", ""], &[11, 12]),
    ];
    for (fields, expected) in cases {
        let text = hello().replace(ONE, &endpoints_with(fields));
        let (snapshot, _) = built_with(&text, &here());
        assert_eq!(usable(&snapshot.clusters[0], Scope::Cluster), expected, "{fields:?}");
        let (elsewhere, _) = built(&text);
        assert!(elsewhere.clusters[0].endpoints.iter().all(|endpoint| endpoint.near), "no zone, no choice");
    }
}
