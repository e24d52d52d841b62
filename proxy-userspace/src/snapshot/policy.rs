//! One of Cilium's policies, checked. Anything wrong with it leaves it out whole: half a policy would allow
//! what its author did not write.

mod http;
mod peers;
mod ports;

use crate::{
    policy::{
        Register,
        access::{AccessPolicy, AccessRule, Action, DirectionRules, Peer, Selector},
    },
    source::{
        Sourced,
        cilium::{Authentication, CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, PortRule, Spec},
        finding::{Finding, Severity, quoted},
    },
};
use k8s_openapi::{Metadata, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use peers::Named;
use std::sync::Arc;

/// Annotation of a policy of any kind: `enforce` or `audit`.
const MODE: &str = "weir.dev/policy-mode";

/// What is wrong with one field: its way from `spec`, what, and what to do.
pub(super) struct Fault(pub(super) String, pub(super) String, pub(super) &'static str);

/// A kind that has Cilium's `spec`.
pub(super) trait CiliumPolicy: Resource + Metadata<Ty = ObjectMeta> {
    /// Its pods and peers are those of its namespace.
    const NAMESPACED: bool;

    /// `spec` and `specs`.
    fn specs(&self) -> (Option<&Spec>, &[Spec]);
}

impl CiliumPolicy for CiliumNetworkPolicy {
    const NAMESPACED: bool = true;

    fn specs(&self) -> (Option<&Spec>, &[Spec]) {
        (self.spec.as_ref(), self.specs.as_deref().unwrap_or_default())
    }
}

impl CiliumPolicy for CiliumClusterwideNetworkPolicy {
    const NAMESPACED: bool = false;

    fn specs(&self) -> (Option<&Spec>, &[Spec]) {
        (self.spec.as_ref(), self.specs.as_deref().unwrap_or_default())
    }
}

/// Reads a policy: its parts; `None` where something is wrong with any.
pub(super) fn read<T: CiliumPolicy>(
    source: &Sourced<T>,
    register: &Register,
    findings: &mut Vec<Finding>,
) -> Option<Vec<AccessPolicy>> {
    let (one, more) = source.object.specs();
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    if one.is_none() && more.is_empty() {
        faults.push(Fault(String::new(), "spec is missing".to_owned(), ""));
    }
    let name =
        if T::NAMESPACED { format!("{}/{}", source.namespace, source.name) } else { source.name.clone() };
    let parts = one.map(|spec| (spec, String::new(), String::new())).into_iter();
    let parts = parts.chain(
        more.iter()
            .enumerate()
            .map(|(index, spec)| (spec, format!("specs[{index}]."), format!("spec{index}."))),
    );
    let mut policies = Vec::new();
    for (spec, path, step) in parts {
        let mut reader = Reader {
            namespace: T::NAMESPACED.then_some(source.namespace.as_str()),
            path,
            prefix: format!("{name}#{step}"),
            register,
            line: &|path| nearest_line(source, path),
            faults: &mut faults,
            warnings: &mut warnings,
        };
        policies.extend(reader.part(spec, &name));
    }
    report(source, &faults, findings);
    for Fault(path, text, fix) in warnings {
        let (line, text) = (nearest_line(source, &path), format!("spec.{path}: {text}"));
        findings.push(source.finding(Severity::Warning, line, text, fix));
    }
    if !faults.is_empty() {
        return None;
    }
    let audit = audits(source, findings);
    policies.iter_mut().for_each(|policy| policy.audit = audit);
    Some(policies)
}

/// Tells what leaves a policy out.
pub(super) fn report<T: Resource + Metadata<Ty = ObjectMeta>>(
    source: &Sourced<T>,
    faults: &[Fault],
    findings: &mut Vec<Finding>,
) {
    for Fault(path, text, fix) in faults {
        let at = match path.as_str() {
            "" => String::new(),
            path if path.starts_with("specs[") => format!("{path}: "),
            path => format!("spec.{path}: "),
        };
        let text = format!("{at}{text}: the policy is left out");
        findings.push(source.finding(Severity::Error, nearest_line(source, path), text, *fix));
    }
}

/// Whether a policy only tells what it would deny. It denies where its mode cannot be read.
pub(super) fn audits<T: Resource + Metadata<Ty = ObjectMeta>>(
    source: &Sourced<T>,
    findings: &mut Vec<Finding>,
) -> bool {
    let annotations = source.object.metadata().annotations.as_ref();
    match annotations.and_then(|annotations| annotations.get(MODE)).map(String::as_str) {
        None | Some("enforce") => false,
        Some("audit") => true,
        Some(other) => {
            let text = format!("annotation {MODE}: {} is unknown: the policy is enforced", quoted(other));
            findings.push(source.finding(
                Severity::Error,
                source.lines.field(MODE),
                text,
                "enforce or audit",
            ));
            false
        }
    }
}

/// The line of a field, or of what it would stand in.
fn nearest_line<T>(source: &Sourced<T>, path: &str) -> u32 {
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

/// Reads one `spec`.
struct Reader<'a> {
    /// `None`: it is of all namespaces.
    namespace: Option<&'a str>,
    /// The way to it, with a dot where there is any.
    path: String,
    /// What its rules' names begin with.
    prefix: String,
    register: &'a Register,
    line: &'a dyn Fn(&str) -> u32,
    faults: &'a mut Vec<Fault>,
    warnings: &'a mut Vec<Fault>,
}

/// One entry of one of the four lists, as far as they are alike.
struct Entry<'a> {
    /// `ingress`, `egressDeny`, ...
    list: &'static str,
    index: usize,
    deny: bool,
    peers: Named,
    to_ports: &'a [PortRule],
}

impl Reader<'_> {
    fn fault(&mut self, path: &str, text: impl Into<String>, fix: &'static str) {
        self.faults.push(Fault(format!("{}{path}", self.path), text.into(), fix));
    }

    fn warn(&mut self, path: &str, text: impl Into<String>, fix: &'static str) {
        self.warnings.push(Fault(format!("{}{path}", self.path), text.into(), fix));
    }

    fn part(&mut self, spec: &Spec, name: &str) -> Option<AccessPolicy> {
        let lists = [
            spec.ingress.as_ref().map(Vec::len),
            spec.ingress_deny.as_ref().map(Vec::len),
            spec.egress.as_ref().map(Vec::len),
            spec.egress_deny.as_ref().map(Vec::len),
        ];
        if lists.iter().all(Option::is_none) {
            self.fault(
                "",
                "has none of ingress, ingressDeny, egress and egressDeny",
                "write what is allowed",
            );
        } else if lists.iter().flatten().all(|len| *len == 0) && spec.enable_default_deny.is_none() {
            self.warn(
                "ingress",
                "every list is empty: nothing is restricted",
                "`- {}` denies all of a direction",
            );
        }
        let (ingress, egress) = (self.ingress(spec), self.egress(spec));
        let subject = self.subject(spec)?;
        Some(AccessPolicy { name: name.into(), subject, ingress, egress, audit: false })
    }

    /// Which pods; `None` where it is about none, or is not readable.
    fn subject(&mut self, spec: &Spec) -> Option<Selector> {
        match (&spec.endpoint_selector, &spec.node_selector) {
            (Some(selector), None) => match Selector::cilium(selector) {
                Ok(selector) => Some(match self.namespace {
                    Some(namespace) => selector.within(namespace),
                    None => selector,
                }),
                Err(text) => {
                    self.fault("endpointSelector", text, "");
                    None
                }
            },
            (None, Some(_)) if self.namespace.is_none() => {
                let text = "is not enforced: Weir restricts pods, never nodes";
                self.warn("nodeSelector", text, "the rest of the policy is checked and has no effect");
                None
            }
            (None, Some(_)) => {
                let fix = "only a CiliumClusterwideNetworkPolicy may select nodes";
                self.fault("nodeSelector", "is not for a policy of a namespace", fix);
                None
            }
            (Some(_), Some(_)) => {
                self.fault("nodeSelector", "stands beside endpointSelector", "make it two policies");
                None
            }
            (None, None) => {
                self.fault("endpointSelector", "is missing", "write {} for all pods of the namespace");
                None
            }
        }
    }

    fn ingress(&mut self, spec: &Spec) -> Option<DirectionRules> {
        let mut rules = DirectionRules::default();
        for (list, deny, entries) in
            [("ingress", false, spec.ingress.as_deref()), ("ingressDeny", true, spec.ingress_deny.as_deref())]
        {
            for (index, entry) in entries.unwrap_or_default().iter().enumerate() {
                let path = format!("{list}[{index}]");
                self.authentication(&path, entry.authentication.as_ref());
                let peers = self.sources(&path, entry);
                self.requires(&path, ("fromRequires", entry.from_requires.as_deref()), deny, &mut rules);
                let to_ports = entry.to_ports.as_deref().unwrap_or_default();
                rules.rules.extend(self.entry(&Entry { list, index, deny, peers, to_ports }));
            }
        }
        let wanted = spec.enable_default_deny.and_then(|one| one.ingress);
        direction(rules, [spec.ingress.is_some(), spec.ingress_deny.is_some()], wanted, || {
            spec.ingress.iter().chain(&spec.ingress_deny).any(|list| !list.is_empty())
        })
    }

    fn egress(&mut self, spec: &Spec) -> Option<DirectionRules> {
        let mut rules = DirectionRules::default();
        for (list, deny, entries) in
            [("egress", false, spec.egress.as_deref()), ("egressDeny", true, spec.egress_deny.as_deref())]
        {
            for (index, entry) in entries.unwrap_or_default().iter().enumerate() {
                let path = format!("{list}[{index}]");
                self.authentication(&path, entry.authentication.as_ref());
                let peers = self.destinations(&path, entry);
                self.requires(&path, ("toRequires", entry.to_requires.as_deref()), deny, &mut rules);
                let to_ports = entry.to_ports.as_deref().unwrap_or_default();
                rules.rules.extend(self.entry(&Entry { list, index, deny, peers, to_ports }));
            }
        }
        let wanted = spec.enable_default_deny.and_then(|one| one.egress);
        direction(rules, [spec.egress.is_some(), spec.egress_deny.is_some()], wanted, || {
            spec.egress.iter().chain(&spec.egress_deny).any(|list| !list.is_empty())
        })
    }

    fn authentication(&mut self, path: &str, authentication: Option<&Authentication>) {
        if authentication.is_some_and(|one| one.mode != "disabled") {
            let fix = "remove the field, or the policy";
            self.fault(&format!("{path}.authentication"), "is not enforced by Weir", fix);
        }
    }

    /// An entry's rules: one for each item of `toPorts`, or one for all ports.
    fn entry(&mut self, entry: &Entry<'_>) -> Vec<Arc<AccessRule>> {
        let Entry { list, index, deny, ref peers, to_ports } = *entry;
        let path = format!("{list}[{index}]");
        let peers = match peers {
            Named::Peers(peers) => peers.clone(),
            // `{}` grants nothing; ports alone are for everybody.
            Named::Unsaid if to_ports.is_empty() => Vec::new(),
            Named::Unsaid => vec![Peer::Anyone],
        };
        if to_ports.is_empty() {
            let action = if deny { Action::Deny } else { Action::Allow };
            let name = format!("{}{list}{index}", self.prefix).into();
            let (ports, line) = (vec![ports::all()], (self.line)(&format!("{}{path}", self.path)));
            return vec![Arc::new(AccessRule { name, peers, ports, action, line })];
        }
        let each = to_ports.iter().enumerate();
        each.map(|(at, to_ports)| {
            let path = format!("{path}.toPorts[{at}]");
            let name = format!("{}{list}{index}.ports{at}", self.prefix);
            let (ports, action) = self.port_rule(&path, &name, to_ports, deny);
            let line = (self.line)(&format!("{}{path}", self.path));
            Arc::new(AccessRule { name: name.into(), peers: peers.clone(), ports, action, line })
        })
        .collect()
    }
}

/// A direction that the policy has a word on. It denies what nobody allows as soon as it has a rule, unless it
/// says otherwise.
fn direction(
    mut rules: DirectionRules,
    said: [bool; 2],
    wanted: Option<bool>,
    has_rules: impl Fn() -> bool,
) -> Option<DirectionRules> {
    rules.default_deny = wanted.unwrap_or_else(has_rules);
    (said.contains(&true) || rules.default_deny).then_some(rules)
}
