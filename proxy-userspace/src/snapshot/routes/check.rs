//! What the APIs' schemas forbid: an API server refuses such an object, files come past none.

mod policy;
mod route;
mod text;

use super::Fault;
use crate::source::{
    finding::quoted,
    gateway::{ClientTls, GatewayClassSpec, GatewaySpec, GatewayTls, Listener, ReferenceGrantSpec},
};
use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend, IngressSpec};
use std::collections::HashSet;
use text::{kind, label, subdomain, wildcard_name};

pub(super) use policy::backend_tls_policy;
pub(super) use route::http_route;
pub(super) use text::duration;

/// Collects faults; every check names the field.
#[derive(Default)]
struct Check(Vec<Fault>);

impl Check {
    fn fault(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Fault { path: path.into(), text: text.into() });
    }

    fn that(&mut self, holds: bool, path: &str, text: impl FnOnce() -> String) {
        if !holds {
            self.fault(path, text());
        }
    }

    fn one_of(&mut self, value: &str, known: &[&str], path: &str) {
        self.that(known.contains(&value), path, || {
            format!("{} is none of {}", quoted(value), known.join(", "))
        });
    }

    fn at_most<T>(&mut self, items: &[T], most: usize, path: &str) {
        self.that(items.len() <= most, path, || format!("{} items are more than {most}", items.len()));
    }

    fn text(&mut self, value: &str, fits: fn(&str) -> bool, what: &str, path: &str) {
        self.that(fits(value), path, || format!("{} is not {what}", quoted(value)));
    }

    fn port(&mut self, port: Option<i32>, path: &str) {
        let fits = port.is_none_or(|port| (1..=65535).contains(&port));
        self.that(fits, path, || format!("{} is not a port number", port.unwrap_or_default()));
    }

    fn in_range(&mut self, number: i32, range: std::ops::RangeInclusive<i32>, path: &str) {
        let fits = range.contains(&number);
        self.that(fits, path, || format!("{number} is not within {} to {}", range.start(), range.end()));
    }

    fn reference(&mut self, (group, of_kind, name, namespace): (&str, &str, &str, Option<&str>), path: &str) {
        self.text(group, |text| text.is_empty() || subdomain(text), "an API group", &format!("{path}.group"));
        self.text(of_kind, kind, "a kind", &format!("{path}.kind"));
        self.that((1..=253).contains(&name.len()), &format!("{path}.name"), || {
            "has no usable name".to_owned()
        });
        if let Some(namespace) = namespace {
            self.text(namespace, label, "a namespace", &format!("{path}.namespace"));
        }
    }
}

/// Faults of a Gateway.
pub(super) fn gateway(spec: &GatewaySpec) -> Vec<Fault> {
    let mut check = Check::default();
    let class = &spec.gateway_class_name;
    check.that((1..=253).contains(&class.len()), "gatewayClassName", || "is not a name".to_owned());
    check.at_most(&spec.listeners, 64, "listeners");
    check.that(!spec.listeners.is_empty(), "listeners", || "there is no listener".to_owned());
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for (index, one) in spec.listeners.iter().enumerate() {
        let path = format!("listeners[{index}]");
        listener(&mut check, one, &path);
        check.that(names.insert(&one.name), &path, || format!("{} is there twice", quoted(&one.name)));
        check.that(places.insert((one.port, &one.protocol, &one.hostname)), &path, || {
            "port, protocol and hostname are those of another listener".to_owned()
        });
    }
    check.at_most(&spec.addresses, 16, "addresses");
    let mut seen = HashSet::new();
    for (index, address) in spec.addresses.iter().enumerate() {
        let path = format!("addresses[{index}]");
        let value = address.value.as_deref().unwrap_or_default();
        check.text(&address.kind, text::address_type, "a type of address", &format!("{path}.type"));
        check.that(value.len() <= 253, &format!("{path}.value"), || "is longer than 253".to_owned());
        check.that(value.is_empty() || seen.insert((&address.kind, value)), &path, || {
            "is there twice".to_owned()
        });
        if address.kind == "Hostname" && !value.is_empty() {
            check.text(value, wildcard_name, "a host", &format!("{path}.value"));
        }
    }
    // Which is not served, and must be well-formed all the same.
    let allowed = spec.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    if let Some(from) = allowed.and_then(|namespaces| namespaces.from.as_deref()) {
        check.one_of(from, &["All", "Selector", "Same", "None"], "allowedListeners.namespaces.from");
    }
    if let Some(one) = spec.infrastructure.as_ref().and_then(|all| all.parameters_ref.as_ref()) {
        check.reference((&one.group, &one.kind, &one.name, None), "infrastructure.parametersRef");
    }
    if let Some(tls) = &spec.tls {
        gateway_tls(&mut check, tls);
    }
    check.0
}

