//! One CiliumNetworkPolicy, checked. Anything wrong with it leaves it out whole: half a policy would
//! allow what its author did not write.

use super::selector::Selector;
use crate::{
    policy::{Allows, Register, Rule},
    source::{
        Sourced,
        cilium::{CiliumNetworkPolicy, HttpRule, PortProtocol, PortRule},
        finding::{Finding, Severity, quoted},
    },
};
use std::sync::Arc;

/// The useful part of one policy.
pub(super) struct PodPolicy<'a> {
    pub(super) source: &'a Sourced<CiliumNetworkPolicy>,
    pub(super) selector: Selector,
    entries: Vec<PortEntry>,
}

/// One item of `toPorts`.
struct PortEntry {
    ports: Vec<u16>,
    rules: Vec<Arc<Rule>>,
    line: u32,
}

impl PodPolicy<'_> {
    /// Whether it has a word on this port: then what it does not allow there is denied.
    pub(super) fn names(&self, port: u16) -> bool {
        self.entries.iter().any(|entry| entry.ports.contains(&port))
    }

    /// Every port that it names.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        let mut ports: Vec<_> = self.entries.iter().flat_map(|entry| &entry.ports).copied().collect();
        ports.sort_unstable();
        ports.dedup();
        ports.into_iter()
    }

    /// What it allows on a port, in order.
    pub(super) fn rules(&self, port: u16) -> impl Iterator<Item = &Arc<Rule>> {
        self.entries.iter().filter(move |entry| entry.ports.contains(&port)).flat_map(|entry| &entry.rules)
    }

    /// The line that allows everything on a port, if one does.
    pub(super) fn opens(&self, port: u16) -> Option<u32> {
        let opens = |entry: &&PortEntry| {
            entry.ports.contains(&port) && entry.rules.iter().any(|rule| rule.allows == Allows::Port)
        };
        self.entries.iter().find(opens).map(|entry| entry.line)
    }
}

/// What is wrong with one field: its way from `spec`, what, and what to do.
struct Fault(String, String, &'static str);

/// Reads a policy; `None` where something is wrong with it.
pub(super) fn read<'a>(
    source: &'a Sourced<CiliumNetworkPolicy>,
    register: &Register,
    findings: &mut Vec<Finding>,
) -> Option<PodPolicy<'a>> {
    let mut faults = Vec::new();
    let policy = check(source, register, &mut faults);
    for Fault(path, text, fix) in &faults {
        let at = if path.is_empty() { String::new() } else { format!("spec.{path}: ") };
        let text = format!("{at}{text}: the policy is left out");
        findings.push(source.finding(Severity::Error, nearest_line(source, path), text, *fix));
    }
    policy.filter(|_| faults.is_empty())
}

/// The line of a field, or of what it would stand in.
fn nearest_line(source: &Sourced<CiliumNetworkPolicy>, path: &str) -> u32 {
    let mut path = path;
    loop {
        let line = source.lines.field(path);
        if line != source.lines.object {
            return line;
        }
        match path.rfind(['.', '[']) {
            Some(end) => path = path.get(..end).unwrap_or_default(),
            None => return line,
        }
    }
}

fn check<'a>(
    source: &'a Sourced<CiliumNetworkPolicy>,
    register: &Register,
    faults: &mut Vec<Fault>,
) -> Option<PodPolicy<'a>> {
    let mut fault = |path: &str, text: String, fix| faults.push(Fault(path.to_owned(), text, fix));
    let Some(spec) = &source.object.spec else {
        fault("", "spec is missing".to_owned(), "");
        return None;
    };
    let selector = match spec.endpoint_selector.as_ref().map(Selector::new) {
        Some(Ok(selector)) => selector,
        Some(Err(text)) => {
            fault("endpointSelector", text, "");
            return None;
        }
        None => {
            let fix = "write {} for all pods of the namespace";
            fault("endpointSelector", "is missing".to_owned(), fix);
            return None;
        }
    };
    for (field, is_there) in not_enforced(source) {
        if is_there {
            fault(field, "is not enforced yet".to_owned(), "remove the field, or the policy");
        }
    }
    let ingress = spec.ingress.as_deref().unwrap_or_default();
    if ingress.is_empty() {
        let fix = "write what is allowed: HTTP rules below toPorts";
        fault("ingress", "is missing or empty".to_owned(), fix);
    }
    let mut entries = Vec::new();
    for (i, ingress) in ingress.iter().enumerate() {
        let to_ports = ingress.to_ports.as_deref().unwrap_or_default();
        let path = format!("ingress[{i}].toPorts");
        if to_ports.is_empty() {
            let text = "is missing or empty: whole pods are neither opened nor closed yet".to_owned();
            fault(&path, text, "name the ports");
        }
        for (p, entry) in to_ports.iter().enumerate() {
            let name = format!("{}/{}#ingress{i}.ports{p}", source.namespace, source.name);
            entries.push(port_entry((source, register), entry, &format!("{path}[{p}]"), &name, &mut fault));
        }
    }
    Some(PodPolicy { source, selector, entries })
}

