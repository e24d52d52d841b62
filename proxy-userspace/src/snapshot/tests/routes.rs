//! Ingresses, Gateways and HTTPRoutes: `wire.md` C2 to C9, and what is said about each object.

mod choices;
mod clients;
mod policies;
mod said;

use super::*;
use crate::{
    route::explain::Hypothetical,
    snapshot::conditions::{Condition, Says},
    source::{objects_and_findings, store::Store},
};
use proptest::prelude::*;
use std::sync::LazyLock;

const GATEWAY: &str = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge}\n\
    spec: {gatewayClassName: weir, listeners: [{name: http, port: 80, protocol: HTTP}]}\n";

/// An HTTPRoute of `edge`; `spec` is flow YAML without braces.
fn route(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{name: edge}}], {spec}}}\n"
    )
}

/// A rule for a match, to a Service; flow YAML.
fn rule(matched: &str, service: &str) -> String {
    format!("{{matches: [{matched}], backendRefs: [{{name: {service}, port: 80}}]}}")
}

/// Services without a known endpoint.
fn services(names: &[&str]) -> String {
    names.iter().map(|name| service(name, "clusterIP: None", "{port: 80}")).collect()
}

fn ingress(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn path(path: &str, kind: &str, service: &str) -> String {
    format!(
        "{{path: {path}, pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}"
    )
}

/// Where a request of a query leads: backends without namespace and port, or statuses.
fn leads(snapshot: &Snapshot, query: &str) -> String {
    let outcomes = Hypothetical::of_query(query).unwrap().0.outcomes(snapshot).unwrap();
    let texts = outcomes.into_iter().map(|outcome| match (outcome.backend, outcome.status) {
        (Some(backend), _) => backend["default/".len()..backend.len() - ":80".len()].to_owned(),
        (None, status) => status.unwrap().to_string(),
    });
    texts.collect::<Vec<_>>().join(" ")
}

fn findings_of(text: &str) -> (Snapshot, Vec<String>) {
    let (objects, mut findings) = objects_and_findings(text);
    let (snapshot, more) = build(&objects, &options(), 1);
    findings.extend(more);
    (snapshot, findings.iter().map(ToString::to_string).collect())
}

/// What is said about an object: type, status and reason of each condition.
fn said(snapshot: &Snapshot, kind: &str, name: &str) -> Vec<String> {
    let short = |all: &[Condition]| {
        all.iter().map(|one| format!("{}={} {}", one.kind, one.status, one.reason)).collect::<Vec<_>>()
    };
    let status = snapshot.statuses.iter().find(|one| one.kind == kind && one.name == name).unwrap();
    match &status.says {
        Says::Class(conditions) => short(conditions),
        Says::Route(parents) => parents.iter().flat_map(|parent| short(&parent.conditions)).collect(),
        Says::Policy(ancestors) => ancestors
            .iter()
            .flat_map(|one| [vec![one.name.clone()], short(&one.conditions)].concat())
            .collect(),
        Says::Ingress => Vec::new(),
        Says::Gateway { conditions, listeners, .. } => {
            let mut all = short(conditions);
            for listener in listeners {
                all.push(format!("{} {}", listener.name, listener.attached_routes));
                all.extend(short(&listener.conditions));
            }
            all
        }
    }
}

#[test]
fn c2_an_invalid_expression_leaves_out_its_own_route_of_a_hundred() {
    let routes: String = (0..100)
        .map(|n| {
            let expression = if n == 42 { "/r42(" } else { &format!("/r{n}/[0-9]+") };
            route(
                &format!("r{n}"),
                &format!(
                    "rules: [{}]",
                    rule(&format!("{{path: {{type: RegularExpression, value: '{expression}'}}}}"), "web")
                ),
            )
        })
        .collect();
    let (snapshot, findings) = findings_of(&format!("{GATEWAY}{routes}{}", services(&["web"])));
    for n in 0..100 {
        let expected = if n == 42 { "404" } else { "web" };
        assert_eq!(leads(&snapshot, &format!("path=/r{n}/7")), expected, "{n}");
    }
    let errors: Vec<_> = findings.iter().filter(|finding| finding.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("HTTPRoute default/r42: rules[0].matches[0].path.value:"), "{errors:?}");
    assert_eq!(said(&snapshot, "HTTPRoute", "r42")[0], "Accepted=false UnsupportedValue");
    assert_eq!(said(&snapshot, "HTTPRoute", "r41")[0], "Accepted=true Accepted");
}

#[test]
fn c3_a_path_with_two_meanings_refuses_its_route_even_from_a_file() {
    for bad in
        ["a", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a/..", "/a/.", "/a b", "/a?b"]
    {
        for kind in ["Exact", "PathPrefix"] {
            let odd = route(
                "odd",
                &format!("rules: [{}]", rule(&format!("{{path: {{type: {kind}, value: '{bad}'}}}}"), "web")),
            );
            let fine = route("fine", &format!("rules: [{}]", rule("{path: {value: /fine}}", "web")));
            let (snapshot, findings) = findings_of(&format!("{GATEWAY}{odd}{fine}{}", services(&["web"])));
            assert!(
                findings[0].contains("HTTPRoute default/odd: rules[0].matches[0].path.value:"),
                "{bad} {findings:?}"
            );
            assert_eq!(leads(&snapshot, "path=/fine"), "web", "{bad}");
        }
        let spec = format!("rules: [{{http: {{paths: [{}]}}}}]", path(&format!("'{bad}'"), "Prefix", "web"));
        let (snapshot, findings) = findings_of(&format!("{}{}", ingress("odd", &spec), services(&["web"])));
        let allowed = ["/a#b", "/a b", "/a?b"].contains(&bad);
        assert_eq!(findings.iter().any(|one| one.starts_with("error")), !allowed, "{bad} {findings:?}");
        assert!(!snapshot.statuses.is_empty() || !allowed);
    }
}

#[test]
fn c4_of_two_routes_with_one_match_the_older_has_it_then_the_first_name() {
    let dated = |name: &str, date: &str, service: &str| {
        let one =
            route(name, &format!("hostnames: [a.com], rules: [{}]", rule("{path: {value: /x}}", service)));
        one.replace(&format!("{{name: {name}}}"), &format!("{{name: {name}{date}}}"))
    };
    let old = ", creationTimestamp: '2020-01-01T00:00:00Z'";
    let new = ", creationTimestamp: '2021-01-01T00:00:00Z'";
    for (first, second, expected) in
        [(new, old, "two"), (old, new, "one"), (old, old, "one"), ("", old, "two"), ("", "", "one")]
    {
        let text = format!(
            "{GATEWAY}{}{}{}",
            dated("r1", first, "one"),
            dated("r2", second, "two"),
            services(&["one", "two"])
        );
        assert_eq!(leads(&built(&text).0, "host=a.com&path=/x/y"), expected, "{first:?} {second:?}");
    }
}

static MANY: LazyLock<Objects> = LazyLock::new(|| {
    let mut text = format!("{GATEWAY}{}", services(&["a", "b", "c"]));
    for n in 0..12 {
        let (service, host) = (["a", "b", "c"][n % 3], ["a.com", "'*.com'", "b.a.com"][n % 3]);
        let matched = ["{path: {value: /x}}", "{method: GET}", "{path: {type: Exact, value: /x}}"][n / 4];
        text +=
            &route(&format!("r{n}"), &format!("hostnames: [{host}], rules: [{}]", rule(matched, service)));
        let spec = format!("rules: [{{host: {host}, http: {{paths: [{}]}}}}]", path("/x", "Prefix", service));
        text += &ingress(&format!("i{n}"), &spec);
    }
    objects(&text)
});

fn all<T: Clone>(store: &Store<T>) -> Vec<crate::source::Sourced<T>> {
    store.iter().cloned().collect()
}

static SETTLED: LazyLock<(Snapshot, Vec<Finding>)> = LazyLock::new(|| build(&MANY, &options(), 1));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn c4_the_order_of_routes_does_not_matter(
        routes in Just(all(&MANY.http_routes)).prop_shuffle(),
        ingresses in Just(all(&MANY.ingresses)).prop_shuffle(),
    ) {
        let (http_routes, ingresses) = (routes.into_iter().collect(), ingresses.into_iter().collect());
        let objects = Objects { http_routes, ingresses, ..MANY.clone() };
        prop_assert_eq!(&build(&objects, &options(), 1), &*SETTLED);
    }
}

#[test]
fn c5_the_more_special_match_wins_whatever_the_order_of_rules() {
    let rules = [
        rule("{path: {value: /}}", "any"),
        rule("{path: {value: /a}}", "prefix"),
        rule("{path: {value: /a/b}}", "longer"),
        rule("{path: {type: Exact, value: /a/b}}", "exact"),
        rule("{path: {type: RegularExpression, value: '/a/[0-9]+'}}", "expression"),
        rule("{path: {value: /a}, method: PUT}", "method"),
        rule("{path: {value: /a}, headers: [{name: x, value: '1'}]}", "field"),
        rule("{path: {value: /a}, headers: [{name: X, value: '1'}, {name: y, value: '2'}]}", "fields"),
        rule("{path: {value: /a}, queryParams: [{name: q, value: '1'}]}", "query"),
        rule("{path: {value: /a}, headers: [{name: x, type: RegularExpression, value: '[5-9]'}]}", "regex"),
    ];
    let names =
        ["any", "prefix", "longer", "exact", "expression", "method", "field", "fields", "query", "regex"];
    let mut orders = vec![rules.to_vec()];
    orders.push(rules.iter().rev().cloned().collect());
    for rules in orders {
        let text =
            format!("{GATEWAY}{}{}", route("r", &format!("rules: [{}]", rules.join(", "))), services(&names));
        let (snapshot, findings) = built(&text);
        assert!(findings.iter().all(|one| one.contains("no EndpointSlice")), "{findings:?}");
        for (query, expected) in [
            ("path=/", "any"),
            ("path=/ab", "any"),
            ("path=/a", "prefix"),
            ("path=/a/", "prefix"),
            ("path=/a/b", "exact"),
            ("path=/a/b/", "longer"),
            ("path=/a/b/c", "longer"),
            ("path=/a/7", "expression"),
            ("path=/a/7/x", "prefix"),
            ("path=/a&method=PUT&header=x:1", "method"),
            ("path=/a&method=put&header=x:1", "field"),
            ("path=/a/b/c&method=PUT", "longer"),
            ("path=/a&header=x:1&header=y:2", "fields"),
            ("path=/a%3Fq=1&header=x:1", "field"),
            ("path=/a%3Fq=1", "query"),
            ("path=/a%3Fq=1%26q=2", "query"),
            ("path=/a%3Fq=2%26q=1", "prefix"),
            ("path=/a&header=x:7", "regex"),
            ("path=/a&header=x:77", "prefix"),
            ("path=/A", "any"),
        ] {
            assert_eq!(leads(&snapshot, query), expected, "{query}");
        }
    }
}

#[test]
fn c6_a_backend_of_another_namespace_needs_a_grant() {
    let grant = |from: &str, to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\n\
             spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}], to: [{{group: '', kind: Service{to}}}]}}\n"
        )
    };
    let there = services(&["web"]).replace("{name: web}", "{name: web, namespace: other}");
    let to_other = route("r", "rules: [{backendRefs: [{name: web, namespace: other, port: 80}]}]");
    let status = |grants: &str| {
        let (snapshot, _) = built(&format!("{GATEWAY}{to_other}{there}{grants}"));
        let outcome = Hypothetical::of_query("path=/").unwrap().0.outcomes(&snapshot).unwrap().remove(0);
        (outcome.backend, said(&snapshot, "HTTPRoute", "r")[1].clone())
    };
    let permitted = (Some("other/web:80".to_owned()), "ResolvedRefs=true ResolvedRefs".to_owned());
    let refused = (None, "ResolvedRefs=false RefNotPermitted".to_owned());
    assert_eq!(status(&grant("default", "")), permitted);
    assert_eq!(status(&grant("default", ", name: web")), permitted);
    assert_eq!(status(&grant("default", ", name: db")), refused);
    assert_eq!(status(&grant("third", "")), refused);
    assert_eq!(status(&grant("default", "").replace("HTTPRoute", "GRPCRoute")), refused);
    assert_eq!(status(&grant("default", "").replace("namespace: other}", "namespace: default}")), refused);
    assert_eq!(status(""), refused);
}

