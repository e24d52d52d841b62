//! Certificates that listeners and Ingresses refer to, and what clients get of them.

use super::{
    Attachment, INGRESS, Places,
    backend::{Referrer, World},
};
use crate::{
    route::{
        host::HostPattern,
        table::{Place, Scheme, Where},
    },
    snapshot::BuildOptions,
    source::{
        Sourced,
        finding::{Finding, Severity, quoted},
        gateway::{self, SecretRef},
        store::Key,
    },
    tls::{Clients, Held, Terms},
};
use k8s_openapi::api::networking::v1::Ingress;
use std::{sync::Arc, time::SystemTime};

/// What was found for one listener, or one host.
#[derive(Default)]
pub(super) struct Found {
    /// `None` where no certificate can be used.
    pub(super) terms: Option<Arc<Terms>>,
    /// Why a reference does not lead to a certificate, as `ResolvedRefs` calls it.
    pub(super) fault: Option<(&'static str, String)>,
    /// What is wrong with certificates that are used all the same.
    pub(super) doubts: Vec<String>,
}

/// The certificates of a Gateway's listener; `scope` is its name, `clients` what it wants of those.
pub(super) fn of_listener(
    one: &gateway::Listener,
    ((scope, host), clients): ((&str, &HostPattern), Option<Arc<Clients>>),
    (world, options, namespace): (&World<'_>, &BuildOptions, &str),
) -> Found {
    let refs = one.tls.iter().flat_map(|tls| &tls.certificate_refs);
    let (mut keys, mut fault) = (Vec::new(), None);
    for secret in refs {
        match permitted(secret, world, namespace) {
            Ok(key) => keys.push(key),
            Err(why) => fault = fault.or(Some(why)),
        }
    }
    if keys.is_empty() && fault.is_none() {
        fault = Some(("InvalidCertificateRef", "there is no certificateRef".to_owned()));
    }
    let found = find((scope, host, &keys), clients, (world, options));
    Found { fault: fault.or(found.fault), ..found }
}

/// The certificate that endpoints get to see of a Gateway: `spec.tls.backend`.
#[derive(Default)]
pub(super) struct Shown {
    /// `None` where there is none to be shown.
    pub(super) held: Option<Held>,
    /// Why the reference does not lead to a certificate, as `ResolvedRefs` of the Gateway calls it.
    pub(super) fault: Option<(&'static str, String)>,
    /// What is wrong with a certificate that is shown all the same.
    pub(super) doubt: Option<String>,
}

/// What a Gateway shows to endpoints, where it wants that.
pub(super) fn of_gateway(
    one: &SecretRef,
    (world, options): (&World<'_>, &BuildOptions),
    namespace: &str,
) -> Shown {
    const INVALID: &str = "InvalidClientCertificateRef";
    let key = match permitted(one, world, namespace) {
        Ok(key) => key,
        Err((reason, text)) => {
            let reason = if reason == "RefNotPermitted" { reason } else { INVALID };
            return Shown { fault: Some((reason, text)), ..Shown::default() };
        }
    };
    // Of its names nobody takes offence: who is asked for is the endpoint.
    let held = options.keyring.take(&key, world.secret(&key), &HostPattern::Any, SystemTime::now());
    let (mut fault, mut doubt) = (None, None);
    if let Some(flaw) = &held.flaw {
        match (&held.credentials, held.is_old) {
            (Some(_), false) => doubt = Some(flaw.to_string()),
            (Some(_), true) => fault = Some((INVALID, format!("{flaw}: the one from before stays in use"))),
            (None, _) => fault = Some((INVALID, format!("{flaw}: endpoints get to see none"))),
        }
    }
    Shown { held: Some(held), fault, doubt }
}

/// Where a reference leads, if it may.
fn permitted(secret: &SecretRef, world: &World<'_>, own: &str) -> Result<Key, (&'static str, String)> {
    let namespace = secret.namespace.as_deref().unwrap_or(own);
    if !(secret.group.is_empty() && secret.kind == "Secret") {
        let text = format!("{} is no kind of certificate", quoted(&secret.kind));
        return Err(("InvalidCertificateRef", text));
    }
    let from = Referrer { group: gateway::GROUP, kind: "Gateway", namespace: own };
    if !world.permits(from, ("", "Secret", namespace, &secret.name)) {
        let text = format!("no ReferenceGrant lets it refer to Secret {namespace}/{}", secret.name);
        return Err(("RefNotPermitted", text));
    }
    Ok(Key::new(namespace, &secret.name))
}

fn find(
    (scope, host, keys): (&str, &HostPattern, &[Key]),
    clients: Option<Arc<Clients>>,
    (world, options): (&World<'_>, &BuildOptions),
) -> Found {
    let now = SystemTime::now();
    let take = |key: &Key| options.keyring.take(key, world.secret(key), host, now);
    let held: Vec<Held> = keys.iter().map(take).collect();
    let mut found = Found::default();
    for one in &held {
        let Some(flaw) = &one.flaw else { continue };
        let text = match (&one.credentials, one.is_old) {
            (Some(_), false) => {
                found.doubts.push(flaw.to_string());
                continue;
            }
            (Some(_), true) => format!("{flaw}: the certificate from before stays in use"),
            (None, _) => flaw.to_string(),
        };
        found.fault.get_or_insert(("InvalidCertificateRef", text));
    }
    match Terms::new(scope.into(), (held, clients), &options.keyring) {
        Ok(terms) => found.terms = terms.map(Arc::new),
        Err(error) => found.fault = Some(("Invalid", format!("TLS cannot be spoken: {error}"))),
    }
    found
}

/// The hosts of an Ingress that it wants TLS for, each with its certificate; what is attached to them is
/// served there too. Without a host, an entry is for clients that ask for none of the others.
pub(super) fn ingress(
    source: &Sourced<Ingress>,
    (world, options): (&World<'_>, &BuildOptions),
    attachments: &[Attachment],
    places: &mut Places,
    findings: &mut Vec<Finding>,
) {
    let entries = source.object.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    let place = Place { at: Where::Nodes, port: options.ingress_https_port };
    for (index, entry) in entries.enumerate() {
        let line = source.lines.field(&format!("tls[{index}]"));
        let line = if line == 0 { source.lines.field("tls") } else { line };
        let mut say = |severity, text: String| {
            findings.push(source.finding(severity, line, format!("tls[{index}]: {text}"), ""));
        };
        if options.ingress_https_port == options.ingress_http_port {
            say(Severity::Error, "the port for it is the one for plain HTTP".to_owned());
            continue;
        }
        let Some(secret) = entry.secret_name.as_deref().filter(|name| !name.is_empty()) else {
            say(
                Severity::Error,
                "it names no Secret, and its hosts are served by plain HTTP alone".to_owned(),
            );
            continue;
        };
        let key = Key::new(&source.namespace, secret);
        let mut hosts: Vec<_> =
            entry.hosts.iter().flatten().map(|host| HostPattern::of_ingress(host)).collect();
        if hosts.is_empty() {
            hosts.push(HostPattern::Any);
        }
        let listener = places.listener((place, Scheme::Https), INGRESS, (&HostPattern::Any, "https"));
        for attachment in attachments {
            if hosts.iter().any(|host| host.intersection(&attachment.host).is_some()) {
                attachment.add_to(listener, &attachment.host);
            }
        }
        for host in &hosts {
            let found =
                find((&format!("Ingress {key}"), host, std::slice::from_ref(&key)), None, (world, options));
            found.fault.into_iter().for_each(|(_, text)| say(Severity::Error, text));
            found.doubts.into_iter().for_each(|text| say(Severity::Warning, text));
            places.offer(place, host, found.terms.as_ref());
        }
    }
}
