#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
use super::*;
use std::path::Path;

const WORLD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: demo, labels: {app: client}}
spec: {containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.10, podIPs: [{ip: 10.244.1.10}, {ip: 'fd00::10'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.244.1.11, podIPs: [{ip: 10.244.1.11}, {ip: 'fd00::11'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: open, namespace: demo, labels: {app: open}}
spec: {containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.12}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
endpoints: [{addresses: [10.244.1.11]}, {addresses: [10.244.1.12]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: demo}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: http, protocol: TCP}], rules: {http: [{method: GET, path: '/a/.*', headers: ['X-A: 1']}]}}]
";

fn world() -> (tempfile::TempDir, World) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("world.yaml"), WORLD).unwrap();
    let world = World::read(directory.path()).unwrap();
    (directory, world)
}

/// Fates at every endpoint, of a case without its `expect`.
fn fates(world: &World, case: &str) -> String {
    let cases = cases::parse::<Case>(&format!("{{{case}, expect: [allow]}}")).unwrap();
    let answers = world.answers(&cases[0]).unwrap();
    answers.iter().map(|answer| answer.fate.to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_word_of_a_case_counts() {
    let (_directory, world) = world();
    let fates = |case: &str| fates(&world, case);
    let web = "from: demo/client, to: demo/web, port: 8080";
    assert_eq!(fates(web), "allow");
    assert_eq!(fates("from: demo/open, to: demo/web, port: 8080"), "drop");
    assert_eq!(fates("from: 192.0.2.1, to: demo/web, port: 8080"), "drop");
    assert_eq!(fates("from: host, to: demo/web, port: 9"), "allow");
    assert_eq!(fates("from: remote-node, to: demo/web, port: 8080"), "drop");
    assert_eq!(fates("from: demo/client, to: demo/web, port: 8081"), "drop");
    assert_eq!(fates(&format!("{web}, family: 6")), "allow");
    assert_eq!(fates(&format!("{web}, protocol: UDP")), "drop");
    assert_eq!(fates("from: demo/client, to: demo/open, port: 1, protocol: SCTP"), "allow");
    assert_eq!(fates("from: demo/web, to: 192.0.2.1, port: 443"), "allow");
    assert_eq!(fates("from: demo/web, to: demo/web, port: 1"), "allow", "to itself");
    let asks = |http: &str| fates(&format!("{web}, http: {{{http}}}"));
    assert_eq!(asks("path: /a/b, headers: [[X-A, '1']]"), "allow");
    assert_eq!(asks("path: /a/b, headers: [[x-a, '2']]"), "forbidden");
    assert_eq!(asks("path: /a/b"), "forbidden");
    assert_eq!(asks("method: PUT, path: /a/b, headers: [[X-A, '1']]"), "forbidden");
    assert_eq!(asks("path: /x/../a//b, headers: [[X-A, '1']]"), "allow");
    assert_eq!(asks("path: /a/../b, headers: [[X-A, '1']]"), "forbidden");
    assert_eq!(asks("path: /a%2fb, headers: [[X-A, '1']]"), "bad-request");
    assert_eq!(asks("path: /a/b, host: 'a b', headers: [[X-A, '1']]"), "bad-request");
}

#[test]
fn a_services_address_is_each_of_its_endpoints_by_any_protocol() {
    let (_directory, world) = world();
    assert_eq!(fates(&world, "from: demo/client, to: 10.96.0.10, port: 80"), "allow allow");
    assert_eq!(fates(&world, "from: demo/open, to: 10.96.0.10, port: 80"), "drop allow");
    assert_eq!(fates(&world, "from: demo/client, to: 10.96.0.10, port: 53, protocol: UDP"), "drop allow");
    assert_eq!(fates(&world, "from: demo/client, to: svc/demo/web, port: 80, http: {}"), "forbidden allow");
}

#[test]
fn what_cannot_be_understood_is_no_mismatch() {
    let (_directory, world) = world();
    for (case, why) in [
        ("from: demo/nobody, to: demo/web, port: 1", "there is no pod demo/nobody"),
        ("from: nobody, to: demo/web, port: 1", "is not namespace/pod"),
        ("from: demo/client, to: demo/web, port: 0", "port 0"),
        ("from: demo/client, to: demo/web, port: 1, protocol: UDP, http: {}", "TCP alone"),
        ("from: demo/client, to: demo/web, port: 1, family: 5", "family"),
    ] {
        let cases = cases::parse::<Case>(&format!("{{{case}, expect: [allow]}}")).unwrap();
        let error = world.answers(&cases[0]).unwrap_err();
        assert!(format!("{error:#}").contains(why), "{case}: {error:#}");
    }
    assert!(cases::parse::<Case>("{from: host, to: host, port: 1, expect: [maybe]}").is_err());
    assert!(cases::parse::<Case>("{from: host, to: host, port: 1, expect: [], more: 1}").is_err());
}

#[test]
fn a_mismatch_is_one_line_with_the_reason() {
    let (directory, _) = world();
    let cases = "- {name: right, from: demo/client, to: demo/web, port: 8080, expect: [drop, allow]}\n\
                 - {name: 'wrong one', from: demo/open, to: demo/web, port: 8080, expect: allow}\n\
                 - {name: differs, from: demo/open, to: 10.96.0.10, port: 80, expect: allow}\n";
    let file = directory.path().join("cases.yml.txt");
    std::fs::write(&file, cases).unwrap();
    let (report, _) = report(directory.path(), &file);
    assert_eq!((report.cases, report.mismatches.len()), (3, 2));
    let mut text = Vec::new();
    report.write(Output::Text, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines[0].ends_with(
            "case 2 \"wrong one\": expected allow, got drop (ingress: no rule of demo/web allows it)"
        ),
        "{text}"
    );
    assert!(lines[1].contains("differs between endpoints: drop at demo/web 10.244.1.11:8080"), "{text}");
}

fn report(directory: &Path, file: &Path) -> (Report, ExitCode) {
    let args =
        PolicyTestArgs { config: directory.to_owned(), files: vec![file.to_owned()], output: Output::Text };
    let report = checked(&args).unwrap();
    let code = if report.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    (report, code)
}

/// Pods `demo/a` (10.244.1.1) to `demo/d`, `other/a` (10.244.1.5), an API server at 192.0.2.6, Service
/// `demo/out` with an endpoint outside, 198.51.100.1, and the policies.
fn cilium(policies: &str) -> World {
    let pod = |namespace: &str, name: &str, last: u8| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}, ns: {namespace}}}}}\n\
             spec: {{serviceAccountName: sa-{name}, containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
             status: {{phase: Running, podIP: 10.244.1.{last}, hostIP: 192.0.2.9}}\n"
        )
    };
    let service = |namespace: &str, name: &str, address: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{kind: {name}}}}}\n\
             spec: {{clusterIP: None, ports: [{{name: p, port: 443}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: p, port: 443}}]\nendpoints: [{{addresses: [{address}]}}]\n"
        )
    };
    let text =
        ["a", "b", "c", "d"].iter().zip(1..).map(|(name, last)| pod("demo", name, last)).collect::<String>()
            + &pod("other", "a", 5)
            + &service("default", "kubernetes", "192.0.2.6")
            + &service("demo", "out", "198.51.100.1")
            + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {team: x}}\n"
            + policies;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("world.yaml"), text).unwrap();
    World::read(directory.path()).unwrap()
}