#[test]
fn c7_hosts_are_the_same_in_every_spelling_and_wildcards_mean_what_each_api_says() {
    let of_ingress =
        |host: &str| format!("{{host: {host}, http: {{paths: [{}]}}}}", path("/", "Prefix", "i"));
    let text = format!(
        "{}{GATEWAY}{}{}",
        ingress(
            "i",
            &format!(
                "rules: [{}, {}]",
                of_ingress("'*.i.com'"),
                of_ingress("münchen.de").replace("münchen", "xn--mnchen-3ya")
            )
        ),
        route("g", &format!("hostnames: ['*.g.com', a.i.com], rules: [{}]", rule("{path: {value: /}}", "g"))),
        services(&["i", "g"]),
    );
    let snapshot = built(&text).0;
    for (host, expected) in [
        ("b.i.com", "i"),
        ("B.I.Com.", "i"),
        ("b.i.com:8080", "i"),
        ("a.b.i.com", "404"),
        ("i.com", "404"),
        ("a.i.com", "g"),
        ("a.g.com", "g"),
        ("a.b.g.com", "g"),
        ("g.com", "404"),
        (".g.com", "404"),
        ("xn--mnchen-3ya.de", "i"),
        ("m%C3%BCnchen.de", "400"),
        ("*", "400"),
        ("", "400"),
        ("a.i.com,b.i.com", "400"),
    ] {
        assert_eq!(leads(&snapshot, &format!("path=/&host={host}")), expected, "{host}");
    }
}