/// What the type has and nothing here reads.
fn not_enforced(source: &Sourced<CiliumNetworkPolicy>) -> Vec<(&'static str, bool)> {
    let Some(spec) = &source.object.spec else { return Vec::new() };
    let ingress = || spec.ingress.iter().flatten();
    let entries = || ingress().flat_map(|one| one.to_ports.iter().flatten());
    let rules =
        || entries().filter_map(|one| one.rules.as_ref()).flat_map(|rules| rules.http.iter().flatten());
    let peers = |one: &crate::source::cilium::Ingress| {
        one.from_endpoints.is_some()
            || one.from_requires.is_some()
            || one.from_cidr.is_some()
            || one.from_cidr_set.is_some()
            || one.from_entities.is_some()
            || one.authentication.is_some()
    };
    vec![
        ("specs", source.object.specs.is_some()),
        ("nodeSelector", spec.node_selector.is_some()),
        ("ingressDeny", spec.ingress_deny.is_some()),
        ("egress", spec.egress.is_some()),
        ("egressDeny", spec.egress_deny.is_some()),
        ("enableDefaultDeny", spec.enable_default_deny.is_some()),
        ("ingress", ingress().any(peers)),
        ("ingress", entries().any(|one| one.ports.iter().any(|port| port.end_port.is_some()))),
        ("ingress", rules().any(|one| one.headers.is_some() || one.header_matches.is_some())),
    ]
}

fn port_entry(
    (source, register): (&Sourced<CiliumNetworkPolicy>, &Register),
    entry: &PortRule,
    path: &str,
    name: &str,
    fault: &mut impl FnMut(&str, String, &'static str),
) -> PortEntry {
    let mut ports = Vec::new();
    for (index, one) in entry.ports.iter().enumerate() {
        match port(one) {
            Ok(number) => ports.push(number),
            Err((field, text, fix)) => fault(&format!("{path}.ports[{index}].{field}"), text, fix),
        }
    }
    if entry.ports.is_empty() {
        fault(&format!("{path}.ports"), "is missing or empty".to_owned(), "name the ports");
    }
    let rules = match &entry.rules {
        None => vec![Arc::new(Rule::new(name.into(), Allows::Port, register))],
        Some(rules) => {
            let http = rules.http.as_deref().unwrap_or_default();
            if http.is_empty() {
                let fix = "write `- {}` to allow every request, or leave out rules to allow every byte";
                fault(&format!("{path}.rules.http"), "is missing or empty".to_owned(), fix);
            }
            let rule = |(h, rule): (usize, &HttpRule)| {
                let allows = http_rule(rule, register, &format!("{path}.rules.http[{h}]"), fault)?;
                Some(Arc::new(Rule::new(format!("{name}.http{h}").into(), allows, register)))
            };
            http.iter().enumerate().filter_map(rule).collect()
        }
    };
    PortEntry { ports, rules, line: nearest_line(source, path) }
}

type PortFault = (&'static str, String, &'static str);

fn port(one: &PortProtocol) -> Result<u16, PortFault> {
    match one.protocol.as_deref().unwrap_or("ANY") {
        "TCP" | "ANY" => {}
        other => {
            let text = format!("{} carries no HTTP that Weir decides about", quoted(other));
            return Err(("protocol", text, "TCP or ANY"));
        }
    }
    one.port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        ("port", format!("{} is not a port number", quoted(&one.port)), "1 to 65535, by number")
    })
}

fn http_rule(
    rule: &HttpRule,
    register: &Register,
    path: &str,
    fault: &mut impl FnMut(&str, String, &'static str),
) -> Option<Allows> {
    let mut pattern = |field: &str, text: &Option<String>| match text.as_deref() {
        None | Some("") => Some(None),
        Some(text) => match register.pattern(text) {
            Ok(pattern) => Some(Some(pattern)),
            Err(why) => {
                let text = format!("{} is not usable: {why}", quoted(text));
                fault(&format!("{path}.{field}"), text, "a POSIX extended regular expression");
                None
            }
        },
    };
    let method = pattern("method", &rule.method);
    let target = pattern("path", &rule.path);
    let host = pattern("host", &rule.host);
    Some(Allows::Http { method: method?, path: target?, host: host? })
}
