//! What the Gateway API's schema forbids of policies.

use super::{
    Check, Fault,
    text::{subdomain, wildcard_name},
};
use crate::source::{finding::quoted, gateway::BackendTlsPolicySpec};

/// Faults of a BackendTLSPolicy.
pub(in crate::snapshot::routes) fn backend_tls_policy(spec: &BackendTlsPolicySpec) -> Vec<Fault> {
    let mut check = Check::default();
    check.that((1..=16).contains(&spec.target_refs.len()), "targetRefs", || {
        "has not 1 to 16 items".to_owned()
    });
    for (index, one) in spec.target_refs.iter().enumerate() {
        let path = format!("targetRefs[{index}]");
        check.reference((&one.group, &one.kind, &one.name, None), &path);
        check.that(one.group.is_empty() && one.kind == "Service", &path, || {
            format!("{} is none of Service", quoted(&one.kind))
        });
    }
    let validation = &spec.validation;
    let host = "validation.hostname";
    check.text(&validation.hostname, subdomain, "a host", host);
    check.that(validation.hostname.parse::<std::net::IpAddr>().is_err(), host, || {
        format!("{} is an address", quoted(&validation.hostname))
    });
    let refs = "validation.caCertificateRefs";
    check.at_most(&validation.ca_certificate_refs, 8, refs);
    for (index, one) in validation.ca_certificate_refs.iter().enumerate() {
        check.reference((&one.group, &one.kind, &one.name, None), &format!("{refs}[{index}]"));
    }
    let system = validation.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty());
    check.that(validation.ca_certificate_refs.is_empty() == system.is_some(), "validation", || {
        "needs caCertificateRefs or wellKnownCACertificates, and not both".to_owned()
    });
    if let Some(name) = system {
        check.one_of(name, &["System"], "validation.wellKnownCACertificates");
    }
    check.at_most(&validation.subject_alt_names, 5, "validation.subjectAltNames");
    for (index, one) in validation.subject_alt_names.iter().enumerate() {
        let path = format!("validation.subjectAltNames[{index}]");
        check.one_of(&one.kind, &["Hostname", "URI"], &format!("{path}.type"));
        match one.kind.as_str() {
            "Hostname" => check.text(&one.hostname, wildcard_name, "a host", &format!("{path}.hostname")),
            _ => check.text(&one.uri, is_uri, "a URI", &format!("{path}.uri")),
        }
        let (hostname, uri) = (!one.hostname.is_empty(), !one.uri.is_empty());
        check.that(hostname != uri, &path, || "needs the one name of its type".to_owned());
    }
    check.0
}

/// A scheme, `://` and something.
fn is_uri(text: &str) -> bool {
    let scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    text.len() <= 253
        && text.split_once("://").is_some_and(|(before, rest)| scheme(before) && !rest.is_empty())
}
