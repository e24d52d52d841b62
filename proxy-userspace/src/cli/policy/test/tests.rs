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
    assert_eq!(asks("path: /a/../b, headers: [[X-A, '1']]"), "bad-request");
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
