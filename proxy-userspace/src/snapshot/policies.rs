//! Policies, pods, namespaces and Services, as [`crate::policy::access`] is told of them; and what its sets
//! mean for Services.

mod lint;

use super::{
    BuildOptions, Cluster, Endpoint, Lane, Snapshot,
    builder::duplicates,
    network_policy, party,
    policy::{self, CiliumPolicy},
    told::About,
};
use crate::{
    policy::{
        Allows, EndpointPolicy, Register, Rule,
        access::{
            Access, AccessBuilder, AccessPolicy, AccessRule, Action, Direction, Entity, Labels, Peer,
            PolicySet, Side, Transport,
        },
    },
    source::{
        Changes, Object, Objects, Sourced,
        finding::Finding,
        lean::Pod,
        packed::Packed,
        store::{Key, Store},
    },
};
use k8s_openapi::api::core::v1::{Namespace, Service};
use lint::Lint;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// What has changed.
pub(super) struct News<'a> {
    pub(super) objects: &'a Objects,
    pub(super) changes: &'a Changes,
    /// Services that changed, or whose slices did.
    pub(super) services: &'a BTreeSet<Key>,
    /// A Service's endpoints.
    pub(super) addresses: &'a dyn Fn(&Key) -> BTreeSet<IpAddr>,
}

/// Whose endpoints a change of policies has reached.
pub(super) enum Reached {
    /// Those of every Service.
    All,
    /// Those at these addresses.
    Addresses(BTreeSet<IpAddr>),
}

/// What was found about what.
type Findings = Vec<(About, Vec<Finding>)>;

/// See the module.
#[derive(Default, Debug)]
pub(super) struct Policies {
    access: AccessBuilder,
    /// Where each policy in force is, by kind and key.
    read: BTreeMap<String, Place>,
    /// Where a rule of a name may be written: keys of `read`.
    places_of: HashMap<Arc<str>, BTreeSet<String>>,
    /// Addresses of pods' nodes, by pod, and how many pods are at each.
    nodes: HashMap<Key, Vec<IpAddr>>,
    node_uses: BTreeMap<IpAddr, usize>,
    /// How many policies name Services.
    naming_services: usize,
    /// Some does: Services have been told to `access`.
    knows_services: bool,
    /// Sets of egress that have HTTP rules.
    http_egress: Vec<Arc<PolicySet>>,
    /// What is known of what policies do not do.
    lint: Lint,
}

/// Where a policy is written, and what it says.
#[derive(Debug)]
struct Place {
    label: String,
    file: Arc<str>,
    /// Of the selector.
    line: u32,
    parts: Vec<Arc<AccessPolicy>>,
}

impl Policies {
    /// Takes what has changed into `snapshot`.
    pub(super) fn apply(
        &mut self,
        news: &News<'_>,
        options: &BuildOptions,
        snapshot: &mut Snapshot,
    ) -> (Reached, Findings) {
        let mut findings = Findings::new();
        let News { objects, changes, .. } = news;
        let policies = [&changes.network_policies, &changes.policies, &changes.clusterwide_policies];
        if policies.iter().any(|keys| !keys.is_empty()) {
            options.policies.sweep();
        }
        self.namespaces(objects, &changes.namespaces);
        self.pods(objects, &changes.pods, options, &mut findings);
        for key in &changes.network_policies {
            self.policy(&objects.network_policies, key, "podSelector", &mut findings, |source, findings| {
                network_policy::read(source, findings).map(|one| vec![one])
            });
        }
        for key in &changes.policies {
            self.cilium(&objects.policies, key, &options.policies, &mut findings);
        }
        for key in &changes.clusterwide_policies {
            self.cilium(&objects.clusterwide_policies, key, &options.policies, &mut findings);
        }
        self.services(news);
        let access = self.access.build(&options.policies);
        let reached = self.reached(&access);
        if self.access.has_other_sets() {
            snapshot.rule_names = rule_names(&access);
        }
        snapshot.access = access;
        (reached, findings)
    }

