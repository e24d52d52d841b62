//! From objects to an [`Access`], change by change.

mod build;

use super::{
    Access, Direction,
    class::{Class, ClassKey, PeerIndex},
    net::{Net, NetTable},
    peer::{Peer, Place, Surroundings},
    rules::{AccessPolicy, DirectionRules, Span},
    selector::{Anchor, Labels, NamespaceLabels, Selector},
    set::{KnownPeer, NamedPort, PolicySet},
};
use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{Arc, Weak},
};

/// Changes of policies from which on all pods are looked at once, instead of some for each change.
const MANY: usize = 64;

/// What policies look at in a pod.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct PodFacts {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// `metadata.uid`, where it is known.
    pub uid: Option<Arc<str>>,
    /// What selectors look at.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its containers' ports that have names.
    pub ports: Vec<NamedPort>,
    /// The node it runs on, where it is known.
    pub node: Option<Arc<str>>,
    /// It shares its node's network: it is its node.
    pub on_host: bool,
    /// It is going away: another pod with its address has it.
    pub leaving: bool,
    /// Seconds since the epoch when it was made: of two pods with an address the younger one has it.
    pub created: i64,
}

impl PodFacts {
    /// Of pods that have an address, the greatest has it: the youngest of those that stay.
    fn precedence(&self) -> (bool, i64, Reverse<&Arc<str>>) {
        (!self.leaving, self.created, Reverse(&self.name))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct AccessBuilder {
    /// What was built last, but for what has changed since.
    access: Access,
    pods: HashMap<Arc<str>, Arc<PodFacts>>,
    by_namespace: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    holders: HashMap<IpAddr, Vec<Arc<PodFacts>>>,
    namespaces: HashMap<Arc<str>, Arc<NamespaceLabels>>,
    nodes: HashMap<IpAddr, Place>,
    around: Surroundings,
    policies: HashMap<Arc<str>, Vec<Numbered>>,
    /// Whose number each is.
    policy_keys: HashMap<u32, Arc<str>>,
    last_policy: u32,
    by_anchor: HashMap<Anchor, Vec<Numbered>>,
    /// How many rules of egress name a port so.
    port_names: HashMap<Arc<str>, usize>,
    sets: HashMap<SetKey, (Arc<PolicySet>, usize)>,
    set_keys: HashMap<u32, SetKey>,
    last_set: u32,
    peers: HashMap<Peer, (Arc<KnownPeer>, usize)>,
    last_peer: u32,
    index: PeerIndex,
    net_uses: HashMap<Net, usize>,
    nets: NetTable<Arc<Class>>,
    /// Endpoints of Services that are neither pods nor nodes.
    outside: HashSet<Net>,
    /// How many sets each policy is in, by number.
    set_uses: HashMap<u32, usize>,
    /// Addresses that several pods have.
    contested: BTreeSet<IpAddr>,
    /// Some set came or went with the last build.
    other_sets: bool,
    /// Addresses of pods that have another set of ingress since this was taken; `None` where some have no
    /// address.
    reached: Option<BTreeSet<IpAddr>>,
    classes: HashMap<ClassKey, Weak<Class>>,
    /// How many of them there were when those were forgotten that nobody is.
    live_classes: usize,
    last_class: u32,
    changed: Changed,
    news: News,
}

/// What somebody who looks at what was built has to look at again.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Pods whose facts or sets may be others, and those that are gone.
    pub(crate) pods: HashSet<Arc<str>>,
    /// Keys of policies that may select pods now and did not, or the other way round.
    pub(crate) policies: BTreeSet<Arc<str>>,
    /// Sets with HTTP rules that came; some may be gone again.
    pub(crate) http_sets: Vec<Arc<PolicySet>>,
}

/// A policy, and a number that no other version of it has.
#[derive(Clone, Debug)]
struct Numbered {
    number: u32,
    policy: Arc<AccessPolicy>,
}

/// What a set is made of.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct SetKey {
    direction: Direction,
    policies: Vec<u32>,
    ports: Vec<NamedPort>,
}

/// What has changed since the last [`AccessBuilder::build`].
#[derive(Debug, Default)]
struct Changed {
    /// Pods that came, went or changed.
    pods: HashSet<Arc<str>>,
    /// Selectors of policies that came or went.
    subjects: Vec<Selector>,
    /// Addresses whose holder may be another one.
    addresses: HashSet<IpAddr>,
    /// Peers that came or went.
    peers: Vec<Arc<KnownPeer>>,
    sets: Vec<Arc<PolicySet>>,
    classes: Vec<Arc<Class>>,
    /// Everybody's class may be another one.
    all_classes: bool,
    /// Prefixes went.
    fewer_nets: bool,
}

