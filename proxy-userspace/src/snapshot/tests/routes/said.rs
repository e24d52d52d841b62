//! Which objects are ours, which the schemas refuse, and what is said about each.

use super::*;

#[test]
fn an_ingress_is_ours_by_its_class_and_its_default_backend_takes_the_rest() {
    let class = |name: &str, controller: &str, default: bool| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}, annotations: {{ingressclass.kubernetes.io/is-default-class: '{default}'}}}}\nspec: {{controller: {controller}}}\n"
        )
    };
    let spec = "defaultBackend: {service: {name: web, port: {number: 80}}}";
    let of_class = |name: &str| ingress("i", &format!("ingressClassName: {name}, {spec}"));
    let ours = |text: String| {
        leads(&findings_of(&format!("{text}{}", services(&["web"]))).0, "path=/any&host=h") == "web"
    };
    assert!(ours(ingress("i", spec)) && ours(of_class("weir")) && !ours(of_class("nginx")));
    let weir = class("mine", "weir.dev/ingress", false);
    assert!(ours(of_class("mine") + &weir) && !ours(ingress("i", spec) + &weir));
    assert!(ours(ingress("i", spec) + &class("mine", "weir.dev/ingress", true)));
    assert!(!ours(ingress("i", spec) + &class("nginx", "k8s.io/ingress-nginx", true)));
    assert!(!ours(of_class("weir") + &class("weir", "k8s.io/ingress-nginx", false)));
    let old = ingress("i", spec)
        .replace("{name: i}", "{name: i, annotations: {kubernetes.io/ingress.class: nginx}}");
    assert!(!ours(old.clone()) && ours(old.replace("nginx}", "weir}")));

    let rules = format!("rules: [{{host: h, http: {{paths: [{}]}}}}], {spec}", path("/a", "Prefix", "a"));
    let snapshot = built(&format!("{}{}", ingress("i", &rules), services(&["web", "a"]))).0;
    for (query, expected) in [("host=h&path=/a", "a"), ("host=h&path=/b", "web"), ("host=x&path=/a", "web")] {
        assert_eq!(leads(&snapshot, query), expected, "{query}");
    }
}

#[test]
fn what_becomes_of_a_route_is_said_as_the_specification_has_it() {
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, generation: 3}\n\
        spec:\n  gatewayClassName: weir\n  listeners:\n\
        \x20 - {name: http, port: 80, protocol: HTTP, hostname: '*.example.com'}\n\
        \x20 - {name: none, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: TLSRoute}]}}\n\
        \x20 - {name: odd, port: 82, protocol: TCP}\n\
        \x20 - {name: tls, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c, namespace: elsewhere}]}}\n";
    let with = |name: &str, parent: &str, rest: &str| {
        route(name, &format!("{rest}rules: [{}]", rule("{path: {value: /}}", "web")))
            .replace("[{name: edge}]", &format!("[{{name: edge{parent}}}]"))
    };
    let text = [
        gateway.to_owned(),
        with("fine", "", "hostnames: [a.example.com], "),
        with("port", ", port: 99", ""),
        with("section", ", sectionName: nowhere", ""),
        with("kind", ", sectionName: none", ""),
        with("host", ", sectionName: http", "hostnames: [a.example.org], "),
        with("gone", ", sectionName: http", "").replace("name: web", "name: gone"),
        with("lives", ", sectionName: http", "")
            .replace("{name: lives}", "{name: lives, namespace: other}")
            .replace("{name: edge,", "{name: edge, namespace: default,"),
        services(&["web"]),
    ];
    let (snapshot, _) = findings_of(&text.concat());
    let accepted = |name: &str| said(&snapshot, "HTTPRoute", name)[0].clone();
    assert_eq!(accepted("fine"), "Accepted=true Accepted");
    assert_eq!(accepted("port"), "Accepted=false NoMatchingParent");
    assert_eq!(accepted("section"), "Accepted=false NoMatchingParent");
    assert_eq!(accepted("kind"), "Accepted=false NotAllowedByListeners");
    assert_eq!(accepted("lives"), "Accepted=false NotAllowedByListeners");
    assert_eq!(accepted("host"), "Accepted=false NoMatchingListenerHostname");
    assert_eq!(said(&snapshot, "HTTPRoute", "gone")[1], "ResolvedRefs=false BackendNotFound");
    assert_eq!(
        said(&snapshot, "Gateway", "edge"),
        [
            "Accepted=true ListenersNotValid",
            "Programmed=true Programmed",
            "http 2",
            "Accepted=true Accepted",
            "Programmed=true Programmed",
            "ResolvedRefs=true ResolvedRefs",
            "Conflicted=false NoConflicts",
            "none 0",
            "Accepted=true Accepted",
            "Programmed=true Programmed",
            "ResolvedRefs=false InvalidRouteKinds",
            "Conflicted=false NoConflicts",
            "odd 0",
            "Accepted=false UnsupportedProtocol",
            "Programmed=false Invalid",
            "ResolvedRefs=true ResolvedRefs",
            "Conflicted=false NoConflicts",
            "tls 1",
            "Accepted=true Accepted",
            "Programmed=false Invalid",
            "ResolvedRefs=false RefNotPermitted",
            "Conflicted=false NoConflicts",
        ]
    );
    let status = snapshot.statuses.iter().find(|one| one.kind == "Gateway").unwrap();
    let Says::Gateway { conditions, .. } = &status.says else { panic!("{status:?}") };
    assert_eq!(conditions[0].observed_generation, Some(3));
}

