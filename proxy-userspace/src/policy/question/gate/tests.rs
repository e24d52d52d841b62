#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
use crate::{
    policy::{
        explain::explain,
        question::{Ports, Question},
    },
    snapshot::{self, BuildOptions},
    source::directory,
};

/// A Gateway at the nodes' port 8000 and at 203.0.113.9, an Ingress, and a Service of two pods, of which one
/// is restricted.
const WORLD: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: demo}
spec:
  gatewayClassName: weir
  listeners: [{name: http, port: 8000, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: demo}
spec:
  parentRefs: [{name: edge}]
  hostnames: [web.example]
  rules:
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /here}}}]
  - matches: [{path: {value: /old}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /public}}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: gone, port: 80}]
  - matches: [{path: {value: /}}]
    backendRefs: [{name: web, port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: demo}
spec:
  rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo}
spec: {selector: {app: web}, clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: demo, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.11]}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: demo, labels: {app: web}}
spec: {containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.11}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: demo}
spec: {containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.10}
---
apiVersion: v1
kind: Pod
metadata: {name: caged, namespace: demo, labels: {app: caged}}
spec: {containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.1.12}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: demo}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{toPorts: [{ports: [{port: '8080', protocol: TCP}], rules: {http: [{method: GET, path: '/public(/.*)?'}]}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: caged, namespace: demo}
spec: {podSelector: {matchLabels: {app: caged}}, policyTypes: [Egress]}
";

/// Fate, reason, rule that comes nearest and who decides, of each outcome.
fn told(pairs: &[(&str, &str)]) -> Vec<[String; 4]> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("world.yaml"), WORLD).unwrap();
    let (objects, findings) = directory::read(directory.path()).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    let options =
        BuildOptions { node_addresses: vec!["192.0.2.5".parse().unwrap()], ..BuildOptions::default() };
    let (snapshot, _) = snapshot::build(&objects, &options, 1);
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let question = Question::of_pairs(&pairs).unwrap();
    let all = explain(&question, &snapshot, &Ports::new(&objects)).unwrap();
    all.into_iter()
        .map(|one| {
            let nearest = one.nearest.map(|nearest| nearest.rule).unwrap_or_default();
            [one.answer.fate.to_string(), one.answer.because, nearest, one.lane]
        })
        .collect()
}

/// Fate and reason of a client's GET of the Gateway's port of the nodes.
fn asked(path: &str) -> (String, String) {
    let mut told = told(&[
        ("from", "demo/other"),
        ("to", "host"),
        ("port", "8000"),
        ("host", "web.example"),
        ("path", path),
    ]);
    assert_eq!(told.len(), 1, "{told:?}");
    let [fate, because, ..] = told.remove(0);
    (fate, because)
}

#[test]
fn a_rule_that_redirects_answers_whatever_policies_say_of_its_backends() {
    let (fate, because) = asked("/moved/a");
    assert_eq!(fate, "redirect");
    assert!(because.contains("HTTPRoute demo/web#rule0") && because.contains("301"), "{because}");
    assert!(because.contains("location http://web.example:8000/here"), "{because}");
}

#[test]
fn policies_decide_about_the_request_that_the_endpoint_would_get() {
    assert_eq!(asked("/public").0, "allow");
    assert_eq!(asked("/private").0, "forbidden");
    let (fate, because) = asked("/old/a");
    assert_eq!(fate, "allow", "it becomes /public/a: {because}");
    assert!(
        because.contains("HTTPRoute demo/web#rule1") && because.contains("demo/web#ingress0"),
        "{because}"
    );
    // The explanation is about the same request.
    let to = [("from", "demo/other"), ("to", "192.0.2.5"), ("port", "8000"), ("host", "web.example")];
    let [fate, _, nearest, lane] =
        told(&[&to[..], &[("method", "PUT"), ("path", "/old/a")]].concat()).remove(0);
    assert_eq!((fate.as_str(), nearest.as_str()), ("forbidden", "demo/web#ingress0.ports0.http0"));
    assert!(lane.starts_with("relay"), "a listener's requests are never spliced: {lane}");
}

#[test]
fn what_no_endpoint_sees_is_no_policys_to_deny() {
    let (fate, because) = asked("/gone");
    assert!(fate == "allow" && because.contains("answers 500"), "{fate} {because}");
    let elsewhere = [("from", "demo/other"), ("to", "host"), ("port", "8000"), ("host", "else.example")];
    let [fate, because, _, lane] = told(&elsewhere).remove(0);
    assert_eq!((fate.as_str(), lane.as_str()), ("allow", "the agent, which answers by itself"));
    assert!(because.contains("404"), "{because}");
}

#[test]
fn what_the_server_would_refuse_is_a_bad_request() {
    for path in ["/a%2fb", "/a/../../b", "/a%zz"] {
        assert_eq!(asked(path).0, "bad-request", "{path}");
    }
    let to = [("from", "demo/other"), ("to", "host"), ("port", "80")];
    for field in ["Transfer-Encoding: gzip", "Host: a@b", "Transfer-Encoding:"] {
        let [fate, because, ..] = told(&[&to[..], &[("header", field)]].concat()).remove(0);
        assert_eq!(fate, "bad-request", "{field}: {because}");
    }
}

#[test]
fn who_may_not_connect_to_the_node_gets_no_answer_of_a_rule() {
    let caged = |to, port| {
        let [fate, because, ..] =
            told(&[("from", "demo/caged"), ("to", to), ("port", port), ("path", "/moved")]).remove(0);
        (fate, because)
    };
    let (fate, because) = caged("192.0.2.7", "8000");
    assert!(fate == "drop" && because.contains("demo/caged"), "{because}");
    assert_eq!(caged("10.96.0.10", "80").0, "drop");
}

#[test]
fn an_address_that_no_listener_has_is_asked_about_as_ever() {
    let [fate, because, ..] =
        told(&[("from", "demo/other"), ("to", "host"), ("port", "9"), ("path", "/moved")]).remove(0);
    assert_eq!(fate, "allow");
    assert!(because.contains("no policy is about it"), "{because}");
    let service = [("from", "demo/other"), ("to", "svc/demo/web"), ("path", "/moved")];
    assert_eq!(told(&service).remove(0)[0], "forbidden", "a Service's address goes by no route");
}