fn gateway_tls(check: &mut Check, tls: &GatewayTls) {
    if let Some(one) = tls.backend.as_ref().and_then(|backend| backend.client_certificate_ref.as_ref()) {
        let path = "tls.backend.clientCertificateRef";
        check.reference((&one.group, &one.kind, &one.name, one.namespace.as_deref()), path);
    }
    let Some(frontend) = &tls.frontend else { return };
    client_tls(check, &frontend.default, "tls.frontend.default");
    check.at_most(&frontend.per_port, 64, "tls.frontend.perPort");
    let mut ports = HashSet::new();
    for (index, one) in frontend.per_port.iter().enumerate() {
        let path = format!("tls.frontend.perPort[{index}]");
        check.port(Some(one.port), &format!("{path}.port"));
        check.that(ports.insert(one.port), &path, || format!("port {} is there twice", one.port));
        client_tls(check, &one.tls, &format!("{path}.tls"));
    }
}

fn client_tls(check: &mut Check, tls: &ClientTls, path: &str) {
    let Some(validation) = &tls.validation else { return };
    let path = format!("{path}.validation");
    let mode = validation.mode.as_deref().unwrap_or("AllowValidOnly");
    check.one_of(mode, &["AllowValidOnly", "AllowInsecureFallback"], &format!("{path}.mode"));
    let count = validation.ca_certificate_refs.len();
    check.that((1..=16).contains(&count), &format!("{path}.caCertificateRefs"), || {
        format!("has {count} items, not 1 to 16")
    });
    for (index, one) in validation.ca_certificate_refs.iter().enumerate() {
        let path = format!("{path}.caCertificateRefs[{index}]");
        check.reference((&one.group, &one.kind, &one.name, one.namespace.as_deref()), &path);
    }
}

fn listener(check: &mut Check, one: &Listener, path: &str) {
    check.text(&one.name, subdomain, "a listener's name", &format!("{path}.name"));
    check.port(Some(one.port), &format!("{path}.port"));
    check.text(&one.protocol, text::protocol, "a protocol", &format!("{path}.protocol"));
    let hostname = one.hostname.as_deref().filter(|host| !host.is_empty());
    if let Some(host) = &one.hostname {
        check.text(host, wildcard_name, "a host or *. and a host", &format!("{path}.hostname"));
    }
    let protocol = one.protocol.as_str();
    let plain = matches!(protocol, "HTTP" | "TCP" | "UDP");
    check.that(!plain || one.tls.is_none(), path, || format!("tls is not for protocol {protocol}"));
    check.that(!matches!(protocol, "TCP" | "UDP") || hostname.is_none(), path, || {
        format!("hostname is not for protocol {protocol}")
    });
    check.that(protocol != "TLS" || one.tls.is_some(), path, || "protocol TLS needs tls".to_owned());
    if let Some(tls) = &one.tls {
        check.one_of(&tls.mode, &["Terminate", "Passthrough"], &format!("{path}.tls.mode"));
        check.that(protocol != "HTTPS" || tls.mode == "Terminate", path, || "HTTPS ends here".to_owned());
        let certain = !tls.certificate_refs.is_empty() || !tls.options.is_empty() || tls.mode != "Terminate";
        check.that(certain, &format!("{path}.tls"), || "Terminate needs certificateRefs".to_owned());
        check.at_most(&tls.certificate_refs, 64, &format!("{path}.tls.certificateRefs"));
        for (index, one) in tls.certificate_refs.iter().enumerate() {
            let path = format!("{path}.tls.certificateRefs[{index}]");
            check.reference((&one.group, &one.kind, &one.name, one.namespace.as_deref()), &path);
        }
    }
    let from = one.allowed_routes.namespaces.from.as_str();
    check.one_of(from, &["All", "Selector", "Same"], &format!("{path}.allowedRoutes.namespaces.from"));
    check.at_most(&one.allowed_routes.kinds, 8, &format!("{path}.allowedRoutes.kinds"));
    for (index, one) in one.allowed_routes.kinds.iter().enumerate() {
        let path = format!("{path}.allowedRoutes.kinds[{index}]");
        check.reference((&one.group, &one.kind, "x", None), &path);
    }
}

