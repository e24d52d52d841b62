//! Which policy holds at which endpoint: policies select pods, pods have the endpoints' addresses.

use super::{
    Endpoint,
    builder::distinct,
    policy::{self, PodPolicy},
};
use crate::{
    policy::{Allows, EndpointPolicy, Register},
    sharded::Sharded,
    source::{
        Objects, Sourced,
        finding::{Finding, Severity},
    },
};
use k8s_openapi::{Metadata, Resource, api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

/// Policies of one reading, and the pods that they select.
pub(super) struct Policies<'a> {
    register: &'a Register,
    policies: Vec<PodPolicy<'a>>,
    by_namespace: HashMap<&'a str, Vec<usize>>,
    by_name: HashMap<String, Selected>,
    by_ip: HashMap<IpAddr, String>,
    /// By the policies that select a pod and name the port, and the port.
    made: HashMap<(Vec<usize>, u16), Option<Arc<EndpointPolicy>>>,
    /// Policy and port where an endpoint was found.
    reached: BTreeSet<(usize, u16)>,
}

/// A pod, and the policies that select it, oldest first.
struct Selected {
    addresses: Vec<IpAddr>,
    policies: Vec<usize>,
}

impl<'a> Policies<'a> {
    /// Reads policies and pods.
    pub(super) fn read(objects: &'a Objects, register: &'a Register, findings: &mut Vec<Finding>) -> Self {
        for source in &objects.network_policies {
            findings.push(not_enforced(source));
        }
        for source in &objects.clusterwide_policies {
            findings.push(not_enforced(source));
        }
        let policies: Vec<_> = distinct(&objects.policies, findings)
            .into_iter()
            .filter_map(|source| policy::read(source, register, findings))
            .collect();
        let mut by_namespace: HashMap<_, Vec<_>> = HashMap::new();
        for (index, policy) in policies.iter().enumerate() {
            by_namespace.entry(policy.source.namespace.as_str()).or_default().push(index);
        }
        let mut this = Self {
            register,
            policies,
            by_namespace,
            by_name: HashMap::new(),
            by_ip: HashMap::new(),
            made: HashMap::new(),
            reached: BTreeSet::new(),
        };
        for source in distinct(&objects.pods, findings) {
            this.add_pod(source, findings);
        }
        this
    }

    fn add_pod(&mut self, source: &Sourced<Pod>, findings: &mut Vec<Finding>) {
        let pod = &source.object;
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        if on_host || matches!(phase, Some("Succeeded" | "Failed")) {
            return;
        }
        let labels = pod.metadata.labels.as_ref();
        let near = self.by_namespace.get(source.namespace.as_str()).map_or(&[][..], Vec::as_slice);
        let selects = |index: &&usize| {
            let policy = self.policies.get(**index);
            policy.is_some_and(|policy| policy.selector.selects(&source.namespace, labels))
        };
        let policies = near.iter().filter(selects).copied().collect();
        let name = format!("{}/{}", source.namespace, source.name);
        let addresses = addresses(source, findings);
        for address in &addresses {
            match self.by_ip.entry(*address) {
                Entry::Vacant(slot) => {
                    slot.insert(name.clone());
                }
                Entry::Occupied(holder) => {
                    let text = format!("{address} is the address of Pod {} too", holder.get());
                    let fix = "remove the one that is gone; its policies may be applied until then";
                    findings.push(source.finding(Severity::Warning, source.lines.object, text, fix));
                }
            }
        }
        self.by_name.insert(name, Selected { addresses, policies });
    }

    /// What holds at an endpoint; `None` where no policy names its port.
    pub(super) fn of(&mut self, endpoint: &Endpoint) -> Option<Arc<EndpointPolicy>> {
        let port = endpoint.addr.port();
        let (policies, all) = (&self.policies, &self.pod_of(endpoint)?.policies);
        let names_port = |index: &&usize| policies.get(**index).is_some_and(|policy| policy.names(port));
        let key: Vec<_> = all.iter().filter(names_port).copied().collect();
        self.reached.extend(key.iter().map(|index| (*index, port)));
        let made = self.made.entry((key, port));
        made.or_insert_with_key(|(key, port)| {
            let selecting: Vec<_> = key.iter().filter_map(|index| policies.get(*index)).collect();
            union(&selecting, *port, self.register)
        })
        .clone()
    }