fn policy(kind: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: p{}, namespace: demo}}\nspec: {{{spec}}}\n",
        spec.len()
    )
}

/// Who of these may connect to `demo/d` on TCP port 8080.
fn reach(world: &World) -> Vec<&'static str> {
    let all = [
        "demo/a",
        "demo/b",
        "other/a",
        "host",
        "remote-node",
        "192.0.2.6",
        "192.0.2.9",
        "198.51.100.1",
        "203.0.113.1",
    ];
    all.into_iter()
        .filter(|from| fates(world, &format!("from: {from}, to: demo/d, port: 8080")) == "allow")
        .collect()
}

/// Ingress of `demo/d`, and whom it lets in beside its node.
const INGRESS: [(&str, &[&str]); 22] = [
    ("ingress: [{}]", &[]),
    (
        "ingress: []",
        &[
            "demo/a",
            "demo/b",
            "other/a",
            "remote-node",
            "192.0.2.6",
            "192.0.2.9",
            "198.51.100.1",
            "203.0.113.1",
        ],
    ),
    ("ingress: [{fromEndpoints: [{}]}]", &["demo/a", "demo/b"]),
    ("ingress: [{fromEndpoints: []}]", &[]),
    ("ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]", &["demo/a"]),
    ("ingress: [{fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}]}]", &["other/a"]),
    ("ingress: [{fromEndpoints: [{matchLabels: {'io.cilium.k8s.namespace.labels.team': x}}]}]", &["other/a"]),
    (
        "ingress: [{fromEndpoints: [{matchLabels: {'io.cilium.k8s.policy.serviceaccount': sa-b}}]}]",
        &["demo/b"],
    ),
    (
        "ingress: [{fromEndpoints: [{matchExpressions: [{key: 'io.kubernetes.pod.namespace', operator: Exists}]}]}]",
        &["demo/a", "demo/b", "other/a"],
    ),
    (
        "ingress: [{fromEndpoints: [{matchLabels: {'reserved:remote-node': ''}}]}]",
        &["remote-node", "192.0.2.9"],
    ),
    ("ingress: [{fromEntities: [world]}]", &["192.0.2.6", "198.51.100.1", "203.0.113.1"]),
    ("ingress: [{fromEntities: [cluster]}]", &["demo/a", "demo/b", "other/a", "remote-node", "192.0.2.9"]),
    (
        "ingress: [{fromEntities: [all]}]",
        &[
            "demo/a",
            "demo/b",
            "other/a",
            "remote-node",
            "192.0.2.6",
            "192.0.2.9",
            "198.51.100.1",
            "203.0.113.1",
        ],
    ),
    ("ingress: [{fromEntities: [kube-apiserver]}]", &["192.0.2.6"]),
    ("ingress: [{fromEntities: [none, health, init]}]", &[]),
    ("ingress: [{fromCIDR: [0.0.0.0/0]}]", &["192.0.2.6", "198.51.100.1", "203.0.113.1"]),
    ("ingress: [{fromCIDR: [203.0.113.1]}]", &["203.0.113.1"]),
    (
        "ingress: [{fromCIDRSet: [{cidr: 192.0.0.0/4, except: [198.51.100.0/24]}]}]",
        &["192.0.2.6", "203.0.113.1"],
    ),
    ("ingress: [{fromEndpoints: [{}], fromRequires: [{matchLabels: {app: b}}]}]", &["demo/b"]),
    ("ingress: [{fromRequires: [{matchLabels: {app: b}}]}]", &[]),
    (
        "ingress: [{toPorts: [{ports: [{port: '8080'}]}]}]",
        &[
            "demo/a",
            "demo/b",
            "other/a",
            "remote-node",
            "192.0.2.6",
            "192.0.2.9",
            "198.51.100.1",
            "203.0.113.1",
        ],
    ),
    (
        "ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}], enableDefaultDeny: {ingress: false}",
        &[
            "demo/a",
            "demo/b",
            "other/a",
            "remote-node",
            "192.0.2.6",
            "192.0.2.9",
            "198.51.100.1",
            "203.0.113.1",
        ],
    ),
];

