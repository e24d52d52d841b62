//! Which endpoint gets which rules, and what is said about policies that cannot be enforced.

use super::*;
use crate::{
    policy::access::{Transport, Verdict},
    source::{finding::Severity, objects_and_findings},
};

/// Pod `default/NAME`.
fn pod(name: &str, labels: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
         status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
    )
}

/// Policy `default/NAME`; `to_ports` is flow YAML without brackets.
fn policy(name: &str, selector: &str, to_ports: &str) -> String {
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  endpointSelector: {{{selector}}}\n  ingress:\n  - toPorts: [{to_ports}]\n"
    )
}

const APP: &str = "matchLabels: {app: web}";
const GETS: &str =
    "{ports: [{port: \"8080\", protocol: TCP}], rules: {http: [{method: GET, path: \"/a.*\"}]}}";
const OPEN: &str = "{ports: [{port: \"8080\"}]}";

fn web() -> String {
    hello() + &pod("p", "app: web", "10.244.1.11")
}

/// What holds at the only endpoint: who denies, and the rules' names.
fn at_endpoint(snapshot: &Snapshot) -> Option<(String, Vec<String>)> {
    let policy = snapshot.clusters[0].endpoints[0].policy.as_ref()?;
    Some((policy.name.to_string(), policy.rules.iter().map(|rule| rule.name.to_string()).collect()))
}

#[test]
fn a_policy_holds_at_the_ports_it_names_of_the_pods_it_selects() {
    let (snapshot, findings) = built(&(web() + &policy("get", APP, GETS)));
    assert!(findings.is_empty(), "{findings:?}");
    let expected = ("default/get".to_owned(), vec!["default/get#ingress0.ports0.http0".to_owned()]);
    assert_eq!(at_endpoint(&snapshot), Some(expected));
}

#[test]
fn other_pods_and_namespaces_stay_open() {
    let elsewhere = policy("get", APP, GETS).replace("{name: get}", "{name: get, namespace: other}");
    for text in [policy("get", "matchLabels: {app: api}", GETS), elsewhere] {
        let (snapshot, findings) = built(&(web() + &text));
        assert_eq!(at_endpoint(&snapshot), None, "{text}");
        assert!(findings.len() == 1 && findings[0].contains("nothing is restricted"), "{findings:?}");
    }
}

#[test]
fn other_ports_of_a_selected_pod_are_closed() {
    let (snapshot, findings) = built(&(web() + &policy("get", APP, &GETS.replace("8080", "9090"))));
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(at_endpoint(&snapshot), Some(("default/get".to_owned(), Vec::new())));
    let allowed = |port| {
        let access = &snapshot.access;
        let (client, web) =
            (access.party_at("192.0.2.1".parse().unwrap()), access.party_at("10.244.1.11".parse().unwrap()));
        let verdict = access.decide(&client, &web, Transport::Tcp, port);
        matches!(verdict, Verdict::Allow { .. })
    };
    assert_eq!((allowed(8080), allowed(9090)), (false, true));
}

#[test]
fn rules_of_all_policies_are_a_union_oldest_first() {
    let two = GETS.replace("GET", "PUT");
    let (snapshot, findings) =
        built(&(web() + &policy("b", "", &two) + &policy("a", APP, &format!("{GETS}, {two}"))));
    assert!(findings.is_empty(), "{findings:?}");
    let names = ["a#ingress0.ports0", "a#ingress0.ports1", "b#ingress0.ports0"];
    let names = names.map(|name| format!("default/{name}.http0")).to_vec();
    assert_eq!(at_endpoint(&snapshot), Some(("default/a,default/b".to_owned(), names)));
}

#[test]
fn an_entry_without_rules_opens_the_port_and_warns_where_it_voids_http_rules() {
    let alone = built(&(web() + &policy("open", APP, OPEN)));
    assert!(alone.1.is_empty(), "{:?}", alone.1);
    let text = web() + &policy("open", APP, OPEN) + &policy("get", APP, GETS);
    let snapshot =
        only_finding(&text, "warning allows everything on port 8080: the HTTP rules of default/get");
    let policy = snapshot.clusters[0].endpoints[0].policy.as_ref().unwrap();
    assert_eq!(policy.opens_port().map(|rule| &*rule.name), Some("default/open#ingress0.ports0"));
}

#[test]
fn c10_a_policy_for_one_pod_opens_nothing_at_another() {
    let text = web()
        .replace("[{addresses: [10.244.1.11]}]", "[{addresses: [10.244.1.11]}, {addresses: [10.244.1.12]}]")
        + &pod("q", "app: api", "10.244.1.12")
        + &policy("open", "matchLabels: {app: api}", OPEN)
        + &policy("get", APP, GETS);
    let (snapshot, findings) = built(&text);
    assert!(findings.is_empty(), "{findings:?}");
    let [first, second] = &snapshot.clusters[0].endpoints[..] else { panic!() };
    assert!(first.policy.as_ref().unwrap().opens_port().is_none());
    assert!(second.policy.as_ref().unwrap().opens_port().is_some());
}