#[test]
fn what_the_schema_forbids_refuses_the_object_and_names_the_field() {
    let bad_route = |spec: &str, field: &str| {
        let text = format!("{GATEWAY}{}{}", route("r", spec), services(&["web"]));
        let (snapshot, findings) = findings_of(&text);
        let named = findings
            .iter()
            .any(|one| one.starts_with("error") && one.contains(&format!("HTTPRoute default/r: {field}")));
        assert!(named, "{spec}: {findings:?}");
        assert_eq!(said(&snapshot, "HTTPRoute", "r")[0], "Accepted=false UnsupportedValue", "{spec}");
        assert_eq!(leads(&snapshot, "path=/"), "404", "{spec}");
    };
    let to = "backendRefs: [{name: web, port: 80}]";
    let filters = |filters: &str| format!("rules: [{{filters: [{filters}], {to}}}]");
    bad_route(&format!("hostnames: [A.com], rules: [{{{to}}}]"), "hostnames[0]");
    bad_route(&format!("hostnames: ['*'], rules: [{{{to}}}]"), "hostnames[0]");
    bad_route("rules: []", "rules");
    bad_route("rules: [{backendRefs: [{name: web}]}]", "rules[0].backendRefs[0]");
    bad_route("rules: [{backendRefs: [{name: web, port: 0}]}]", "rules[0].backendRefs[0].port");
    bad_route(
        "rules: [{backendRefs: [{name: web, port: 80, weight: -1}]}]",
        "rules[0].backendRefs[0].weight",
    );
    bad_route(&format!("rules: [{{matches: [{{method: get}}], {to}}}]"), "rules[0].matches[0].method");
    bad_route(
        &format!("rules: [{{matches: [{{path: {{type: Glob}}}}], {to}}}]"),
        "rules[0].matches[0].path.type",
    );
    bad_route(
        &format!("rules: [{{matches: [{{headers: [{{name: 'a b', value: x}}]}}], {to}}}]"),
        "rules[0].matches[0].headers[0].name",
    );
    bad_route(
        &format!("rules: [{{timeouts: {{request: 1s, backendRequest: 2s}}, {to}}}]"),
        "rules[0].timeouts.backendRequest",
    );
    bad_route(&format!("rules: [{{timeouts: {{request: 1.5s}}, {to}}}]"), "rules[0].timeouts.request");
    bad_route(&filters("{type: URLRewrite}"), "rules[0].filters[0]");
    bad_route(&filters("{type: URLRewrite, urlRewrite: {}, cors: {}}"), "rules[0].filters[0]");
    bad_route(&filters("{type: Nonsense}"), "rules[0].filters[0].type");
    bad_route(
        &filters("{type: RequestRedirect, requestRedirect: {}}"),
        "rules[0]: a rule with a RequestRedirect",
    );
    bad_route(
        &filters("{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}"),
        "rules[0].filters",
    );
    bad_route(
        &format!(
            "rules: [{{matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /b}}}}}}], {to}}}]"
        ),
        "rules[0]: ReplacePrefixMatch",
    );
    bad_route(
        "rules: [{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}]",
        "rules[0].filters[0].requestRedirect.statusCode",
    );
}