/// Adds to a digest that does not depend on order, or takes from it.
fn digest(of: &mut (u64, u64), object: &impl Hash, add: bool) {
    let half = |seed: u64| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        object.hash(&mut hasher);
        hasher.finish()
    };
    let (one, two) = (half(1), half(2));
    *of = if add {
        (of.0.wrapping_add(one), of.1.wrapping_add(two))
    } else {
        (of.0.wrapping_sub(one), of.1.wrapping_sub(two))
    };
}

impl AccessBuilder {
    /// A pod that is new, or has changed. Pods that have ended have no business here.
    pub fn set_pod(&mut self, facts: PodFacts) {
        if self.pods.get(&facts.name).is_some_and(|old| **old == facts) {
            return;
        }
        self.remove_pod(&Arc::clone(&facts.name));
        digest(&mut self.access.digest, &facts, true);
        let facts = Arc::new(facts);
        if !facts.on_host {
            for address in &facts.addresses {
                let holders = self.holders.entry(*address).or_default();
                holders.push(Arc::clone(&facts));
                if holders.len() > 1 {
                    self.contested.insert(*address);
                }
                self.changed.addresses.insert(*address);
            }
        }
        let neighbours = self.by_namespace.entry(Arc::clone(&facts.labels.namespace)).or_default();
        neighbours.insert(Arc::clone(&facts.name));
        self.changed.pods.insert(Arc::clone(&facts.name));
        self.pods.insert(Arc::clone(&facts.name), facts);
    }

    /// A pod, `namespace/name`, that is gone.
    pub fn remove_pod(&mut self, name: &str) {
        let Some(facts) = self.pods.remove(name) else { return };
        digest(&mut self.access.digest, &*facts, false);
        for address in &facts.addresses {
            if let Some(holders) = self.holders.get_mut(address) {
                holders.retain(|one| one.name != facts.name);
                if holders.len() < 2 {
                    self.contested.remove(address);
                }
                self.changed.addresses.insert(*address);
                if holders.is_empty() {
                    self.holders.remove(address);
                }
            }
        }
        if let Some(neighbours) = self.by_namespace.get_mut(&facts.labels.namespace) {
            neighbours.remove(name);
        }
        self.changed.pods.insert(Arc::clone(&facts.name));
    }