#[test]
fn a_pod_is_found_by_the_slices_target_too() {
    let text = hello()
        .replace("{addresses: [10.244.1.11]}", "{addresses: [10.244.1.11], targetRef: {kind: Pod, name: p}}")
        + &pod("p", "app: web", "10.244.1.11")
            .replace("podIP: 10.244.1.11, podIPs: [{ip: 10.244.1.11}]", "phase: Running")
        + &policy("get", APP, GETS);
    assert!(
        at_endpoint(&built(&text.replace("{phase: Running, phase: Running}", "{phase: Running}")).0)
            .is_some()
    );
}

#[test]
fn c12_a_pod_that_ended_or_shares_the_hosts_address_is_nobodys_endpoint() {
    let text = web() + &policy("get", APP, GETS);
    assert_eq!(at_endpoint(&built(&text.replace("Running", "Succeeded")).0), None);
    let on_host = text.replace("status:", "spec: {hostNetwork: true, containers: []}\nstatus:");
    assert_eq!(at_endpoint(&built(&on_host).0), None);
}

#[test]
fn a_service_that_would_be_passed_is_steered_where_a_policy_holds() {
    let text = service("hello", "clusterIP: 10.96.0.10", "{port: 9090, targetPort: 8080}")
        + &slice("hello-1", "hello", HTTP, ONE)
        + &pod("p", "app: web", "10.244.1.11");
    assert_eq!(built(&text).0.clusters[0].lane, Lane::Pass);
    assert_eq!(built(&(text.clone() + &policy("open", APP, OPEN))).0.clusters[0].lane, Lane::Pass);
    let (snapshot, findings) = built(&(text + &policy("get", APP, GETS)));
    assert_eq!(snapshot.clusters[0].lane, Lane::Steer, "{findings:?}");
}

#[test]
fn a_policy_that_cannot_be_enforced_names_its_field_and_line_and_is_left_out_alone() {
    let path = |text: &str| GETS.replace("/a.*", text);
    let cases = [
        (
            path("/(a"),
            7,
            "spec.ingress[0].toPorts[0].rules.http[0].path: \"/(a\" is not usable: unclosed group",
        ),
        (path(r"(/a)\\1"), 7, "refers back"),
        (GETS.replace("8080", "HTTP_1"), 7, "toPorts[0].ports[0].port: \"HTTP_1\" is not a port number"),
        (GETS.replace("TCP", "UDP"), 7, "toPorts[0].ports[0].protocol: \"UDP\" carries no HTTP"),
        (GETS.replace("{port: \"8080\", protocol: TCP}", ""), 7, "toPorts[0].ports: is missing or empty"),
        (GETS.replace("[{method: GET, path: \"/a.*\"}]", "[]"), 7, "rules.http: is missing or empty"),
    ];
    for (to_ports, line, says) in cases {
        let text = web() + &policy("good", APP, GETS);
        let at = u32::try_from(text.lines().count()).unwrap();
        let (objects, _) = objects_and_findings(&(text + &policy("bad", APP, &to_ports)));
        let (snapshot, findings) = build(&objects, &options(), 1);
        let [finding] = &findings[..] else { panic!("{says}: {findings:?}") };
        assert_eq!(
            (finding.severity, &*finding.object),
            (Severity::Error, "CiliumNetworkPolicy default/bad")
        );
        assert!(
            finding.text.contains(says) && finding.text.ends_with(": the policy is left out"),
            "{finding}"
        );
        assert_eq!(finding.line, at + line + 1, "{finding}");
        assert_eq!(at_endpoint(&snapshot).unwrap().0, "default/good");
    }
}

#[test]
fn an_unknown_field_of_a_policy_is_an_error_and_leaves_it_out_alone() {
    let cases = [
        (GETS.replace("path:", "pathh:"), "\"pathh\" is unknown", "check its spelling"),
        (GETS.replace("rules:", "serverNames: [a], rules:"), "\"serverNames\" is not enforced", "remove"),
    ];
    for (to_ports, field, fix) in cases {
        let text = web() + &policy("bad", APP, &to_ports) + &policy("good", APP, GETS);
        let (objects, findings) = objects_and_findings(&text);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(
            (finding.severity, &*finding.object),
            (Severity::Error, "CiliumNetworkPolicy default/bad")
        );
        assert!(finding.text.contains(field) && finding.fix.contains(fix), "{finding}");
        assert_eq!(at_endpoint(&build(&objects, &options(), 1).0).unwrap().0, "default/good");
    }
}

#[test]
fn what_policies_write_and_others_add_is_no_unknown_field() {
    let text = policy("get", APP, GETS)
        .replace("spec:\n", "status: {conditions: [{type: Valid}]}\nspec:\n  description: text\n");
    let (objects, findings) = objects_and_findings(&text);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(objects.policies.len(), 1);
}