    fn namespaces(&mut self, objects: &Objects, changed: &[Key]) {
        for key in changed {
            let labels = objects.namespaces.get(key).map(|source: &Arc<Sourced<Namespace>>| {
                source.object.metadata.labels.clone().unwrap_or_default()
            });
            self.access.set_namespace(key.name(), labels);
        }
    }

    fn pods(&mut self, objects: &Objects, changed: &[Key], options: &BuildOptions, findings: &mut Findings) {
        let mut nodes_changed = self.node_uses.is_empty();
        for key in changed {
            let mut found = duplicates(&objects.pods, key);
            let source = objects.pods.get(key);
            match source.and_then(|source| party::facts(source, &mut found)) {
                Some(facts) => self.access.set_pod(facts),
                None => self.access.remove_pod(key.as_str()),
            }
            findings.push((About::Object(Pod::KIND_NAME, key.clone()), found));
            let new = source.map(|source| party::node_addresses(&source.object)).unwrap_or_default();
            nodes_changed |= self.count_nodes(key, new);
        }
        if nodes_changed {
            let others = self.node_uses.keys().copied().collect();
            self.access.set_nodes(options.node_name.as_deref(), &options.node_addresses, &others);
        }
    }

    /// Whether the addresses of nodes are others now.
    fn count_nodes(&mut self, pod: &Key, new: Vec<IpAddr>) -> bool {
        let mut changed = false;
        for address in &new {
            let uses = self.node_uses.entry(*address).or_default();
            *uses += 1;
            changed |= *uses == 1;
        }
        let old = if new.is_empty() { self.nodes.remove(pod) } else { self.nodes.insert(pod.clone(), new) };
        for address in old.into_iter().flatten() {
            if let Some(uses) = self.node_uses.get_mut(&address) {
                *uses -= 1;
                if *uses == 0 {
                    self.node_uses.remove(&address);
                    changed = true;
                }
            }
        }
        changed
    }

    fn cilium<T: CiliumPolicy>(
        &mut self,
        objects: &Store<T>,
        key: &Key,
        register: &Register,
        findings: &mut Findings,
    ) {
        self.policy(objects, key, "endpointSelector", findings, |source, findings| {
            policy::read(source, register, findings)
        });
    }

    /// A policy that is new, different or gone.
    fn policy<T: Object>(
        &mut self,
        objects: &Store<T>,
        key: &Key,
        selector: &str,
        findings: &mut Findings,
        read: impl FnOnce(&Sourced<T>, &mut Vec<Finding>) -> Option<Vec<AccessPolicy>>,
    ) {
        let mut found = duplicates(objects, key);
        let name = format!("{} {key}", T::KIND_NAME);
        let place = objects.get(key).and_then(|source| {
            let parts = read(source, &mut found)?;
            let line = source.lines.field(selector);
            let parts = parts.into_iter().map(Arc::new).collect();
            Some(Place { label: source.label(), file: Arc::clone(&source.file), line, parts })
        });
        findings.push((About::Object(T::KIND_NAME, key.clone()), found));
        self.access.set_policy(&name, place.as_ref().map_or_else(Vec::new, |place| place.parts.clone()));
        self.place(name, place);
    }