#[test]
fn cilium_peers_of_ingress_mean_whom_they_name() {
    for (spec, expected) in INGRESS {
        let spec = format!("endpointSelector: {{matchLabels: {{app: d}}}}, {spec}");
        let mut reached = reach(&cilium(&policy("CiliumNetworkPolicy", &spec)));
        assert!(reached.contains(&"host"), "kubelet probes: {spec}");
        reached.retain(|one| *one != "host");
        assert_eq!(reached, expected, "{spec}");
    }
}

#[test]
fn a_denial_stands_above_what_every_kind_of_policy_allows() {
    let allow = policy("CiliumNetworkPolicy", "endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]");
    let network = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: n, namespace: demo}\n\
                   spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}\n";
    let deny = policy(
        "CiliumClusterwideNetworkPolicy",
        "endpointSelector: {matchLabels: {app: d}}, ingressDeny: [{fromEndpoints: [{matchLabels: {app: a}}], toPorts: [{ports: [{port: '8000', endPort: 8080, protocol: TCP}]}]}]",
    );
    assert_eq!(reach(&cilium(&(allow.clone() + network))), ["demo/a", "demo/b", "other/a", "host"]);
    let world = cilium(&(allow + network + &deny));
    assert_eq!(reach(&world), ["demo/b", "host"], "of all namespaces");
    assert_eq!(fates(&world, "from: demo/a, to: demo/d, port: 8081"), "allow");
    assert_eq!(fates(&world, "from: demo/a, to: demo/d, port: 8080, protocol: UDP"), "allow");
}

#[test]
fn egress_names_pods_ports_services_and_what_is_outside() {
    let spec = "endpointSelector: {matchLabels: {app: a}}, egress: [\
                {toEndpoints: [{matchLabels: {app: b}}], toPorts: [{ports: [{port: web, protocol: TCP}]}]}, \
                {toServices: [{k8sService: {serviceName: out}}]}, {toEntities: [kube-apiserver]}, \
                {toCIDRSet: [{cidr: 203.0.113.0/24}], toPorts: [{ports: [{port: '53', protocol: ANY}]}]}]";
    let world = cilium(&policy("CiliumNetworkPolicy", spec));
    for (to, port, protocol, expected) in [
        ("demo/b", 8080, "TCP", "allow"),
        ("demo/b", 8081, "TCP", "drop"),
        ("demo/b", 8080, "UDP", "drop"),
        ("demo/c", 8080, "TCP", "drop"),
        ("198.51.100.1", 443, "TCP", "allow"),
        ("198.51.100.2", 443, "TCP", "drop"),
        ("192.0.2.6", 6443, "TCP", "allow"),
        ("203.0.113.7", 53, "UDP", "allow"),
        ("203.0.113.7", 53, "SCTP", "allow"),
        ("203.0.113.7", 54, "TCP", "drop"),
        ("host", 1, "TCP", "drop"),
    ] {
        let case = format!("from: demo/a, to: {to}, port: {port}, protocol: {protocol}");
        assert_eq!(fates(&world, &case), expected, "{case}");
    }
    assert_eq!(fates(&world, "from: demo/b, to: demo/c, port: 1"), "allow", "others are not selected");
}

