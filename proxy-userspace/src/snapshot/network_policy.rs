//! One NetworkPolicy, checked as an API server would. Anything wrong with it leaves it out whole.

use super::policy::{Fault, audits, report};
use crate::{
    policy::access::{
        AccessPolicy, AccessRule, Action, DirectionRules, Net, Peer, Ports, Selector, Span, Transport,
        Transports, Whose,
    },
    source::{
        Sourced,
        finding::{Finding, Severity, quoted},
        packed::Packed,
    },
};
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use std::sync::Arc;

/// Reads a policy; `None` where something is wrong with it.
pub(super) fn read(
    source: &Sourced<Packed<NetworkPolicy>>,
    findings: &mut Vec<Finding>,
) -> Option<AccessPolicy> {
    let source = &source.opened(findings)?;
    let mut reader = Reader { source, faults: Vec::new() };
    let policy = reader.policy(findings);
    let faults = reader.faults;
    report(source, &faults, findings);
    faults.is_empty().then_some(AccessPolicy { audit: audits(source, findings), ..policy })
}

struct Reader<'a> {
    source: &'a Sourced<NetworkPolicy>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, path: &str, text: impl Into<String>, fix: &'static str) {
        self.faults.push(Fault(path.to_owned(), text.into(), fix));
    }

    fn policy(&mut self, findings: &mut Vec<Finding>) -> AccessPolicy {
        let source = self.source;
        let spec = source.object.spec.clone().unwrap_or_default();
        let subject = self.selector("podSelector", &spec.pod_selector.unwrap_or_default());
        let (ingress, egress) = (spec.ingress.unwrap_or_default(), spec.egress.unwrap_or_default());
        let types = spec.policy_types.unwrap_or_default();
        for (index, one) in
            types.iter().enumerate().filter(|(_, one)| !["Ingress", "Egress"].contains(&one.as_str()))
        {
            self.fault(
                &format!("policyTypes[{index}]"),
                format!("{} is unknown", quoted(one)),
                "Ingress or Egress",
            );
        }
        let named = |name: &str| types.iter().any(|one| one == name);
        let (about_ingress, about_egress) = (
            types.is_empty() || named("Ingress"),
            named("Egress") || (types.is_empty() && !egress.is_empty()),
        );
        for (field, is_there, is_about) in
            [("ingress", !ingress.is_empty(), about_ingress), ("egress", !egress.is_empty(), about_egress)]
        {
            if is_there && !is_about {
                let text = format!("spec.{field} means nothing: it is not in policyTypes");
                findings.push(source.finding(
                    Severity::Warning,
                    source.lines.field(field),
                    text,
                    "name it there",
                ));
            }
        }
        let ingress = ingress.iter().enumerate().map(|(index, rule)| {
            self.rule(
                &format!("ingress[{index}]"),
                &format!("ingress{index}"),
                ("from", rule.from.as_deref()),
                rule.ports.as_deref(),
            )
        });
        let ingress: Vec<_> = ingress.collect();
        let egress = egress.iter().enumerate().map(|(index, rule)| {
            self.rule(
                &format!("egress[{index}]"),
                &format!("egress{index}"),
                ("to", rule.to.as_deref()),
                rule.ports.as_deref(),
            )
        });
        let egress: Vec<_> = egress.collect();
        let direction = |rules| DirectionRules { default_deny: true, rules, ..DirectionRules::default() };
        AccessPolicy {
            name: format!("{}/{}", source.namespace, source.name).into(),
            subject: subject.within(&source.namespace),
            ingress: about_ingress.then(|| direction(ingress)),
            egress: about_egress.then(|| direction(egress)),
            audit: false,
        }
    }

    fn selector(&mut self, path: &str, selector: &LabelSelector) -> Selector {
        Selector::of_pods(selector).unwrap_or_else(|text| {
            self.fault(path, text, "");
            Selector::default()
        })
    }

    fn rule(
        &mut self,
        path: &str,
        name: &str,
        (side, peers): (&str, Option<&[NetworkPolicyPeer]>),
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Arc<AccessRule> {
        let peers = match peers.unwrap_or_default() {
            [] => vec![Peer::Anyone],
            peers => {
                let peers = peers.iter().enumerate();
                peers
                    .filter_map(|(index, peer)| self.peer(&format!("{path}.{side}[{index}]"), peer))
                    .collect()
            }
        };
        let ports = match ports.unwrap_or_default() {
            [] => vec![Ports { transports: Transports::ALL, span: Span::ALL }],
            ports => {
                let ports = ports.iter().enumerate();
                ports
                    .filter_map(|(index, port)| self.ports(&format!("{path}.ports[{index}]"), port))
                    .collect()
            }
        };
        let Sourced { namespace, name: policy, lines, .. } = self.source;
        let name = format!("{namespace}/{policy}#{name}").into();
        Arc::new(AccessRule { name, peers, ports, action: Action::Allow, line: lines.field(path) })
    }

    fn peer(&mut self, path: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        match (&peer.ip_block, &peer.pod_selector, &peer.namespace_selector) {
            (None, None, None) => {
                self.fault(path, "names nobody", "podSelector, namespaceSelector or ipBlock");
                None
            }
            (Some(block), None, None) => self.block(&format!("{path}.ipBlock"), block),
            (Some(_), ..) => {
                self.fault(path, "has ipBlock beside a selector", "make it two entries");
                None
            }
            (None, pods, namespaces) => {
                let pods = pods.as_ref().map(|pods| self.selector(&format!("{path}.podSelector"), pods));
                let pods = pods.unwrap_or_default();
                let Some(namespaces) = namespaces else {
                    return Some(Peer::Pods(pods.within(&self.source.namespace)));
                };
                match Selector::of_namespaces(namespaces) {
                    Ok(namespaces) => Some(Peer::Pods(pods.and(&namespaces))),
                    Err(text) => {
                        self.fault(&format!("{path}.namespaceSelector"), text, "");
                        None
                    }
                }
            }
        }
    }

    fn block(&mut self, path: &str, block: &IPBlock) -> Option<Peer> {
        let mut prefix = |field: String, text: &str| match Net::parse(text) {
            Ok(net) if text.contains('/') => Some(net),
            Ok(_) => {
                self.fault(
                    &field,
                    format!("{} has no prefix length", quoted(text)),
                    "10.0.0.0/8 is a prefix",
                );
                None
            }
            Err(why) => {
                self.fault(&field, why, "10.0.0.0/8 is a prefix");
                None
            }
        };
        let net = prefix(format!("{path}.cidr"), &block.cidr);
        let texts = block.except.iter().flatten().enumerate();
        let except: Vec<_> =
            texts.map(|(index, text)| prefix(format!("{path}.except[{index}]"), text)).collect();
        let net = net?;
        for (index, one) in except.iter().enumerate() {
            if one.is_some_and(|one| one == net || !net.covers(one)) {
                self.fault(
                    &format!("{path}.except[{index}]"),
                    format!("is no part of {net}"),
                    "name a part of cidr",
                );
            }
        }
        Some(Peer::Block { net, except: except.into_iter().flatten().collect(), whose: Whose::Anybodys })
    }

    fn ports(&mut self, path: &str, port: &NetworkPolicyPort) -> Option<Ports> {
        let transport = match port.protocol.as_deref() {
            None | Some("TCP") => Transport::Tcp,
            Some("UDP") => Transport::Udp,
            Some("SCTP") => Transport::Sctp,
            Some(other) => {
                let text = format!("{} is unknown", quoted(other));
                self.fault(&format!("{path}.protocol"), text, "TCP, UDP or SCTP");
                return None;
            }
        };
        let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
        let span = match (&port.port, port.end_port) {
            (None, None) => Span::ALL,
            (Some(IntOrString::Int(first)), last) => {
                let last = last.unwrap_or(*first);
                match number(*first).zip(number(last)).filter(|(first, last)| first <= last) {
                    Some((first, last)) => Span::Numbers(first, last),
                    None => {
                        self.fault(
                            path,
                            format!("{first} to {last} are no ports"),
                            "1 to 65535, the smaller one first",
                        );
                        return None;
                    }
                }
            }
            (Some(IntOrString::String(name)), None) if is_port_name(name) => {
                Span::Named(name.as_str().into())
            }
            (Some(IntOrString::String(name)), None) => {
                self.fault(&format!("{path}.port"), format!("{} is not a port's name", quoted(name)), "");
                return None;
            }
            (_, Some(_)) => {
                self.fault(&format!("{path}.endPort"), "needs a port that is a number", "");
                return None;
            }
        };
        Some(Ports { transports: Transports::only(transport), span })
    }
}

/// What Kubernetes allows a container to call a port, by either kind of policy.
pub(super) fn is_port_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=15).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