    /// A policy is written here now; `None` where it is gone.
    fn place(&mut self, key: String, place: Option<Place>) {
        if let Some(old) = self.read.remove(&key) {
            let same = |new: &Place| new.parts == old.parts && new.file != old.file;
            self.lint.again |= place.as_ref().is_some_and(same);
            self.naming_services -= usize::from(old.names_services());
            for rule in old.rules() {
                if let Some(keys) = self.places_of.get_mut(&rule.name) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.places_of.remove(&rule.name);
                    }
                }
            }
        }
        if let Some(place) = place {
            self.naming_services += usize::from(place.names_services());
            for rule in place.rules() {
                self.places_of.entry(Arc::clone(&rule.name)).or_default().insert(key.clone());
            }
            self.read.insert(key, place);
        }
    }

    /// Tells of Services, where some policy names any.
    fn services(&mut self, news: &News<'_>) {
        let wanted = self.naming_services > 0;
        let known = std::mem::replace(&mut self.knows_services, wanted);
        let tell = |access: &mut AccessBuilder, key: &Key| {
            let labels = |source: &Arc<Sourced<Packed<Service>>>| Labels {
                namespace: key.namespace().into(),
                // What is wrong with it is told where it is served.
                own: source
                    .object
                    .open()
                    .ok()
                    .and_then(|one| one.metadata.labels)
                    .into_iter()
                    .flatten()
                    .collect(),
                service_account: Arc::default(),
            };
            let service = news.objects.services.get(key).filter(|_| wanted);
            let what = service.map(|source| (labels(source), (news.addresses)(key)));
            access.set_service(key.namespace(), key.name(), what);
        };
        match (known, wanted) {
            (true, true) => news.services.iter().for_each(|key| tell(&mut self.access, key)),
            (false, true) => {
                news.objects.services.iter().for_each(|source| tell(&mut self.access, &source.key()));
            }
            (true, false) => {
                let told: Vec<_> = self.access.service_names().cloned().collect();
                for (namespace, name) in told {
                    self.access.set_service(&namespace, &name, None);
                }
            }
            (false, false) => {}
        }
    }

    /// Whose endpoints have other policies than before.
    fn reached(&mut self, access: &Access) -> Reached {
        let other_egress = self.access.has_other_sets() && {
            let http = access.http_sets().filter(|set| set.direction == Direction::Egress);
            let mut http: Vec<_> = http.cloned().collect();
            http.sort_by_key(|set| set.id);
            let differs = !http.iter().map(|set| set.id).eq(self.http_egress.iter().map(|set| set.id));
            self.http_egress = http;
            differs
        };
        match self.access.take_reached() {
            Some(addresses) if !other_egress => Reached::Addresses(addresses),
            _ => Reached::All,
        }
    }

    /// Gives endpoints their policies. Where HTTP rules may hold, only the agent may make connections.
    pub(super) fn restrict(&self, cluster: &mut Cluster, access: &Access, register: &Register) {
        let mut http = false;
        for endpoint in &mut cluster.endpoints {
            endpoint.policy = at_endpoint(access, endpoint, register);
            http |= endpoint.policy.as_ref().is_some_and(|policy| policy.has_http());
            http |= !self.http_egress.is_empty() && {
                let class = access.party_at(endpoint.addr.ip()).class;
                let side = |set: &Arc<PolicySet>| set.side(&class, Transport::Tcp, endpoint.addr.port());
                self.http_egress.iter().any(|set| matches!(side(set), Side::Http(_)))
            };
        }
        if http {
            cluster.lane = Lane::Steer;
        }
    }
}

/// What policies say about an endpoint's port, whoever the client is.
fn at_endpoint(access: &Access, endpoint: &Endpoint, register: &Register) -> Option<Arc<EndpointPolicy>> {
    let pod = access.pod_at(endpoint.addr.ip(), endpoint.workload.as_deref())?;
    let set = pod.set(Direction::Ingress)?;
    let rules = set.at_port(endpoint.addr.port()).flat_map(|rule| match &rule.action {
        Action::Deny => Vec::new(),
        Action::Allow => vec![Arc::new(Rule::new(Arc::clone(&rule.name), Allows::Port, register))],
        Action::AllowHttp(rules) => rules.clone(),
    });
    Some(set.policy(&rules.collect::<Vec<_>>(), register))
}

/// Names of all rules in force, by id.
fn rule_names(access: &Access) -> crate::sharded::Sharded<u32, Arc<str>> {
    let policies: Vec<_> = access.http_policies().collect();
    let rules = policies.iter().flat_map(|policy| &policy.rules);
    rules.map(|rule| (rule.id, Arc::clone(&rule.name))).collect()
}

impl Place {
    fn names_services(&self) -> bool {
        self.rules().flat_map(|rule| &rule.peers).any(|peer| {
            matches!(peer, Peer::Service { .. } | Peer::Services { .. } | Peer::Entity(Entity::ApiServer))
        })
    }

    /// Its rules of both directions.
    fn rules(&self) -> impl Iterator<Item = &Arc<AccessRule>> {
        let directions = self.parts.iter().flat_map(|part| part.ingress.iter().chain(&part.egress));
        directions.flat_map(|one| &one.rules)
    }
}
