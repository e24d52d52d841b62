//! Who may connect to whom: NetworkPolicies and Cilium's, of both ends of a connection.
//!
//! [`AccessBuilder`] is told what is in the cluster and what changes; an [`Access`] is what it knew at one
//! moment, and never changes. A change costs what depends on it, not what there is:
//!
//! - Policies that select the same pods make one [`PolicySet`] a direction: rows of peer, ports and action.
//! - Whom no peer of any policy in force tells apart is one [`Class`]: a pod at one of its addresses, or all
//!   addresses of a prefix that are nobody's.
//! - A decision is a set's word on a class: [`PolicySet::side`], which only compares numbers. The kernel
//!   half gets the same word as [`PolicySet::rows`], and the classes by [`Access::prefixes`].

mod builder;
mod class;
mod net;
mod peer;
mod rules;
mod selector;
mod set;

pub(crate) use builder::News;
pub use builder::{AccessBuilder, PodFacts};
pub use class::Class;
pub use net::Net;
pub use peer::{Entity, Peer, Place, Whose};
pub use rules::{AccessPolicy, AccessRule, Action, DirectionRules, Ports, Span, Transports};
pub use selector::{Labels, NamespaceLabels, Selector};
pub use set::{Audit, NamedPort, PolicySet, PortRow, PortVerdict, Side};

pub(crate) use selector::reserved;

use super::{EndpointPolicy, Register};
use crate::sharded::Sharded;
use net::NetTable;

use std::{fmt, net::IpAddr, sync::Arc};

/// A protocol that has ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

/// Which end of a connection a policy is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// Connections to its pods.
    Ingress,
    /// Connections from its pods.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A pod, and what holds for it.
#[derive(Debug)]
pub struct PodState {
    /// What is known of it.
    pub facts: Arc<PodFacts>,
    /// Its class at each of its addresses.
    pub classes: Vec<(IpAddr, Arc<Class>)>,
    /// Its class where no address is known.
    class: Arc<Class>,
    ingress: Option<Arc<PolicySet>>,
    egress: Option<Arc<PolicySet>>,
}

impl PodState {
    /// What policies say about a direction; `None` where none selects it: all is allowed.
    #[must_use]
    pub fn set(&self, direction: Direction) -> Option<&Arc<PolicySet>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// Who has an address.
#[derive(Clone, Debug)]
struct Holder {
    place: Place,
    pod: Option<Arc<PodState>>,
    class: Arc<Class>,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Party {
    /// What it is.
    pub place: Place,
    /// The pod, if it is one with addresses of its own.
    pub pod: Option<Arc<PodState>>,
    /// As policies of the other end see it.
    pub class: Arc<Class>,
}

/// See the module. Two are equal if they were made of the same objects.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Of all objects, whatever their order.
    digest: (u64, u64),
    /// This node's name, where it is known.
    node: Option<Arc<str>>,
    pods: Sharded<Arc<str>, Arc<PodState>>,
    by_uid: Sharded<Arc<str>, Arc<PodState>>,
    addresses: Sharded<IpAddr, Holder>,
    sets: Sharded<u32, Arc<PolicySet>>,
    /// Those of them that have HTTP rules.
    http_sets: Sharded<u32, Arc<PolicySet>>,
    /// Of addresses that nobody here has.
    nets: Arc<NetTable<Arc<Class>>>,
    /// Of nodes at an address that is not known: this one and others.
    nodes: [Arc<Class>; 2],
    /// Ids of HTTP policies that are made when they are needed.
    register: Arc<Register>,
}

impl PartialEq for Access {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Access {}

/// What policies of both ends say about a connection.
#[derive(Clone, Debug)]
#[must_use]
pub enum Verdict {
    /// It is allowed, or its requests are decided about: what each end says. `None` where no policy is
    /// about that end.
    Allow {
        /// The policies of who connects.
        egress: Option<(Arc<PolicySet>, Side)>,
        /// The policies of who is connected to.
        ingress: Option<(Arc<PolicySet>, Side)>,
    },
    /// It is denied.
    Deny {
        /// Which end denies it.
        direction: Direction,
        /// By these policies, `namespace/name`, by commas.
        policies: Arc<str>,
        /// By this rule; `None` where no rule allows it.
        rule: Option<Arc<str>>,
    },
}

impl Access {
    /// Decides about a connection; `port` is that of the pod which is reached, not of its Service.
    pub fn decide(&self, from: &Party, to: &Party, transport: Transport, port: u16) -> Verdict {
        let same = from.pod.as_ref().zip(to.pod.as_ref()).is_some_and(|(a, b)| a.facts.name == b.facts.name);
        // Kubelet probes: a node may always reach its own pods.
        let probe = from.place == Place::Host && to.pod.as_ref().is_some_and(|pod| self.is_local(pod));
        if same || probe {
            return Verdict::Allow { egress: None, ingress: None };
        }
        let (mut egress, mut ingress) = (None, None);
        for (direction, own, peer, said) in
            [(Direction::Egress, from, to, &mut egress), (Direction::Ingress, to, from, &mut ingress)]
        {
            let Some(set) = own.pod.as_ref().and_then(|pod| pod.set(direction)) else { continue };
            match set.side(&peer.class, transport, port) {
                Side::Deny { rule } => {
                    return Verdict::Deny { direction, policies: Arc::clone(&set.name), rule };
                }
                side => *said = Some((Arc::clone(set), side)),
            }
        }
        Verdict::Allow { egress, ingress }
    }