#[test]
fn c8_what_leads_to_nothing_is_503_and_what_may_not_lead_there_500() {
    let ingress_to = |backend: &str| {
        ingress(
            "i",
            &format!(
                "rules: [{{http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {backend}}}}}]}}}}]"
            ),
        )
    };
    let web = service("web", "clusterIP: None", "{name: http, port: 80}");
    let external = service("ext", "type: ExternalName, externalName: a.com", "{port: 80}");
    for (backend, expected) in [
        ("{name: web, port: {number: 80}}", "web"),
        ("{name: web, port: {name: http}}", "web"),
        ("{name: web, port: {name: https}}", "503"),
        ("{name: web, port: {number: 81}}", "503"),
        ("{name: gone, port: {number: 80}}", "503"),
        ("{name: ext, port: {number: 80}}", "503"),
    ] {
        let (snapshot, _) = findings_of(&format!("{}{web}{external}", ingress_to(backend)));
        assert_eq!(leads(&snapshot, "path=/"), expected, "{backend}");
    }
    for (backends, expected) in [
        ("[{name: web, port: 80, weight: 0}]", "503"),
        ("[{name: web, port: 80, weight: 0}, {name: gone, port: 80}]", "500"),
        ("[{name: web, port: 80}, {name: gone, port: 80}]", "web 500"),
        ("[{name: web, port: 81}]", "500"),
        ("[{name: ext, port: 80}]", "500"),
        ("[{name: x, kind: Bucket, group: example.com}]", "500"),
        ("[]", "500"),
    ] {
        let text = format!(
            "{GATEWAY}{}{web}{external}",
            route("r", &format!("rules: [{{backendRefs: {backends}}}]"))
        );
        let (snapshot, findings) = findings_of(&text);
        assert_eq!(leads(&snapshot, "path=/"), expected, "{backends} {findings:?}");
    }
    // Endpoints that are there but not for use.
    for (conditions, status) in [
        ("{ready: true}", None),
        ("{ready: false}", Some(503)),
        ("{ready: false, serving: true, terminating: true}", None),
    ] {
        let endpoints = slice(
            "w",
            "web",
            "{name: http, port: 8080}",
            &format!("{{addresses: [10.1.0.1], conditions: {conditions}}}"),
        );
        let (snapshot, _) =
            built(&format!("{}{web}{endpoints}", ingress_to("{name: web, port: {number: 80}}")));
        let outcome = Hypothetical::of_query("path=/").unwrap().0.outcomes(&snapshot).unwrap().remove(0);
        assert_eq!(outcome.status, status, "{conditions}");
    }
}

#[test]
fn c9_hostile_annotations_of_an_ingress_change_nothing() {
    let spec = format!("rules: [{{http: {{paths: [{}]}}}}]", path("/", "Prefix", "web"));
    let hostile = "nginx.ingress.kubernetes.io/server-snippet: \"\\r\\nX: $(id) }} location / {{\"";
    let text = ingress("i", &spec).replace(
        "{name: i}",
        &format!("{{name: i, annotations: {{{hostile}, x: {}}}}}", "y".repeat(1 << 18)),
    );
    let (snapshot, findings) = built(&format!("{text}{}", services(&["web"])));
    assert_eq!((leads(&snapshot, "path=/"), findings.len()), ("web".to_owned(), 1), "{findings:?}");
    assert!(findings[0].contains("no EndpointSlice"), "{findings:?}");
    let plain = built(&format!("{}{}", ingress("i", &spec), services(&["web"]))).0;
    assert_eq!(snapshot.routes, plain.routes);
}