    /// The pod behind an endpoint: the one that its slice names, unless that is elsewhere; else the
    /// one with its address.
    fn pod_of(&self, endpoint: &Endpoint) -> Option<&Selected> {
        let ip = endpoint.addr.ip();
        let named = endpoint.workload.as_deref().and_then(|name| self.by_name.get(name));
        named.filter(|pod| pod.addresses.is_empty() || pod.addresses.contains(&ip)).or_else(|| {
            let name = self.by_ip.get(&ip)?;
            self.by_name.get(name)
        })
    }

    /// Names of all rules that hold somewhere, by id.
    pub(super) fn rule_names(&self) -> Sharded<u32, Arc<str>> {
        let rules = self.made.values().flatten().flat_map(|policy| &policy.rules);
        rules.map(|rule| (rule.id, Arc::clone(&rule.name))).collect()
    }

    /// Says where policies do less than their author may think. Call after the last [`Self::of`].
    pub(super) fn lint(&self, findings: &mut Vec<Finding>) {
        let selecting: BTreeSet<usize> =
            self.by_name.values().flat_map(|pod| &pod.policies).copied().collect();
        for (index, policy) in self.policies.iter().enumerate() {
            let source = policy.source;
            if !selecting.contains(&index) {
                let text = "selects no pod: nothing is restricted";
                let fix = "the pods' manifests, with labels and status.podIP, belong in the directory too";
                let line = source.lines.field("endpointSelector");
                findings.push(source.finding(Severity::Warning, line, text, fix));
                continue;
            }
            for port in policy.ports().filter(|port| !self.reached.contains(&(index, *port))) {
                let text = format!("port {port} of its pods is in no Service: nothing is restricted there");
                let fix = "only connections to Services, and to their endpoints, are steered";
                findings.push(source.finding(Severity::Warning, source.lines.object, text, fix));
            }
        }
        for (key, port) in self.made.keys() {
            self.lint_union(key, *port, findings);
        }
        findings.sort();
        findings.dedup();
    }

    /// A port that one policy opens and another has rules for.
    fn lint_union(&self, key: &[usize], port: u16, findings: &mut Vec<Finding>) {
        let selecting = || key.iter().filter_map(|index| self.policies.get(*index));
        let Some(voided) =
            selecting().find(|policy| policy.rules(port).any(|rule| rule.allows != Allows::Port))
        else {
            return;
        };
        for policy in selecting() {
            let Some(line) = policy.opens(port) else { continue };
            let text = format!(
                "allows everything on port {port}: the HTTP rules of {}/{} for the same pods mean nothing",
                voided.source.namespace, voided.source.name
            );
            let fix = "give the entry rules.http too, or remove it";
            findings.push(policy.source.finding(Severity::Warning, line, text, fix));
        }
    }
}

fn not_enforced<T: Resource + Metadata<Ty = ObjectMeta>>(source: &Sourced<T>) -> Finding {
    let text = "is not enforced: Weir knows no policies of this kind yet";
    source.finding(Severity::Warning, source.lines.object, text, "")
}

/// All rules for a port.
fn union(policies: &[&PodPolicy<'_>], port: u16, register: &Register) -> Option<Arc<EndpointPolicy>> {
    if policies.is_empty() {
        return None;
    }
    let rules = policies.iter().flat_map(|policy| policy.rules(port)).cloned().collect();
    let names: Vec<_> =
        policies.iter().map(|policy| format!("{}/{}", policy.source.namespace, policy.source.name)).collect();
    Some(Arc::new(EndpointPolicy::new(names.join(",").into(), rules, register)))
}

/// `status.podIPs`, or `status.podIP`.
pub(super) fn addresses(source: &Sourced<Pod>, findings: &mut Vec<Finding>) -> Vec<IpAddr> {
    let Some(status) = &source.object.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses = Vec::new();
    for text in all.filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(ip) if addresses.contains(&ip) => {}
            Ok(ip) => addresses.push(ip),
            Err(_) => {
                let text = format!("{} is not an IP address", crate::source::finding::quoted(text));
                findings.push(source.finding(
                    Severity::Error,
                    source.lines.object,
                    text,
                    "the address is left out",
                ));
            }
        }
    }
    addresses
}