#[test]
fn retry_and_session_persistence_are_read_as_the_schema_says_and_named_as_not_done() {
    let of = |field: &str| {
        let text = format!(
            "{GATEWAY}{}{}",
            route("r", &format!("rules: [{{{field}, backendRefs: [{{name: web, port: 80}}]}}]")),
            services(&["web"])
        );
        let (snapshot, findings) = findings_of(&text);
        (
            leads(&snapshot, "path=/"),
            findings.iter().filter(|one| one.contains("HTTPRoute")).cloned().collect::<Vec<_>>(),
        )
    };
    for (field, path) in [
        ("retry: {codes: [400, 500, 599], attempts: 3, backoff: 100ms}", "rules[0].retry"),
        ("retry: {attempts: -1}", "rules[0].retry"),
        ("retry: {}", "rules[0].retry"),
        ("sessionPersistence: {}", "rules[0].sessionPersistence"),
        (
            "sessionPersistence: {sessionName: a, type: Header, idleTimeout: 1h30m}",
            "rules[0].sessionPersistence",
        ),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}, absoluteTimeout: 24h}",
            "rules[0].sessionPersistence",
        ),
        ("sessionPersistence: {cookieConfig: {lifetimeType: Session}}", "rules[0].sessionPersistence"),
    ] {
        let (leads, findings) = of(field);
        assert_eq!((leads.as_str(), findings.len()), ("web", 1), "{field}: {findings:?}");
        let told = format!("HTTPRoute default/r: {path} is read and not acted upon yet");
        assert!(findings[0].starts_with("warning ") && findings[0].contains(&told), "{findings:?}");
    }
    let long = format!("sessionPersistence: {{sessionName: {}}}", "x".repeat(129));
    for (field, path) in [
        ("retry: {codes: [399]}", "retry.codes[0]"),
        ("retry: {codes: [500, 600]}", "retry.codes[1]"),
        ("retry: {backoff: 1d}", "retry.backoff"),
        ("retry: {backoff: '5'}", "retry.backoff"),
        ("sessionPersistence: {type: Query}", "sessionPersistence.type"),
        ("sessionPersistence: {idleTimeout: soon}", "sessionPersistence.idleTimeout"),
        ("sessionPersistence: {absoluteTimeout: -1s}", "sessionPersistence.absoluteTimeout"),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
            "sessionPersistence: absoluteTimeout",
        ),
        (
            "sessionPersistence: {cookieConfig: {lifetimeType: Eternal}}",
            "sessionPersistence.cookieConfig.lifetimeType",
        ),
        (long.as_str(), "sessionPersistence.sessionName"),
    ] {
        let (leads, findings) = of(field);
        let named = |one: &String| {
            one.starts_with("error ") && one.contains(&format!("HTTPRoute default/r: rules[0].{path}"))
        };
        assert!(leads == "404" && findings.iter().any(named), "{field}: {leads} {findings:?}");
    }
}

#[test]
fn an_external_name_is_no_backend_and_each_who_refers_to_it_is_told_so() {
    let external = service("ext", "type: ExternalName, externalName: localhost", "{port: 80}");
    let text =
        format!("{GATEWAY}{}{external}", route("r", "rules: [{backendRefs: [{name: ext, port: 80}]}]"));
    let (snapshot, findings) = findings_of(&text);
    assert_eq!(said(&snapshot, "HTTPRoute", "r")[1], "ResolvedRefs=false InvalidKind");
    let named = "Service default/ext is an ExternalName, which is no backend";
    let of = |findings: &[String], kind: &str| {
        findings.iter().any(|one| one.contains(kind) && one.contains(named))
    };
    assert!(of(&findings, "HTTPRoute default/r"), "{findings:?}");
    let spec = format!("rules: [{{http: {{paths: [{}]}}}}]", path("/", "Prefix", "ext"));
    let (snapshot, findings) = findings_of(&format!("{}{external}", ingress("i", &spec)));
    assert!(of(&findings, "Ingress default/i"), "{findings:?}");
    assert_eq!(leads(&snapshot, "path=/"), "503");
    assert!(snapshot.by_frontend.is_empty(), "nor has it an address");
}