    /// Names of all pods.
    pub fn pod_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pods.keys()
    }

    /// A namespace's labels; `None` where it is gone. Its name is among them, as in every cluster.
    pub fn set_namespace(&mut self, name: &str, labels: Option<NamespaceLabels>) {
        let labels = labels.map(|labels| Arc::new(with_name(labels, name)));
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        if let Some(old) = self.namespaces.remove(name) {
            digest(&mut self.access.digest, &("namespace", name, &*old), false);
        }
        if let Some(labels) = labels {
            digest(&mut self.access.digest, &("namespace", name, &*labels), true);
            self.namespaces.insert(name.into(), labels);
        }
        self.changed.pods.extend(self.by_namespace.get(name).into_iter().flatten().cloned());
    }

    /// Names of the namespaces whose labels are known.
    pub fn namespace_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    /// A policy that is new, has changed, or (without parts) is gone. `key` is nobody else's.
    pub fn set_policy(&mut self, key: &str, parts: Vec<Arc<AccessPolicy>>) {
        let key: Arc<str> = key.into();
        // Where it is written may be another place.
        self.news.policies.insert(Arc::clone(&key));
        let old = self.policies.get(&key).map_or(&[][..], Vec::as_slice);
        if old.iter().map(|one| &one.policy).eq(&parts) {
            return;
        }
        for old in self.policies.remove(&key).unwrap_or_default() {
            self.policy_keys.remove(&old.number);
            digest(&mut self.access.digest, &old.policy, false);
            for anchor in old.policy.subject.anchors() {
                if let Some(all) = self.by_anchor.get_mut(&anchor) {
                    all.retain(|one| one.number != old.number);
                    if all.is_empty() {
                        self.by_anchor.remove(&anchor);
                    }
                }
            }
            self.count_port_names(&old.policy, false);
            self.changed.subjects.push(old.policy.subject.clone());
        }
        let mut numbered = Vec::with_capacity(parts.len());
        for policy in parts {
            digest(&mut self.access.digest, &policy, true);
            self.last_policy = self.last_policy.wrapping_add(1);
            let one = Numbered { number: self.last_policy, policy };
            for anchor in one.policy.subject.anchors() {
                self.by_anchor.entry(anchor).or_default().push(one.clone());
            }
            self.count_port_names(&one.policy, true);
            self.changed.subjects.push(one.policy.subject.clone());
            self.policy_keys.insert(one.number, Arc::clone(&key));
            numbered.push(one);
        }
        if !numbered.is_empty() {
            self.policies.insert(key, numbered);
        }
    }

    /// Keys of all policies.
    pub fn policy_keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.policies.keys()
    }

    /// Whether a policy selects any pod, as of the last build.
    #[must_use]
    pub fn selects_any(&self, key: &str) -> bool {
        let parts = self.policies.get(key).into_iter().flatten();
        parts.into_iter().any(|one| self.set_uses.contains_key(&one.number))
    }

    /// Addresses that several pods have which are not going away: who has it, and who has not.
    pub(crate) fn contested(&self) -> impl Iterator<Item = (IpAddr, &Arc<str>, Vec<&Arc<str>>)> {
        self.contested.iter().filter_map(|address| {
            let staying = self.holders.get(address)?.iter().filter(|one| !one.leaving);
            let mut staying: Vec<_> = staying.collect();
            staying.sort_by_key(|one| one.precedence());
            let holder = staying.pop()?;
            Some((*address, &holder.name, staying.into_iter().map(|one| &one.name).collect()))
        })
    }

    /// Whether some set came or went with the last build.
    pub(crate) fn has_other_sets(&self) -> bool {
        self.other_sets
    }

    /// Addresses of pods whose set of ingress is another one since this was last called; `None` where some
    /// of them have no address.
    pub(crate) fn take_reached(&mut self) -> Option<BTreeSet<IpAddr>> {
        self.reached.replace(BTreeSet::new())
    }

    /// What is different since this was last called, as of the last build.
    pub(crate) fn take_news(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// Pods with an address, whoever of them has it.
    pub(crate) fn claimants(&self, address: IpAddr) -> impl Iterator<Item = &Arc<str>> {
        self.holders.get(&address.to_canonical()).into_iter().flatten().map(|one| &one.name)
    }

    /// Changes that [`AccessBuilder::build`] has not seen yet.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        let Changed { pods, subjects, addresses, .. } = &self.changed;
        !(pods.is_empty() && subjects.is_empty() && addresses.is_empty())
    }

    fn count_port_names(&mut self, policy: &AccessPolicy, add: bool) {
        for name in port_names(policy.egress.as_ref()) {
            let count = self.port_names.entry(Arc::clone(name)).or_default();
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
            if *count == usize::from(add) {
                self.changed.all_classes = true;
            }
        }
        self.port_names.retain(|_, count| *count > 0);
    }

    /// A Service's own labels and its endpoints' addresses; `None` where it is gone.
    pub fn set_service(&mut self, namespace: &str, name: &str, what: Option<(Labels, BTreeSet<IpAddr>)>) {
        let key = (Arc::from(namespace), Arc::from(name));
        if self.around.services.get(&key) == what.as_ref() {
            return;
        }
        if let Some(old) = self.around.services.remove(&key) {
            digest(&mut self.access.digest, &("service", &key, &old), false);
            self.changed.addresses.extend(old.1);
        }
        if let Some(what) = what {
            digest(&mut self.access.digest, &("service", &key, &what), true);
            self.changed.addresses.extend(what.1.iter().copied());
            self.around.services.insert(key, what);
        }
    }

    /// Namespaces and names of all Services.
    pub fn service_names(&self) -> impl Iterator<Item = &(Arc<str>, Arc<str>)> {
        self.around.services.keys()
    }

    /// This node's name, its addresses, and those of other nodes.
    pub fn set_nodes(&mut self, name: Option<&str>, own: &[IpAddr], others: &BTreeSet<IpAddr>) {
        let name = name.map(Arc::from);
        if self.access.node != name {
            digest(&mut self.access.digest, &("name", &self.access.node), false);
            digest(&mut self.access.digest, &("name", &name), true);
            self.access.node = name;
        }
        let others = others.iter().map(|address| (address.to_canonical(), Place::RemoteNode));
        let own = own.iter().map(|address| (address.to_canonical(), Place::Host));
        let nodes: HashMap<_, _> = others.chain(own).collect();
        for (address, place) in &self.nodes {
            if nodes.get(address) != Some(place) {
                digest(&mut self.access.digest, &("node", address, place), false);
                self.changed.addresses.insert(*address);
            }
        }
        for (address, place) in &nodes {
            if self.nodes.get(address) != Some(place) {
                digest(&mut self.access.digest, &("node", address, place), true);
                self.changed.addresses.insert(*address);
            }
        }
        self.nodes = nodes;
    }
}

/// Names that rules give ports.
fn port_names(rules: Option<&DirectionRules>) -> impl Iterator<Item = &Arc<str>> {
    let ports = rules.into_iter().flat_map(|rules| &rules.rules).flat_map(|rule| &rule.ports);
    ports.filter_map(|ports| if let Span::Named(name) = &ports.span { Some(name) } else { None })
}

/// Every namespace has its name among its labels.
fn with_name(mut labels: NamespaceLabels, name: &str) -> NamespaceLabels {
    labels.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
    labels
}