#[test]
fn specs_stand_each_for_itself_and_a_policy_of_nodes_restricts_no_pod() {
    let text = policy("CiliumNetworkPolicy", "endpointSelector: {matchLabels: {app: d}}, ingress: [{}]").replace(
        "spec: {endpointSelector: {matchLabels: {app: d}}, ingress: [{}]}",
        "specs: [{endpointSelector: {matchLabels: {app: d}}, ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]}, \
         {endpointSelector: {matchLabels: {app: c}}, ingress: [{}]}]",
    );
    let world = cilium(&text);
    assert_eq!(reach(&world), ["demo/a", "host"]);
    assert_eq!(fates(&world, "from: demo/a, to: demo/c, port: 1"), "drop");
    let nodes = policy("CiliumClusterwideNetworkPolicy", "nodeSelector: {}, ingress: [{}]");
    assert_eq!(fates(&cilium(&nodes), "from: demo/a, to: demo/d, port: 1"), "allow");
}

#[test]
fn a_policy_in_audit_mode_denies_nothing_and_what_it_allows_stays_allowed() {
    let deny = policy("CiliumNetworkPolicy", "endpointSelector: {matchLabels: {app: d}}, ingress: [{}]");
    let allow = policy(
        "CiliumNetworkPolicy",
        "endpointSelector: {matchLabels: {app: d}}, ingress: [{fromEndpoints: [{matchLabels: {app: a}}]}]",
    );
    let audit = |text: &str| {
        text.replace("namespace: demo}", "namespace: demo, annotations: {weir.dev/policy-mode: audit}}")
    };
    assert_eq!(reach(&cilium(&audit(&deny))).len(), 9, "alone");
    assert_eq!(reach(&cilium(&(deny + &audit(&allow)))), ["demo/a", "host"]);
    let world = cilium(&audit(&allow));
    let question = Question::of_pairs(
        &[("from", "demo/b"), ("to", "demo/d"), ("port", "8080")].map(|(a, b)| (a.to_owned(), b.to_owned())),
    );
    let explained =
        crate::policy::explain::explain(&question.unwrap(), &world.snapshot, &world.ports).unwrap();
    assert!(explained[0].audit.as_ref().is_some_and(|name| name.starts_with("demo/p")), "{explained:?}");
    assert_eq!(explained[0].answer.fate, Fate::Allow);
}

#[test]
fn what_would_have_allowed_it_is_named_with_what_differs() {
    let spec = "endpointSelector: {matchLabels: {app: d}}, ingress: [{fromEndpoints: [{matchLabels: {app: a}}], \
                toPorts: [{ports: [{port: '8080', protocol: TCP}], rules: {http: [{method: GET, path: '/a/.*'}, {method: PUT, path: /b}]}}]}]";
    let world = cilium(&policy("CiliumNetworkPolicy", spec));
    let nearest = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let question = Question::of_pairs(&pairs).unwrap();
        let explained = crate::policy::explain::explain(&question, &world.snapshot, &world.ports).unwrap();
        explained[0].nearest.clone().map(|nearest| nearest.differs.join("; ")).unwrap_or_default()
    };
    let to = [("to", "pod/demo/d"), ("from", "demo/b")];
    assert_eq!(
        nearest(&[to[0], to[1], ("port", "8080")]),
        "the other side is not a pod with app=a, namespace=demo"
    );
    assert_eq!(nearest(&[to[0], ("from", "demo/a"), ("port", "90")]), "port 90 is not 8080 of [Tcp]");
    let asked = [to[0], ("from", "demo/a"), ("port", "8080"), ("path", "/b")];
    assert_eq!(nearest(&asked), "path \"/b\" is not \"/a/.*\"");
}

#[test]
fn the_truth_tables_are_so() {
    let truth = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/truth");
    for (table, rows) in [("network-policy", 120), ("http-policy", 150)] {
        let (report, _) = report(&truth.join(table), &truth.join(format!("{table}.jsonl")));
        let wrong: Vec<_> = report.mismatches.iter().map(ToString::to_string).collect();
        assert!(report.cases >= rows && wrong.is_empty(), "{} cases: {wrong:#?}", report.cases);
    }
}
