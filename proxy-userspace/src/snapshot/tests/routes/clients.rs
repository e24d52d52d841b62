//! What is said of Gateways that want clients to prove who they are, and which listeners are served then.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::testing::certificates::{Authority, config_map};

/// A Gateway with a listener for HTTP and one for HTTPS at 443 and at 8443, and this in `spec.tls`.
fn gateway(tls: &str) -> String {
    let https = |name: &str, port: u16| {
        format!("{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: s}}]}}}}")
    };
    let listeners =
        ["{name: http, port: 80, protocol: HTTP}".to_owned(), https("a", 443), https("b", 8443)].join(", ");
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\n\
         spec: {{gatewayClassName: weir, listeners: [{listeners}], tls: {{{tls}}}}}\n{}",
        Authority::new().pair(&["a.test"]).secret("s")
    )
}

/// `validation` with these references; flow YAML.
fn validation(refs: &str) -> String {
    format!("{{validation: {{caCertificateRefs: [{refs}]}}}}")
}

const CA: &str = "{group: '', kind: ConfigMap, name: ca}";

/// The ports that are served, and what is said of the Gateway.
fn told(text: &str) -> (Vec<u16>, Vec<String>, Vec<String>) {
    let options = BuildOptions { node_addresses: vec!["192.0.2.1".parse().unwrap()], ..options() };
    let (snapshot, findings) = built_with(text, &options);
    let mut ports: Vec<_> = snapshot.by_gateway.keys().map(std::net::SocketAddr::port).collect();
    ports.sort_unstable();
    (ports, said(&snapshot, "Gateway", "edge"), findings)
}

/// The conditions of a listener.
fn of_listener<'a>(said: &'a [String], name: &str) -> &'a [String] {
    let at = said.iter().position(|one| one.starts_with(&format!("{name} "))).unwrap();
    &said[at + 1..at + 5]
}

#[test]
fn a_reference_that_leads_to_no_authority_has_its_reason_and_with_none_left_the_listener_is_not_served() {
    let authority = Authority::new();
    let map = config_map("ca", authority.pem());
    let no_key = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca}\ndata: {other: x}\n";
    let away = map.replace("{name: ca}", "{name: ca, namespace: trust}");
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
                 metadata: {name: g, namespace: trust}\nspec: {from: [{group: gateway.networking.k8s.io, \
                 kind: Gateway, namespace: default}], to: [{group: '', kind: ConfigMap}]}\n";
    let there = "{group: '', kind: ConfigMap, name: ca, namespace: trust}";
    let secret = "{group: '', kind: Secret, name: s}";
    for (refs, more, reason, text) in [
        (CA, "", "InvalidCACertificateRef", "there is no ConfigMap default/ca"),
        (CA, no_key, "InvalidCACertificateRef", "ConfigMap default/ca has no ca.crt"),
        (CA, &config_map("ca", "no pem"), "InvalidCACertificateRef", "there is no certificate in it"),
        (secret, "", "InvalidCACertificateKind", "\"Secret\" is no kind of certificates"),
        (there, &away, "RefNotPermitted", "no ReferenceGrant lets it refer to ConfigMap trust/ca"),
    ] {
        let whole = format!("{}{more}", gateway(&format!("frontend: {{default: {}}}", validation(refs))));
        let (ports, said, findings) = told(&whole);
        assert_eq!(ports, [80], "{text}");
        for name in ["a", "b"] {
            let conditions = of_listener(&said, name);
            assert_eq!(conditions[0], "Accepted=false NoValidCACertificate", "{text}");
            assert_eq!(conditions[1], "Programmed=false Invalid", "{text}");
            assert_eq!(conditions[2], format!("ResolvedRefs=false {reason}"), "{text}");
        }
        assert_eq!(of_listener(&said, "http")[0], "Accepted=true Accepted");
        let path = "tls.frontend.default.validation.caCertificateRefs[0]: ";
        assert!(findings.iter().any(|one| one.contains(path) && one.contains(text)), "{findings:?}");
    }
    let granted = gateway(&format!("frontend: {{default: {}}}", validation(there))) + &away + grant;
    assert_eq!(told(&granted).0, [80, 443, 8443]);
    // One that can be used is enough, and the other one is told of.
    let half = gateway(&format!("frontend: {{default: {}}}", validation(&format!("{secret}, {CA}")))) + &map;
    let (ports, said, _) = told(&half);
    assert_eq!(ports, [80, 443, 8443]);
    let conditions = of_listener(&said, "a");
    assert_eq!(conditions[0], "Accepted=true Accepted");
    assert_eq!(conditions[2], "ResolvedRefs=false InvalidCACertificateKind");
}

