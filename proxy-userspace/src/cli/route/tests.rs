#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
use super::*;
use std::fs;

const ARTICLE: &str = r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: api}
spec:
  rules:
  - host: api.example.com
    http:
      paths:
      - {path: /user, pathType: Prefix, backend: {service: {name: user, port: {number: 80}}}}
      - {path: /gone, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}
---
apiVersion: v1
kind: Service
metadata: {name: user}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: user-1, labels: {kubernetes.io/service-name: user}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.11]}]
"#;

fn directory(manifest: &str, cases: &str) -> (tempfile::TempDir, RouteTestArgs) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("all.yaml"), manifest).unwrap();
    let file = dir.path().join("cases.yaml");
    fs::write(&file, cases).unwrap();
    (dir, RouteTestArgs { config, ingress_http_port: 80, files: vec![file], output: Output::Text })
}

fn code(manifest: &str, cases: &str) -> ExitCode {
    let (_dir, args) = directory(manifest, cases);
    route(&RouteCommand::Test(args)).unwrap()
}

#[test]
fn a_plain_set_of_manifests_is_routed_with_default_flags() {
    let cases = "- {name: user, host: api.example.com, path: /user, expect: ['default/user:80']}\n\
                 - {name: below, host: API.example.com, path: /user/7?x, expect: default/user:80}\n\
                 - {name: other, host: api.example.com, path: /users, expect: [404]}\n\
                 - {name: gone, host: api.example.com, path: /gone, expect: ['503']}\n\
                 - {name: nobody, host: example.com, path: /user, expect: [404, 421]}\n\
                 - {name: dots, host: api.example.com, path: /x/../user, expect: ['default/user:80']}\n\
                 - {name: server, host: api.example.com, method: OPTIONS, path: '*', expect: [200, 204]}\n\
                 - {name: odd, host: api.example.com, path: /user%2f, expect: [400]}\n";
    assert_eq!(code(ARTICLE, cases), ExitCode::SUCCESS);
}

#[test]
fn a_mismatch_is_exit_1_and_says_what_decided() {
    let cases = "{name: n, host: api.example.com, path: /users, expect: ['default/user:80']}\n";
    assert_eq!(code(ARTICLE, cases), ExitCode::FAILURE);
    let (_dir, args) = directory(ARTICLE, cases);
    let world = World::read(&args.config, 80).unwrap();
    let case: Case = cases::read(args.files.first().unwrap()).unwrap().remove(0);
    let (got, because) = world.check(&case).unwrap().unwrap();
    assert_eq!(got, ["404"]);
    assert!(
        because.contains("Ingress default/api#rule0.path0") && because.contains("path does not match"),
        "{because}"
    );
}

#[test]
fn bad_input_is_exit_2() {
    let bad = ExitCode::from(BAD_INPUT);
    assert_eq!(code(ARTICLE, "{host: a, expect: []}\n"), bad);
    assert_eq!(code(ARTICLE, "{host: a, expext: [404]}\n"), bad);
    assert_eq!(code(ARTICLE, "{host: a, expect: [nowhere]}\n"), bad);
    assert_eq!(code(ARTICLE, "{host: a, scheme: ftp, expect: [404]}\n"), bad);
    assert_eq!(code("a: [", "{host: a, expect: [404]}\n"), bad);
    let (_dir, mut args) = directory(ARTICLE, "");
    args.files = vec!["/nonexistent".into()];
    assert_eq!(route(&RouteCommand::Test(args)).unwrap(), bad);
}

#[test]
fn a_backend_without_known_endpoints_is_where_requests_lead_and_one_with_none_is_503() {
    let known = ARTICLE.replace("endpoints: [{addresses: [10.244.1.11]}]", "endpoints: []");
    assert_eq!(code(&known, "{host: api.example.com, path: /user, expect: [503]}\n"), ExitCode::SUCCESS);
    assert_eq!(
        code(&known, "{host: api.example.com, path: /user, expect: ['default/user:80']}\n"),
        ExitCode::FAILURE
    );
    let unknown = known.replace("service-name: user", "service-name: other");
    assert_eq!(
        code(&unknown, "{host: api.example.com, path: /user, expect: ['default/user:80']}\n"),
        ExitCode::SUCCESS
    );
}

#[test]
fn every_backend_with_a_weight_is_an_outcome() {
    let manifest = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: weir, listeners: [{name: http, port: 8000, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRefs: [{name: a, port: 80, weight: 9}, {name: b, port: 80}, {name: c, port: 80, weight: 0}]
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: c}
spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}
"#;
    for (expect, right) in [("default/a:80", true), ("default/b:80", true), ("default/c:80", false)] {
        let cases = format!(
            "{{host: x, expect: ['{expect}']}}\n---\n{{gateway: default/edge, port: 8000, expect: ['{expect}']}}\n"
        );
        let expected = if right { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        assert_eq!(code(manifest, &cases), expected, "{expect}");
    }
}

#[test]
fn an_explanation_names_the_rule_and_why_others_lost() {
    let (_dir, args) = directory(ARTICLE, "");
    let world = World::read(&args.config, 80).unwrap();
    let asked = Hypothetical::of_query("host=api.example.com&path=%2Fuser%2Fa+b&header=X-A:1").unwrap().0;
    assert_eq!((asked.path.as_str(), asked.headers.len()), ("/user/a b", 1));
    let asked = Hypothetical { path: "/user/7".into(), ..asked };
    let text = print(&asked.explain(&world.snapshot).unwrap(), Output::Text).unwrap();
    assert!(text.contains("rule      Ingress default/api#rule0.path0\n"), "{text}");
    assert!(text.contains("listener  Ingress listener http (http port 80)\n"), "{text}");
    assert!(text.contains("outcome   default/user:80 (1 of 1 endpoints can be used)\n"), "{text}");
    assert!(text.contains("not       Ingress default/api#rule0.path1 (host api.example.com, prefix /gone): the path does not match\n"), "{text}");
    assert!(Hypothetical::of_query("nonsense=1").is_err());
}