/// Faults of a GatewayClass.
pub(super) fn gateway_class(spec: &GatewayClassSpec) -> Vec<Fault> {
    let mut check = Check::default();
    check.text(&spec.controller_name, text::controller, "a controller's name", "controllerName");
    let long = spec.description.as_ref().is_some_and(|text| text.chars().count() > 64);
    check.that(!long, "description", || "is longer than 64 characters".to_owned());
    if let Some(one) = &spec.parameters_ref {
        check.reference((&one.group, &one.kind, &one.name, one.namespace.as_deref()), "parametersRef");
    }
    check.0
}

/// Faults of a ReferenceGrant.
pub(super) fn reference_grant(spec: &ReferenceGrantSpec) -> Vec<Fault> {
    let mut check = Check::default();
    check.that((1..=16).contains(&spec.from.len()), "from", || "has not 1 to 16 items".to_owned());
    check.that((1..=16).contains(&spec.to.len()), "to", || "has not 1 to 16 items".to_owned());
    for (index, one) in spec.from.iter().enumerate() {
        check.reference((&one.group, &one.kind, "x", Some(&one.namespace)), &format!("from[{index}]"));
    }
    for (index, one) in spec.to.iter().enumerate() {
        let name = one.name.as_deref().unwrap_or("x");
        check.reference((&one.group, &one.kind, name, None), &format!("to[{index}]"));
    }
    check.0
}

/// Faults of an Ingress, as the API server would find them.
pub(super) fn ingress(spec: &IngressSpec) -> Vec<Fault> {
    let mut check = Check::default();
    let rules = spec.rules.as_deref().unwrap_or_default();
    check.that(!rules.is_empty() || spec.default_backend.is_some(), "rules", || {
        "neither rules nor a defaultBackend".to_owned()
    });
    if let Some(backend) = &spec.default_backend {
        ingress_backend(&mut check, backend, "defaultBackend");
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("rules[{index}]");
        if let Some(host) = rule.host.as_deref().filter(|host| !host.is_empty()) {
            check.text(host, wildcard_name, "a host or *. and a host", &format!("{path}.host"));
            check.that(host.parse::<std::net::IpAddr>().is_err(), &format!("{path}.host"), || {
                format!("{} is an address", quoted(host))
            });
        }
        for (index, one) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
            ingress_path(&mut check, one, &format!("{path}.http.paths[{index}]"));
        }
    }
    check.0
}

fn ingress_path(check: &mut Check, one: &HTTPIngressPath, path: &str) {
    let value = one.path.as_deref().unwrap_or_default();
    let at = format!("{path}.path");
    check.one_of(&one.path_type, &["Exact", "Prefix", "ImplementationSpecific"], &format!("{path}.pathType"));
    let absolute = value.starts_with('/') || (value.is_empty() && one.path_type == "ImplementationSpecific");
    check.that(absolute, &at, || format!("{} does not begin with a slash", quoted(value)));
    if one.path_type != "ImplementationSpecific"
        && let Some(why) = text::odd_sequence(value)
    {
        check.fault(at, format!("{} {why}", quoted(value)));
    }
    ingress_backend(check, &one.backend, &format!("{path}.backend"));
}

fn ingress_backend(check: &mut Check, backend: &IngressBackend, path: &str) {
    check.that(backend.service.is_some() != backend.resource.is_some(), path, || {
        "needs a service or a resource, and not both".to_owned()
    });
    let Some(service) = &backend.service else { return };
    check.text(&service.name, label, "a Service's name", &format!("{path}.service.name"));
    let name = service.port.as_ref().and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty());
    let number = service.port.as_ref().and_then(|port| port.number).filter(|number| *number != 0);
    check.that(name.is_some() != number.is_some(), &format!("{path}.service"), || {
        "needs the port's name or its number, and not both".to_owned()
    });
    check.port(number, &format!("{path}.service.port.number"));
}