#[test]
fn a_backend_that_speaks_tls_needs_a_policy_that_says_whom_to_trust() {
    let secure = service("safe", "clusterIP: 10.96.0.7", "{port: 443, appProtocol: https}");
    let text =
        format!("{GATEWAY}{}{secure}", route("r", "rules: [{backendRefs: [{name: safe, port: 443}]}]"));
    let (snapshot, findings) = findings_of(&text);
    assert_eq!(said(&snapshot, "HTTPRoute", "r")[1], "ResolvedRefs=false UnsupportedProtocol");
    assert_eq!(leads(&snapshot, "path=/"), "500");
    let named =
        |one: &String| one.contains("HTTPRoute default/r") && one.contains("a BackendTLSPolicy has to say");
    assert!(findings.iter().any(named), "{findings:?}");
    let policy = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p}\n\
                  spec: {targetRefs: [{group: '', kind: Service, name: safe}], \
                  validation: {hostname: safe.example.com, wellKnownCACertificates: System}}\n---\n";
    let (snapshot, findings) = findings_of(&format!("{policy}{text}"));
    assert!(!findings.iter().any(named), "{findings:?}");
    let resolved = said(&snapshot, "HTTPRoute", "r");
    assert!(!resolved.iter().any(|one| one.contains("UnsupportedProtocol")), "{resolved:?}");
}

#[test]
fn a_filter_cannot_touch_what_frames_a_message() {
    let rule = "rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Content-Length]}}], \
                backendRefs: [{name: web, port: 80}]}]";
    let (snapshot, _) = findings_of(&format!("{GATEWAY}{}{}", route("r", rule), services(&["web"])));
    assert_eq!(leads(&snapshot, "path=/"), "500");
    assert_eq!(said(&snapshot, "HTTPRoute", "r")[2], "PartiallyInvalid=true UnsupportedValue");
}

#[test]
fn a_gateway_address_is_a_frontend_of_its_own_and_a_port_speaks_one_protocol() {
    let text = GATEWAY
        .replace("gatewayClassName: weir,", "gatewayClassName: weir, addresses: [{value: 10.96.9.9}],")
        + &GATEWAY
            .replace("name: edge", "name: second")
            .replace("port: 80, protocol: HTTP", "port: 81, protocol: HTTP")
        + &GATEWAY.replace("name: edge", "name: third").replace(
            "name: http, port: 80, protocol: HTTP",
            "name: s, port: 81, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}",
        );
    let options = BuildOptions { node_addresses: vec!["192.0.2.1".parse().unwrap()], ..options() };
    let (snapshot, findings) = built_with(&text, &options);
    let mut served: Vec<_> = snapshot.by_gateway.keys().map(ToString::to_string).collect();
    served.sort();
    assert_eq!(served, ["10.96.9.9:80", "192.0.2.1:81"]);
    assert_eq!(said(&snapshot, "Gateway", "third")[0], "Accepted=false ListenersNotValid");
    assert!(
        findings.iter().any(|one| one.contains("port 81 already speaks another protocol")),
        "{findings:?}"
    );
}

#[test]
fn a_listener_of_another_protocol_is_told_what_to_do_instead() {
    for (listener, fix) in [
        ("{name: l, port: 1, protocol: TLS, tls: {mode: Passthrough}}", "have it end here (HTTPS with"),
        (
            "{name: l, port: 1, protocol: TLS, tls: {certificateRefs: [{name: s}]}}",
            "HTTPS is TLS that ends here",
        ),
        ("{name: l, port: 1, protocol: UDP}", "carries anything"),
    ] {
        let text = GATEWAY.replace("{name: http, port: 80, protocol: HTTP}", listener);
        let (snapshot, findings) = findings_of(&text);
        assert_eq!(said(&snapshot, "Gateway", "edge")[3], "Accepted=false UnsupportedProtocol");
        assert!(
            findings.iter().any(|one| one.contains("is not served: ") && one.contains(fix)),
            "{findings:?}"
        );
    }
}