    /// Whether a pod may run on this node: where either's node is not known, it may.
    #[must_use]
    pub fn is_local(&self, pod: &PodState) -> bool {
        self.node.as_ref().zip(pod.facts.node.as_ref()).is_none_or(|(own, its)| own == its)
    }

    /// A pod by `namespace/name`.
    #[must_use]
    pub fn pod(&self, name: &str) -> Option<&Arc<PodState>> {
        self.pods.get(name)
    }

    /// The pod at an endpoint: the one that its slice names, unless that is elsewhere; else the one with its
    /// address.
    #[must_use]
    pub fn pod_at(&self, address: IpAddr, named: Option<&str>) -> Option<Arc<PodState>> {
        let here = |pod: &&Arc<PodState>| {
            !pod.facts.on_host
                && (pod.facts.addresses.is_empty() || pod.facts.addresses.contains(&address.to_canonical()))
        };
        let named = named.and_then(|name| self.pod(name)).filter(here);
        named.cloned().or_else(|| self.party_at(address).pod)
    }

    /// A pod by its UID.
    #[must_use]
    pub fn pod_by_uid(&self, uid: &str) -> Option<&Arc<PodState>> {
        self.by_uid.get(uid)
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodState>> {
        self.pods.iter().map(|(_, pod)| pod)
    }

    /// Every set in force.
    pub fn sets(&self) -> impl Iterator<Item = &Arc<PolicySet>> {
        self.sets.iter().map(|(_, set)| set)
    }

    /// Those of them that have HTTP rules.
    pub(crate) fn http_sets(&self) -> impl Iterator<Item = &Arc<PolicySet>> {
        self.http_sets.values()
    }

    /// One of those.
    pub(crate) fn http_set(&self, id: u32) -> Option<&Arc<PolicySet>> {
        self.http_sets.get(&id)
    }

    /// Every HTTP policy that was made of the sets in force.
    pub(crate) fn http_policies(&self) -> impl Iterator<Item = Arc<EndpointPolicy>> {
        self.http_sets().flat_map(|set| set.policies())
    }

    /// The class of every address: that of the longest prefix which holds it. Pods and nodes have a prefix
    /// for each of their addresses, everybody else for what some policy tells apart.
    pub fn prefixes(&self) -> impl Iterator<Item = (Net, &Arc<Class>)> {
        let holders = self.addresses.iter().map(|(address, holder)| (Net::host(*address), &holder.class));
        // A host prefix that a pod has as well is the pod's.
        let free =
            |net: &Net| *net != Net::host(net.address()) || self.addresses.get(&net.address()).is_none();
        holders.chain(self.nets.iter().filter(move |(net, _)| free(net)))
    }

    /// Who has an address.
    #[must_use]
    pub fn party_at(&self, address: IpAddr) -> Party {
        let address = address.to_canonical();
        if let Some(holder) = self.addresses.get(&address) {
            let Holder { place, pod, class } = holder.clone();
            return Party { place, pod, class };
        }
        self.stranger_at(address)
    }

    /// Somebody with an address that is not theirs, or nobody's here.
    #[must_use]
    pub fn stranger_at(&self, address: IpAddr) -> Party {
        let class = self.nets.longest(address.to_canonical()).cloned().unwrap_or_default();
        Party { place: Place::World, pod: None, class }
    }

    pub(super) fn register(&self) -> &Register {
        &self.register
    }

    /// A pod that is known otherwise than by address; `address` is the one that it uses, where it is known.
    #[must_use]
    pub fn party_of(&self, pod: &Arc<PodState>, address: Option<IpAddr>) -> Party {
        if pod.facts.on_host {
            return address.map_or_else(|| self.node(self.is_local(pod)), |address| self.party_at(address));
        }
        let address = address.map(|address| address.to_canonical());
        let at = pod.classes.iter().find(|(one, _)| Some(*one) == address);
        let class = Arc::clone(at.map_or(&pod.class, |(_, class)| class));
        Party { place: Place::Pod, pod: Some(Arc::clone(pod)), class }
    }

    /// This node, or another one, at an address that is not known.
    #[must_use]
    pub fn node(&self, own: bool) -> Party {
        let [host, other] = &self.nodes;
        let (place, class) = if own { (Place::Host, host) } else { (Place::RemoteNode, other) };
        Party { place, pod: None, class: Arc::clone(class) }
    }

    /// How many pods there are.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }
}

#[cfg(test)]
pub(crate) mod tests;