#[test]
fn a_ports_own_validation_takes_the_place_of_the_default_one_also_where_there_is_none() {
    let authority = Authority::new();
    let map = config_map("ca", authority.pem());
    let gone = validation("{group: '', kind: ConfigMap, name: gone}");
    let good = validation(CA);
    for (tls, ports) in [
        (format!("default: {gone}, perPort: [{{port: 443, tls: {good}}}]"), &[80, 443][..]),
        (format!("default: {good}, perPort: [{{port: 443, tls: {gone}}}]"), &[80, 8443]),
        (format!("default: {gone}, perPort: [{{port: 443, tls: {{}}}}]"), &[80, 443]),
        // Plain HTTP has no certificates (Gateway API: "for all Listeners handling HTTPS traffic").
        (format!("default: {good}, perPort: [{{port: 80, tls: {gone}}}]"), &[80, 443, 8443]),
    ] {
        let text = gateway(&format!("frontend: {{{tls}}}")) + &map;
        assert_eq!(told(&text).0, ports, "{tls}");
    }
}

#[test]
fn a_gateway_says_so_while_it_serves_clients_that_prove_nothing() {
    let authority = Authority::new();
    let lenient = format!("{{validation: {{mode: AllowInsecureFallback, caCertificateRefs: [{CA}]}}}}");
    let insecure = "InsecureFrontendValidationMode=true ConfigurationChanged".to_owned();
    for (tls, expected) in [
        (format!("default: {lenient}"), true),
        (format!("default: {}", validation(CA)), false),
        (format!("default: {}, perPort: [{{port: 8443, tls: {lenient}}}]", validation(CA)), true),
        // No listener for HTTPS is there.
        (format!("default: {}, perPort: [{{port: 80, tls: {lenient}}}]", validation(CA)), false),
    ] {
        let (_, said, _) =
            told(&(gateway(&format!("frontend: {{{tls}}}")) + &config_map("ca", authority.pem())));
        assert_eq!(said.contains(&insecure), expected, "{tls}: {said:?}");
    }
}

#[test]
fn a_certificate_for_endpoints_that_cannot_be_had_is_told_of_at_the_gateway_and_it_is_served_all_the_same() {
    let away =
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: c, namespace: trust}\ntype: kubernetes.io/tls\n";
    let pair = Authority::new().named("gateway");
    for (reference, more, said_) in [
        ("{name: c}", pair.secret("c"), "ResolvedRefs=true ResolvedRefs"),
        ("{name: c}", String::new(), "ResolvedRefs=false InvalidClientCertificateRef"),
        (
            "{name: c}",
            pair.secret("c").replace("kubernetes.io/tls", "Opaque"),
            "ResolvedRefs=false InvalidClientCertificateRef",
        ),
        ("{kind: ConfigMap, name: c}", String::new(), "ResolvedRefs=false InvalidClientCertificateRef"),
        ("{name: c, namespace: trust}", away.to_owned(), "ResolvedRefs=false RefNotPermitted"),
    ] {
        let text = gateway(&format!("backend: {{clientCertificateRef: {reference}}}")) + &more;
        let (ports, said, findings) = told(&text);
        assert_eq!(ports, [80, 443, 8443]);
        assert_eq!(
            &said[..3],
            ["Accepted=true Accepted", "Programmed=true Programmed", said_],
            "{reference}"
        );
        let named = findings.iter().any(|one| one.contains("tls.backend.clientCertificateRef: "));
        assert_eq!(named, said_.contains("false"), "{findings:?}");
    }
}
