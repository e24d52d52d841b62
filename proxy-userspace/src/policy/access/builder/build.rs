//! What depends on what has changed, made anew.

use super::{
    super::{
        Access, Direction, Holder, PodState,
        class::{Class, ClassKey},
        net::Net,
        peer::{Peer, Place, Subject},
        selector::{Anchor, NamespaceLabels, Selector},
        set::{KnownPeer, NamedPort, PolicySet, Selecting},
    },
    AccessBuilder, Changed, MANY, Numbered, PodFacts, SetKey, port_names, with_name,
};
use crate::policy::Register;
use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Weak},
};

/// Names of pods.
type Names = HashSet<Arc<str>>;

/// A pod's sets: of ingress and of egress.
type Sets = [Option<Arc<PolicySet>>; 2];

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl AccessBuilder {
    /// What holds now. Costs what depends on what has changed since the last time.
    pub fn build(&mut self, register: &Arc<Register>) -> Access {
        self.other_sets = false;
        if !Arc::ptr_eq(&self.access.register, register) {
            self.access.register = Arc::clone(register);
        }
        let pods = self.pods_with_other_policies();
        let sets: Vec<_> =
            pods.into_iter().map(|name| (Arc::clone(&name), self.exchange_sets(&name))).collect();
        let renewed = self.pods_with_other_classes(sets.iter().map(|(name, _)| name));
        self.renew_nets();
        for (name, sets) in sets {
            self.renew_pod(&name, Some(sets));
            self.news.pods.insert(name);
        }
        for name in renewed {
            self.renew_pod(&name, None);
        }
        self.renew_addresses();
        self.make_policies(register);
        self.changed = Changed::default();
        self.access.clone()
    }

    /// Pods that came, went or changed, and those that a policy which came or went selects.
    fn pods_with_other_policies(&mut self) -> Names {
        let mut names = std::mem::take(&mut self.changed.pods);
        let subjects = std::mem::take(&mut self.changed.subjects);
        if subjects.len() > MANY {
            names.extend(self.pods.keys().cloned());
        } else {
            for subject in &subjects {
                names.extend(self.selected(subject));
            }
        }
        names
    }

    /// Pods that a selector means.
    fn selected(&self, selector: &Selector) -> Names {
        let mut names = Names::new();
        let mut look = |facts: &Arc<PodFacts>| {
            if selector.selects(&facts.labels, &self.labels_of(&facts.labels.namespace)) {
                names.insert(Arc::clone(&facts.name));
            }
        };
        for anchor in selector.anchors() {
            match anchor {
                Anchor::Label(namespace, ..) | Anchor::Namespace(namespace) => {
                    let near = self.by_namespace.get(&namespace).into_iter().flatten();
                    near.filter_map(|name| self.pods.get(name)).for_each(&mut look);
                }
                Anchor::LabelAnywhere(..) | Anchor::Anywhere => self.pods.values().for_each(&mut look),
            }
        }
        names
    }

    fn labels_of(&self, namespace: &str) -> Arc<NamespaceLabels> {
        let known = self.namespaces.get(namespace).cloned();
        known.unwrap_or_else(|| Arc::new(with_name(NamespaceLabels::new(), namespace)))
    }

    /// The sets that a pod has now; those that it had are given back.
    fn exchange_sets(&mut self, name: &str) -> Sets {
        let facts = self.pods.get(name).filter(|facts| !facts.on_host).cloned();
        let sets = DIRECTIONS.map(|direction| self.acquire(facts.as_deref()?, direction));
        let old = self.access.pods.get(name).cloned();
        self.reach(&sets, facts.as_deref(), old.as_deref());
        if let Some(old) = old {
            old.ingress.iter().chain(&old.egress).for_each(|set| self.release(set));
        }
        sets
    }

    /// Notes the addresses of a pod that has another set of ingress than before.
    fn reach(&mut self, [ingress, _]: &Sets, facts: Option<&PodFacts>, old: Option<&PodState>) {
        let before = old.and_then(|old| old.ingress.as_ref());
        if before.map(|set| set.id) == ingress.as_ref().map(|set| set.id) {
            return;
        }
        for facts in facts.into_iter().chain(old.map(|old| &*old.facts)) {
            match &mut self.reached {
                Some(reached) if !facts.addresses.is_empty() => reached.extend(&facts.addresses),
                reached => *reached = None,
            }
        }
    }

    fn acquire(&mut self, facts: &PodFacts, direction: Direction) -> Option<Arc<PolicySet>> {
        let labels = self.labels_of(&facts.labels.namespace);
        let mut selecting: Vec<&Numbered> = Anchor::of(&facts.labels)
            .filter_map(|anchor| self.by_anchor.get(&anchor))
            .flatten()
            .filter(|one| one.policy.of(direction).is_some())
            .filter(|one| one.policy.subject.selects(&facts.labels, &labels))
            .collect();
        if selecting.is_empty() {
            return None;
        }
        selecting.sort_by(|a, b| (&a.policy.name, a.number).cmp(&(&b.policy.name, b.number)));
        selecting.dedup_by_key(|one| one.number);
        let mut ports = Vec::new();
        if direction == Direction::Ingress {
            let named = |port: &&NamedPort| {
                let mut rules = selecting.iter().filter_map(|one| one.policy.ingress.as_ref());
                rules.any(|rules| port_names(Some(rules)).any(|name| *name == port.name))
            };
            ports.extend(facts.ports.iter().filter(named).cloned());
            ports.sort();
        }
        let key = SetKey { direction, policies: selecting.iter().map(|one| one.number).collect(), ports };
        if let Some((set, uses)) = self.sets.get_mut(&key) {
            *uses += 1;
            return Some(Arc::clone(set));
        }
        let policies: Vec<_> = selecting.iter().map(|one| Arc::clone(&one.policy)).collect();
        Some(self.new_set(key, &policies))
    }

    fn new_set(&mut self, key: SetKey, policies: &[Arc<super::AccessPolicy>]) -> Arc<PolicySet> {
        self.last_set = self.last_set.wrapping_add(1).max(1);
        let (peers, last) = (&mut self.peers, &mut self.last_peer);
        let mut know = |peer: Peer| {
            let known = peers.entry(peer.clone()).or_insert_with(|| {
                *last = last.wrapping_add(1).max(1);
                (Arc::new(KnownPeer { id: *last, peer }), 0)
            });
            Arc::clone(&known.0)
        };
        let selecting = Selecting { policies, own_ports: &key.ports };
        let set = Arc::new(PolicySet::new(self.last_set, key.direction, &selecting, &mut know));
        for peer in set.peers() {
            self.count_peer(&peer, true);
        }
        for number in &key.policies {
            let uses = self.set_uses.entry(*number).or_default();
            *uses += 1;
            if *uses == 1 {
                self.news.policies.extend(self.policy_keys.get(number).cloned());
            }
        }
        self.other_sets = true;
        self.access.sets.insert(set.id, Arc::clone(&set));
        if set.has_http() {
            self.access.http_sets.insert(set.id, Arc::clone(&set));
            self.news.http_sets.push(Arc::clone(&set));
        }
        self.set_keys.insert(set.id, key.clone());
        self.sets.insert(key, (Arc::clone(&set), 1));
        self.changed.sets.push(Arc::clone(&set));
        set
    }

    fn release(&mut self, set: &Arc<PolicySet>) {
        let Some(key) = self.set_keys.get(&set.id) else { return };
        let Some((_, uses)) = self.sets.get_mut(key) else { return };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        for number in &key.policies {
            if let Some(uses) = self.set_uses.get_mut(number) {
                *uses -= 1;
                if *uses == 0 {
                    self.set_uses.remove(number);
                    self.news.policies.extend(self.policy_keys.get(number).cloned());
                }
            }
        }
        self.other_sets = true;
        self.sets.remove(key);
        self.set_keys.remove(&set.id);
        self.access.sets.remove(&set.id);
        self.access.http_sets.remove(&set.id);
        self.changed.sets.retain(|other| other.id != set.id);
        for peer in set.peers() {
            self.count_peer(&peer, false);
        }
    }

    /// Counts a set that has rows for a peer.
    fn count_peer(&mut self, peer: &Arc<KnownPeer>, add: bool) {
        let Some((_, uses)) = self.peers.get_mut(&peer.peer) else { return };
        *uses = if add { *uses + 1 } else { uses.saturating_sub(1) };
        let uses = *uses;
        if uses != usize::from(add) {
            return;
        }
        self.changed.peers.push(Arc::clone(peer));
        if add {
            self.index.add(peer);
        } else {
            self.index.remove(peer);
            self.peers.remove(&peer.peer);
        }
        let Peer::Block { net, except, .. } = &peer.peer else { return };
        for net in std::iter::once(net).chain(except) {
            let uses = self.net_uses.entry(*net).or_default();
            *uses = if add { *uses + 1 } else { uses.saturating_sub(1) };
            if *uses == 0 {
                self.net_uses.remove(net);
                self.nets.remove(*net);
                self.changed.fewer_nets = true;
            }
        }
    }

    /// Pods whose class may be another one, beside those that are made anew anyway.
    fn pods_with_other_classes<'a>(&mut self, anyway: impl Iterator<Item = &'a Arc<str>>) -> Names {
        let peers = &self.changed.peers;
        let wide = |peer: &Arc<KnownPeer>| !matches!(peer.peer, Peer::Pods(_) | Peer::Block { .. });
        let mut names = Names::new();
        if self.changed.all_classes || peers.len() > MANY || peers.iter().any(wide) {
            self.changed.all_classes = true;
            names.extend(self.pods.keys().cloned());
        } else {
            for peer in peers {
                match &peer.peer {
                    Peer::Pods(selector) => names.extend(self.selected(selector)),
                    Peer::Block { net, .. } => {
                        let within = self.holders.iter().filter(|(address, _)| net.contains(**address));
                        names.extend(within.flat_map(|(_, pods)| pods).map(|facts| Arc::clone(&facts.name)));
                    }
                    _ => {}
                }
            }
            for address in &self.changed.addresses {
                let holders = self.holders.get(address).into_iter().flatten();
                names.extend(holders.map(|facts| Arc::clone(&facts.name)));
            }
        }
        for name in anyway {
            names.remove(name);
        }
        names
    }

    /// Classes of prefixes that hold nobody who is known, and of nodes.
    fn renew_nets(&mut self) {
        let peers = std::mem::take(&mut self.changed.peers);
        let all = self.changed.all_classes;
        let mut nets: HashSet<Net> =
            Net::ALL.into_iter().filter(|net| self.nets.get(*net).is_none()).collect();
        if all || !peers.is_empty() || !self.changed.addresses.is_empty() {
            nets.extend(self.exchange_outside());
        }
        let changed: Vec<_> = peers.iter().filter_map(|peer| peer.peer.nets()).collect();
        let touched = |net: &Net| all || changed.iter().any(|(one, _)| one.covers(*net));
        let known = self.net_uses.keys().chain(&Net::ALL).chain(&self.outside);
        nets.extend(known.filter(|net| touched(net)));
        if nets.is_empty() && !self.changed.fewer_nets && self.access.nodes.iter().all(|class| class.id != 0)
        {
            return;
        }
        for net in nets {
            let class =
                self.class(&Subject { place: Place::World, labels: None, net: Some(net) }, Vec::new());
            self.nets.insert(net, class);
        }
        self.access.nets = Arc::new(self.nets.clone());
        let nodes = [Place::Host, Place::RemoteNode]
            .map(|place| self.class(&Subject { place, labels: None, net: None }, Vec::new()));
        self.access.nodes = nodes;
        self.changed.addresses.extend(self.nodes.keys().copied());
    }

    /// Endpoints of Services that are nobody's address here have a prefix of their own, while some peer
    /// asks for Services: returns those that are new or may have changed.
    fn exchange_outside(&mut self) -> Vec<Net> {
        let all = self.index.others().iter().flat_map(|one| self.around.endpoints(&one.peer));
        let nobodys =
            |address: &&IpAddr| !self.holders.contains_key(*address) && !self.nodes.contains_key(*address);
        let outside: HashSet<_> = all.filter(nobodys).map(|address| Net::host(*address)).collect();
        let gone: Vec<_> = self.outside.difference(&outside).copied().collect();
        for net in gone.into_iter().filter(|net| !self.net_uses.contains_key(net)) {
            self.nets.remove(net);
            self.changed.fewer_nets = true;
        }
        let changed =
            |net: &&Net| !self.outside.contains(*net) || self.changed.addresses.contains(&net.address());
        let touched = outside.iter().filter(changed).copied().collect();
        self.outside = outside;
        touched
    }

    fn class(&mut self, who: &Subject<'_>, ports: Vec<NamedPort>) -> Arc<Class> {
        let key = self.index.class_of(who, ports, &self.around);
        self.intern(key)
    }

    fn intern(&mut self, key: ClassKey) -> Arc<Class> {
        if let Some(class) = self.classes.get(&key).and_then(Weak::upgrade) {
            return class;
        }
        self.last_class = self.last_class.wrapping_add(1).max(1);
        let class = Arc::new(Class::new(self.last_class, key.clone()));
        if self.classes.len() > 2 * self.live_classes + MANY {
            self.classes.retain(|_, class| class.strong_count() > 0);
            self.live_classes = self.classes.len();
        }
        self.classes.insert(key, Arc::downgrade(&class));
        self.changed.classes.push(Arc::clone(&class));
        class
    }

    /// A pod as it is now; with the sets that it had where none are given.
    fn renew_pod(&mut self, name: &Arc<str>, sets: Option<Sets>) {
        let old = self.access.pods.get(name).cloned();
        if let Some(uid) = old.as_ref().and_then(|old| old.facts.uid.as_ref()) {
            self.access.by_uid.remove(uid);
        }
        let Some(facts) = self.pods.get(name).cloned() else {
            self.access.pods.remove(name);
            return;
        };
        let [ingress, egress] =
            sets.unwrap_or_else(|| old.map_or([None, None], |old| [old.ingress.clone(), old.egress.clone()]));
        let labels = self.labels_of(&facts.labels.namespace);
        let ports: Vec<_> =
            facts.ports.iter().filter(|port| self.port_names.contains_key(&port.name)).cloned().collect();
        let who = |net| Subject { place: Place::Pod, labels: Some((&facts.labels, &labels)), net };
        let mut classes = Vec::new();
        for address in facts.addresses.iter().filter(|_| !facts.on_host) {
            classes.push((*address, self.class(&who(Some(Net::host(*address))), ports.clone())));
            self.changed.addresses.insert(*address);
        }
        let class = match classes.first() {
            Some((_, class)) => Arc::clone(class),
            None => self.class(&who(None), ports.clone()),
        };
        let pod = Arc::new(PodState { facts: Arc::clone(&facts), classes, class, ingress, egress });
        if let Some(uid) = &facts.uid {
            self.access.by_uid.insert(Arc::clone(uid), Arc::clone(&pod));
        }
        self.access.pods.insert(Arc::clone(name), pod);
    }

    /// Who has each address that may have changed hands. A pod that is going away has none that another
    /// one has; of others the youngest has it.
    fn renew_addresses(&mut self) {
        for address in std::mem::take(&mut self.changed.addresses) {
            let holders = self.holders.get(&address).into_iter().flatten();
            let holder = holders.max_by_key(|one| one.precedence());
            let pod = holder.and_then(|facts| self.access.pods.get(&facts.name)).cloned();
            let of_pod = pod.and_then(|pod| {
                let (_, class) = pod.classes.iter().find(|(one, _)| *one == address)?;
                Some(Holder { place: Place::Pod, class: Arc::clone(class), pod: Some(pod) })
            });
            let holder = match (self.nodes.get(&address).copied(), of_pod) {
                (Some(place), _) => {
                    let net = Some(Net::host(address));
                    let class = self.class(&Subject { place, labels: None, net }, Vec::new());
                    Some(Holder { place, pod: None, class })
                }
                (None, of_pod) => of_pod,
            };
            match holder {
                Some(holder) => self.access.addresses.insert(address, holder),
                None => self.access.addresses.remove(&address),
            };
        }
    }

    /// Policies of HTTP rules, so that the kernel half has them before anybody needs them.
    fn make_policies(&mut self, register: &Register) {
        let new: Vec<_> = self.changed.sets.iter().filter(|set| set.has_http()).collect();
        if !new.is_empty() {
            let classes: Vec<_> = self.classes.values().filter_map(Weak::upgrade).collect();
            for set in new {
                classes.iter().for_each(|class| set.make_policies(class, register));
            }
        }
        if !self.changed.classes.is_empty() {
            for set in self.access.http_sets() {
                self.changed.classes.iter().for_each(|class| set.make_policies(class, register));
            }
        }
    }
}
